"""Units of information. Inside repstat everything is in nats; bits exist only at the edge."""

from math import log
from typing import Literal, get_args

Units = Literal["nats", "bits"]

UNITS: tuple[Units, ...] = get_args(Units)
NATS_PER_BIT = log(2.0)


def from_nats(value: float, units: Units) -> float:
    """Convert an amount of information in nats to `units`."""
    return value / NATS_PER_BIT if units == "bits" else value
