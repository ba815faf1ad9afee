"""What is odd about activations as they are written, said at once: nobody need analyse them to find out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from repstat.adapter import Layer
from repstat.arrays import ConstantUnits
from repstat.store import ValueRecord

MOST_STEPS = 6
"""Steps named in one sentence; of more the first ones, and how many are left."""

UnitsOfLayers = Mapping[str, ConstantUnits]
"""By layer, which units have had one value so far."""

T = TypeVar("T")


class Oddities:
    """Watches the layers of some checkpoints while they are written."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = {layer.key: layer for layer in layers}
        self._constant: dict[str, list[int]] = {key: [] for key in self._layers}

    @contextmanager
    def watch(self, step: int) -> Iterator[UnitsOfLayers]:
        """Yield what is to be shown all samples of one checkpoint, of a noisy network in one pass."""
        units = {key: ConstantUnits() for key in self._layers}
        yield units
        # Only steps are kept: the units of all checkpoints together may be more than fits into memory.
        for key, layer in self._layers.items():
            if units[key].count == layer.n_units:
                self._constant[key].append(step)

    def notes(self, records: Mapping[int, Mapping[str, ValueRecord]], n_samples: int) -> Iterator[str]:
        """Yield a sentence for each layer that is not finite or constant, and for equal checkpoints.

        Parameters
        ----------
        records
            Hashes and counts by step and layer, of all that is in the store.
        n_samples
            A single one is no reason to call a layer constant.
        """
        for key, layer in self._layers.items():
            name = f"{key} ({layer.name})"
            if found := [step for step in sorted(records) if records[step][key].n_nonfinite]:
                first = records[found[0]][key]
                yield (
                    f"{name} has {first.n_nan:,} NaN and {first.n_inf:,} infinite values at step "
                    f"{found[0]:,}{_more(found)}: its statistics are undefined there"
                )
            if (constant := self._constant[key]) and n_samples > 1:
                yield (
                    f"{name} is the same for every sample at step {constant[0]:,}{_more(constant)}: is the "
                    "layer dead, or are the inputs all the same?"
                )
        hashes = {
            step: tuple(record.sha256 for record in of_layer.values()) for step, of_layer in records.items()
        }
        for steps in repeated(hashes):
            yield same_activations(steps)


def _more(steps: Sequence[int]) -> str:
    if len(steps) == 2:
        return f" and at step {steps[1]:,}"
    return f" and at {len(steps) - 1:,} more checkpoints" if len(steps) > 2 else ""


def repeated(hashes: Mapping[int, T]) -> Iterator[list[int]]:
    """Yield the steps that have the same hash, where several have."""
    steps = dict[T, list[int]]()
    for step, of_step in sorted(hashes.items()):
        steps.setdefault(of_step, []).append(step)
    yield from (same for same in steps.values() if len(same) > 1)


def listed(steps: Sequence[int]) -> str:
    """Return two steps or more as ``0, 1,000 and 2,000``."""
    names = [f"{step:,}" for step in steps]
    if len(names) > MOST_STEPS:
        names = [*names[:MOST_STEPS], f"{len(names) - MOST_STEPS:,} more"]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def same_activations(steps: Sequence[int]) -> str:
    """Say that some checkpoints cannot be told apart."""
    return (
        f"The activations at steps {listed(steps)} are the same in every layer: is one checkpoint there "
        "twice, or are the layers not trained?"
    )
