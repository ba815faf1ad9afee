"""Run candidates for layers on a few samples to learn their types, shapes and batch axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from repstat.adapter import Array, Layer
from repstat.errors import InputRefusedError, RepstatError
from repstat_adapters.onnx.batching import BatchLayout, close, find_fixed_layout, find_layout
from repstat_adapters.onnx.feeds import Inputs, draw_probes, take
from repstat_adapters.onnx.layers import Found
from repstat_adapters.onnx.session import Runtime, run_session
from repstat_adapters.onnx.surgery import Exposed, fed_as

_SOURCE_NAMES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class Placed:
    """A layer with what running it taught: its tensor's type, and where the samples are."""

    layer: Layer
    type_name: str
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


class Prober:
    """Runs one model whose outputs are the candidates."""

    def __init__(
        self, runtime: Runtime, session: ort.InferenceSession, exposed: Exposed, inputs: Inputs
    ) -> None:
        self._runtime, self._session, self._inputs = runtime, session, inputs
        self._outputs = list(dict.fromkeys(exposed.output_of.values()))
        self._targets = exposed.output_of
        self._declared = [value.name for value in session.get_inputs()]

    def run(self, feeds: Mapping[str, Array], rows: Sequence[int]) -> dict[str, Array]:
        """Tensors by name for the chosen samples."""
        chosen = take(feeds, self._inputs.specs, rows)
        feeds = named_for(self._declared, chosen, self._inputs)
        values = run_session(self._session, self._outputs, feeds, self._runtime.path, quiet=True)
        by_output = dict(zip(self._outputs, values, strict=True))
        return {target: by_output[output] for target, output in self._targets.items()}


def named_for(declared: Sequence[str], feeds: Mapping[str, Array], inputs: Inputs) -> dict[str, Array]:
    """Return feeds under the names of a rebuilt model, without those it does not need."""
    renamed = {fed_as(name, inputs.types.get(name, "")): array for name, array in feeds.items()}
    return {name: renamed[name] for name in declared}


def make_plan(
    prober: Prober,
    found: Sequence[Found],
    types: Mapping[str, str],
    inputs: Inputs,
    probe: Mapping[str, Array] | None,
    *,
    one_by_one: str = "",
) -> Plan:
    """Find out by running where each candidate's samples are.

    Parameters
    ----------
    prober
        The model with all candidates exposed.
    found
        The candidates.
    types
        onnxruntime's type of each candidate's tensor.
    inputs
        The model's inputs.
    probe
        Samples to use; drawn from the inputs' types and shapes if None.
    one_by_one
        Why samples must be run alone, if so.

    Raises
    ------
    InputRefusedError
        The model fails on the probe.
    """
    if inputs.batch is not None:
        note = f"the model's batch is fixed at {inputs.batch}"
        return _fixed_plan(prober, found, types, inputs, probe, inputs.batch, note)
    try:
        two, three = _run_any(prober, inputs, probe, [[0, 1], [0, 1, 2]])
    except InputRefusedError as error:
        note = f"the model fails on a batch of two, though it declares any: {error.why}"
        return _fixed_plan(prober, found, types, inputs, probe, 1, note)
    layouts = {f.key: find_layout(two[f.target], three[f.target]) for f in found}
    mixed = [f.key for f in found if not _independent(layouts[f.key][0], two[f.target], three[f.target])]
    if mixed and not one_by_one:
        one_by_one = f"the values of {mixed[0]} depend on the other samples of a batch"
    return _plan(found, two, types, layouts, 1 if one_by_one else None, one_by_one)


def _fixed_plan(
    prober: Prober,
    found: Sequence[Found],
    types: Mapping[str, str],
    inputs: Inputs,
    probe: Mapping[str, Array] | None,
    batch: int,
    note: str,
) -> Plan:
    """Plan for a model that takes `batch` samples, no more and no less."""
    rows = [list(range(batch)), list(reversed(range(batch))), [0] * batch]
    ordered, reverse, alone = _run_any(prober, inputs, probe, rows)
    layouts = {f.key: find_fixed_layout(ordered[f.target], reverse[f.target], batch) for f in found}
    for f in found:
        layout = layouts[f.key][0]
        if layout and not close(
            layout.by_sample(ordered[f.target])[:1], layout.by_sample(alone[f.target])[:1]
        ):
            layouts[f.key] = (None, "its values depend on the other samples of the fixed batch")
    return _plan(found, ordered, types, layouts, batch, note)


def _run_any(
    prober: Prober, inputs: Inputs, probe: Mapping[str, Array] | None, rows: Sequence[Sequence[int]]
) -> list[dict[str, Array]]:
    """Run batches of a probe; drawn probes are tried in turn until one works."""
    n = 1 + max(row for batch in rows for row in batch)
    failure: RepstatError | None = None
    for feeds in [probe] if probe is not None else draw_probes(inputs.specs, n):
        length = _n_samples(feeds, inputs)
        try:
            return [prober.run(feeds, [row % length for row in batch]) for batch in rows]
        except InputRefusedError as error:
            failure = failure or error
    why = failure.why if failure is not None else "there is nothing to try"
    raise InputRefusedError(
        what="the model fails on a small batch",
        path=failure.path if failure is not None else None,
        why=why,
        fix="Give real samples with --inputs; the drawn ones may not be valid"
        if probe is None
        else "Check that onnxruntime alone can run the model on these samples",
    ) from None


def _n_samples(feeds: Mapping[str, Array], inputs: Inputs) -> int:
    return min((feeds[s.name].shape[s.batch_axis] for s in inputs.specs if s.shape), default=1)


def _independent(layout: BatchLayout | None, two: Array, three: Array) -> bool:
    """Whether the first two samples have the same values without and with a third."""
    return layout is None or close(layout.by_sample(two), layout.by_sample(three)[:2])


def _plan(
    found: Sequence[Found],
    values: Mapping[str, Array],
    types: Mapping[str, str],
    layouts: Mapping[str, tuple[BatchLayout | None, str]],
    batch: int | None,
    note: str,
) -> Plan:
    placed, skipped = {}, list[dict[str, str]]()
    for f in found:
        layout, reason = layouts[f.key]
        if layout is None:
            skipped.append({"layer": f.key, "name": f.name, "why": reason})
            continue
        value = values[f.target]
        source = types[f.target].removeprefix("tensor(").removesuffix(")")
        layer = Layer(
            key=f.key,
            name=f.name,
            op=f.op,
            kind=f.kind,
            unit_shape=layout.by_sample(value).shape[1:],
            dtype=value.dtype,
            source_dtype=_SOURCE_NAMES.get(source, source),
            signature=f.signature,
            target=f.target,
            batch_axis=layout.axis or 0,
        )
        placed[f.key] = Placed(layer, types[f.target], layout)
    return Plan(placed, batch, tuple(skipped), note)
