"""One forward pass as a graph: ops in an order in which they can run, and the tensors between them.

Ops are called as ONNX calls them (``Gemm``, ``Relu``), whatever the framework, so that one rule finds the
layers. Tensors have names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Node(Protocol):
    """One op. Inputs include weights; unused optional inputs and outputs are empty names."""

    @property
    def op_type(self) -> str:
        """Name of the op."""

    @property
    def input(self) -> Sequence[str]:
        """Tensors it takes."""

    @property
    def output(self) -> Sequence[str]:
        """Tensors it makes."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node for adapters that watch their model run."""

    op_type: str
    input: Sequence[str]
    output: Sequence[str]
    name: str = ""


@dataclass(frozen=True)
class Axes:
    """What is known of the order of axes, for `repstat_adapters.shared.axes`.

    Parameters
    ----------
    spatial
        By node that makes feature maps with the channels last, how many spatial axes are before them.
    orders
        By node that reorders axes, the order.
    ranks
        Numbers of axes of tensors, where known.
    """

    spatial: Mapping[int, int] = field(default_factory=dict)
    orders: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)


N = TypeVar("N", bound=Node, covariant=True)

_ASKS_SHAPE_ONLY = frozenset({"Shape", "Size"})
_SCALE_PASSES = frozenset({"Mul", "Cast", "Identity", "Reshape"})


@dataclass(frozen=True)
class Graph(Generic[N]):
    """Nodes and tensors of a model.

    Parameters
    ----------
    nodes
        In topological order. A node's position here is its index elsewhere.
    needs
        By node, the tensors it needs: its inputs, and what nested graphs take from this one.
    inputs
        Names of the model's inputs.
    outputs
        Names of the model's outputs.
    producer
        Index of the node that makes a tensor.
    consumers
        Indices of the nodes that use a tensor's values, in order.
    dynamic
        Tensors that depend on an input. All others are constants.
    scales
        Dynamic tensors that are nothing but scales of a dynamically quantised input.
    shapes
        Dimensions of constants where known.
    fused
        By node, the words of activations inside it.
    nesting
        Nodes with weights in graphs nested in them.
    axes
        What is known of the order of axes.
    """

    nodes: Sequence[N]
    needs: Sequence[frozenset[str]]
    inputs: Sequence[str]
    outputs: Sequence[str]
    producer: Mapping[str, int]
    consumers: Mapping[str, Sequence[int]]
    dynamic: frozenset[str]
    scales: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]
    fused: Mapping[int, Sequence[str]] = field(default_factory=dict)
    nesting: frozenset[int] = frozenset()
    axes: Axes = Axes()

    def varies(self, name: str) -> bool:
        """Whether a tensor carries data that depend on the input."""
        return name in self.dynamic and name not in self.scales

    def made_by(self, name: str) -> N | None:
        """Return the node that makes a tensor, or None for an input or constant."""
        index = self.producer.get(name)
        return None if index is None else self.nodes[index]

    def only_consumer(self, name: str) -> int | None:
        """Index of the one node that uses a tensor's values, or None if there are several or none."""
        users = self.consumers.get(name, ())
        return users[0] if len(users) == 1 else None


def index(
    nodes: Sequence[N],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    needs: Sequence[frozenset[str]] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    fused: Mapping[int, Sequence[str]] | None = None,
    nesting: frozenset[int] = frozenset(),
    axes: Axes | None = None,
) -> Graph[N]:
    """Index nodes that are in topological order and contribute to an output.

    Parameters are those of `Graph`; `needs` are the inputs by default.
    """
    needs = needs or [frozenset(name for name in node.input if name) for node in nodes]
    dynamic, scales = _dynamic(nodes, needs, inputs)
    consumers: dict[str, list[int]] = {}
    for position, node in enumerate(nodes):
        if node.op_type not in _ASKS_SHAPE_ONLY:
            for name in sorted(needs[position]):
                consumers.setdefault(name, []).append(position)
    producer = {name: p for p, node in enumerate(nodes) for name in node.output if name}
    return Graph(
        nodes,
        needs,
        inputs,
        outputs,
        producer,
        consumers,
        dynamic,
        scales,
        shapes or {},
        fused or {},
        nesting,
        axes or Axes(),
    )


def _dynamic(
    nodes: Sequence[Node], needs: Sequence[frozenset[str]], inputs: Sequence[str]
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
