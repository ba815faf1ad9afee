"""Rebuilding a graph: types NumPy has not, local functions, subgraphs, and nodes that are not needed."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.adapters.onnx_models import (
    FLOAT,
    Net,
    layers_of,
    normal,
    opened,
    reference,
    values_of,
)


def test_integer_gemm_is_dequantised() -> None:
    net = Net(opset=19)
    net.const("zero", 128, np.uint8)
    net.const("w_zero", 0, np.int8)
    scales = {name: net.const(name, value) for name, value in {"xs": 0.02, "ws": 0.05, "ys": 0.1}.items()}
    quantised = net.op("QuantizeLinear", "x", scales["xs"], "zero")
    weight = net.const("fc1.weight", np.arange(-10, 10).reshape(4, 5), np.int8)
    here = net.op("QLinearMatMul", quantised, "xs", "zero", weight, "ws", "w_zero", "ys", "zero")
    weight = net.const("fc2.weight", np.arange(-5, 5).reshape(5, 2), np.int8)
    here = net.op("QLinearMatMul", here, "ys", "zero", weight, "ws", "w_zero", "ys", "zero")
    model = net.build(net.op("DequantizeLinear", here, "ys", "zero"))
    layers = layers_of(model)
    assert [(x.signature, x.source_dtype, x.dtype.name) for x in layers.values()] == [
        ("linear", "uint8", "float32"),
        ("linear", "float32", "float32"),
    ]
    feeds = {"x": normal(6, 4)}
    codes = reference(model, feeds, "t1")[0].astype(np.float32)
    assert np.allclose(values_of(model, feeds)["L000"], (codes - 128) * np.float32(0.1), atol=1e-6)


def test_bfloat16_is_widened_and_stays_visible() -> None:
    net = Net()
    here = net.op("Cast", net.linear("x", 4, 5, "fc1"), to=TensorProto.BFLOAT16)
    model = net.build(net.bare(net.op("Cast", net.op("Flatten", here), to=FLOAT), 5, 2, "out"))
    layer = layers_of(model)["L000"]
    assert (layer.dtype.name, layer.source_dtype) == ("float32", "bfloat16")
    x = normal(3, 4)
    exact = x @ onnx.numpy_helper.to_array(model.graph.initializer[0])
    exact = exact + onnx.numpy_helper.to_array(model.graph.initializer[1])
    value = values_of(model, {"x": x})["L000"]
    assert np.allclose(value, exact, rtol=2**-8)
    assert not np.any(value.view(np.uint32) & 0xFFFF)  # every value is a bfloat16


def test_bfloat16_inputs_are_fed_as_float32() -> None:
    net = Net(inputs={"x": (TensorProto.BFLOAT16, ("N", 4))})
    here = net.linear(net.op("Cast", "x", to=FLOAT), 4, 5, "fc1", "Tanh")
    model = net.build(net.bare(here, 5, 2, "out"))
    assert opened(model).inputs()[0].dtype == np.float32
    x = np.array([[1.0, -0.5, 2.0, 0.25]], np.float32)
    weight, bias = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer[:2])
    assert np.allclose(values_of(model, {"x": x})["L000"], np.tanh(x @ weight + bias), atol=1e-6)


def test_local_functions_are_inlined() -> None:
    net = Net()
    weight = net.weight("fc1.weight", 4, 5)
    body = [helper.make_node("MatMul", ["a", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["b"])]
    function = helper.make_function("my.nn", "Dense", ["a", "w"], ["b"], body, [helper.make_opsetid("", 17)])
    here = net.op("Dense", "x", weight, domain="my.nn")
    model = net.build(net.bare(here, 5, 2, "out"), domains={"my.nn": 1})
    model.functions.append(function)
    layers = layers_of(model)
    assert [(x.name, x.signature) for x in layers.values()] == [("fc1", "linear>tanh"), ("out", "linear")]


def branch(name: str, nodes: list[onnx.NodeProto], out: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, FLOAT, None)])


def with_subgraphs() -> onnx.ModelProto:
    """If: one branch captures a layer from outside, the other holds a layer of its own."""
    net = Net()
    hidden = net.linear("x", 4, 5, "fc1", "Tanh")
    net.weight("inner.weight", 5, 5)
    condition = net.op("Greater", net.op("ReduceSum", "x", keepdims=0), net.const("threshold", -1e9))
    then = branch("then", [helper.make_node("Identity", [hidden], ["same"])], "same")
    otherwise = branch("else", [helper.make_node("MatMul", [hidden, "inner.weight"], ["new"], "deep")], "new")
    here = net.op("If", condition, then_branch=then, else_branch=otherwise, name="choice")
    return net.build(net.bare(here, 5, 2, "out"))


def test_captures_of_subgraphs_survive_pruning_and_inner_layers_are_reported() -> None:
    model = with_subgraphs()
    adapter = opened(model)
    layers = adapter.layers()
    assert [(x.key, x.name, x.kind) for x in layers] == [("L000", "fc1", "hidden"), ("L001", "out", "output")]
    skipped = adapter.provenance()["skipped"]
    assert skipped == [{"name": "MatMul 'deep' inside If 'choice'", "why": "it is inside a subgraph"}]
    feeds = {"x": normal(3, 4)}
    want = reference(model, feeds, layers[1].target)[0]
    alone = adapter.run(feeds, layers[1:], samples=np.arange(3))
    assert np.allclose(alone["L001"], want, atol=1e-6)


def test_nodes_that_are_not_needed_are_not_computed() -> None:
    """A node that always fails comes after the layer; asking for the layer alone must work."""
    net = Net()
    hidden = net.linear("x", 4, 5, "fc1", "Tanh")
    net.op("Gather", hidden, net.const("far", [99], np.int64), out="fails", axis=1)
    adapter = opened(net.build("fails"))
    assert [x.key for x in adapter.layers()] == ["L000"]
    assert adapter.run({"x": normal(2, 4)}, adapter.layers(), samples=np.arange(2))["L000"].shape == (2, 5)
