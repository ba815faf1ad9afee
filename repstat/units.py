"""Units of information and of size. Inside repstat everything is in nats; bits exist only at the edge."""

from math import log
from typing import Literal, get_args

Units = Literal["nats", "bits"]

UNITS: tuple[Units, ...] = get_args(Units)
NATS_PER_BIT = log(2.0)


def from_nats(value: float, units: Units) -> float:
    """Convert an amount of information in nats to `units`."""
    return value / NATS_PER_BIT if units == "bits" else value


def format_bytes(n: float) -> str:
    """Write a size the way disks are sold: ``12.3 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} bytes" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"
