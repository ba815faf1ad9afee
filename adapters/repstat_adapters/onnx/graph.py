"""An index of an ONNX graph: order, producers, consumers, and which tensors depend on the model's inputs."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from repstat.errors import InputRefusedError
from repstat_adapters.onnx.walk import needed

_ASKS_SHAPE_ONLY = frozenset({"Shape", "Size"})
_SCALE_PASSES = frozenset({"Mul", "Cast", "Identity", "Reshape"})


@dataclass(frozen=True)
class Graph:
    """The live part of a graph: nodes that contribute to a graph output, in a stable topological order.

    Parameters
    ----------
    nodes
        Live nodes. A node's position here is its index elsewhere.
    inputs
        Names of the real inputs (initialisers that are also listed as inputs left out).
    outputs
        Names of the graph outputs.
    producer
        Index of the node that makes a tensor.
    consumers
        Indices of the nodes that use a tensor's values, in order.
    dynamic
        Tensors that depend on a real input. All others are constants.
    scales
        Dynamic tensors that are nothing but scales of a dynamically quantised input.
    shapes
        Dimensions of initialisers and tensors of Constant nodes.
    """

    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[str]
    outputs: Sequence[str]
    producer: Mapping[str, int]
    consumers: Mapping[str, Sequence[int]]
    dynamic: frozenset[str]
    scales: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]

    def varies(self, name: str) -> bool:
        """Whether a tensor carries data that depend on the input."""
        return name in self.dynamic and name not in self.scales

    def made_by(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor, or None for an input or initialiser."""
        index = self.producer.get(name)
        return None if index is None else self.nodes[index]

    def only_consumer(self, name: str) -> int | None:
        """Index of the one node that uses a tensor's values, or None if there are several or none."""
        users = self.consumers.get(name, ())
        return users[0] if len(users) == 1 else None


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not initialisers (IR 3 lists those too)."""
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in stored]


def index_graph(graph: onnx.GraphProto) -> Graph:
    """Index a graph whose functions were inlined.

    Raises
    ------
    InputRefusedError
        The graph has a cycle.
    """
    outputs = [value.name for value in graph.output]
    needs = [needed(node) for node in graph.node]
    live = _live(graph, needs, outputs)
    order = _sorted(graph, needs, live)
    nodes = [graph.node[i] for i in order]
    inputs = [value.name for value in real_inputs(graph)]
    dynamic, scales = _dynamic(nodes, [needs[i] for i in order], inputs)
    consumers: dict[str, list[int]] = {}
    for position, i in enumerate(order):
        if nodes[position].op_type not in _ASKS_SHAPE_ONLY:
            for name in sorted(needs[i]):
                consumers.setdefault(name, []).append(position)
    producer = {name: p for p, node in enumerate(nodes) for name in node.output if name}
    return Graph(nodes, inputs, outputs, producer, consumers, dynamic, scales, _shapes(graph))


def _live(graph: onnx.GraphProto, needs: Sequence[set[str]], wanted: Sequence[str]) -> set[int]:
    """Return the indices of the nodes that `wanted` tensors need."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    live: set[int] = set()
    todo = list(wanted)
    while todo:
        index = producer.get(todo.pop())
        if index is not None and index not in live:
            live.add(index)
            todo.extend(needs[index])
    return live


def _sorted(graph: onnx.GraphProto, needs: Sequence[set[str]], live: set[int]) -> list[int]:
    """Topological order; nodes that are in order already keep it (onnxruntime reads unsorted graphs too)."""
    producer = {name: i for i in live for name in graph.node[i].output if name}
    waits = {i: {producer[name] for name in needs[i] if name in producer} for i in live}
    users: dict[int, list[int]] = {}
    for i, before in waits.items():
        for j in before:
            users.setdefault(j, []).append(i)
    ready = [i for i, before in waits.items() if not before]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in users.get(i, ()):
            waits[j].discard(i)
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) < len(live):
        raise InputRefusedError(
            what="the model's graph has a cycle",
            why=f"{len(live) - len(order)} nodes wait for each other",
            fix="Export it again",
        )
    return order


def _dynamic(
    nodes: Sequence[onnx.NodeProto], needs: Sequence[set[str]], inputs: Sequence[str]
) -> tuple[frozenset[str], frozenset[str]]:
    dynamic, scales = set(inputs), set[str]()
    for node, names in zip(nodes, needs, strict=True):
        moving = names & dynamic
        if not moving:
            continue
        made = {name for name in node.output if name}
        dynamic |= made
        if node.op_type == "DynamicQuantizeLinear":
            scales |= set(node.output[1:2])
        elif node.op_type in _SCALE_PASSES and moving <= scales:
            scales |= made
    return frozenset(dynamic), frozenset(scales)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = node.attribute[0] if node.attribute else onnx.AttributeProto()
            if value.HasField("t") or value.name in {"value_float", "value_int"}:
                shapes[node.output[0]] = tuple(value.t.dims)
    return shapes
