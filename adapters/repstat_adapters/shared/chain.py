"""Follow a layer's tensor forward from the op with weights to its activation.

The chain passes nodes that exporters fold, drop or insert (bias, normalisation, casts, dropout, quantisation)
while each tensor has one consumer, and ends with one activation. Normalisations and activations may be
spelled as several nodes (`repstat_adapters.shared.spelling`). Reshapes, transposes and pooling are passed
only if a bias or an activation follows directly; otherwise they belong to what comes next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from repstat_adapters.shared.graph import Graph, Node
from repstat_adapters.shared.ops import (
    ACTIVATIONS,
    AFFINE,
    LAYOUT,
    NO_OPS,
    NORMS,
    POOLS,
    word_of,
)
from repstat_adapters.shared.spelling import is_affine, spelled_in_a_row, spelled_in_parallel


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
    spelled = spelled_in_parallel(graph, here) if index is None else spelled_in_a_row(graph, here)
    if spelled is not None:
        if spelled.is_norm:
            return None if tentative else _Step(spelled.target, spelled.nodes, spelled.word)
        return _Step(spelled.target, spelled.nodes, spelled.word, ends=True)
    if index is None:
        return None
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
    if op in AFFINE and is_affine(node, here):
        return _Step(out, [index], commits=not tentative or _is_bias(graph, node, others))
    if op in NO_OPS:
        return _Step(out, [index], commits=not tentative)
    if op in NORMS and not tentative:
        return _Step(out, [index], word_of(op))
    if op in POOLS:
        return _Step(out, [index], word_of(op), commits=False)
    return None


def _is_bias(graph: Graph[Node], node: Node, others: Sequence[str]) -> bool:
    shapes = [graph.shapes.get(name) for name in others]
    return node.op_type == "Add" and all(s is not None and sum(n != 1 for n in s) <= 1 for s in shapes)
