"""Sizes as people type them, and how much memory there is."""

import os

import pytest

from repstat.errors import UsageError
from repstat.memory import SHARE, default_limit, parse_bytes, usable_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("1.5g", 15 * 10**8), ("1000000", 10**6),
        ("2GiB", 2**31), ("3kB", 3000), (" 1 TB ", 10**12),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "0", "-1GB", "1PB", "1e9", "4 G B", "0.4B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no size\. Write for example 4GB"):
        parse_bytes(text)


def test_the_default_leaves_some_to_others() -> None:
    assert 0 < usable_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert default_limit() == int(SHARE * usable_memory())
