"""The order in which a person sorts names: step-9 before step-10."""

import re


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return what to sort names by: numbers within them count as numbers; equal ones are told apart."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)] + [(2, 0, name)]
