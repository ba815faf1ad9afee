"""When to record during a training: every n steps, at steps that are even on a log axis, or at given ones."""

from collections.abc import Collection
from math import floor, log10

from repstat.errors import UsageError


class Schedule:
    """Tells whether a step is due. At most one of the parameters is given; without any, every step is.

    Parameters
    ----------
    every
        Record every so many steps.
    per_decade
        Record so many times between a step and ten times it, from step 1 on: 1, 10, 100 are among them.
    steps
        Record at these.

    Raises
    ------
    UsageError
        Two are given, or one is not a positive whole number.
    """

    def __init__(
        self,
        *,
        every: int | None = None,
        per_decade: int | None = None,
        steps: Collection[int] | None = None,
    ) -> None:
        if sum(choice is not None for choice in (every, per_decade, steps)) > 1:
            raise UsageError(
                what="every, per_decade and steps exclude each other", fix="Give one of them, or none"
            )
        for name, value in (("every", every), ("per_decade", per_decade)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(
                    what=f"{name} {value!r} is not a whole number of at least 1", fix="Give for example 100"
                )
        self._every, self._per_decade = every, per_decade
        self._steps = None if steps is None else sorted(steps)

    def due(self, step: int, last: int) -> bool:
        """Whether a scheduled step lies after `last`, the step seen before, and not after `step`.

        So a loop that only looks in at the end of each epoch misses none.
        """
        if self._every is not None:
            return step // self._every > last // self._every
        if self._steps is not None:
            return any(last < s <= step for s in self._steps)
        if self._per_decade is not None:
            return last < 0 or self._latest(step, self._per_decade) > last
        return True

    def _latest(self, step: int, per_decade: int) -> int:
        """Return the greatest of the steps round(10^(j / per_decade)) that is not after `step`, or 0."""
        if step < 1:
            return 0
        near = floor(per_decade * log10(step))  # off by one where the logarithm is rounded
        marks = (round(10 ** (j / per_decade)) for j in (near + 1, near, near - 1))
        return next(mark for mark in marks if mark <= step)
