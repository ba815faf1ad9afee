"""The Keras adapter: hidden layers of Keras models and TensorFlow graphs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import AdapterOptions, Array, InputSpec
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.keras import saved_model
from repstat_adapters.keras.engine import Engine, FrozenEngine, TensorFlowEngine
from repstat_adapters.keras.framework import import_keras, import_tensorflow, without_log_lines
from repstat_adapters.keras.inputs import Inputs, read_inputs
from repstat_adapters.keras.provenance import weights_sha256
from repstat_adapters.keras.source import ModelSource, locate
from repstat_adapters.keras.tf_freeze import freeze
from repstat_adapters.keras.tf_graph import Graph, Names
from repstat_adapters.shared.base import BatchedAdapter, Forward
from repstat_adapters.shared.feeds import differences, draw_probes
from repstat_adapters.shared.layers import find_layers
from repstat_adapters.shared.noise import BatchNoise
from repstat_adapters.shared.options import check_plain_options
from repstat_adapters.shared.probing import Placed, Plan, Prober
from repstat_adapters.shared.provenance import file_facts, run_facts

_NESTED = "it is inside a loop, a branch, or a function that is called as a whole"


class KerasAdapter(BatchedAdapter):
    """One Keras model or SavedModel, opened.

    Implements `repstat.adapter.Adapter` and `repstat.adapter.Reloadable`. The model is called with
    ``training=False``. Activations are float16, float32 or float64, feature maps with the channels first
    (`repstat_adapters.shared.axes`); bfloat16 is widened to float32.

    Parameters
    ----------
    source
        A path, or a ``keras.Model``.
    options
        Provider, threads, model factory, trust.

    Raises
    ------
    UsageError, InputRefusedError, DeviceUnavailableError, AdapterUnavailableError
        See `repstat_adapters.keras.open_model`.
    """

    def __init__(self, source: object, options: AdapterOptions) -> None:
        path, kind = locate(source)
        super().__init__(path)
        check_plain_options(options, "Keras", path)
        self._trust = options.trust_model
        self._source: ModelSource | None = None
        self._nested: Sequence[str] = ()
        self._graph: Graph | None = None
        if kind == "saved-model":
            assert path is not None
            self._open_saved_model(path, options)
        else:
            self._open_model(source, options)
        self._facts = self._read_facts()

    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the model's order. bfloat16 inputs are fed as float32."""
        return self._inputs.specs

    def provenance(self) -> Mapping[str, Any]:
        """JSON-able facts about files, weights, versions and how the model is run."""
        return {
            **self._facts,
            "provider": self._engine.device.provider,
            "threads": self._engine.device.threads,
            "opt_level": "none",
            "trust_model": self._trust,
            **run_facts(
                self._plan,
                batch=self._inputs.batch,
                unreachable=[{"name": name, "why": _NESTED} for name in self._nested],
            ),
        }

    def reload(self, source: object) -> bool:
        """Take over the weights of another checkpoint; see `repstat.adapter.Reloadable`."""
        self._require_open()
        if self._source is None:
            return False
        try:
            if not self._source.reload(source):
                return False
            if not self._engine.refresh(self._source.path):
                self._plan = None  # made anew with the next samples
        except BaseException:
            self.close()  # some weights may be the new ones, and some not
            raise
        self._path = self._source.path
        self._facts = self._read_facts()
        return True

    def close(self) -> None:
        """Release the session; a live model stays as it is."""
        self._engine.close()
        self._source = None
        super().close()

    def _open_model(self, source: object, options: AdapterOptions) -> None:
        framework = import_keras()
        self._source = ModelSource(source, options, framework)
        model, path = self._source.model, self._source.path
        self._versions = {"framework": "keras", "backend": framework.backend, "versions": framework.versions}
        self._inputs: Inputs = read_inputs(model, framework.keras, path)
        if framework.backend == "torch":
            from repstat_adapters.keras.torch_engine import TorchEngine

            self._engine: Engine = TorchEngine(model, self._inputs, framework, options, path)
        else:
            self._engine = TensorFlowEngine(model, self._inputs, framework, options, path)

    def _open_saved_model(self, path: Path, options: AdapterOptions) -> None:
        if options.model_factory is not None:
            raise UsageError(
                what="a SavedModel needs no model factory",
                path=path,
                why="it holds its graph",
                fix="Leave --model-factory out",
            )
        tf = import_tensorflow()
        signature = saved_model.open_signature(path, tf, trust=options.trust_model)
        self._inputs = saved_model.signature_inputs(signature, path)
        names = [spec.name for spec in self._inputs.specs]
        traced = freeze(signature.function, path, names=names, screened=not options.trust_model)
        self._engine = FrozenEngine(traced, self._inputs, tf, options, path)
        self._versions = {
            "framework": "tensorflow",
            "versions": {"tensorflow": tf.__version__, "numpy": np.__version__},
            "signature": signature.name,
            **file_facts(saved_model.files_of(path)),
            "weights_sha256": weights_sha256((v.name, v.numpy()) for v in signature.function.variables),
        }

    def _read_facts(self) -> dict[str, Any]:
        if self._source is None:
            return self._versions
        print_of = weights_sha256(self._source.weights())
        facts = file_facts(self._source.files)
        return {**self._versions, **facts, "sha256": facts["sha256"] or print_of, "weights_sha256": print_of}

    def _make_plan(self, feeds: Mapping[str, Array] | None) -> Plan:
        if feeds is None and any(None in spec.sample_shape for spec in self._inputs.specs):
            # A graph is made for samples of one length: for the first at which the model works.
            for probe in draw_probes(self._inputs.specs, max(3, self._inputs.batch or 0)):
                with suppress(InputRefusedError):
                    return self._plan_for(probe)
        return self._plan_for(feeds)

    def _plan_for(self, feeds: Mapping[str, Array] | None) -> Plan:
        prepared = self._engine.prepare(feeds)
        self._graph, self._nested = prepared.graph, prepared.nested
        found = find_layers(prepared.graph, Names(prepared.graph))
        if not found:
            return Plan({}, self._inputs.batch, ())
        targets = list(dict.fromkeys(f.target for f in found))
        prober = Prober(
            run=lambda batch: self._run(batch, targets, {}),
            found=found,
            dtypes=prepared.dtypes,
            specs=self._inputs.specs,
            batch=self._inputs.batch,
            path=self._path,
            runtime="Keras",
        )
        with without_log_lines():  # batches are tried, and some may fail
            return prober.plan(feeds)

    def _forward(self, wanted: Mapping[str, Placed], noise: BatchNoise) -> Forward:
        assert self._graph is not None  # the plan that `wanted` comes from was made with it
        targets = list(dict.fromkeys(placed.layer.target for placed in wanted.values()))
        felt = _before(self._graph, targets) & noise.layers.keys()

        def run(feeds: Mapping[str, Array], drawn: Mapping[str, Array]) -> Mapping[str, Array]:
            return self._run(feeds, targets, drawn)

        return Forward(run, felt)

    def _run(
        self, feeds: Mapping[str, Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Run the model; where it fails, say how the batch differs from what its weights suggest."""
        try:
            return self._engine.run(feeds, targets, noise)
        except InputRefusedError as error:
            hints = [hint for spec in self._inputs.specs for hint in differences(spec, feeds[spec.name])]
            raise InputRefusedError(
                what=error.what,
                path=self._path,
                place=error.place,
                why="; ".join([error.why, *hints]),
                fix=error.fix,
            ) from error


def _before(graph: Graph, targets: Sequence[str]) -> set[str]:
    """Tensors from which some tensors are computed."""
    seen, todo = set[str](), list(targets)
    while todo:
        index = graph.producer.get(todo.pop())
        if index is not None:
            fresh = set(graph.nodes[index].input) - seen
            seen |= fresh
            todo.extend(fresh)
    return seen
