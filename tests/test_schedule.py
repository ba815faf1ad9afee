"""Which steps of a training are due."""

import numpy as np
import pytest

from repstat.errors import UsageError
from repstat.schedule import Schedule


def due_at(schedule: Schedule, seen: range) -> list[int]:
    last, found = -1, []
    for step in seen:
        if schedule.due(step, last):
            found.append(step)
        last = step
    return found


def test_every_and_given_steps() -> None:
    assert due_at(Schedule(every=4), range(14)) == [0, 4, 8, 12]
    assert due_at(Schedule(steps=[7, 3]), range(14)) == [3, 7]
    assert due_at(Schedule(), range(3)) == [0, 1, 2]
    assert due_at(Schedule(every=np.int64(4)), range(9)) == [0, 4, 8]
    assert due_at(Schedule(steps=np.array([7, 3])), range(14)) == [3, 7]


def test_per_decade_is_even_on_a_log_axis() -> None:
    assert due_at(Schedule(per_decade=1), range(1200)) == [0, 1, 10, 100, 1000]
    assert due_at(Schedule(per_decade=3), range(120)) == [0, 1, 2, 5, 10, 22, 46, 100]
    marks = due_at(Schedule(per_decade=20), range(100_001))
    assert marks[:11] == list(range(11))
    assert {10**k for k in range(6)} <= set(marks)
    assert len([mark for mark in marks if 10_000 <= mark < 100_000]) == 20


def test_a_loop_that_looks_in_rarely_misses_none() -> None:
    """Seen every 390 steps only: due are the first times after a scheduled step."""
    seen = range(0, 4000, 390)
    assert due_at(Schedule(every=1000), seen) == [0, 1170, 2340, 3120]
    assert due_at(Schedule(per_decade=1), seen) == [0, 390, 1170]
    assert due_at(Schedule(steps=[5, 6, 800]), seen) == [390, 1170]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": 1, "steps": [1]}, "exclude each other"),
        ({"every": 0}, "every 0 is not a whole number of at least 1"),
        ({"per_decade": 1.5}, "per_decade 1.5 is not a whole number"),
        ({"every": True}, "every True is not a whole number"),
        ({"steps": []}, "steps is empty"),
        ({"steps": [3, -1]}, "step -1 is negative"),
    ],
)
def test_schedules_that_cannot_be(options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Schedule(**options)  # type: ignore[arg-type]
