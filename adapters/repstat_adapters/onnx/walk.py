"""Walk through an ONNX model: nested graphs, their tensors, and names captured from outside."""

from collections.abc import Iterator
from typing import Any

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs held by the attributes of one node (bodies of If, Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph itself and every graph nested in it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph and of every nested one."""
    for inner in all_graphs(graph):
        yield from inner.node


def _tensors_of_nodes(nodes: Iterator[onnx.NodeProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        name = next(iter(node.output), node.name)
        for attribute in node.attribute:
            label = name if node.op_type == "Constant" else f"{name}:{attribute.name}"
            if attribute.HasField("t"):
                yield label, attribute.t
            yield from ((f"{label}:{i}", tensor) for i, tensor in enumerate(attribute.tensors))
            single = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*attribute.sparse_tensors, *single):
                yield f"{label}:values", sparse.values
                yield f"{label}:indices", sparse.indices


def all_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor stored in a model with a name for it: initialisers, constants, nested ones too."""
    for graph in all_graphs(model.graph):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        for sparse in graph.sparse_initializer:
            yield f"{sparse.values.name}:values", sparse.values
            yield f"{sparse.values.name}:indices", sparse.indices
        yield from _tensors_of_nodes(iter(graph.node))
    for function in model.functions:
        for node in function.node:
            for graph in subgraphs(node):
                yield from ((tensor.name, tensor) for tensor in graph.initializer)
                yield from _tensors_of_nodes(all_nodes(graph))
        yield from _tensors_of_nodes(iter(function.node))


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that a node's subgraphs take from the graph around it."""
    names: set[str] = set()
    for graph in subgraphs(node):
        inside = {value.name for value in (*graph.input, *graph.initializer)}
        inside |= {sparse.values.name for sparse in graph.sparse_initializer}
        used = {output.name for output in graph.output}
        for inner in graph.node:
            inside |= set(inner.output)
            used |= set(inner.input) | captured(inner)
        names |= used - inside
    return names - {""}


def needed(node: onnx.NodeProto) -> set[str]:
    """Names of all tensors a node needs, captured ones included; unused optional inputs left out."""
    return (set(node.input) - {""}) | captured(node)


def has_broken_text(model: onnx.ModelProto) -> bool:
    """Whether a name in the model is not UTF-8: protobuf hands those out as bytes."""
    todo: list[Any] = [model]
    while todo:
        message = todo.pop()
        for field, value in message.ListFields():
            single = isinstance(value, str | bytes) or hasattr(value, "ListFields")
            values = [value] if single else value
            if field.type == field.TYPE_MESSAGE:
                todo.extend(values)
            elif field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
                return True
    return False
