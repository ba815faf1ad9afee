"""The ONNX adapter: hidden layers of an ONNX model, run by onnxruntime."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from repstat.adapter import AdapterOptions, Array, InputSpec, Layer, Noise
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.onnx.checks import check_model
from repstat_adapters.onnx.feeds import check_feeds, read_inputs, take
from repstat_adapters.onnx.graph import index_graph
from repstat_adapters.onnx.layers import find_layers, nested_layers
from repstat_adapters.onnx.noise import BatchNoise, plan_noise
from repstat_adapters.onnx.ops import BATCH_SCALED
from repstat_adapters.onnx.ports import NoisyTensor
from repstat_adapters.onnx.probing import Placed, Plan, Prober, make_plan, named_for
from repstat_adapters.onnx.provenance import file_facts, model_facts, weights_sha256
from repstat_adapters.onnx.session import choose_runtime, run_session
from repstat_adapters.onnx.source import read_source
from repstat_adapters.onnx.surgery import NATIVE, Exposed, expose, inlined

_Wanted = tuple[tuple[str, ...], tuple[str, ...]]
"""Tensors that a session returns, and those to which it adds noise."""


class OnnxAdapter:
    """One ONNX model, opened.

    Implements `repstat.adapter.Adapter`. Activations are float16, float32 or float64. bfloat16 and float8 are
    widened to float32; quantised ones are dequantised where the graph holds their scale; other integers are
    cast to float32 (64-bit and 32-bit ones to float64). Values are computed without graph optimisation
    unless asked for, so that they do not depend on which layers are requested.

    Parameters
    ----------
    source
        Path of the file, or an ``onnx.ModelProto``, which is copied.
    options
        Provider, threads, optimisation level.

    Raises
    ------
    UsageError, InputRefusedError, DeviceUnavailableError
        See `repstat_adapters.onnx.open_model`.
    """

    def __init__(self, source: object, options: AdapterOptions) -> None:
        self._source = read_source(source)
        path = self._source.path
        self._runtime = choose_runtime(options, self._source.folder, path)
        self._runtime.check_versions(self._source.model)
        self._model = inlined(self._source.model)
        check_model(self._model, path)
        self._graph = index_graph(self._model.graph)
        self._inputs = read_inputs(self._model.graph, self._graph, path)
        self._found = find_layers(self._graph)
        self._plan: Plan | None = None
        self._cached: tuple[_Wanted, ort.InferenceSession, Exposed] | None = None
        self._closed = False

    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the model's order. bfloat16 inputs are fed as float32."""
        return self._inputs.specs

    def layers(self, probe: Mapping[str, Array] | None = None) -> Sequence[Layer]:
        """Layers in forward order, with shapes and batch axes learnt by running the model.

        Parameters
        ----------
        probe
            A few samples (one is enough, three tell more). Random ones are drawn if None.

        Raises
        ------
        InputRefusedError
            The probe does not fit the model, or the model fails on it.
        """
        self._require_open()
        feeds, n = (None, 1) if probe is None else check_feeds(probe, self._inputs.specs)
        if n == 0:
            raise InputRefusedError(
                what="the probe has no samples",
                path=self._source.path,
                fix="Give at least one",
            )
        self._plan = self._make_plan(feeds)
        return tuple(placed.layer for placed in self._plan.placed.values())

    def run(
        self,
        feeds: Mapping[str, Array],
        layers: Sequence[Layer],
        *,
        samples: NDArray[np.int64],
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        """Activations of one batch by layer key, each ``(n_samples, *unit_shape)``, float16, 32 or 64.

        With noise they are S_l, what a layer is before its own noise. Noise is rounded to the type of the
        layer's tensor (in bfloat16 the sum is), which is felt where it is small beside the activation.

        Raises
        ------
        UsageError
            A layer is not one of this model's, or noise is asked for that cannot be
            (`repstat.noise.check_noise`).
        InputRefusedError
            The batch does not fit the model, the model fails on it, or a noisy layer is quantised.
        """
        self._require_open()
        checked, n = check_feeds(feeds, self._inputs.specs)
        if len(samples) != n:
            raise InputRefusedError(
                what="the batch has another number of samples than it is said to have",
                why=f"found {n} samples and {len(samples)} indices",
                fix="Give one index per sample",
            )
        if self._plan is None:
            self._plan = self._make_plan(checked if n else None)
        placed = {layer.key: self._placed(self._plan, layer) for layer in layers}
        drawn = plan_noise(noise, self._plan, np.asarray(samples), self._source.path)
        if not placed:
            return {}
        try:
            return self._compute(checked, n, placed, self._plan.batch, drawn)
        except InputRefusedError:
            # If the noise does not fit because a layer's length is not the probe's, the clean model says so.
            if drawn.layers:
                self._compute(checked, n, drawn.placed, self._plan.batch, BatchNoise({}, samples))
            raise

    def provenance(self) -> Mapping[str, Any]:
        """JSON-able facts about files, weights, versions and how the model is run."""
        plan = self._plan
        return {
            "framework": "onnx",
            "versions": {"onnx": onnx.__version__, "onnxruntime": ort.__version__, "numpy": np.__version__},
            **file_facts(self._source),
            "weights_sha256": weights_sha256(self._source),
            **model_facts(self._source.model),
            "provider": self._runtime.provider,
            "threads": self._runtime.threads,
            "opt_level": self._runtime.opt_level,
            "run_batch": plan.batch if plan else self._inputs.batch,
            "run_batch_note": plan.note if plan else "",
            "skipped": [
                *(plan.skipped if plan else ()),
                *({"name": name, "why": "it is inside a subgraph"} for name in nested_layers(self._graph)),
            ],
        }

    def close(self) -> None:
        """Release the sessions."""
        self._cached, self._plan, self._closed = None, None, True

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(what="the model was closed", path=self._source.path, fix="Open it again")

    def _make_plan(self, feeds: Mapping[str, Array] | None) -> Plan:
        if not self._found:
            return Plan({}, self._inputs.batch, ())
        targets = list(dict.fromkeys(f.target for f in self._found))
        exposed = expose(self._model, self._graph, targets)
        session = self._runtime.session(exposed.model)
        types = {value.name: value.type for value in session.get_outputs()}
        if not set(types.values()) <= NATIVE:
            exposed = expose(self._model, self._graph, targets, types)
            session = self._runtime.session(exposed.model)
        self._cached = ((tuple(sorted(targets)), ()), session, exposed)
        scaled = sorted({node.op_type for node in self._graph.nodes} & BATCH_SCALED)
        return make_plan(
            Prober(self._runtime, session, exposed, self._inputs),
            self._found,
            types,
            self._inputs,
            feeds,
            one_by_one=f"{scaled[0]} takes its scale over the whole batch" if scaled else "",
        )

    def _placed(self, plan: Plan, layer: Layer) -> Placed:
        own = plan.placed.get(layer.key)
        if own is None or own.layer.signature != layer.signature or own.layer.unit_shape != layer.unit_shape:
            known = own.layer if own else None
            has = (
                f"its {known.key} is {known.signature} {known.unit_shape}"
                if known
                else "it has no such layer"
            )
            raise UsageError(
                what=f"layer {layer.key} ({layer.signature} {layer.unit_shape}) is not this model's",
                path=self._source.path,
                why=has,
                fix="Take the layers from layers() of this model, with a probe like the samples",
            )
        return own

    def _session(
        self, types: Mapping[str, str], noisy: Mapping[str, NoisyTensor]
    ) -> tuple[ort.InferenceSession, Exposed]:
        wanted = (tuple(sorted(types)), tuple(sorted(noisy)))
        if self._cached is None or self._cached[0] != wanted:
            self._cached = None  # two sessions would hold the weights twice
            exposed = expose(self._model, self._graph, wanted[0], types, noisy)
            self._cached = (wanted, self._runtime.session(exposed.model), exposed)
        return self._cached[1], self._cached[2]

    def _compute(
        self,
        feeds: Mapping[str, Array],
        n: int,
        placed: Mapping[str, Placed],
        batch: int | None,
        noise: BatchNoise,
    ) -> dict[str, Array]:
        types = {p.layer.target: p.type_name for p in placed.values()}
        session, exposed = self._session(types, noise.tensors)
        outputs = [exposed.output_of[p.layer.target] for p in placed.values()]
        shapes = [port.shape for port in exposed.ports.values()]
        inputs = {port.fed for port in exposed.ports.values()}
        declared = [value.name for value in session.get_inputs() if value.name not in inputs]
        drawn = noise.draw(exposed.ports)
        results = {key: np.empty((n, *p.layer.unit_shape), p.layer.dtype) for key, p in placed.items()}
        for start, stop, rows in _chunks(n, batch):
            chunk = feeds if rows is None else take(feeds, self._inputs.specs, rows)
            named = named_for(declared, chunk, self._inputs)
            fed = noise.cut(drawn, exposed.ports, rows)
            values = run_session(session, [*outputs, *shapes], {**named, **fed}, self._runtime.path)
            if misfit := noise.misfit(fed, exposed.ports, values[len(outputs) :]):
                raise self._other_shape(*misfit)
            for (key, p), value in zip(placed.items(), values[: len(outputs)], strict=True):
                want = p.layout.shape(stop - start if rows is None else len(rows), p.layer.unit_shape)
                if value.shape != want:
                    raise self._other_shape(p.layer, value.shape, want)
                results[key][start:stop] = p.layout.by_sample(value)[: stop - start]
        return results

    def _other_shape(self, layer: Layer, have: tuple[int, ...], want: tuple[int, ...]) -> InputRefusedError:
        return InputRefusedError(
            what="the activation's shape depends on the samples",
            path=self._source.path,
            place=f"layer {layer.key} ({layer.name})",
            why=f"found a tensor of shape {have}, expected {want}",
            fix="Pad the samples to one length, and list the layers with a probe of that length",
        )


def _chunks(n: int, batch: int | None) -> Iterator[tuple[int, int, Sequence[int] | None]]:
    """Yield start, stop and rows to run; rows past the end repeat the last one; None is the batch."""
    if batch is None:
        yield from [(0, n, None)] if n else []
        return
    for start in range(0, n, batch):
        rows = [min(row, n - 1) for row in range(start, start + batch)]
        yield start, min(start + batch, n), rows
