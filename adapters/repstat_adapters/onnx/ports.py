"""Ways for noise into a graph: one more input behind the producer of each noisy tensor.

The producer's output gets a new name, and the old one goes to its sum with the noise. Every consumer then
sees the sum, also bodies of If and Loop that capture the tensor. ONNX's random ops would not do: what they
draw depends on the batch and the runtime, and two of them with one seed draw the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from repstat_adapters.onnx.walk import all_graphs, needed

_FED_AS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(bfloat16)": TensorProto.FLOAT,  # NumPy has no bfloat16
}


@dataclass(frozen=True)
class NoisyTensor:
    """A tensor that gets noise: onnxruntime's type of it, and its number of axes."""

    type_name: str
    rank: int


@dataclass(frozen=True)
class Port:
    """Names in a rebuilt model.

    Parameters
    ----------
    fed
        The input that takes the noise, as large as the tensor.
    clean
        The tensor before the noise.
    shape
        The output that tells the tensor's shape, since the sum would broadcast noise of another one silently.
    """

    fed: str
    clean: str
    shape: str


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Return all names of tensors in a graph and the graphs nested in it."""
    names: set[str] = set()
    for inner in all_graphs(graph):
        names |= {value.name for value in (*inner.input, *inner.output, *inner.initializer)}
        names |= {sparse.values.name for sparse in inner.sparse_initializer}
        for node in inner.node:
            names |= {*node.input, *node.output}
    return names


def add_ports(graph: onnx.GraphProto, tensors: Mapping[str, NoisyTensor]) -> dict[str, Port]:
    """Add noise to tensors of a graph whose nodes are in order, and return the ports by tensor.

    Tensors that no node of the graph uses get none: their noise could not matter.
    """
    used = {name for node in graph.node for name in needed(node)}
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
    taken = names_in(graph)
    ports = {}
    # From the last, so that nodes put in do not move the producers still to come.
    for name in sorted(used & tensors.keys(), key=producer.__getitem__, reverse=True):
        port = Port(*(_fresh(f"{name}__{part}", taken) for part in ("noise", "clean", "shape")))
        node = graph.node[producer[name]]
        node.output[list(node.output).index(name)] = port.clean
        for new in reversed(_sum(name, port, tensors[name].type_name, taken)):
            graph.node.insert(producer[name] + 1, new)
        element, free = _FED_AS[tensors[name].type_name], [None] * tensors[name].rank
        graph.input.append(helper.make_tensor_value_info(port.fed, element, free))
        graph.output.append(onnx.ValueInfoProto(name=port.shape))
        ports[name] = port
    return ports


def _sum(name: str, port: Port, type_name: str, taken: set[str]) -> list[onnx.NodeProto]:
    shape = helper.make_node("Shape", [port.clean], [port.shape])
    if type_name != "tensor(bfloat16)":
        return [shape, helper.make_node("Add", [port.clean, port.fed], [name])]
    # onnxruntime has no sum of bfloat16 on the CPU, and this way the noise is not rounded before it.
    wide, noisy = _fresh(f"{name}__wide", taken), _fresh(f"{name}__noisy", taken)
    return [
        shape,
        helper.make_node("Cast", [port.clean], [wide], to=TensorProto.FLOAT),
        helper.make_node("Add", [wide, port.fed], [noisy]),
        helper.make_node("Cast", [noisy], [name], to=TensorProto.BFLOAT16),
    ]


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
