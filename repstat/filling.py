"""What all that fill a store checkpoint by checkpoint share: what is left to do, and what a checkpoint is."""

from collections.abc import Iterable, Mapping
from math import isnan, nan
from os import PathLike
from typing import Any, TypeVar

from repstat.progress import Progress
from repstat.store import Checkpoint, StoreWriter

T = TypeVar("T")


def remaining(
    writer: StoreWriter, output: str | PathLike[str], sources: Iterable[tuple[T, int]], progress: Progress
) -> list[tuple[T, int]] | None:
    """Say what an earlier run has finished, and return the rest.

    Parameters
    ----------
    writer
        Of `output`, entered.
    sources
        What checkpoints are made from, each with its step.

    Returns
    -------
    rest
        None if the output is complete; an empty list if its checkpoints are only to be joined.
    """
    if writer.complete:
        progress.note(f"{output} is complete already: nothing to do")
        return None
    every = list(sources)
    rest = [(source, step) for source, step in every if step not in writer.done]
    if len(rest) < len(every):
        progress.note(f"resuming: {len(every) - len(rest)} of {len(every)} checkpoints are there")
    return rest


def checkpoint_of(step: int, metrics: Mapping[str, float], **facts: Any) -> Checkpoint:
    """Return a checkpoint; a metric ``epoch`` is its epoch, and NaN there means unknown."""
    others = dict(metrics)
    epoch = others.pop("epoch", nan)
    return Checkpoint(step=step, epoch=None if isnan(epoch) else epoch, metrics=others, **facts)
