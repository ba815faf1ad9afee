"""Which tensors are the layers: every spelling that exporters use for the same network."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.adapters.onnx_models import (
    FLOAT,
    Net,
    layers_of,
    mlp,
    normal,
    opened,
    reference,
    signatures,
    values_of,
)


def between(middle: Callable[[Net, str], str], **options: object) -> tuple[onnx.ModelProto, str]:
    """Linear, then what `middle` adds, then a linear output layer; and the tensor before the last layer."""
    net = Net(**options)  # type: ignore[arg-type]
    here = middle(net, net.bare("x", 4, 5, "fc1"))
    return net.build(net.bare(here, 5, 2, "out")), here


def silu(net: Net, t: str) -> str:
    return net.op("Mul", t, net.op("Sigmoid", t))


def gelu_erf(net: Net, t: str) -> str:
    erf = net.op("Erf", net.op("Div", t, net.const("root2", 2**0.5)))
    product = net.op("Mul", t, net.op("Add", erf, net.const("one", 1)))
    return net.op("Mul", product, net.const("half", 0.5))


def gelu_erf_half_first(net: Net, t: str) -> str:
    erf = net.op("Erf", net.op("Mul", t, net.const("root", 0.5**0.5)))
    half = net.op("Mul", t, net.const("half", 0.5))
    return net.op("Mul", half, net.op("Add", erf, net.const("one", 1)))


def gelu_tanh(net: Net, t: str) -> str:
    cube = net.op("Mul", net.op("Pow", t, net.const("three", 3)), net.const("k", 0.044715))
    inner = net.op("Mul", net.op("Add", t, cube), net.const("c", (2 / np.pi) ** 0.5))
    factor = net.op("Add", net.op("Tanh", inner), net.const("one", 1))
    return net.op("Mul", net.op("Mul", t, net.const("half", 0.5)), factor)


def mish(net: Net, t: str) -> str:
    return net.op("Mul", t, net.op("Tanh", net.op("Softplus", t)))


def hardswish(net: Net, t: str) -> str:
    clip = net.op("Clip", net.op("Add", t, net.const("three", 3)), net.const("lo", 0), net.const("hi", 6))
    return net.op("Div", net.op("Mul", t, clip), net.const("six", 6))


def biased(net: Net, t: str) -> str:
    return net.op("Relu", net.op("Add", t, net.weight("fc1.bias", 5)))


def batch_norm(net: Net, t: str) -> str:
    names = [net.const(f"bn.{s}", np.arange(1, 6)) for s in ("scale", "bias", "mean", "var")]
    return net.op("Relu", net.op("BatchNormalization", t, *names))


def folded_batch_norm(net: Net, t: str) -> str:
    scaled = net.op("Mul", t, net.weight("scale", 5))
    return net.op("Relu", net.op("Sub", scaled, net.weight("shift", 5)))


def no_op_casts(net: Net, t: str) -> str:
    return net.op("Relu", net.op("Cast", net.op("Identity", net.op("Dropout", t)), to=FLOAT))


def quantised(net: Net, t: str) -> str:
    scale, zero = net.const("s", 0.05), net.const("z", 128, np.uint8)
    return net.op("DequantizeLinear", net.op("QuantizeLinear", net.op("Relu", t), scale, zero), scale, zero)


def reshaped(net: Net, t: str) -> str:
    """TensorFlow's Dense on more than two axes: the bias comes behind a Reshape."""
    deep = net.op("Reshape", t, net.const("deep", [-1, 1, 5], np.int64))
    here = net.op("Relu", net.op("Add", deep, net.weight("fc1.bias", 5)))
    return net.op("Reshape", here, net.const("flat", [-1, 5], np.int64))


def shape_user(net: Net, t: str) -> str:
    """A Shape of the tensor is not a second use of its values."""
    here = net.op("Relu", t)
    return net.op("Reshape", here, net.op("Shape", t))


def layer_norm(net: Net, t: str) -> str:
    return net.op("Relu", net.op("LayerNormalization", t, net.const("ln.weight", np.ones(5))))


@pytest.mark.parametrize(
    ("middle", "signature"),
    [
        (silu, "linear>silu"),
        (gelu_erf, "linear>gelu"),
        (gelu_erf_half_first, "linear>gelu"),
        (gelu_tanh, "linear>gelu"),
        (mish, "linear>mish"),
        (hardswish, "linear>hardswish"),
        (biased, "linear>relu"),
        (batch_norm, "linear>relu"),
        (folded_batch_norm, "linear>relu"),
        (no_op_casts, "linear>relu"),
        (layer_norm, "linear>layernormalization>relu"),
    ],
)
def test_a_layer_ends_behind_its_activation(middle: Callable[[Net, str], str], signature: str) -> None:
    model, target = between(middle)
    layers = layers_of(model)
    assert list(layers) == ["L000", "L001"]
    assert (layers["L000"].signature, layers["L000"].target) == (signature, target)
    feeds = {"x": normal(6, 4)}
    want = reference(model, feeds, target)[0]
    assert np.allclose(values_of(model, feeds)["L000"], want, atol=2e-6)


@pytest.mark.parametrize("middle", [quantised, reshaped, shape_user])
def test_what_follows_the_activation_is_not_part_of_the_layer(middle: Callable[[Net, str], str]) -> None:
    layers = layers_of(between(middle)[0])
    assert [layer.signature for layer in layers.values()] == ["linear>relu", "linear"]
    assert layers["L000"].op.endswith("Relu")


def test_quantised_relu_that_vanished_ends_behind_the_dequantisation() -> None:
    def middle(net: Net, t: str) -> str:
        scale, zero = net.const("s", 0.05), net.const("z", 0, np.uint8)
        return net.op("DequantizeLinear", net.op("QuantizeLinear", t, scale, zero), scale, zero)

    model, target = between(middle)
    assert layers_of(model)["L000"].target == target
    assert values_of(model, {"x": normal(9, 4)})["L000"].min() == 0


def test_elided_bias_gives_equal_layers() -> None:
    """The TensorFlow exporter drops a bias that is zero, as it is before training."""
    plain = between(lambda net, t: net.op("Relu", t))[0]
    trained = between(biased)[0]
    assert [(x.key, x.signature, x.unit_shape, x.name) for x in layers_of(plain).values()] == [
        (x.key, x.signature, x.unit_shape, x.name) for x in layers_of(trained).values()
    ]


def test_attention_heads_keep_the_projection_and_skip_scores() -> None:
    """The query's reshape and scale belong to the attention; softmax(q k) has no weights."""
    net = Net(inputs={"x": (FLOAT, ("N", 3, 4))})
    heads = net.const("heads", [0, 3, 2, 2], np.int64)
    q, k, v = (
        net.op("Transpose", net.op("Reshape", net.bare("x", 4, 4, name), heads), perm=[0, 2, 1, 3])
        for name in ("q", "k", "v")
    )
    q = net.op("Mul", q, net.const("scale", 0.7))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
    mixed = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    model = net.build(net.bare(net.op("Reshape", mixed, net.const("join", [0, 3, 4], np.int64)), 4, 4, "o"))
    layers = layers_of(model)
    assert [x.name for x in layers.values()] == ["q", "k", "v", "o"]
    assert {x.unit_shape for x in layers.values()} == {(3, 4)}


def test_pooling_between_convolution_and_activation_is_passed() -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 1, 6, 6))})
    here = net.op("MaxPool", net.op("Conv", "x", net.weight("c.weight", 2, 1, 3, 3)), kernel_shape=[2, 2])
    flat = net.op("Flatten", net.op("Relu", here))
    layers = layers_of(net.build(net.bare(flat, 18, 2, "out")))
    assert [x.signature for x in layers.values()] == ["conv>maxpool>relu", "linear"]
    pooled_last = Net(inputs={"x": (FLOAT, ("N", 1, 6, 6))})
    conv = pooled_last.op("Conv", "x", pooled_last.weight("c.weight", 2, 1, 3, 3))
    flat = pooled_last.op("Flatten", pooled_last.op("MaxPool", conv, kernel_shape=[2, 2]))
    layers = layers_of(pooled_last.build(pooled_last.bare(flat, 18, 2, "out")))
    assert layers["L000"].target == conv


def constant_node(net: Net) -> str:
    value = onnx.numpy_helper.from_array(normal(4, 5), "value")
    return net.op("Constant", out="w", value=value)


def through_identity(net: Net) -> str:
    return net.op("Identity", net.weight("fc1.weight", 4, 5))


def dequantised(net: Net) -> str:
    return net.op(
        "DequantizeLinear", net.const("q", np.arange(20).reshape(4, 5), np.int8), net.const("s", 0.1)
    )


def transposed(net: Net) -> str:
    return net.op("Transpose", net.weight("fc1.weight", 5, 4), perm=[1, 0])


def filled(net: Net) -> str:
    value = onnx.numpy_helper.from_array(np.array([0.5], np.float32), "v")
    return net.op("ConstantOfShape", net.const("shape", [4, 5], np.int64), value=value)


@pytest.mark.parametrize("make", [constant_node, through_identity, dequantised, transposed, filled])
def test_constant_weights_of_every_kind(make: Callable[[Net], str]) -> None:
    net = Net()
    here = net.op("Tanh", net.op("MatMul", "x", make(net)))
    assert signatures(net.build(net.bare(here, 5, 2, "out"))) == ["linear>tanh", "linear"]


def test_weights_on_the_left_and_einsum_are_layers() -> None:
    net = Net(inputs={"x": (FLOAT, (4, "batch"))})
    here = net.op("Tanh", net.op("MatMul", net.weight("fc1.weight", 5, 4), "x"))
    here = net.op("Einsum", here, net.weight("fc2.weight", 5, 2), equation="ib,io->bo")
    model = net.build(here)
    layers = layers_of(model)
    assert [(x.key, x.unit_shape, x.batch_axis) for x in layers.values()] == [
        ("L000", (5,), 1),
        ("L001", (2,), 0),
    ]
    x = normal(4, 6)
    values = values_of(model, {"x": x}, 6)
    assert np.allclose(values["L000"], reference(model, {"x": x}, "t1")[0].T, atol=1e-6)


def test_outputs_are_what_no_weights_follow() -> None:
    net = Net()
    here = net.op("Softmax", net.linear(net.linear("x", 4, 5, "fc1", "Tanh"), 5, 2, "out"))
    layers = layers_of(net.build(here))
    assert [(x.kind, x.signature) for x in layers.values()] == [
        ("hidden", "linear>tanh"),
        ("output", "linear>softmax"),
    ]
    net = Net()
    logits = net.linear(net.linear("x", 4, 5, "fc1", "Tanh"), 5, 2, "out")
    both = net.build(net.op("Softmax", logits), net.op("ArgMax", logits))
    assert [x.kind for x in layers_of(both).values()] == ["hidden", "output"]


def test_a_graph_output_in_the_middle_does_not_change_the_layers() -> None:
    """Some tools mark every tensor as an output."""
    model = mlp()
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    marked.graph.output.extend(onnx.ValueInfoProto(name=n.output[0]) for n in model.graph.node[:-1])
    assert layers_of(marked) == layers_of(model)


def test_dead_and_constant_nodes_do_not_count() -> None:
    net = Net()
    net.bare("x", 4, 9, "dead")
    net.op("MatMul", net.weight("a", 3, 3), net.weight("b", 3, 3), out="constant")
    here = net.op("Add", net.linear("x", 4, 3, "fc1", "Tanh"), "constant")
    adapter = opened(net.build(net.bare(net.op("Slice", here, *slices(net)), 3, 2, "out")))
    assert [x.name for x in adapter.layers()] == ["fc1", "out"]


def slices(net: Net) -> list[str]:
    return [net.const(f"slice{i}", [v], np.int64) for i, v in enumerate((0, 2, 0))]


def test_residual_joins_of_blocks_with_an_activation_at_their_end() -> None:
    net = Net()
    stem = net.linear("x", 4, 4, "stem", "Relu")
    join = net.op("Add", silu(net, net.linear(stem, 4, 4, "block")), stem)
    layers = layers_of(net.build(net.linear(join, 4, 2, "head")))
    assert list(layers) == ["L000", "L001", "R000", "L002"]
    assert (layers["R000"].kind, layers["R000"].signature) == ("residual", "add")


def test_an_activation_spelled_with_an_add_is_no_join() -> None:
    assert list(layers_of(between(gelu_tanh)[0])) == ["L000", "L001"]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers_put_the_batch_first(kind: str) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    net = Net(inputs={"x": (FLOAT, (5, "batch", 3))})
    weights = [net.weight("r.W", 1, 4 * gates, 3), net.weight("r.R", 1, 4 * gates, 4)]
    net.op(kind, "x", *weights, out=["y", "last"], hidden_size=4)
    sequence = net.bare(net.op("Squeeze", "y", net.const("axis", [1], np.int64)), 4, 2, "out")
    layers = layers_of(net.build(sequence))
    assert [(x.signature, x.unit_shape, x.batch_axis) for x in layers.values()] == [
        (kind.lower(), (5, 1, 4), 2),
        ("linear", (5, 2), 1),
    ]
    only_last = net.build("last")
    assert layers_of(only_last)["L000"].unit_shape == (1, 4)


def metadata(node: onnx.NodeProto, scopes: str) -> None:
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", scopes


@pytest.mark.parametrize(
    ("weight", "node", "scopes", "name"),
    [
        ("block.0.fc.weight", "", "", "block.0.fc"),
        ("functional_1/h1_1/MatMul/ReadVariableOp:0", "", "", "h1"),
        ("sequential/dense_1/Cast/ReadVariableOp:0", "", "", "dense_1"),
        ("encoder/dense/MatMul/ReadVariableOp:0", "", "", "encoder/dense"),
        ("gpu_0/conv1_w_0", "", "", "gpu_0/conv1"),
        ("onnx::MatMul_105", "/block/block.0/MatMul", "", "block.0"),
        ("val_3", "node_linear_1", "['', 'fc2', 'linear_1']", "fc2"),
        ("78", "", "", "matmul_0"),
        ("constraint.weight", "", "", "constraint"),
        ("my_world", "", "", "matmul_0"),
        ("W", "", "", "matmul_0"),
    ],
)
def test_names(weight: str, node: str, scopes: str, name: str) -> None:
    net = Net()
    net.op("MatMul", "x", net.weight(weight, 4, 2), name=node)
    if scopes:
        metadata(net.nodes[0], scopes)
    assert layers_of(net.build("t0"))["L000"].name == name


def test_signatures_tell_activations_apart() -> None:
    assert signatures(mlp(act="Tanh")) != signatures(mlp(act="Relu"))
