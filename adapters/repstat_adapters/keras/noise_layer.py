"""Train a network with noise in its hidden layers: the Keras layer for it."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="repstat")
class ActivationNoise(keras.layers.Layer):  # type: ignore[misc]
    """Adds Gaussian noise to an activation in training, T = S + N(0, noise_std^2 I), and nothing otherwise.

    In extraction it adds nothing either, since that calls the model with ``training=False``: give the same
    noise there with ``--noise-std``, whose numbers do not depend on batches, devices or frameworks. Keys and
    signatures of layers are those of the model without it.

    Parameters
    ----------
    noise_std
        Standard deviation in activation units, from 0.
    seed
        Of the layer's own random numbers; None draws one.

    References
    ----------
    Goldfeld et al., "Estimating Information Flow in Deep Neural Networks", ICML 2019, arXiv:1810.05728.
    """

    def __init__(self, noise_std: float, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= noise_std < float("inf"):
            message = f"noise_std is a standard deviation from 0, not {noise_std!r}"
            raise ValueError(message)
        self.noise_std, self.seed = float(noise_std), seed
        self.supports_masking = True
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return `inputs`, with noise in training."""
        if not training or self.noise_std == 0:
            return inputs
        noise = keras.random.normal(
            keras.ops.shape(inputs), stddev=self.noise_std, dtype=self.compute_dtype, seed=self.seed_generator
        )
        return inputs + noise

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "noise_std": self.noise_std, "seed": self.seed}
