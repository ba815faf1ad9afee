"""The ONNX adapter: hidden layers of an ONNX model, run by onnxruntime."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from repstat.adapter import AdapterOptions, Array, InputSpec
from repstat_adapters.onnx.checks import check_model
from repstat_adapters.onnx.graph import index_graph, nested_layers
from repstat_adapters.onnx.inputs import Inputs, read_inputs
from repstat_adapters.onnx.memory import Memory, predicted_bytes
from repstat_adapters.onnx.names import OnnxNames
from repstat_adapters.onnx.ports import NoisyTensor
from repstat_adapters.onnx.provenance import model_facts, source_facts, weights_sha256
from repstat_adapters.onnx.session import choose_runtime, run_session
from repstat_adapters.onnx.source import read_source
from repstat_adapters.onnx.surgery import NATIVE, Exposed, expose, fed_as, inlined
from repstat_adapters.shared.base import BatchedAdapter, Forward, MisfitError
from repstat_adapters.shared.layers import find_layers
from repstat_adapters.shared.noise import BatchNoise, NoisyLayer
from repstat_adapters.shared.ops import BATCH_SCALED
from repstat_adapters.shared.probing import Placed, Plan, Prober
from repstat_adapters.shared.provenance import run_facts

_Wanted = tuple[tuple[str, ...], tuple[str, ...]]
"""Tensors that a session returns, and those to which it adds noise."""

_SOURCE_NAMES = {"float": "float32", "double": "float64"}


class OnnxAdapter(BatchedAdapter):
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
        super().__init__(path)
        self._runtime = choose_runtime(options, self._source.folder, path)
        self._runtime.check_versions(self._source.model)
        self._memory = Memory(options.max_memory, path)
        self._model = inlined(self._source.model)
        check_model(self._model, path)
        self._memory.check(self._model)
        self._graph = index_graph(self._model.graph)
        self._inputs = read_inputs(self._model.graph, self._graph, path)
        self._found = find_layers(self._graph, OnnxNames(self._graph))
        self._types: Mapping[str, str] = {}
        self._cached: tuple[_Wanted, ort.InferenceSession, Exposed] | None = None

    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the model's order. bfloat16 inputs are fed as float32."""
        return self._inputs.specs

    def provenance(self) -> Mapping[str, Any]:
        """JSON-able facts about files, weights, versions and how the model is run."""
        nested = nested_layers(self._graph)
        return {
            "framework": "onnx",
            "versions": {"onnx": onnx.__version__, "onnxruntime": ort.__version__, "numpy": np.__version__},
            **source_facts(self._source),
            "weights_sha256": weights_sha256(self._source),
            **model_facts(self._source.model),
            "provider": self._runtime.provider,
            "threads": self._runtime.threads,
            "opt_level": self._runtime.opt_level,
            **run_facts(
                self._plan,
                batch=self._inputs.batch,
                unreachable=[{"name": name, "why": "it is inside a subgraph"} for name in nested],
            ),
        }

    def predicted_bytes(self, feeds: Mapping[str, Array]) -> int:
        """Return the bytes that a run of the last model made for a batch takes at least."""
        if self._cached is None:
            return 0
        model = self._cached[2].model
        named = _named_for([value.name for value in model.graph.input], feeds, self._inputs)
        return predicted_bytes(model, {name: feed.shape for name, feed in named.items()}, sys.maxsize)[0]

    def close(self) -> None:
        """Release the sessions."""
        self._cached = None
        super().close()

    def _make_plan(self, feeds: Mapping[str, Array] | None) -> Plan:
        if not self._found:
            return Plan({}, self._inputs.batch, ())
        targets = list(dict.fromkeys(f.target for f in self._found))
        exposed = expose(self._model, self._graph, targets)
        session = self._runtime.session(exposed.model)
        self._types = {value.name: value.type for value in session.get_outputs()}
        if not set(self._types.values()) <= NATIVE:
            exposed = expose(self._model, self._graph, targets, self._types)
            session = self._runtime.session(exposed.model)
        self._cached = ((tuple(sorted(targets)), ()), session, exposed)
        declared = [value.name for value in session.get_inputs()]
        outputs = list(dict.fromkeys(exposed.output_of.values()))

        def run(batch: Mapping[str, Array]) -> Mapping[str, Array]:
            named = _named_for(declared, batch, self._inputs)
            self._memory.check(exposed.model, named)
            values = run_session(session, outputs, named, self._path)
            by_output = dict(zip(outputs, values, strict=True))
            return {target: by_output[output] for target, output in exposed.output_of.items()}

        scaled = sorted({node.op_type for node in self._graph.nodes} & BATCH_SCALED)
        prober = Prober(
            run=run,
            found=self._found,
            dtypes={target: _source_dtype(name) for target, name in self._types.items()},
            specs=self._inputs.specs,
            batch=self._inputs.batch,
            path=self._path,
            runtime="onnxruntime",
        )
        why = f"{scaled[0]} takes its scale over the whole batch" if scaled else ""
        return prober.plan(feeds, one_by_one=why)

    def _forward(self, wanted: Mapping[str, Placed], noise: BatchNoise) -> Forward:
        types = {p.layer.target: self._types[p.layer.target] for p in wanted.values()}
        noisy = {target: self._tensor(layer) for target, layer in noise.layers.items()}
        session, exposed = self._session(types, noisy)
        outputs = [exposed.output_of[target] for target in types]
        shapes = [port.shape for port in exposed.ports.values()]
        inputs = {port.fed for port in exposed.ports.values()}
        declared = [value.name for value in session.get_inputs() if value.name not in inputs]

        def run(feeds: Mapping[str, Array], noise: Mapping[str, Array]) -> Mapping[str, Array]:
            fed = {exposed.ports[target].fed: array for target, array in noise.items()}
            named = {**_named_for(declared, feeds, self._inputs), **fed}
            self._memory.check(exposed.model, named)
            values = run_session(session, [*outputs, *shapes], named, self._path)
            for target, shape in zip(exposed.ports, values[len(outputs) :], strict=True):
                if (have := tuple(shape.tolist())) != noise[target].shape:
                    raise MisfitError(target, have, noise[target].shape)
            return dict(zip(types, values, strict=False))

        return Forward(run, exposed.ports.keys())

    def _tensor(self, noisy: NoisyLayer) -> NoisyTensor:
        layer = noisy.placed.layer
        return NoisyTensor(self._types[layer.target], len(noisy.placed.layout.shape(1, layer.unit_shape)))

    def _session(
        self, types: Mapping[str, str], noisy: Mapping[str, NoisyTensor]
    ) -> tuple[ort.InferenceSession, Exposed]:
        wanted = (tuple(sorted(types)), tuple(sorted(noisy)))
        if self._cached is None or self._cached[0] != wanted:
            self._cached = None  # two sessions would hold the weights twice
            exposed = expose(self._model, self._graph, wanted[0], types, noisy)
            self._cached = (wanted, self._runtime.session(exposed.model), exposed)
        return self._cached[1], self._cached[2]


def _source_dtype(type_name: str) -> str:
    """``tensor(float)`` is float32."""
    element = type_name.removeprefix("tensor(").removesuffix(")")
    return _SOURCE_NAMES.get(element, element)


def _named_for(declared: Sequence[str], feeds: Mapping[str, Array], inputs: Inputs) -> dict[str, Array]:
    """Return feeds under the names of a rebuilt model, without those it does not need."""
    renamed = {fed_as(name, inputs.types.get(name, "")): array for name, array in feeds.items()}
    return {name: renamed[name] for name in declared}
