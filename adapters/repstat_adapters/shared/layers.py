"""Which tensors of a model are the layers: one per op with constant weights, after its activation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from repstat_adapters.shared.axes import channels_last
from repstat_adapters.shared.chain import Chain, follow
from repstat_adapters.shared.graph import Graph, Node
from repstat_adapters.shared.ops import AFFINE, LAYOUT, NO_OPS, NORMS, PARAMETERISED
from repstat_adapters.shared.probing import Found

_JOINS = frozenset({"Add", "Sum", "QLinearAdd"})
_PASSED_BACKWARDS = AFFINE | NO_OPS | NORMS | LAYOUT


class Names(Protocol):
    """What an adapter calls its layers. Decoration, never an identity."""

    def layer(self, index: int, weight: str) -> str:
        """Name of the layer made by node `index` with the constant tensor `weight`."""

    def join(self, index: int) -> str:
        """Name of the residual join at node `index`."""


def find_layers(graph: Graph[Node], names: Names) -> tuple[Found, ...]:
    """Layers and residual joins in forward order.

    Every op whose weight is constant and whose data depend on an input counts, in the order of the graph;
    L000 is the first. A layer is ``output`` where no such op comes after it.
    """
    weights = {i: name for i, node in enumerate(graph.nodes) if (name := _weight(graph, node))}
    before = _leads_to_weights(graph, weights)
    found: list[tuple[int, Found]] = []
    inside: set[int] = set()  # nodes that are part of a layer, which a join is not
    for ordinal, (index, weight) in enumerate(weights.items()):
        node = graph.nodes[index]
        chain = _chain(graph, index)
        inside |= {index, *chain.nodes}
        words = [PARAMETERISED[node.op_type].word, *graph.fused.get(index, ()), *chain.words]
        found.append(
            (
                index,
                Found(
                    key=f"L{ordinal:03d}",
                    name=names.layer(index, weight),
                    op=_spelled(graph, [index, *chain.nodes]),
                    kind="hidden" if chain.target in before else "output",
                    signature=">".join(words),
                    target=chain.target,
                ),
            )
        )
    found += _joins(graph, names, set(weights), inside, {layer.target for _, layer in found})
    last = channels_last(graph)
    ordered = sorted(found, key=lambda pair: pair[0])
    return tuple(replace(layer, spatial=last.get(layer.target, 0)) for _, layer in ordered)


def _weight(graph: Graph[Node], node: Node) -> str:
    """Name of the node's constant weight, or nothing if it is not a layer."""
    rule = PARAMETERISED.get(node.op_type)
    if rule is None or (node.op_type == "Einsum" and len(node.input) != 2):
        return ""
    for weight, data in rule.weight_or_data:
        if len(node.input) > max(weight, data):
            name: str = node.input[weight]
            if name and name not in graph.dynamic and graph.varies(node.input[data]):
                return name
    return ""


def _chain(graph: Graph[Node], index: int) -> Chain:
    node = graph.nodes[index]
    outputs = [name for name in node.output if name]
    used = [name for name in outputs if name in graph.consumers or name in graph.outputs]
    start = (used or outputs)[0]
    return Chain(start, (), ()) if graph.fused.get(index) else follow(graph, start)


def _spelled(graph: Graph[Node], indices: Sequence[int]) -> str:
    return "+".join(graph.nodes[i].op_type for i in indices)


def _leads_to_weights(graph: Graph[Node], weights: dict[int, str]) -> set[str]:
    """Tensors from which data flow into a further op with weights."""
    leading: set[str] = set()
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        if index in weights or index in graph.nesting or any(name in leading for name in node.output):
            leading |= {name for name in graph.needs[index] if graph.varies(name)}
    return leading


def _joins(
    graph: Graph[Node], names: Names, weights: set[int], inside: set[int], targets: set[str]
) -> list[tuple[int, Found]]:
    found: list[tuple[int, Found]] = []
    ends = set(targets)
    for index, node in enumerate(graph.nodes):
        moving = {name for name in node.input if graph.varies(name)}
        if node.op_type not in _JOINS or index in inside or len(moving) < 2:
            continue
        if not any(_ends_block(graph, name, weights, ends) for name in moving):
            continue
        chain = follow(graph, node.output[0])
        layer = Found(
            key=f"R{len(found):03d}",
            name=names.join(index),
            op=_spelled(graph, [index, *chain.nodes]),
            kind="residual",
            signature=">".join(["add", *chain.words]),
            target=chain.target,
        )
        found.append((index, layer))
        ends.add(chain.target)
    return found


def _ends_block(graph: Graph[Node], name: str, weights: set[int], ends: set[str]) -> bool:
    """Whether a tensor is a layer or a join, but for bias, norm and reshape."""
    while name not in ends:
        index = graph.producer.get(name)
        if index is None or index in weights:
            return index is not None
        node = graph.nodes[index]
        data = node.input[:1] if node.op_type in LAYOUT else node.input  # the rest says a computed shape
        moving = [source for source in data if graph.varies(source)]
        if node.op_type not in _PASSED_BACKWARDS or len(moving) != 1:
            return False
        name = moving[0]
    return True
