"""How much memory there is to use, and sizes as people type them."""

import os
import re
from contextlib import suppress
from pathlib import Path

from repstat.errors import UsageError

SHARE = 0.8
"""What a model's run may take of the machine's memory unless told otherwise; the rest is everybody else's."""

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNKNOWN_BYTES = 1 << 33
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def usable_memory() -> int:
    """Return the bytes this machine has, or what its container allows if that is less; 8 GiB if unknown."""
    found = [_physical()]
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # "max" is no number: there is no limit
            found.append(int(Path(path).read_text("ascii")))
    return min(found)


def default_limit() -> int:
    """Return what a model's run may take if nobody says."""
    return int(SHARE * usable_memory())


def parse_bytes(text: str) -> int:
    """Return the bytes in ``4GB``, ``512 MiB``, ``1.5g`` or ``1000000``.

    Raises
    ------
    UsageError
        It is no size, or less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    base = 1024 if match and match[3] else 1000
    size = int(float(match[1]) * base ** _POWERS[match[2].lower()]) if match else 0
    if size < 1:
        raise UsageError(what=f"{text!r} is no size", fix="Write for example 4GB, 512MB or 2GiB")
    return size


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_BYTES
