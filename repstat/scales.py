"""The scale at which a layer is looked at: noise levels relative to its spread, the same along a trajectory.

A noise level is written ``0.1`` (activation units), ``0.1x`` (times the layer's pooled standard deviation
over all checkpoints) or ``auto``, which `repstat.autoscale` turns into multiples of the spread.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.errors import UsageError

DIGITS = 3


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """A noise standard deviation, absolute or relative to a layer's spread."""

    text: str
    factor: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "NoiseLevel":
        """Read ``0.1`` or ``0.1x``.

        Raises
        ------
        UsageError
            Not a positive finite number.
        """
        body = text.strip().removesuffix("x")
        try:
            factor = float(body)
        except ValueError:
            factor = float("nan")
        if not (isfinite(factor) and factor > 0):
            raise UsageError(
                what=f"noise_std {text!r} is not a positive number",
                why="it is a standard deviation in activation units, or times the layer's spread with an x",
                fix="Write for example 0.1, 0.1x or auto",
            )
        return cls(text.strip(), factor, text.strip().endswith("x"))

    def std(self, spread: float) -> float:
        """Return the noise standard deviation for a layer of this spread, to three digits.

        A constant layer has no spread; the factor itself then serves, since any noise gives 0 nats.
        """
        if not self.relative or spread == 0:
            return self.factor
        return rounded_std(self.factor * spread)


def rounded_std(std: float) -> float:
    """Return a noise level to three digits; at the ends of what a float can be, the nearest there is."""
    return min(max(float(f"{std:.{DIGITS}g}"), SMALLEST), LARGEST)


SMALLEST, LARGEST = float(np.finfo(float).smallest_subnormal), float(np.finfo(float).max)

AUTO = NoiseLevel("auto", 0.0, relative=True)
"""Stands for levels that are picked for each layer when its trajectory is known."""


def parse_noise(levels: str | float | Iterable[str | float]) -> tuple[NoiseLevel, ...]:
    """Read one noise level, a comma-separated list, or a sequence of them; ``auto`` is `AUTO`."""
    if isinstance(levels, str):
        words: list[str] = levels.split(",")
    elif isinstance(levels, Iterable):
        words = [str(level) for level in levels]
    else:
        words = [str(levels)]
    parsed = (AUTO if word.strip() == AUTO.text else NoiseLevel.parse(word) for word in words)
    return tuple(dict.fromkeys(parsed))


def pooled_std(blocks: Iterable[NDArray[Any]]) -> float:
    """Return the root mean variance of a layer's units within its checkpoints.

    Parameters
    ----------
    blocks
        One array ``(n_samples, n_units)`` per checkpoint. Checkpoints with NaN or Inf are left out.
    """
    stds = []
    for block in blocks:
        values = np.asarray(block, np.float64)
        if values.size and np.isfinite(values).all():
            # In units of a power of two near the largest value: squares neither overflow nor vanish.
            _, exponent = np.frexp(np.abs(values).max())
            scaled = np.ldexp(values, -exponent)
            stds.append(float(np.ldexp(sqrt(float(np.var(scaled, axis=0).mean())), exponent)))
    largest = max(stds, default=0.0)
    if largest == 0:
        return 0.0
    return largest * sqrt(float(np.mean([(std / largest) ** 2 for std in stds])))
