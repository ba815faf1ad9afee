"""The training layer of a noisy network."""

import torch
from torch import Tensor, nn


class ActivationNoise(nn.Module):
    """Adds Gaussian noise to an activation in training: T = S + N(0, noise_std^2 I).

    The noise of a noisy network (Goldfeld et al., ICML 2019, arXiv:1810.05728), for ``nn.Sequential`` or
    behind any activation. In evaluation it passes its input on, as the paper does where it reports accuracy;
    an extraction sees it like that, too, and ``--noise-std`` puts the noise of `repstat.noise` at the layers,
    whose numbers do not depend on the batch or the device.

    Parameters
    ----------
    noise_std
        Standard deviation in activation units.
    """

    def __init__(self, noise_std: float) -> None:
        super().__init__()
        if not 0 <= noise_std < float("inf"):
            message = f"noise_std {noise_std!r} is not a number from 0"
            raise ValueError(message)
        self.noise_std = float(noise_std)

    def forward(self, activation: Tensor) -> Tensor:
        """Return the activation, with noise in training."""
        if not self.training or self.noise_std == 0:
            return activation
        return activation + self.noise_std * torch.randn_like(activation)

    def extra_repr(self) -> str:
        """Say the standard deviation when printed."""
        return f"noise_std={self.noise_std}"
