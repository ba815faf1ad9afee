"""What runs a Keras model: one engine per backend, behind one interface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repstat.adapter import AdapterOptions, Array, InputSpec
from repstat.errors import InputRefusedError
from repstat_adapters.keras.framework import Framework
from repstat_adapters.keras.inputs import Inputs
from repstat_adapters.keras.provenance import sha256_of
from repstat_adapters.keras.tf_device import Device, choose_tf_device
from repstat_adapters.keras.tf_graph import Graph, Traced
from repstat_adapters.keras.tf_session import Session
from repstat_adapters.keras.tf_trace import trace


@dataclass(frozen=True)
class Prepared:
    """A model whose calls are known.

    Parameters
    ----------
    graph
        The calls.
    dtypes
        By tensor, the name of its dtype inside the model.
    nested
        Ops with weights that cannot be recorded.
    """

    graph: Graph
    dtypes: Mapping[str, str]
    nested: Sequence[str] = ()


class Engine(Protocol):
    """Runs one model."""

    device: Device

    def prepare(self, feeds: Mapping[str, Array] | None) -> Prepared:
        """Find the calls of the model; `feeds` tell the shapes that it does not declare."""

    def run(
        self, feeds: Mapping[str, Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return tensors by name, before their own noise."""

    def refresh(self, path: Path | None) -> bool:
        """Take over the model's weights as they are now, and the file they come from.

        Returns
        -------
        bool
            Whether what `prepare` returned still holds.
        """

    def close(self) -> None:
        """Release what is held."""


class TensorFlowEngine:
    """Traces a ``keras.Model`` once per kind of batch, and runs the graph in a session of its own."""

    def __init__(
        self, model: Any, inputs: Inputs, framework: Framework, options: AdapterOptions, path: Path | None
    ) -> None:
        self._model, self._inputs, self._framework, self._path = model, inputs, framework, path
        self.device = choose_tf_device(framework.runner, options)
        self._key: Any = None
        self._held: dict[str, str] = {}
        self._session: Session | None = None
        self._planned: Traced | None = None

    def prepare(self, feeds: Mapping[str, Array] | None) -> Prepared:
        """See `Engine`."""
        self._planned = traced = self._traced(feeds).traced
        return Prepared(traced.graph, traced.dtypes, traced.nested)

    def run(
        self, feeds: Mapping[str, Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """See `Engine`."""
        assert self._planned is not None  # a plan is made before anything runs
        session = self._traced(feeds)
        if session.traced is not self._planned and _ops(session.traced) != _ops(self._planned):
            raise InputRefusedError(
                what="the samples have another length than those that the layers were found with",
                path=self._path,
                why="the model computes with other operations at this length",
                fix="Give samples of this length when layers are listed",
            )
        return session.run([feeds[spec.name] for spec in self._inputs.specs], targets, noise)

    def refresh(self, path: Path | None) -> bool:
        """See `Engine`. A graph that holds numbers which are others now is traced anew when it is needed."""
        self._path = path
        if self._session is None:
            return True
        self._session.path = path
        if self._session.traced.captures and self._held == _held(self._model, self._framework):
            self._session.load()
            return True
        self.close()
        return False

    def close(self) -> None:
        """See `Engine`."""
        if self._session is not None:
            self._session.close()
        self._session = self._key = None

    def _traced(self, feeds: Mapping[str, Array] | None) -> Session:
        """Return the session for samples of these shapes, made anew where they are others than before."""
        shapes = [self._shape(spec, feeds) for spec in self._inputs.specs]
        if self._session is None or self._key != shapes:
            traced = trace(self._model, self._inputs, shapes, self._framework, self._path)
            self.close()
            self._held = _held(self._model, self._framework)
            self._session = self._opened(traced)
            self._key = shapes
        return self._session

    def _opened(self, traced: Traced) -> Session:
        session = Session(self._framework.runner, traced, self.device.name, self._path)
        session.load()
        return session

    def _shape(
        self, spec: InputSpec, feeds: Mapping[str, Array] | None
    ) -> tuple[tuple[int | None, ...], str]:
        if feeds is None:
            return spec.shape, spec.dtype.name
        # Lengths that the model leaves open are those of the samples: with more than the batch unknown, some
        # layers of Keras (TimeDistributed) make graphs that compute something else.
        dtype = spec.dtype if spec.declared else feeds[spec.name].dtype
        return (*spec.shape[:1], *feeds[spec.name].shape[1:]), dtype.name


def _ops(traced: Traced) -> list[tuple[str, str]]:
    return [(node.name, node.op) for node in traced.definition.node]


def _held(model: Any, framework: Framework) -> dict[str, str]:
    """Return the numbers that layers hold beside their weights, which a trace takes as constants.

    Such are the statistics of ``Normalization``, which it copies from its weights when those are loaded.
    """
    found, is_tensor = {}, framework.keras.ops.is_tensor
    for i, layer in enumerate(model._flatten_layers()):
        for name, value in vars(layer).items():
            if name.startswith("_self_"):
                continue  # TensorFlow counts there how often a layer was restored
            if isinstance(value, int | float | np.ndarray):
                found[f"{i} {name}"] = sha256_of(np.asarray(value))
            elif is_tensor(value) and hasattr(value, "numpy") and not hasattr(value, "assign"):
                found[f"{i} {name}"] = sha256_of(np.asarray(value.numpy()))
    return found


class FrozenEngine:
    """Runs a graph that holds its weights, as a SavedModel gives it."""

    def __init__(self, traced: Traced, inputs: Inputs, tf: Any, options: AdapterOptions, path: Path) -> None:
        self.device = choose_tf_device(tf, options)
        self._names = [spec.name for spec in inputs.specs]
        self._session = Session(tf, traced, self.device.name, path)
        self._session.load()

    def prepare(self, feeds: Mapping[str, Array] | None) -> Prepared:
        """See `Engine`."""
        traced = self._session.traced
        return Prepared(traced.graph, traced.dtypes, traced.nested)

    def run(
        self, feeds: Mapping[str, Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """See `Engine`."""
        return self._session.run([feeds[name] for name in self._names], targets, noise)

    def refresh(self, path: Path | None) -> bool:
        """See `Engine`. Nothing can change."""
        return True

    def close(self) -> None:
        """See `Engine`."""
        self._session.close()
