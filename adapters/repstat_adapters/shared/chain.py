"""Follow a layer's tensor forward from the op with weights to its activation.

The chain passes nodes that exporters fold, drop or insert (bias, normalisation, casts, dropout, quantisation)
while each tensor has one consumer, and ends with one activation, which may be spelled as several nodes:
x * sigmoid(x), or x * (1 + erf(x / sqrt(2))) / 2. Reshapes, transposes and pooling are passed only if a
bias or an activation follows directly; otherwise they belong to what comes next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from repstat_adapters.shared.graph import Graph, Node
from repstat_adapters.shared.ops import (
    ACTIVATIONS,
    AFFINE,
    ELEMENTWISE,
    LAYOUT,
    NO_OPS,
    NORMS,
    POOLS,
    word_of,
)

_REGION_LIMIT = 14
"""More nodes than any known spelling of an activation (the tanh form of Gelu has nine)."""


@dataclass(frozen=True)
class Chain:
    """Where a layer ends: its tensor, the nodes passed on the way, and the words for its signature."""

    target: str
    nodes: Sequence[int]
    words: Sequence[str]


@dataclass(frozen=True)
class _Step:
    """One move of the walk. `commits`: the layer is taken to reach this far."""

    target: str
    nodes: Sequence[int]
    word: str = ""
    commits: bool = True
    ends: bool = False
    allowed_behind_layout: bool = True


def follow(graph: Graph[Node], start: str) -> Chain:
    """Follow `start` forward; the chain may be empty."""
    target, nodes, words = start, list[int](), list[str]()
    pending_nodes, pending_words = list[int](), list[str]()
    tentative, here = False, start
    while (step := _step(graph, here, tentative)) is not None:
        here = step.target
        pending_nodes.extend(step.nodes)
        pending_words.extend([step.word] if step.word else [])
        if step.commits:
            target, tentative = here, False
            nodes, words = nodes + pending_nodes, words + pending_words
            pending_nodes, pending_words = [], []
        else:
            tentative = True
        if step.ends:
            break
    return Chain(target, tuple(nodes), tuple(words))


def _step(graph: Graph[Node], here: str, tentative: bool) -> _Step | None:
    index = graph.only_consumer(here)
    if index is None:
        return _spelled_out(graph, here)
    node = graph.nodes[index]
    op, out = node.op_type, node.output[0]
    if not out:
        return None
    if op in LAYOUT and node.input[0] == here:  # the rest is a shape, maybe computed from that of the data
        return _Step(out, [index], commits=False)
    others = [name for name in node.input if name and name != here]
    if any(graph.varies(name) for name in others):
        return None
    if op in ACTIVATIONS:
        return _Step(out, [index], word_of(op), ends=True)
    if op in AFFINE and _is_affine(node, here):
        return _Step(out, [index], commits=not tentative or _is_bias(graph, node, others))
    if op in NO_OPS:
        return _Step(out, [index], commits=not tentative)
    if op in NORMS and not tentative:
        return _Step(out, [index], word_of(op))
    if op in POOLS:
        return _Step(out, [index], word_of(op), commits=False)
    return None


def _is_affine(node: Node, here: str) -> bool:
    """Constant / x is not affine, nor is x * x."""
    return list(node.input).count(here) == 1 and (node.op_type != "Div" or node.input[0] == here)


def _is_bias(graph: Graph[Node], node: Node, others: Sequence[str]) -> bool:
    shapes = [graph.shapes.get(name) for name in others]
    return node.op_type == "Add" and all(s is not None and sum(n != 1 for n in s) <= 1 for s in shapes)


def _spelled_out(graph: Graph[Node], here: str) -> _Step | None:
    """Recognise an activation in several nodes: the smallest elementwise region `here` flows through."""
    region, inside = list[int](), {here}
    for index in range(min(graph.consumers.get(here, [len(graph.nodes)])), len(graph.nodes)):
        node = graph.nodes[index]
        moving = {name for name in node.input if name in graph.dynamic}
        if not moving & inside:
            continue
        if node.op_type not in ELEMENTWISE or not moving <= inside or len(region) == _REGION_LIMIT:
            return None
        region.append(index)
        inside.add(node.output[0])
        if _converged(graph, region, inside, node.output[0]):
            word = _spelling({graph.nodes[i].op_type for i in region})
            if not word:
                return None
            scale = _trailing_scale(graph, node.output[0])
            end = node.output[0] if scale is None else graph.nodes[scale].output[0]
            return _Step(end, region if scale is None else [*region, scale], word, ends=True)
    return None


def _converged(graph: Graph[Node], region: Sequence[int], inside: set[str], sink: str) -> bool:
    return all(user in region for name in inside if name != sink for user in graph.consumers.get(name, ()))


def _spelling(ops: set[str]) -> str:
    """Name an activation by the functions it is made of; nothing if there is none."""
    if "Erf" in ops:
        return "gelu"
    if "Tanh" in ops:
        return "mish" if ops & {"Softplus", "Exp"} else "gelu"
    if "Sigmoid" in ops:
        return "silu"
    if ops & {"HardSigmoid", "Clip"}:
        return "hardswish"
    if ops - {"Cast", "Identity"} == {"Abs", "Add", "Div"}:
        return "softsign"
    functions = ops - {"Add", "Sub", "Mul", "Div", "Cast", "Identity", "Neg"}
    return "+".join(sorted(op.lower() for op in functions))


def _trailing_scale(graph: Graph[Node], sink: str) -> int | None:
    """Return the factor 1/2 of Gelu or 1/6 of HardSwish that comes after the product."""
    index = graph.only_consumer(sink)
    if index is None or graph.nodes[index].op_type not in {"Mul", "Div"}:
        return None
    node = graph.nodes[index]
    others = [name for name in node.input if name != sink]
    scalar = all(name not in graph.dynamic and graph.shapes.get(name) in {(), (1,)} for name in others)
    return index if scalar and _is_affine(node, sink) else None
