"""Run candidates for layers on a few samples to learn their shapes and batch axes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repstat.adapter import Array, InputSpec, Layer, LayerKind
from repstat.errors import InputRefusedError, RepstatError
from repstat_adapters.shared.feeds import draw_probes, n_samples, take
from repstat_adapters.shared.layout import BatchLayout, close, find_fixed_layout, find_layout


@dataclass(frozen=True)
class Found:
    """A layer of the model before its tensor is known.

    The fields are those of `repstat.adapter.Layer`, but for `spatial`: the number of spatial axes before the
    channels of a feature map that has them last, 0 for any other tensor.
    """

    key: str
    name: str
    op: str
    kind: LayerKind
    signature: str
    target: str
    spatial: int = 0


Tensors = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs the model and returns the tensors of all candidates by target, or raises InputRefusedError."""


@dataclass(frozen=True)
class Placed:
    """A layer with what running it taught: its shape and type, and where the samples are."""

    layer: Layer
    layout: BatchLayout


@dataclass(frozen=True)
class Plan:
    """Layers that can be recorded.

    Parameters
    ----------
    placed
        By layer key, in forward order.
    batch
        Samples per run of the model, None for any number.
    skipped
        Candidates left out, with the reason.
    note
        Why samples are not run as given, if so.
    """

    placed: Mapping[str, Placed]
    batch: int | None
    skipped: Sequence[Mapping[str, str]]
    note: str = ""


class AnotherPathError(InputRefusedError):
    """The model computes with other layers, depending on its samples."""


@dataclass(frozen=True)
class Prober:
    """What is needed to find the batches of a model.

    Parameters
    ----------
    run
        The model.
    found
        The candidates, in forward order.
    dtypes
        By target, the name of the tensor's dtype inside the model.
    specs
        The model's inputs.
    batch
        Samples per run of the model if it is fixed.
    path
        The model, for messages.
    runtime
        What runs it, for messages.
    """

    run: Tensors
    found: Sequence[Found]
    dtypes: Mapping[str, str]
    specs: Sequence[InputSpec]
    batch: int | None = None
    path: Path | None = None
    runtime: str = "the framework"

    def plan(self, probe: Mapping[str, Array] | None, *, one_by_one: str = "") -> Plan:
        """Find out by running where each candidate's samples are.

        Parameters
        ----------
        probe
            Samples to use; drawn from the inputs' types and shapes if None.
        one_by_one
            Why samples must be run alone, if so.

        Raises
        ------
        InputRefusedError
            The model fails on the probe.
        """
        if self.batch is not None:
            return self._fixed(probe, self.batch, f"the model's batch is fixed at {self.batch}")
        try:
            two, three, turned = self._run_any(probe, [[0, 1], [0, 1, 2], [2, 1, 0]])
        except InputRefusedError as error:
            note = f"the model fails on a batch of two, though it declares any: {error.why}"
            return self._fixed(probe, 1, note)
        layouts = {f.key: find_layout(two[f.target], three[f.target]) for f in self.found}
        mixed = [
            f.key
            for f in self.found
            if not _independent(layouts[f.key][0], two[f.target], three[f.target], turned[f.target])
        ]
        if mixed and not one_by_one:
            one_by_one = f"the values of {mixed[0]} depend on the other samples of a batch"
        return self._plan(two, layouts, 1 if one_by_one else None, one_by_one)

    def _fixed(self, probe: Mapping[str, Array] | None, batch: int, note: str) -> Plan:
        """Plan for a model that takes `batch` samples, no more and no less."""
        rows = [list(range(batch)), list(reversed(range(batch))), [0] * batch]
        ordered, reverse, alone = self._run_any(probe, rows)
        layouts = {f.key: find_fixed_layout(ordered[f.target], reverse[f.target], batch) for f in self.found}
        for f in self.found:
            layout = layouts[f.key][0]
            if layout and not close(
                layout.by_sample(ordered[f.target])[:1], layout.by_sample(alone[f.target])[:1]
            ):
                layouts[f.key] = (None, "its values depend on the other samples of the fixed batch")
        return self._plan(ordered, layouts, batch, note)

    def _run_any(
        self, probe: Mapping[str, Array] | None, rows: Sequence[Sequence[int]]
    ) -> list[Mapping[str, Array]]:
        """Run batches of a probe; drawn probes are tried in turn until one works."""
        n = 1 + max(row for batch in rows for row in batch)
        failure: RepstatError | None = None
        for feeds in [probe] if probe is not None else draw_probes(self.specs, n):
            length = n_samples(feeds, self.specs)
            try:
                return [self.run(take(feeds, self.specs, [row % length for row in batch])) for batch in rows]
            except InputRefusedError as error:
                failure = failure or error
        if isinstance(failure, AnotherPathError):
            raise failure
        raise InputRefusedError(
            what="the model fails on a small batch",
            path=self.path,
            why=failure.why if failure is not None else "there is nothing to try",
            fix="Give real samples with --inputs; the drawn ones may not be valid"
            if probe is None
            else f"Check that {self.runtime} alone can run the model on these samples",
        ) from None

    def _plan(
        self,
        values: Mapping[str, Array],
        layouts: Mapping[str, tuple[BatchLayout | None, str]],
        batch: int | None,
        note: str,
    ) -> Plan:
        placed, skipped = {}, list[dict[str, str]]()
        for f in self.found:
            layout, reason = layouts[f.key]
            if layout is None:
                skipped.append({"layer": f.key, "name": f.name, "why": reason})
                continue
            value = values[f.target]
            if 0 < f.spatial < layout.by_sample(value).ndim - 1:
                layout = replace(layout, spatial=f.spatial)
            layer = Layer(
                key=f.key,
                name=f.name,
                op=f.op,
                kind=f.kind,
                unit_shape=layout.by_sample(value).shape[1:],
                dtype=value.dtype,
                source_dtype=self.dtypes[f.target],
                signature=f.signature,
                target=f.target,
                batch_axis=layout.axis or 0,
            )
            placed[f.key] = Placed(layer, layout)
        return Plan(placed, batch, tuple(skipped), note)


def _independent(layout: BatchLayout | None, two: Array, three: Array, turned: Array) -> bool:
    """Whether samples have the same values without the third one, and in the opposite order."""
    if layout is None:
        return True
    return close(layout.by_sample(two), layout.by_sample(three)[:2]) and close(
        layout.by_sample(three), layout.by_sample(turned)[::-1]
    )
