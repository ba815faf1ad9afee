"""How many cores there are to use."""

import os


def usable_cores() -> int:
    """Return the cores this process may use, which a container's or a scheduler's mask may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
