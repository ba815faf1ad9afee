"""An ONNX graph as the layer rule wants it: live nodes in order, constants, and what is nested or fused."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain

import onnx

from repstat.errors import InputRefusedError
from repstat_adapters.onnx.walk import all_nodes, needed, subgraphs
from repstat_adapters.shared import graph as shared
from repstat_adapters.shared.ops import PARAMETERISED, word_of

Graph = shared.Graph[onnx.NodeProto]


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not initialisers (IR 3 lists those too)."""
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in stored]


def index_graph(graph: onnx.GraphProto) -> Graph:
    """Index a graph whose functions were inlined: the nodes that contribute to an output.

    Raises
    ------
    InputRefusedError
        The graph has a cycle.
    """
    outputs = [value.name for value in graph.output]
    needs = [needed(node) for node in graph.node]
    order = _sorted(graph, needs, _live(graph, needs, outputs))
    nodes = [graph.node[i] for i in order]
    return shared.index(
        nodes,
        [value.name for value in real_inputs(graph)],
        outputs,
        needs=[frozenset(needs[i]) for i in order],
        shapes=_shapes(graph),
        fused={i: words for i, node in enumerate(nodes) if (words := _fused_activation(node))},
        nesting=frozenset(i for i, node in enumerate(nodes) if any(_nested(node))),
        axes=_axes(nodes),
    )


def nested_layers(graph: Graph) -> tuple[str, ...]:
    """Ops with weights inside the bodies of If, Loop and Scan, which cannot be recorded."""
    return tuple(
        f"{inner.op_type} {inner.name!r} inside {node.op_type} {node.name!r}"
        for node in graph.nodes
        for inner in _nested(node)
    )


def _nested(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    inner = chain.from_iterable(all_nodes(body) for body in subgraphs(node))
    return (node for node in inner if node.op_type in PARAMETERISED)


def _fused_activation(node: onnx.NodeProto) -> list[str]:
    """Activation inside an op of onnxruntime: FusedConv, FusedGemm."""
    if node.domain != "com.microsoft":
        return []
    return [word_of(a.s.decode("utf-8", "replace")) for a in node.attribute if a.name == "activation" and a.s]


def _axes(nodes: Sequence[onnx.NodeProto]) -> shared.Axes:
    """Orders of transpositions, and the one op that keeps channels last: onnxruntime's, on images."""
    orders = {
        i: tuple(attribute.ints)
        for i, node in enumerate(nodes)
        if node.op_type == "Transpose"
        for attribute in node.attribute
        if attribute.name == "perm"
    }
    return shared.Axes({i: 2 for i, node in enumerate(nodes) if node.op_type == "NhwcConv"}, orders)


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


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = node.attribute[0] if node.attribute else onnx.AttributeProto()
            if value.HasField("t") or value.name in {"value_float", "value_int"}:
                shapes[node.output[0]] = tuple(value.t.dims)
    return shapes
