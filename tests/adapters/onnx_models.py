"""Builders of small ONNX models for tests. Weights are normal numbers from a fixed seed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from repstat.adapter import AdapterOptions, Array, Layer
from repstat_adapters.onnx.adapter import OnnxAdapter

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


class Net:
    """A graph under construction: `op` adds a node and returns the name of its first output."""

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, Shape | None]] | None = None,
        opset: int = 17,
        dtype: Any = np.float32,
    ) -> None:
        self.rng = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs = {"x": (FLOAT, ("N", 4))} if inputs is None else dict(inputs)
        self.opset, self.dtype = opset, dtype

    def op(self, kind: str, *inputs: str, out: str | Sequence[str] = "", **attributes: Any) -> str:
        outputs = [out or f"t{len(self.nodes)}"] if isinstance(out, str) else list(out)
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs[0]

    def const(self, name: str, value: Any, dtype: Any = None) -> str:
        if all(w.name != name for w in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value, dtype or self.dtype), name))
        return name

    def weight(self, name: str, *shape: int, dtype: Any = None) -> str:
        return self.const(name, self.rng.standard_normal(shape) / np.sqrt(shape[0]), dtype)

    def linear(self, data: str, n_in: int, n_out: int, name: str, act: str = "") -> str:
        weight, bias = self.weight(f"{name}.weight", n_in, n_out), self.weight(f"{name}.bias", n_out)
        here = self.op("Gemm", data, weight, bias)
        return self.op(act, here) if act else here

    def bare(self, data: str, n_in: int, n_out: int, name: str) -> str:
        return self.op("MatMul", data, self.weight(f"{name}.weight", n_in, n_out))

    def build(self, *outputs: str, ir: int = 10, domains: Mapping[str, int] | None = None) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in self.inputs.items()]
        untyped = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", values, untyped, self.weights)
        imports = [helper.make_opsetid(d, v) for d, v in {"": self.opset, **(domains or {})}.items()]
        return helper.make_model(graph, ir_version=ir, opset_imports=imports)


def mlp(
    sizes: Sequence[int] = (4, 5, 3, 2), act: str = "Tanh", batch: int | str | None = "N", **options: Any
) -> onnx.ModelProto:
    net = Net(inputs={"x": (FLOAT, (batch, sizes[0]))}, **options)
    here = "x"
    for i, (a, b) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        here = net.linear(here, a, b, "out" if last else f"fc{i + 1}", "" if last else act)
    return net.build(here)


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def opened(model: object, **options: Any) -> OnnxAdapter:
    return OnnxAdapter(model, AdapterOptions(**options))


def layers_of(model: object, **options: Any) -> dict[str, Layer]:
    adapter = opened(model, **options)
    found = {layer.key: layer for layer in adapter.layers()}
    adapter.close()
    return found


def signatures(model: object) -> list[str]:
    return [layer.signature for layer in layers_of(model).values()]


def values_of(
    model: object, feeds: Mapping[str, Array], n: int | None = None, **options: Any
) -> dict[str, Array]:
    """All activations of one batch, listed with the batch as probe."""
    adapter = opened(model, **options)
    n = len(next(iter(feeds.values()))) if n is None else n
    values = adapter.run(feeds, adapter.layers(feeds), samples=np.arange(n))
    adapter.close()
    return values


def normal(*shape: int, dtype: Any = np.float32, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference(model: onnx.ModelProto, feeds: Mapping[str, Array], *names: str) -> list[Array]:
    """Tensors of a model by the reference implementation of the onnx package, not by onnxruntime."""
    from onnx.reference import ReferenceEvaluator

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return [np.asarray(value) for value in ReferenceEvaluator(copy).run(None, dict(feeds))]
