"""Run a traced model in a session of its own: own weights, no graph optimiser, no device but the one chosen.

A session keeps extraction apart from whatever the process does with TensorFlow: nothing is written to the
model's variables, threads and placement are its own, and Grappler, which fuses ops differently depending on
what is fetched, is off without being switched off for the user.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Array
from repstat.errors import InputRefusedError, RepstatError, ResourceError
from repstat_adapters.keras.framework import first_line, quiet
from repstat_adapters.keras.tf_graph import Captured, Traced
from repstat_adapters.shared.base import MisfitError

_MOST_VARIANTS = 8


@dataclass
class Variant:
    """One copy of the graph inside a session: clean, or with noise at some tensors."""

    prefix: str
    noise: Mapping[str, Any]


@dataclass
class Session:
    """A traced model, ready to run.

    Parameters
    ----------
    tf
        TensorFlow.
    traced
        The model.
    device
        ``/CPU:0`` or ``/GPU:0``.
    path
        The model, for messages.
    """

    tf: Any
    traced: Traced
    device: str
    path: Path | None
    _session: Any = None
    _graph: Any = None
    _feeds: list[Any] = field(default_factory=list)
    _map: dict[str, Any] = field(default_factory=dict)
    _loads: list[tuple[Any, Any, Captured]] = field(default_factory=list)
    _variants: dict[frozenset[str], Variant] = field(default_factory=dict)

    def load(self) -> None:
        """Copy the current weights of the model into the session."""
        with self._translated(), quiet():
            if self._session is None:
                self._start()
            for assign, placeholder, captured in self._loads:
                self._session.run(assign, {placeholder: captured.value()})

    def run(
        self, feeds: Sequence[Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return tensors by name, before their own noise.

        Raises
        ------
        InputRefusedError
            TensorFlow fails on the batch.
        MisfitError
            A tensor has not the shape of its noise.
        """
        with self._translated():
            variant = self._variant(frozenset(noise))
            fetched = {name: self._tensor(variant, name) for name in targets}
            shapes = {name: variant.noise[name][1] for name in noise}
            fed = dict(zip(self._feeds, feeds, strict=True))
            fed |= {variant.noise[name][0]: array for name, array in noise.items()}
            values, found = self._session.run([fetched, shapes], fed)
        for name, shape in found.items():
            if tuple(shape) != noise[name].shape:
                raise MisfitError(name, tuple(int(n) for n in shape), noise[name].shape)
        return {name: _widened(value) for name, value in values.items()}

    def close(self) -> None:
        """Release the weights."""
        if self._session is not None:
            self._session.close()
        self._session = self._graph = None
        self._feeds, self._map, self._loads, self._variants = [], {}, [], {}

    def _start(self) -> None:
        v1 = self.tf.compat.v1
        self._graph = self.tf.Graph()
        with self._graph.as_default(), self._graph.device(self.device):
            for name, captured in self.traced.captures.items():
                placeholder = v1.placeholder(captured.dtype, captured.shape)
                variable = v1.Variable(placeholder, use_resource=True, trainable=False, collections=[])
                self._loads.append((variable.initializer, placeholder, captured))
                self._map[name] = variable.handle if captured.is_variable else variable.read_value()
        with self._graph.as_default():
            for name in self.traced.feeds:
                dtype, shape = self._declared(name)
                self._feeds.append(v1.placeholder(dtype, shape))
                self._map[name] = self._feeds[-1]
        config = v1.ConfigProto(allow_soft_placement=True)
        if self.device.startswith("/CPU"):
            config.device_count["GPU"] = 0
        options = config.graph_options
        options.optimizer_options.opt_level = -1
        options.rewrite_options.disable_meta_optimizer = True
        self._session = v1.Session(graph=self._graph, config=config)

    def _declared(self, name: str) -> tuple[Any, Any]:
        node = next(n for n in self.traced.definition.node if n.name == name.partition(":")[0])
        return self.tf.dtypes.as_dtype(node.attr["dtype"].type), self.tf.TensorShape(node.attr["shape"].shape)

    def _variant(self, noisy: frozenset[str]) -> Variant:
        if noisy not in self._variants:
            if len(self._variants) >= _MOST_VARIANTS:
                self.close()  # a graph only grows
                self.load()
            self._variants[noisy] = self._add_variant(noisy)
        return self._variants[noisy]

    def _add_variant(self, noisy: Set[str]) -> Variant:
        definition, added = _with_noise(self.tf, self.traced, sorted(noisy))
        prefix = f"variant_{len(self._variants)}"
        with quiet(), self._graph.as_default(), self._graph.device(self.device):
            self.tf.graph_util.import_graph_def(definition, input_map=self._map, name=prefix)
        tensor = self._graph.get_tensor_by_name
        noise = {
            name: (tensor(f"{prefix}/{node}/z:0"), tensor(f"{prefix}/{node}/shape:0"))
            for name, node in added.items()
        }
        return Variant(prefix, noise)

    def _tensor(self, variant: Variant, name: str) -> Any:
        return (
            self._map[name]
            if name in self._map
            else self._graph.get_tensor_by_name(f"{variant.prefix}/{name}")
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn TensorFlow's errors into ours."""
        try:
            yield
        except RepstatError:
            raise
        except self.tf.errors.ResourceExhaustedError as error:
            raise ResourceError(
                what="TensorFlow ran out of memory",
                path=self.path,
                why=first_line(error),
                fix="Use a smaller --batch-size",
            ) from None
        except (self.tf.errors.OpError, ValueError, TypeError, MemoryError) as error:
            raise InputRefusedError(
                what="TensorFlow cannot run the model",
                path=self.path,
                why=first_line(error),
                fix="Check that Keras alone can run the model on these samples",
            ) from None


def _with_noise(tf: Any, traced: Traced, noisy: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Return the graph with a sum behind each of some tensors, from which everything else computes on.

    Returns
    -------
    definition, names
        Each name in `names` has a placeholder ``/z`` for the noise and a tensor ``/shape`` beneath it.
    """
    definition = tf.compat.v1.GraphDef()
    definition.CopyFrom(traced.definition)
    names = {name: f"repstat_noise_{i}" for i, name in enumerate(noisy)}
    sums = {_canonical(name): f"{node}/sum" for name, node in names.items()}
    for node in definition.node:
        for i, given in enumerate(node.input):
            if not given.startswith("^") and _canonical(given) in sums:
                node.input[i] = sums[_canonical(given)]
    for name, node in names.items():
        definition.node.extend(_noise_nodes(tf, name, node, traced.dtypes[name]))
    return definition, names


def _noise_nodes(tf: Any, name: str, prefix: str, dtype: str) -> list[Any]:
    """Return a placeholder, the sum and the tensor's shape. In bfloat16 the sum is rounded, not the noise."""
    kind = tf.dtypes.as_dtype(dtype).as_datatype_enum
    fed = tf.float32.as_datatype_enum if dtype == "bfloat16" else kind
    source = _canonical(name)
    make = tf.compat.v1.NodeDef

    def node(op: str, suffix: str, inputs: Sequence[str], **types: int) -> Any:
        made = make(op=op, name=f"{prefix}/{suffix}", input=inputs)
        for key, value in types.items():
            made.attr[key].type = value
        return made

    nodes = [node("Placeholder", "z", [], dtype=fed)]
    if fed == kind:
        nodes.append(node("AddV2", "sum", [source, f"{prefix}/z"], T=kind))
    else:
        nodes += [
            node("Cast", "wide", [source], SrcT=kind, DstT=fed),
            node("AddV2", "exact", [f"{prefix}/wide", f"{prefix}/z"], T=fed),
            node("Cast", "sum", [f"{prefix}/exact"], SrcT=fed, DstT=kind),
        ]
    nodes.append(node("Shape", "shape", [source], T=kind, out_type=tf.int64.as_datatype_enum))
    return nodes


def _canonical(name: str) -> str:
    """``op:0`` is ``op`` where an op names its inputs."""
    return name.removesuffix(":0")


def _widened(value: Any) -> Array:
    """bfloat16 and integers are not held by a store."""
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.dtype.name in {"float16", "float32", "float64"}:
        return array
    wide = np.float64 if array.dtype.kind in "iu" and array.dtype.itemsize >= 4 else np.float32
    return array.astype(wide)
