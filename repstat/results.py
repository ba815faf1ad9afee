"""What an analysis returns: estimates with their conditions, rows, and the trajectory of all of them.

A number never travels alone: an `Estimate` carries its error, ceiling, bounds and status. This module
knows no file format; `Results.save` hands over to the store package.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import log
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repstat.errors import UsageError
from repstat.units import Units, from_nats

if TYPE_CHECKING:
    import xarray

SATURATION_MARGIN_NATS = 0.1
"""An estimate this close to its ceiling reflects the ceiling, not the network (docs/estimators.md)."""


class Status(StrEnum):
    """Outcome of an estimate. Compares equal to its text (`Status.OK == "ok"`)."""

    OK = "ok"
    SATURATED = "saturated"
    UNDEFINED = "undefined"
    TOO_FEW_SAMPLES = "too_few_samples"
    TOO_FEW_REALIZATIONS = "too_few_realizations"
    TOLERANCE_NOT_REACHED = "tolerance_not_reached"

    @property
    def advice(self) -> str:
        """What the status means and what to change."""
        return _ADVICE[self]


_ADVICE = {
    Status.OK: "the estimate is below its ceiling and its error is within the tolerance",
    Status.SATURATED: (
        "the estimate is within 0.1 nat of its ceiling: it reflects the number of samples, not the "
        "network; use more noise, wider bins or more samples"
    ),
    Status.UNDEFINED: "the quantity has no value for these data; the reason is given with it",
    Status.TOO_FEW_SAMPLES: "too few samples for any statement; record more samples",
    Status.TOO_FEW_REALIZATIONS: (
        "too few noise realizations: the estimate is biased upward; extract with more realizations"
    ),
    Status.TOLERANCE_NOT_REACHED: (
        "the standard error is still above the tolerance; allow more draws or a larger tolerance"
    ),
}


def saturates(value: float, ceiling: float) -> bool:
    """Whether `value` (nats) is too close to `ceiling` to say anything about the network.

    The margin is 0.1 nat, or half the ceiling where the ceiling itself is below 0.2 nat. A ceiling of zero
    leaves nothing to estimate: the value is exact and not called saturated.
    """
    return ceiling > 0 and value > ceiling - min(SATURATION_MARGIN_NATS, ceiling / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One estimated quantity, in nats unless it is a distance or a ratio.

    Parameters
    ----------
    value
        The estimate, never clamped; None when undefined.
    std_error
        Statistical standard error; 0.0 where the value is exact for the stored samples.
    lower_bound, upper_bound
        Rigorous bounds on the same quantity, if known.
    ceiling
        What the estimate cannot exceed whatever the truth (ln n, H(Y), ...).
    status, reason
        Outcome, and why if it is not `ok`.
    population_lower, population_upper
        Bracket of the population value when the samples are a random sample of one.
    n_samples, n_units
        What the estimate was computed from.
    """

    value: float | None
    std_error: float | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None
    ceiling: float | None = None
    status: Status = Status.OK
    reason: str = ""
    population_lower: float | None = None
    population_upper: float | None = None
    n_samples: int
    n_units: int

    @classmethod
    def undefined(cls, reason: str, *, n_samples: int, n_units: int) -> Self:
        """Return an estimate without a value, with the reason."""
        return cls(
            value=None, status=Status.UNDEFINED, reason=reason, n_samples=n_samples, n_units=n_units
        )
