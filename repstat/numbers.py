"""Numbers as users have them: of NumPy, of a framework's tensors, or plain; made plain in one place."""

from collections.abc import Iterable, Mapping
from operator import index
from typing import Any

from repstat.errors import InputRefusedError, UsageError


def whole(value: object) -> int | None:
    """Return what counts as a whole number (`operator.index`, but no boolean) as an int, or None."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # tensors of several numbers raise what they like
        return None


def whole_number(name: str, value: object, least: int, fix: str = "Give one") -> int:
    """Return the option `name` as an int.

    Raises
    ------
    UsageError
        It is no whole number of at least `least`.
    """
    number = whole(value)
    if number is None or number < least:
        raise UsageError(what=f"{name} {value!r} is not a whole number of at least {least}", fix=fix)
    return number


def step_number(value: object) -> int:
    """Return a training step as an int.

    Raises
    ------
    UsageError
        It is no whole number from 0.
    """
    step = whole(value)
    if step is None:
        raise UsageError(what=f"step {value!r} is not a whole number from 0", fix="Count optimizer updates")
    if step < 0:
        raise UsageError(
            what=f"step {step} is negative", why="a step counts optimizer updates", fix="Give steps >= 0"
        )
    return step


def step_numbers(given: object) -> tuple[int, ...]:
    """Return training steps, or a single one, as ints.

    Raises
    ------
    UsageError
        One is no whole number from 0, or they are no row of numbers.
    """
    if whole(given) is not None:
        return (step_number(given),)
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise UsageError(
            what=f"cannot read the steps {given!r}", why="whole numbers from 0 were expected",
            fix="Give for example [0, 100, 1000]",
        )  # fmt: skip
    return tuple(map(step_number, given))


def metric_number(name: str, value: Any) -> float:
    """Return the metric `name` as a float.

    Raises
    ------
    InputRefusedError
        It is neither a number nor a tensor or array of one number.
    """
    try:
        if not isinstance(value, str | bytes):
            return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):  # of several numbers, complex, or no number
        pass
    shape = getattr(value, "shape", ())
    raise InputRefusedError(
        what=f"the metric {name!r} is not a number",
        why=f"found {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape else ""),
        fix="Give a number, or a tensor or array of one number",
    )


def metrics_by_step(metrics: object) -> dict[int, dict[str, float]]:
    """Return metrics by step with plain numbers.

    Raises
    ------
    UsageError
        They are no mapping of mappings, or a step is none.
    InputRefusedError
        A metric is no number.
    """
    if not isinstance(metrics, Mapping) or not all(isinstance(m, Mapping) for m in metrics.values()):
        raise UsageError(
            what="cannot read the metrics", why=f"found {metrics!r}"[:200],
            fix="Give them by step, for example {100: {'loss': 0.3}}, or a .csv with a column step",
        )  # fmt: skip
    return {
        step_number(step): {str(name): metric_number(str(name), value) for name, value in row.items()}
        for step, row in metrics.items()
    }
