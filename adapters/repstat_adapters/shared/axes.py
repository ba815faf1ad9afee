"""Where the channels of a feature map are, so that one network's units have one order in every framework.

ONNX and PyTorch keep channels first, TensorFlow keeps them last, and exporters transpose in between. A unit
is known by its place: noise is drawn by it, stores are compared by it. So feature maps are recorded with the
channels first, whatever the model's own order. A feature map is what comes from a convolution; the axes of a
linear layer's output are in the model's order everywhere.
"""

from collections.abc import Callable, Mapping, Sequence

from repstat_adapters.shared.graph import Graph, Node
from repstat_adapters.shared.ops import ACTIVATIONS, AFFINE, ELEMENTWISE, NO_OPS, NORMS, POOLS

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvInteger", "QLinearConv", "DeformConv", "ConvTranspose"})
_KEEPS = (
    ACTIVATIONS | AFFINE | NO_OPS | NORMS | POOLS | ELEMENTWISE | {"Concat", "Pad", "QLinearAdd", "Alias"}
)
_FIRST = 0

_LENGTHS = (2, 3, 5, 7, 11, 13, 17, 19)


def order_of(rank: int, reordered: Callable[[tuple[int, ...]], Sequence[int]]) -> tuple[int, ...]:
    """Return the order that a function puts axes in, told by lengths that all differ.

    Parameters
    ----------
    rank
        How many axes.
    reordered
        Takes the shape of a tensor, and returns that of the result.

    Returns
    -------
    order
        Empty if axes are more than can be told apart, or are not only reordered.
    """
    given = _LENGTHS[:rank]
    made = tuple(reordered(given)) if rank == len(given) else ()
    return tuple(given.index(length) for length in made) if sorted(made) == list(given) else ()


def channels_last(graph: Graph[Node]) -> Mapping[str, int]:
    """Feature maps whose last axis is the channels, and how many spatial axes are before it."""
    spatial: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        if index in graph.axes.spatial:
            axes: int | None = graph.axes.spatial[index]
        elif node.op_type in _CONVOLUTIONS:
            axes = _FIRST
        else:
            axes = _passed(graph, index, spatial)
        if axes is not None:
            spatial |= {name: axes for name in node.output if name}
    return {name: axes for name, axes in spatial.items() if axes != _FIRST}


def _passed(graph: Graph[Node], index: int, spatial: Mapping[str, int]) -> int | None:
    """How a node without weights hands on the order; None if what it makes is no feature map."""
    node = graph.nodes[index]
    given = [name for name in node.input if name in spatial]
    if not given:
        return None
    axes = spatial[given[0]]
    if node.op_type in _KEEPS:
        return axes
    if node.op_type == "Transpose":
        return _reordered(axes, graph.axes.orders.get(index, ()))
    if node.op_type in {"Squeeze", "Unsqueeze"}:
        return axes if axes == _FIRST else _resized(graph, axes, given[0], node.output[0])
    return None


def _resized(graph: Graph[Node], axes: int, before: str, after: str) -> int | None:
    """Return how many spatial axes are left where axes of length one come or go."""
    ranks = graph.axes.ranks
    if before not in ranks or after not in ranks:
        return None
    left = axes + ranks[after] - ranks[before]
    return left if left > 0 else None


def _reordered(axes: int, order: tuple[int, ...]) -> int | None:
    n = len(order)
    if axes == _FIRST and n > 2 and order == (0, *range(2, n), 1):
        return n - 2
    if axes == n - 2 and order == (0, n - 1, *range(1, n - 1)):
        return _FIRST
    return None
