"""Philox4x64-10: four words of 64 bits for a counter of four words and a key of two.

Salmon et al., SC'11, doi:10.1145/2063384.2063405. NumPy has it as a stream, in C, which is seven times
as fast as array arithmetic but takes a microsecond to start elsewhere. `Rows.draw` uses it where counters
follow one another and array arithmetic where they do not. The words are the same.
"""

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_SHORT_RUN = 24
"""Where fewer counters follow one another on average, array arithmetic is faster than a stream."""


def philox(counter: Sequence[Words], key: Sequence[int]) -> tuple[Words, Words, Words, Words]:
    """Return the four words of Philox4x64-10 for each counter.

    Parameters
    ----------
    counter
        Four arrays of words, of shapes that broadcast.
    key
        Two words.
    """
    a, b, c, d = counter
    for number in range(_ROUNDS):
        left, right = (np.uint64((k + number * w) % 2**64) for k, w in zip(key, _WEYL, strict=True))
        first_high, first_low = _product(a, _MULTIPLIERS[0])
        second_high, second_low = _product(c, _MULTIPLIERS[1])
        a, b, c, d = second_high ^ b ^ left, second_low, first_high ^ d ^ right, first_low
    return a, b, c, d


def _product(words: Words, factor: int) -> tuple[Words, Words]:
    """Return the upper and the lower half of a product of 128 bits, by four of 64."""
    low_factor, high_factor = np.uint64(factor % 2**32), np.uint64(factor >> 32)
    low, high = words & _LOW, words >> _HALF
    middle = low * low_factor
    middle >>= _HALF
    middle += high * low_factor
    low *= high_factor
    low += middle & _LOW
    low >>= _HALF
    high *= high_factor
    middle >>= _HALF
    high += middle
    high += low
    return high, words * np.uint64(factor)


class _Local(threading.local):
    """A stream for each thread, since a new one takes longer than a small draw."""

    def __init__(self) -> None:
        self.stream = np.random.Philox(0)
        self.state: Any = self.stream.state


_local = _Local()


class Rows:
    """Words of counters ``(first, second, block, 0)``: many rows, each with any blocks.

    Parameters
    ----------
    key
        Two words.
    first
        Of each row, from 1: a stream goes to the next counter before it draws.
    second
        As many.
    """

    def __init__(self, key: Sequence[int], first: Words, second: Words) -> None:
        self._key, self._first, self._second = key, first, second
        # Where a row does not follow the one before.
        new = first[1:] - first[:-1] != 1
        new |= second[1:] != second[:-1]
        self._starts = [0, *(np.flatnonzero(new) + 1).tolist()]

    def draw(self, blocks: range, out: Words) -> None:
        """Write the words of all rows.

        Parameters
        ----------
        blocks
            Which ones.
        out
            Their place, ``(n_blocks, n_rows, 4)``.
        """
        if len(self._starts) * _SHORT_RUN > len(self._first):
            column = np.arange(blocks.start, blocks.stop, dtype=np.uint64)[:, None]
            counter = self._first, self._second, column, np.zeros(1, np.uint64)
            for i, words in enumerate(philox(counter, self._key)):
                out[..., i] = words
            return
        stream, state = _local.stream, _local.state
        state["state"]["key"][:] = self._key
        place = state["state"]["counter"]
        for start, stop in pairwise([*self._starts, len(self._first)]):
            place[:2] = self._first[start] - 1, self._second[start]
            for i, block in enumerate(blocks):
                place[2] = block
                stream.state = state
                out[i, start:stop] = stream.random_raw(4 * (stop - start)).reshape(-1, 4)
