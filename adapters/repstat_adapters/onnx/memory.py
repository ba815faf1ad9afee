"""What a model needs in memory, predicted from its graph: a few bytes can ask for terabytes.

ConstantOfShape, Expand, Tile, Range, Pad or a chain of Concat make of nothing a tensor of any size. onnx
infers shapes, and follows the small integers that shapes are computed from; what it cannot infer counts as
nothing, so a prediction is a lower bound. Weights are not copied for it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from repstat.adapter import Array
from repstat.errors import ResourceError
from repstat.units import format_bytes
from repstat_adapters.onnx.walk import all_graphs, all_tensors, needed, subgraphs

_SMALL = 1024
"""Elements of constants whose values may be shapes; larger ones are known by their own shape only."""

_LONGEST = 200

Shape = tuple[int, ...]


class Memory:
    """Refuses what would exceed a limit, before it is run.

    Parameters
    ----------
    limit
        Bytes; None refuses nothing.
    path
        The model, for messages.
    """

    def __init__(self, limit: int | None, path: Path | None) -> None:
        self._limit, self._path = limit, path
        self._model: onnx.ModelProto | None = None
        self._passed: set[tuple[tuple[str, Shape], ...]] = set()

    def check(self, model: onnx.ModelProto, feeds: Mapping[str, Array] | None = None) -> None:
        """Check a model with a batch, or what does not depend on one.

        Raises
        ------
        ResourceError
            It needs more than the limit.
        """
        if self._limit is None:
            return
        shapes = {name: array.shape for name, array in (feeds or {}).items()}
        if model is not self._model:
            self._model, self._passed = model, set()
        asked = tuple(sorted(shapes.items()))
        if asked in self._passed:
            return
        bytes_, largest = predicted_bytes(model, shapes, self._limit)
        if bytes_ > self._limit:
            raise ResourceError(
                what="the model needs more memory than allowed",
                path=self._path,
                place=f"tensor {largest!r}"[:_LONGEST],
                why=f"it takes at least {format_bytes(bytes_)}; --max-memory is {format_bytes(self._limit)}",
                fix="Use a smaller --batch-size if it is the batch, or allow more if the model is yours",
            )
        self._passed.add(asked)


def predicted_bytes(model: onnx.ModelProto, shapes: Mapping[str, Shape], enough: int) -> tuple[int, str]:
    """Return the bytes that a run holds at once at least, and the name of its largest tensor.

    Parameters
    ----------
    model
        As it is run.
    shapes
        Of its inputs, where known.
    enough
        Bytes from which on it does not matter how many more there are.
    """
    skeleton = _skeleton(model, shapes)
    # The second time onnx computes the values of small tensors, and of large ones too if it meets them.
    found, largest = _predicted(model, skeleton, data_prop=False)
    return (found, largest) if found > enough else _predicted(model, skeleton, data_prop=True)


def _predicted(model: onnx.ModelProto, skeleton: onnx.ModelProto, *, data_prop: bool) -> tuple[int, str]:
    sizes = Counter[str]()
    for name, stored in all_tensors(model):
        sizes[name] += _bytes(stored.dims, stored.data_type)
    for graph in all_graphs(model.graph):
        for sparse in graph.sparse_initializer:
            sizes[sparse.values.name] += _bytes(sparse.dims, sparse.values.data_type)
    weights = sum(sizes.values())
    try:
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=data_prop)
    except Exception:  # what onnx cannot infer onnxruntime may refuse, or run
        return weights, max(sizes, key=sizes.__getitem__, default="")
    peak = _peak(skeleton.graph, sizes)
    return weights + peak, max(sizes, key=sizes.__getitem__, default="")


def _peak(graph: onnx.GraphProto, sizes: Counter[str]) -> int:
    """Return the bytes of the tensors that are alive at once; of each, `sizes` keeps its own."""
    own = {value.name: _value_bytes(value) for value in (*graph.value_info, *graph.output)}
    sizes.update({name: size for name, size in own.items() if name not in sizes})
    kept = {value.name for value in graph.output}
    uses = Counter(name for node in graph.node for name in needed(node))
    alive = peak = 0
    for node in graph.node:
        alive += sum(own.get(name, 0) for name in node.output)
        peak = max(peak, alive + sum(_peak(body, sizes) for body in subgraphs(node)))
        for name in needed(node):
            uses[name] -= 1
            if not uses[name] and name not in kept:
                alive -= own.get(name, 0)
    return peak


def _skeleton(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """Return the model with the shapes of a batch, and with the shapes of large constants in their place."""
    built = onnx.ModelProto(ir_version=model.ir_version)
    built.opset_import.extend(model.opset_import)
    graph, source = built.graph, model.graph
    graph.name = "shapes"
    for value in source.input:
        shape = shapes.get(value.name)
        element = value.type.tensor_type.elem_type
        graph.input.append(
            value if shape is None else helper.make_tensor_value_info(value.name, element, shape)
        )
    for tensor in source.initializer:
        if _is_small(tensor):
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for sparse in source.sparse_initializer:
        element = sparse.values.data_type
        graph.input.append(helper.make_tensor_value_info(sparse.values.name, element, sparse.dims))
    for node in source.node:
        constant = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if node.op_type == "Constant" and constant is not None and not _is_small(constant):
            value = helper.make_tensor_value_info(node.output[0], constant.data_type, constant.dims)
            graph.input.append(value)
        else:
            graph.node.append(node)
    graph.output.extend(source.output)
    return built


def _is_small(tensor: TensorProto) -> bool:
    return prod(tensor.dims) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL


def _value_bytes(value: onnx.ValueInfoProto) -> int:
    """Return the bytes of a tensor of known shape, otherwise 0."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
        return 0
    return _bytes([d.dim_value for d in kind.shape.dim], kind.elem_type)


def _bytes(dims: Sequence[int], element: int) -> int:
    if element not in TensorProto.DataType.values() or element == 0 or any(n < 0 for n in dims):
        return 0
    itemsize: int = helper.tensor_dtype_to_np_dtype(element).itemsize
    return prod(dims) * itemsize
