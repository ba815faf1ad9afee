"""A TensorFlow graph as the layer rule wants it: calls in order, with each known layer of Keras as one."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repstat.adapter import Array
from repstat.errors import InputRefusedError
from repstat_adapters.keras.calls import LayerCall, numbered
from repstat_adapters.keras.tf_ops import (
    DATA_THIRD,
    SHAPE_ONLY,
    is_random,
    onnx_name,
    spatial_of,
    writes_variables,
)
from repstat_adapters.shared import graph as shared
from repstat_adapters.shared.graph import Call
from repstat_adapters.shared.ops import PARAMETERISED

Graph = shared.Graph[Call]

_DEEPEST = 50
"""Functions that call functions."""


@dataclass(frozen=True)
class Traced:
    """A model as a graph.

    Parameters
    ----------
    definition
        The ``GraphDef``. It holds no weights unless `captures` is empty.
    feeds
        Names of the tensors to feed, in the order of the inputs.
    captures
        By the name of a placeholder, what reads the current value of the variable behind it.
    graph
        The calls, for the layer rule. Tensors have TensorFlow's names.
    dtypes
        By tensor, the name of its dtype.
    nested
        Ops with weights inside loops and branches, which cannot be recorded.
    """

    definition: Any
    feeds: tuple[str, ...]
    captures: Mapping[str, "Captured"]
    graph: Graph
    dtypes: Mapping[str, str]
    nested: tuple[str, ...]


@dataclass(frozen=True)
class Captured:
    """A variable or constant that a graph takes from outside."""

    is_variable: bool
    shape: tuple[int, ...]
    dtype: Any
    value: Callable[[], Array]


@dataclass(frozen=True)
class Names:
    """Names of the layers of a model that was watched (`repstat_adapters.shared.layers.Names`)."""

    graph: Graph

    def layer(self, index: int, weight: str) -> str:
        """Name of the layer made by call `index`."""
        return self.graph.nodes[index].name

    def join(self, index: int) -> str:
        """Name of a residual join."""
        return self.graph.nodes[index].name


@dataclass(frozen=True)
class Entry:
    """A call, where it was, the words of the activations inside it, and its order of axes (`shared.Axes`)."""

    position: int
    call: Call
    fused: Sequence[str] = ()
    spatial: int = 0
    order: tuple[int, ...] = ()


def index_entries(
    entries: Sequence[Entry],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    ranks: Mapping[str, int] | None = None,
) -> Graph:
    """Return the graph of calls that contribute to an output; layers called more than once are numbered."""
    ordered = sorted(entries, key=lambda entry: entry.position)
    weighted = [i for i, entry in enumerate(ordered) if entry.call.op_type in PARAMETERISED]
    names = dict(zip(weighted, numbered([ordered[i].call.name for i in weighted]), strict=True))
    calls = [
        Call(e.call.op_type, e.call.input, e.call.output, names.get(i, e.call.name))
        for i, e in enumerate(ordered)
    ]
    fused = {i: entry.fused for i, entry in enumerate(ordered) if entry.fused}
    axes = shared.Axes(
        {i: entry.spatial for i, entry in enumerate(ordered) if entry.spatial},
        {i: entry.order for i, entry in enumerate(ordered) if entry.order},
        ranks or {},
    )
    return shared.index(calls, inputs, outputs, shapes=shapes, fused=fused, axes=axes)


def layer_entry(
    call: LayerCall, position: int, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[Entry, dict[str, tuple[int, ...]]]:
    """Return a layer of Keras as one call, and the shape of its weight by name."""
    given, shapes = list(inputs), dict[str, tuple[int, ...]]()
    if call.kind.weighted:
        weight = f"weight of {outputs[0]}"
        given.insert(1, weight)
        shapes[weight] = call.shape
    made = Call(call.kind.op_type, given, list(outputs), call.path)
    return Entry(position, made, call.kind.fused, call.kind.spatial, call.kind.order), shapes


@dataclass(frozen=True)
class _Rule:
    """What an op may not be, and what is said of it."""

    applies: Callable[[str], bool]
    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class GraphReader:
    """Reads a ``tf.Graph``.

    Parameters
    ----------
    graph
        The graph.
    feeds, outputs
        Its input and output tensors.
    layers
        Calls of known layers of Keras seen while it was made.
    name_of
        What to call an op outside of them.
    path
        The model, for messages.
    refuse
        Which ops are not to run.
    """

    graph: Any
    feeds: Sequence[Any]
    outputs: Sequence[Any]
    layers: Sequence[LayerCall]
    name_of: Callable[[Any, int], str]
    path: Path | None
    refuse: Callable[[str], bool] = lambda op_type: False

    def read(self) -> tuple[Graph, dict[str, str], tuple[str, ...]]:
        """Return the calls, the dtypes of the tensors, and ops with weights inside loops and branches.

        Raises
        ------
        InputRefusedError
            The graph is random, changes the model's state, or does what `refuse` tells of.
        """
        operations = self.graph.get_operations()
        position = {op.name: i for i, op in enumerate(operations)}
        library = {f.signature.name: f for f in self.graph.as_graph_def().library.function}
        needed = [(op, position[op.name]) for op in self._needed()]
        for rule in self._rules():
            self._check(needed, library, rule)
        varying = self._varying(operations)
        mine = [c for c in self.layers if c.outputs and all(self._is_here(t) for t in c.outputs)]
        by_output = {tensor.name: i for i, c in enumerate(mine) for tensor in c.outputs}
        live = self._live(by_output, mine)
        entries, shapes = list[Entry](), dict[str, tuple[int, ...]]()
        for i in sorted({by_output[name] for name in live if name in by_output}):
            inputs = [t.name for t in mine[i].inputs if self._is_here(t)]
            outputs = [t.name for t in mine[i].outputs]
            at = position[mine[i].outputs[-1].op.name]
            entry, weight = layer_entry(mine[i], at, inputs, outputs)
            entries.append(entry)
            shapes |= weight
        plain = [
            op for op in operations if any(t.name in live and t.name not in by_output for t in op.outputs)
        ]
        for op in plain:
            name = self.name_of(op, position[op.name])
            spatial, order = spatial_of(op), _order(op)
            entries.extend(
                Entry(position[op.name], c, spatial=spatial, order=order)
                for c in _calls_of(op, name, varying, live)
            )
        used = {name for entry in entries for name in entry.call.input}
        shapes |= {
            t.name: tuple(t.shape)
            for op in operations
            for t in op.outputs
            if t.name in used and t.name not in varying and t.shape.is_fully_defined()
        }
        feeds, ends = [t.name for t in self.feeds], [t.name for t in self._ends()]
        ranks = {t.name: t.shape.rank for op in operations for t in op.outputs if t.shape.rank is not None}
        graph = index_entries(entries, feeds, ends, shapes, ranks)
        dtypes = {t.name: t.dtype.name for op in operations for t in op.outputs}
        nested = [
            f"{inner} inside {op.type} {op.name!r}"
            for op in plain
            for inner in _inner_ops(op.node_def, library)
            if onnx_name(inner) in PARAMETERISED
        ]
        return graph, dtypes, tuple(dict.fromkeys(nested))

    def _is_here(self, tensor: Any) -> bool:
        """Whether a tensor is of this graph, and not of the body of a loop or a value known beforehand."""
        return getattr(tensor, "graph", None) is self.graph

    def _needed(self) -> list[Any]:
        """All ops that run for the outputs."""
        seen, todo = dict[str, Any](), [tensor.op for tensor in self._ends()]
        while todo:
            op = todo.pop()
            if op.name not in seen:
                seen[op.name] = op
                todo.extend([tensor.op for tensor in op.inputs] + list(op.control_inputs))
        return list(seen.values())

    def _ends(self) -> list[Any]:
        """Return the outputs as they are before TensorFlow hands them out, when it waits for all updates."""
        ends = list(self.outputs)
        for i, tensor in enumerate(ends):
            while tensor.op.type == "Identity":
                tensor = tensor.op.inputs[0]
            ends[i] = tensor
        return ends

    def _rules(self) -> Iterator[_Rule]:
        """Yield what an op may not be, the worst first."""
        yield _Rule(
            self.refuse,
            "the model touches files",
            "what it computes reads or writes outside of the model",
            "Pass --trust-model if it is yours, or leave that part out",
        )
        yield _Rule(
            is_random,
            "the model is not deterministic",
            "it draws random numbers also outside of training, which depend on the order of runs",
            "Draw them only where training is true, or leave that part out of the model",
        )
        yield _Rule(
            writes_variables,
            "the model is not deterministic",
            "what it computes depends on a state that it changes on the way",
            "Keep updates of variables apart from what is computed, or leave that part out",
        )

    def _check(self, needed: Sequence[tuple[Any, int]], library: Mapping[str, Any], rule: _Rule) -> None:
        for op, position in needed:
            for kind in [op.type, *_inner_ops(op.node_def, library)]:
                if rule.applies(kind):
                    raise InputRefusedError(
                        what=rule.what,
                        path=self.path,
                        place=f"{kind} in {self.name_of(op, position)}",
                        why=rule.why,
                        fix=rule.fix,
                    )

    def _varying(self, operations: Sequence[Any]) -> set[str]:
        """Tensors whose values depend on the samples, and not only on how many there are."""
        varying = {tensor.name for tensor in self.feeds}
        for op in operations:
            if op.type not in SHAPE_ONLY and any(tensor.name in varying for tensor in op.inputs):
                varying |= {tensor.name for tensor in op.outputs}
        return varying

    def _live(self, by_output: Mapping[str, int], layers: Sequence[LayerCall]) -> set[str]:
        """Tensors whose values the outputs need; a layer needs its inputs, and nothing inside it counts."""
        live, todo = set[str](), self._ends()
        while todo:
            tensor = todo.pop()
            if tensor.name in live:
                continue
            live.add(tensor.name)
            index = by_output.get(tensor.name)
            if index is not None:
                todo.extend(t for t in layers[index].inputs if self._is_here(t))
            elif tensor.op.type == "IdentityN":
                todo.append(tensor.op.inputs[tensor.value_index])
            elif tensor.op.type not in SHAPE_ONLY:  # a step that only tells a loop its shapes is no layer
                todo.extend(tensor.op.inputs)
        return live


def _calls_of(op: Any, name: str, varying: set[str], live: set[str]) -> Iterator[Call]:
    """Yield an op as calls, unless its results are constant."""
    inputs, outputs = [t.name for t in op.inputs], [t.name for t in op.outputs]
    if op.type in SHAPE_ONLY or not varying & set(inputs):
        return
    if op.type == "IdentityN":  # custom gradients hand on what they were given: one Identity each
        for given, made in zip(inputs, outputs, strict=True):
            if made in live:
                yield Call("Identity", [given], [made], name)
        return
    if op.type in DATA_THIRD:
        inputs = [inputs[2], inputs[1], inputs[0]]
    yield Call(onnx_name(op.type), inputs, outputs, name)


def _order(op: Any) -> tuple[int, ...]:
    """Return how a transposition with a constant order reorders axes."""
    if op.type != "Transpose":
        return ()
    order = importlib.import_module("tensorflow").get_static_value(op.inputs[1])
    return () if order is None else tuple(int(axis) for axis in order)


def _inner_ops(node: Any, library: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield the types of ops in the functions that a node calls: bodies of loops, branches."""
    if depth > _DEEPEST:
        return
    for attribute in node.attr.values():
        for function in [attribute.func, *attribute.list.func]:
            if function.name in library:
                for inner in library[function.name].node_def:
                    yield inner.op
                    yield from _inner_ops(inner, library, depth + 1)
