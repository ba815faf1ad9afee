"""What a store of a noisy network says of the noise, and of the inputs that were repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer
from repstat.errors import InputRefusedError
from repstat.store.schema import LAYER_KEY, as_integers, to_text


@dataclass(frozen=True, slots=True)
class NoiseRecord:
    """The noise that layers of a network added to their activations.

    Parameters
    ----------
    noise_std
        Standard deviation by layer key, of all layers that got noise, stored ones or not.
    seed
        Of the noise; 64 bits, signed.
    bit_generator
        What drew it.
    checksum
        What tells that the same noise was drawn.

    Raises
    ------
    InputRefusedError
        If no layer got noise, a key is malformed, a standard deviation is not finite and above 0, or the seed
        is no such integer.
    """

    noise_std: Mapping[str, float]
    seed: int
    bit_generator: str
    checksum: str

    def __post_init__(self) -> None:
        why = _why_no_noise(self.noise_std) or _why_no_seed(self.seed)
        if why:
            raise InputRefusedError(what="the noise cannot be stored", why=why)
        object.__setattr__(self, "noise_std", {key: float(std) for key, std in self.noise_std.items()})
        object.__setattr__(self, "seed", int(self.seed))
        for name in ("bit_generator", "checksum"):
            object.__setattr__(self, name, to_text(getattr(self, name)))


def _why_no_noise(noise_std: Mapping[str, Any]) -> str:
    if not noise_std:
        return "no layer got any"
    for key, std in noise_std.items():
        if not LAYER_KEY.fullmatch(key):
            return f"it names the layer {key[:60]!r}; a key is L or R and three digits or more"
        if not _is_number(std) or not isfinite(std) or std <= 0:
            return f"its standard deviation in {key} is {std}, expected a finite number above 0"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _why_no_seed(seed: Any) -> str:
    if _is_integer(seed) and -(2**63) <= seed < 2**63:
        return ""
    return f"its seed is {seed!r}, expected an integer of 64 bits"


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    """Which inputs were repeated, how often, and in which layers that was recorded.

    Parameters
    ----------
    samples
        Shape (inputs,). Positions in the samples, 0...m-1, strictly increasing.
    n_realizations
        Noisy passes of each repeated input.
    layers
        Keys of the layers that have them: those with a noisy layer before them.

    Raises
    ------
    InputRefusedError
        If the positions are not integers that increase from 0 or more, one of the three is empty, or a layer
        occurs twice.
    """

    samples: NDArray[np.int64]
    n_realizations: int
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", as_integers("positions of the repeated inputs", self.samples))
        object.__setattr__(self, "layers", tuple(self.layers))
        why = ""
        if self.n == 0:
            why = "there are none"
        elif self.samples[0] < 0 or (np.diff(self.samples) <= 0).any():
            why = "their positions do not increase from 0 or more"
        elif not _is_integer(self.n_realizations) or self.n_realizations < 1:
            why = f"found {self.n_realizations!r} realizations of each, expected 1 or more"
        elif not self.layers or len(set(self.layers)) < len(self.layers):
            why = "a layer occurs twice" if self.layers else "no layer has realizations of them"
        if why:
            raise _refused_inputs(why)

    @property
    def n(self) -> int:
        """Number of repeated inputs."""
        return len(self.samples)


def _refused_inputs(why: str) -> InputRefusedError:
    return InputRefusedError(what="the repeated inputs cannot be stored", why=why)


def check_noise(
    noise: NoiseRecord | None, conditional: Conditional | None, n_samples: int, layers: Sequence[Layer]
) -> None:
    """Refuse repeated inputs that do not fit the rest of a store.

    Raises
    ------
    InputRefusedError
        If there is no noise, an input is not among the samples, or a layer is not among `layers`.
    """
    if conditional is None:
        return
    known = {layer.key for layer in layers}
    strange = [key for key in conditional.layers if key not in known]
    why = ""
    if noise is None:
        why = "the network has no noise, so their realizations would be equal"
    elif conditional.samples[-1] >= n_samples:
        why = f"one is at position {conditional.samples[-1]} of {n_samples} samples"
    elif strange:
        why = f"the store has no layer {strange[0][:60]!r}"
    if why:
        raise _refused_inputs(why)
