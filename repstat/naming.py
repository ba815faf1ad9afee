"""Names as a person reads and sorts them, whoever chose them."""

import re
from collections.abc import Iterator, Sequence

_LISTED = 4


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return what to sort names by: numbers within them count as numbers; equal ones are told apart."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)] + [(2, 0, name)]


def printable(text: str) -> str:
    """Return `text` on one line, without what could move the cursor, turn the text round, or hide.

    Whatever Unicode calls control, format, surrogate, private or unassigned, and any space but the plain one,
    becomes U+FFFD.
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def by_reason(left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Say what was left out, given as pairs of name and reason, once per reason; of many the first names."""
    for why in dict.fromkeys(why for _, why in left_out):
        names = [name for name, reason in left_out if reason == why]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        yield f"{', '.join(names[:_LISTED])}{more}: {why}"
