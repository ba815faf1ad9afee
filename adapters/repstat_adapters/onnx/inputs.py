"""Inputs of an ONNX model: what the graph declares, and what its weights tell where it does not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from repstat.adapter import InputSpec
from repstat.errors import InputRefusedError
from repstat_adapters.onnx.graph import Graph, real_inputs

_FEEDABLE = frozenset({"f", "i", "u", "b"})
_PASSED = frozenset({"Identity", "Cast", "Dropout", "Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True)
class Inputs:
    """Inputs of a model and the length of its batch axis, None where that is free."""

    specs: tuple[InputSpec, ...]
    batch: int | None
    types: Mapping[str, str]


def read_inputs(model: onnx.GraphProto, graph: Graph, path: Path | None) -> Inputs:
    """Describe the real inputs of a graph.

    Raises
    ------
    InputRefusedError
        An input is not a numeric tensor, its rank is unknown, or batch lengths contradict each other.
    """
    values = real_inputs(model)
    specs = tuple(_spec(value, graph, path) for value in values)
    fixed = {s.name: n for s in specs if s.shape and (n := s.shape[s.batch_axis]) is not None}
    if len(set(fixed.values())) > 1:
        raise InputRefusedError(
            what="the inputs have different fixed batch lengths",
            path=path,
            why=", ".join(f"{name} has {n}" for name, n in fixed.items()),
            fix="Export the model with a free first axis",
        )
    types = {v.name: "tensor(bfloat16)" for v in values if _element(v) == TensorProto.BFLOAT16}
    return Inputs(specs, next(iter(fixed.values()), None), types)


def _element(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _spec(value: onnx.ValueInfoProto, graph: Graph, path: Path | None) -> InputSpec:
    kind = value.type.WhichOneof("value")
    element = _element(value)
    known = kind == "tensor_type" and element in TensorProto.DataType.values() and element != 0
    dtype = helper.tensor_dtype_to_np_dtype(element) if known else None
    if element == TensorProto.BFLOAT16:
        dtype = np.dtype(np.float32)
    if dtype is None or dtype.kind not in _FEEDABLE or dtype.isbuiltin != 1:
        described = TensorProto.DataType.Name(element) if known else (kind or "no type")
        raise InputRefusedError(
            what="an input is not a numeric tensor",
            path=path,
            place=f"input {value.name!r}",
            why=f"found {described}, expected a tensor of numbers",
            fix="Cut the model behind its preprocessing (strings, sequences) and export that",
        )
    axes = value.type.tensor_type
    if not axes.HasField("shape"):
        return InputSpec(value.name, dtype, _guess_shape(value.name, graph, path))
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in axes.shape.dim)
    named = [i for i, d in enumerate(axes.shape.dim) if "batch" in d.dim_param.lower()]
    return InputSpec(value.name, dtype, shape, named[0] if named else 0)


def _guess_shape(name: str, graph: Graph, path: Path | None) -> tuple[int | None, ...]:
    """Shape of an input of undeclared rank, from the weights it meets first."""
    here: str | None = name
    while here is not None and (index := graph.only_consumer(here)) is not None:
        node = graph.nodes[index]
        weight = graph.shapes.get(node.input[1]) if len(node.input) > 1 else None
        if weight is not None and len(weight) > 2 and node.op_type == "Conv":
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return (None, weight[1] * group, *(None for _ in weight[2:]))
        if weight is not None and len(weight) == 2 and node.op_type in {"MatMul", "Gemm"}:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            return (None, weight[1] if transposed else weight[0])
        here = node.output[0] if node.op_type in _PASSED else None
    raise InputRefusedError(
        what="an input has no declared shape",
        path=path,
        place=f"input {name!r}",
        why="its number of axes is unknown",
        fix="Export the model with input shapes (free axes may stay free)",
    )
