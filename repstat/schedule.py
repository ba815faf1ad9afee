"""When to record during a training: every n steps, at steps that are even on a log axis, or at given ones."""

from collections.abc import Collection
from math import floor, log10

from repstat.errors import UsageError
from repstat.numbers import step_numbers, whole_number


class Schedule:
    """Tells whether a step is due. At most one of the parameters is given; without any, every step is.

    Parameters
    ----------
    every
        Record every so many steps.
    per_decade
        Record so many times between a step and ten times it, from step 1 on: 1, 10, 100 are among them.
    steps
        Record at these, whole numbers from 0.

    Raises
    ------
    UsageError
        Two are given, one is not a positive whole number, or a step is none, or there are none.
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
        self._every = None if every is None else whole_number("every", every, 1, "Give for example 100")
        self._per_decade = (
            None if per_decade is None else whole_number("per_decade", per_decade, 1, "Give for example 10")
        )
        self._steps = None if steps is None else step_numbers(steps)
        if self._steps == ():
            raise UsageError(
                what="steps is empty", why="nothing would be recorded",
                fix="Give for example [0, 100, 1000], or leave it out to record at every step",
            )  # fmt: skip

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
