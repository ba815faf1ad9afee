"""Recognise activations and normalisations that exporters spell as several ops.

x * sigmoid(x), x * (1 + erf(x / sqrt(2))) / 2, where(x > 20, x, softplus(x)), (x - mean) / sqrt(var + eps):
the data flow apart and come together again. A few others are a row of ops, each with one consumer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repstat_adapters.shared.graph import Graph, Node
from repstat_adapters.shared.ops import COMPARISONS, ELEMENTWISE, MOMENTS

_REGION_LIMIT = 18
"""More nodes than any known spelling: the tanh form of Gelu has nine, TensorFlow's layer norm thirteen."""

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Cast", "Identity", "Neg"})
_ROOTS = frozenset({"Sqrt", "Rsqrt"})

_CLIPS = (("Clip",), ("Min", "Max"), ("Max", "Min"))
_ROWS: Mapping[tuple[str, ...], str] = {
    ("Sigmoid", "Log"): "logsigmoid",
    ("Neg", "Softplus", "Neg"): "logsigmoid",
    ("Mul", "Softplus", "Div"): "softplus",
    ("Mul", "Softplus", "Mul"): "softplus",
    **{("Add", *clip, scale): "hardsigmoid" for clip in _CLIPS for scale in ("Div", "Mul")},
    **dict.fromkeys((*_CLIPS[1:], ("Max",), ("Min",)), "clip"),
}
"""Rows of ops whose other operands are constant numbers, one for all units; the longer ones first."""


@dataclass(frozen=True)
class Spelled:
    """Where a spelling ends, its nodes, its word, and whether it is a normalisation."""

    target: str
    nodes: Sequence[int]
    word: str
    is_norm: bool = False


def spelled_in_a_row(graph: Graph[Node], here: str) -> Spelled | None:
    """Recognise an activation in ops that follow one another."""
    for ops, word in _ROWS.items():
        target, nodes = here, list[int]()
        for op in ops:
            index = graph.only_consumer(target)
            if index is None or graph.nodes[index].op_type != op:
                break
            node = graph.nodes[index]
            if not _scales(graph, node, target):
                break
            nodes.append(index)
            target = node.output[0]
        else:
            return Spelled(target, nodes, word)
    return None


def spelled_in_parallel(graph: Graph[Node], here: str) -> Spelled | None:
    """Recognise the smallest region that `here` flows through and that has a name."""
    region, inside = list[int](), {here}
    for index in range(min(graph.consumers.get(here, [len(graph.nodes)])), len(graph.nodes)):
        node = graph.nodes[index]
        moving = {name for name in node.input if name in graph.dynamic}
        if not moving & inside:
            continue
        known = node.op_type in ELEMENTWISE or node.op_type in MOMENTS
        if not known or not moving <= inside or len(region) == _REGION_LIMIT:
            return None
        region.append(index)
        inside.add(node.output[0])
        if not _converged(graph, region, inside, node.output[0]):
            continue
        ops = [graph.nodes[i].op_type for i in region]
        if "ReduceMean" in ops:
            if _adds_itself(graph, region, here):
                return None
            if word := _norm(ops):
                return Spelled(node.output[0], region, word, is_norm=True)
            continue  # at x - mean(x), say, all has come together and the deviation is yet to come
        word = _activation(ops) if ELEMENTWISE.issuperset(ops) else ""
        if not word:
            return None
        scale = _trailing_scale(graph, node.output[0])
        end = node.output[0] if scale is None else graph.nodes[scale].output[0]
        return Spelled(end, region if scale is None else [*region, scale], word)
    return None


def _converged(graph: Graph[Node], region: Sequence[int], inside: set[str], sink: str) -> bool:
    return all(user in region for name in inside if name != sink for user in graph.consumers.get(name, ()))


def _adds_itself(graph: Graph[Node], region: Sequence[int], here: str) -> bool:
    """Whether `here` is added to what was made of it, but for its negative mean: that is a residual join."""
    adds = (graph.nodes[i] for i in region if graph.nodes[i].op_type == "Add")
    others = (
        graph.made_by(name) for node in adds if here in node.input for name in node.input if name != here
    )
    return any(other is None or other.op_type != "Neg" for other in others)


def _norm(ops: Sequence[str]) -> str:
    """Name what divides by a deviation: from the mean, or from zero; nothing before it has divided."""
    divides = "Rsqrt" in ops or ("Sqrt" in ops and ("Div" in ops or "Reciprocal" in ops))
    if not divides or not {"Mul", "Div"} & set(ops[ops.index("ReduceMean") :]):
        return ""
    return "layernormalization" if ops.count("ReduceMean") == 2 else "rmsnormalization"


def _activation(spelling: Sequence[str]) -> str:
    """Name an activation by the functions it is made of; nothing if there is none."""
    ops = set(spelling)
    if "Erf" in ops:
        return "gelu"
    if "Tanh" in ops:
        shrinks = ops - {"Cast", "Identity"} == {"Tanh", "Sub"}
        return "mish" if ops & {"Softplus", "Exp"} else "tanhshrink" if shrinks else "gelu"
    if ops & COMPARISONS:
        return _piecewise(spelling)
    if "Sigmoid" in ops:
        return "silu"
    if {"Max", "Min"} < ops and ops & {"Exp", "Expm1"}:
        return "celu"
    if ops & {"HardSigmoid", "Clip"}:
        return "hardswish"
    if ops - {"Cast", "Identity"} == {"Abs", "Add", "Div"}:
        return "softsign"
    return "+".join(sorted(op.lower() for op in ops - _ARITHMETIC))


def _piecewise(ops: Sequence[str]) -> str:
    if "Softplus" in ops:
        return "softplus"
    functions = set(ops) - COMPARISONS - _ARITHMETIC
    if functions <= {"Abs"}:
        return "shrink" if functions or ops.count("Where") == 2 or "Or" in ops else "thresholdedrelu"
    return "+".join(sorted(op.lower() for op in functions))


def _trailing_scale(graph: Graph[Node], sink: str) -> int | None:
    """Return the factor 1/2 of Gelu or 1/6 of HardSwish that comes after the product."""
    index = graph.only_consumer(sink)
    if index is None or graph.nodes[index].op_type not in {"Mul", "Div"}:
        return None
    return index if _scales(graph, graph.nodes[index], sink) else None


def is_affine(node: Node, here: str) -> bool:
    """Constant / x is not affine, nor is x * x."""
    return list(node.input).count(here) == 1 and (node.op_type != "Div" or node.input[0] == here)


def _scales(graph: Graph[Node], node: Node, here: str) -> bool:
    """Whether an op takes `here` as one operand, and beside it only constants of one element."""
    others = [name for name in node.input if name and name != here]
    return is_affine(node, here) and all(
        name not in graph.dynamic and graph.shapes.get(name) in {(), (1,)} for name in others
    )
