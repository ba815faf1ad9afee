"""Inputs of a model: what it takes, what a batch must look like, and batches to try it out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from repstat.adapter import Array, InputSpec
from repstat.errors import InputRefusedError
from repstat_adapters.onnx.graph import Graph, real_inputs

FREE_LENGTHS = (8, 32, 224)
"""Lengths tried for the free axes of a probe, in this order."""
ID_LIMITS = (16, 2)
"""Integer probes stay below these, in this order: within any vocabulary, then within a flag."""
_PROBE_SEED = 20_170_302

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


def check_feeds(feeds: Mapping[str, Array], specs: Sequence[InputSpec]) -> tuple[dict[str, Array], int]:
    """Return a batch in native byte order and C order, and its number of samples.

    An input of rank 0 takes either one number or one per sample, all the same.

    Raises
    ------
    InputRefusedError
        A name, dtype or shape does not fit, or inputs differ in their number of samples.
    """
    names = [spec.name for spec in specs]
    _check_names(list(feeds), names)
    checked, lengths = {}, {}
    for spec in specs:
        array = np.asarray(feeds[spec.name])
        native = array.dtype.newbyteorder("=")
        if native != spec.dtype:
            raise InputRefusedError(
                what=f"input {spec.name!r} has the wrong dtype",
                why=f"found {native}, expected {spec.dtype}",
                fix=f"Convert the samples to {spec.dtype}",
            )
        array = np.ascontiguousarray(array, native) if array.ndim else array.astype(native)
        if not spec.shape:
            array, length = _scalar(array, spec)
        else:
            _check_shape(array, spec)
            length = array.shape[spec.batch_axis]
        checked[spec.name] = array
        if length is not None:
            lengths[spec.name] = length
    if len(set(lengths.values())) > 1:
        raise InputRefusedError(
            what="the inputs differ in their number of samples",
            why=", ".join(f"{name} has {n}" for name, n in lengths.items()),
            fix="Give every input the same samples",
        )
    return checked, next(iter(lengths.values()), 1)


def _check_names(found: Sequence[str], expected: Sequence[str]) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        close = [c for name in extra for c in get_close_matches(name, expected, n=1, cutoff=0.4)]
        raise InputRefusedError(
            what="the inputs do not have the model's names",
            why=f"found {', '.join(map(repr, found)) or 'none'}, expected {', '.join(map(repr, expected))}",
            fix=f"Did you mean {close[0]!r}?" if close else "Use the model's input names",
        )


def _scalar(array: Array, spec: InputSpec) -> tuple[Array, int | None]:
    if array.ndim == 0:
        return array, None
    if array.ndim == 1 and len(array) and (array == array[0]).all():
        return array[0:1].reshape(()), len(array)
    raise InputRefusedError(
        what=f"input {spec.name!r} is one number for the whole batch",
        why=f"found an array of shape {array.shape}, expected a scalar or equal values",
        fix="Give the same value for every sample",
    )


def _check_shape(array: Array, spec: InputSpec) -> None:
    expected = [None if i == spec.batch_axis else n for i, n in enumerate(spec.shape)]
    fits = array.ndim == len(expected) and all(
        want in (None, have) for have, want in zip(array.shape, expected, strict=True)
    )
    if not fits:
        words = ["samples" if i == spec.batch_axis else str(n or "?") for i, n in enumerate(spec.shape)]
        raise InputRefusedError(
            what=f"input {spec.name!r} has the wrong shape",
            why=f"found {array.shape}, expected ({', '.join(words)})",
            fix="Reshape the samples to what the model takes",
        )


def take(feeds: Mapping[str, Array], specs: Sequence[InputSpec], rows: Sequence[int]) -> dict[str, Array]:
    """Return chosen samples of a batch."""
    index = np.asarray(rows, dtype=np.intp)
    return {
        spec.name: np.ascontiguousarray(np.take(feeds[spec.name], index, axis=spec.batch_axis))
        if spec.shape
        else feeds[spec.name]
        for spec in specs
    }


def draw_probes(specs: Sequence[InputSpec], n: int) -> Iterator[dict[str, Array]]:
    """Batches of `n` random samples to try in turn: longer free axes, then smaller integers."""
    free = any(None in spec.sample_shape for spec in specs)
    ids = any(spec.dtype.kind in "iu" for spec in specs)
    for limit in ID_LIMITS if ids else ID_LIMITS[:1]:
        for length in FREE_LENGTHS if free else FREE_LENGTHS[:1]:
            rng = np.random.default_rng(_PROBE_SEED)
            yield {spec.name: _draw(spec, n, length, limit, rng) for spec in specs}


def _draw(spec: InputSpec, n: int, length: int, limit: int, rng: np.random.Generator) -> Array:
    shape = [length if k is None else k for k in spec.shape]
    if shape:
        shape[spec.batch_axis] = n
    if spec.dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype=spec.dtype)
    return np.asarray(rng.integers(0, 2 if spec.dtype.kind == "b" else limit, shape), dtype=spec.dtype)
