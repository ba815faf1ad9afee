"""Noise inside ONNX models: where it enters a graph, in every type and layout, and its statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import to_array

from repstat.adapter import Array, Noise
from repstat.errors import InputRefusedError, UsageError
from repstat.noise import standard_normal
from repstat_adapters.onnx.adapter import OnnxAdapter
from repstat_adapters.onnx.ports import NoisyTensor, add_ports
from repstat_adapters.onnx.session import Runtime
from repstat_adapters.shared.layout import BatchLayout
from tests.adapters.onnx_models import FLOAT, Net, mlp, normal, opened
from tests.adapters.test_onnx_graphs import with_subgraphs


def run(
    adapter: OnnxAdapter,
    x: Array,
    stds: Mapping[str, float],
    keys: Sequence[str] = (),
    samples: Array | None = None,
    realization: Any = 0,
) -> dict[str, Array]:
    """Activations with noise of seed 3; of all layers unless keys are given."""
    layers = [layer for layer in adapter.layers() if not keys or layer.key in keys]
    samples = np.arange(len(x)) if samples is None else samples
    return adapter.run({"x": x}, layers, samples=samples, noise=Noise(stds, 3, realization))


def z(key: str, n: int, units: int) -> Array:
    return standard_normal(3, key, 0, np.arange(n), units)


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}


# ---------------------------------------------------------------- the numbers


def test_the_noise_is_that_of_repstat() -> None:
    model = mlp()
    w, x = weights(model), normal(6, 4)
    found = run(opened(model), x, {"L000": 0.5, "L001": 0.25})
    s0 = np.tanh(x @ w["fc1.weight"] + w["fc1.bias"])
    s1 = np.tanh((s0 + 0.5 * z("L000", 6, 5)) @ w["fc2.weight"] + w["fc2.bias"])
    s2 = (s1 + 0.25 * z("L001", 6, 3)) @ w["out.weight"] + w["out.bias"]
    for key, want in {"L000": s0, "L001": s1, "L002": s2}.items():
        assert np.allclose(found[key], want, atol=1e-6)


def test_the_memory_of_a_noisy_run_is_predicted_without_its_noise() -> None:
    adapter = opened(mlp())
    needs = []
    for noise in ({}, {"L000": 0.5, "L001": 0.25}):
        run(adapter, normal(6, 4), noise)
        needs.append(adapter.predicted_bytes({"x": normal(600, 4)}))
    assert needs[1] >= needs[0] > 600 * 5 * 4


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_order_subsets_and_threads_do_not_matter(threads: int) -> None:
    x, stds = normal(256, 4), {"L000": 0.5, "L001": 0.25}
    whole = run(opened(mlp(), threads=1), x, stds)
    adapter = opened(mlp(), threads=threads)
    order = np.random.default_rng(0).permutation(256)
    for size in (1, 7, 256):
        cuts = [order[i : i + size] for i in range(0, 256, size)]
        parts = [run(adapter, x[cut], stds, samples=cut) for cut in cuts]
        for key, value in whole.items():
            assert np.abs(np.concatenate([part[key] for part in parts]) - value[order]).max() < 1e-6


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_optimised_graphs_have_the_same_noise(level: str) -> None:
    x, stds = normal(5, 4), {"L000": 0.5, "L001": 0.25}
    want = run(opened(mlp()), x, stds)
    found = run(opened(mlp(), opt_level=level), x, stds)
    assert all(np.allclose(found[key], want[key], atol=1e-6) for key in want)


def test_the_variance_of_the_next_layer_is_that_of_a_linear_map() -> None:
    net = Net()
    model = net.build(net.bare(net.bare("x", 4, 5, "fc1"), 5, 3, "out"))
    w = weights(model)["out.weight"]
    n, beta = 20_000, 0.3
    x = np.repeat(normal(1, 4), n, axis=0)
    value = run(
        opened(model), x, {"L000": beta}, ["L001"], np.zeros(n, int), realization=np.arange(n)
    )["L001"].astype(np.float64)  # fmt: skip
    want = beta**2 * w.T @ w
    # The standard error of a sample covariance of normal numbers.
    error = np.sqrt((want**2 + np.outer(np.diag(want), np.diag(want))) / n)
    assert (np.abs(np.cov(value, rowvar=False) - want) < 4 * error).all()
    mean = (x[0] @ weights(model)["fc1.weight"]) @ w
    assert (np.abs(value.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(want) / n)).all()


def test_the_noise_of_two_layers_is_not_the_same() -> None:
    """Identity weights: the noise of both layers can be read off."""
    net = Net()
    here = "x"
    for i in range(3):
        here = net.op("MatMul", here, net.const(f"fc{i}.weight", np.eye(4)))
    x = np.zeros((500, 4), np.float32)
    found = run(opened(net.build(here)), x, {"L000": 1.0, "L001": 1.0})
    first, second = found["L001"], found["L002"] - found["L001"]
    assert abs(np.mean(first * second)) < 4 / np.sqrt(2000)
    assert abs(np.mean(first[1:] * first[:-1])) < 4 / np.sqrt(1996)
    assert abs(first.std() - 1) < 4 / np.sqrt(4000)
    assert abs(second.std() - 1) < 4 / np.sqrt(4000)


def test_a_realization_for_each_sample() -> None:
    x, stds = normal(7, 4), {"L000": 0.5}
    passes = np.array([0, 4, 4, 2**40, 1, 0, 3])
    together = run(opened(mlp()), x, stds, realization=passes)
    for i, number in enumerate(passes):
        alone = run(opened(mlp()), x[i : i + 1], stds, samples=np.array([i]), realization=int(number))
        assert all(np.allclose(together[key][i], alone[key][0], atol=1e-6) for key in alone)


# ---------------------------------------------------------------- where it enters


def test_branches_that_capture_a_layer_see_its_noise() -> None:
    model, x = with_subgraphs(), normal(6, 4)
    w = weights(model)
    found = run(opened(model), x, {"L000": 0.5})
    hidden = np.tanh(x @ w["fc1.weight"] + w["fc1.bias"])
    assert np.allclose(found["L000"], hidden, atol=1e-6)
    assert np.allclose(found["L001"], (hidden + 0.5 * z("L000", 6, 5)) @ w["out.weight"], atol=1e-5)


def test_every_consumer_sees_the_same_noise_and_joins_get_none_unasked() -> None:
    net = Net()
    stem = net.linear("x", 4, 4, "stem", "Relu")
    block = net.linear(stem, 4, 4, "block")
    join = net.op("Relu", net.op("Add", block, stem))
    model, x = net.build(net.bare(join, 4, 2, "head")), normal(6, 4)
    w = weights(model)
    s0 = np.maximum(x @ w["stem.weight"] + w["stem.bias"], 0)
    t0 = s0 + 0.5 * z("L000", 6, 4)
    s1 = t0 @ w["block.weight"] + w["block.bias"]
    s2 = np.maximum(s1 + 0.2 * z("L001", 6, 4) + t0, 0)
    found = run(opened(model), x, {"L000": 0.5, "L001": 0.2})
    assert np.allclose(found["R000"], s2, atol=1e-5)
    assert np.allclose(found["L002"], s2 @ w["head.weight"], atol=1e-5)
    found = run(opened(model), x, {"L000": 0.5, "L001": 0.2, "R000": 0.3})
    assert np.allclose(found["R000"], s2, atol=1e-5)
    assert np.allclose(found["L002"], (s2 + 0.3 * z("R000", 6, 4)) @ w["head.weight"], atol=1e-5)


def test_noise_behind_the_layers_asked_for_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[str]()

    def counted(seed: int, layer: str, *rest: Any) -> Array:
        drawn.append(layer)
        return standard_normal(seed, layer, *rest)

    monkeypatch.setattr("repstat_adapters.shared.noise.standard_normal", counted)
    adapter, x, stds = opened(mlp()), normal(3, 4), {"L000": 0.5, "L001": 0.5}
    clean = adapter.run({"x": x}, adapter.layers(), samples=np.arange(3))
    assert np.array_equal(run(adapter, x, stds, ["L000"])["L000"], clean["L000"])
    assert drawn == []
    run(adapter, x, stds, ["L000", "L001"])
    assert drawn == ["L000"]
    run(adapter, x, {"L000": 0.5, "L001": 0.0}, ["L002"])
    assert drawn == ["L000", "L000"]


def test_names_already_in_the_model_are_left_alone() -> None:
    net = Net()
    hidden = net.op("Tanh", net.bare("x", 4, 5, "fc1"), out="h")
    weight = net.weight("h__noise", 5, 3)
    here = net.op("MatMul", hidden, weight, out="h__clean")
    body = [helper.make_node("Neg", ["h"], ["h__shape"])]
    branch = helper.make_graph(body, "b", [], [helper.make_tensor_value_info("h__shape", FLOAT, None)])
    other = net.op("If", net.const("yes", True, np.bool_), then_branch=branch, else_branch=branch)
    model, x = net.build(here, net.bare(other, 5, 2, "out")), normal(4, 4)
    w = weights(model)
    noisy = np.tanh(x @ w["fc1.weight"]) + 0.5 * z("L000", 4, 5)
    found = run(opened(model), x, {"L000": 0.5})
    assert np.allclose(found["L001"], noisy @ w["h__noise"], atol=1e-5)
    assert np.allclose(found["L002"], -noisy @ w["out.weight"], atol=1e-5)


# ---------------------------------------------------------------- types


def test_float64_and_float16_are_fed_as_they_are() -> None:
    for element, dtype, tolerance in (
        (TensorProto.DOUBLE, np.float64, 1e-13),
        (TensorProto.FLOAT16, np.float16, 4e-3),
    ):
        net = Net(inputs={"x": (element, ("N", 4))}, dtype=dtype)
        model = net.build(net.bare(net.bare("x", 4, 5, "fc1"), 5, 3, "out"))
        w, x = weights(model), normal(6, 4, dtype=dtype)
        found = run(opened(model), x, {"L000": 0.5})
        want = (x.astype(np.float64) @ w["fc1.weight"] + 0.5 * z("L000", 6, 5)) @ w["out.weight"]
        assert found["L001"].dtype == dtype
        assert np.abs(found["L001"] - want).max() < tolerance


def test_noise_in_bfloat16_is_added_before_rounding() -> None:
    net = Net()
    here = net.op("Cast", net.op("MatMul", "x", net.const("fc1.weight", np.eye(4))), to=TensorProto.BFLOAT16)
    here = net.op("Cast", net.op("Flatten", here), to=FLOAT)
    model = net.build(net.op("MatMul", here, net.const("out.weight", np.eye(4))))
    x = np.array([[1, -0.5, 2, 0.25]] * 5, np.float32)  # bfloat16 has all of them
    found = run(opened(model), x, {"L000": 0.5})
    assert np.array_equal(found["L000"], x)
    noisy = x + (0.5 * z("L000", 5, 4)).astype(np.float32)
    assert np.array_equal(found["L001"], rounded_to_bfloat16(noisy))


def rounded_to_bfloat16(value: Array) -> Array:
    bits = value.astype(np.float32).view(np.uint32)
    rounded: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return rounded


def test_noise_in_a_quantised_layer_is_refused() -> None:
    net = Net(opset=19)
    net.const("zero", 128, np.uint8)
    net.const("w_zero", 0, np.int8)
    for name, value in {"xs": 0.02, "ws": 0.05, "ys": 0.1}.items():
        net.const(name, value)
    here = net.op("QuantizeLinear", "x", "xs", "zero")
    for i, (a, b) in enumerate(pairwise((4, 5, 2))):
        weight = net.const(f"fc{i}.weight", np.arange(a * b).reshape(a, b) - 10, np.int8)
        here = net.op("QLinearMatMul", here, "xs", "zero", weight, "ws", "w_zero", "ys", "zero")
    adapter = opened(net.build(net.op("DequantizeLinear", here, "ys", "zero")))
    text = r"not floating point: layer L000 \(fc0\).*its tensor is uint8.*before it was quantised"
    with pytest.raises(InputRefusedError, match=text):
        run(adapter, normal(3, 4), {"L000": 0.1})


def test_noise_that_a_type_cannot_hold_is_refused() -> None:
    net = Net(inputs={"x": (TensorProto.FLOAT16, ("N", 4))}, dtype=np.float16)
    adapter = opened(net.build(net.bare(net.bare("x", 4, 5, "fc1"), 5, 3, "out")))
    for std in (1e-7, 2e4):
        with pytest.raises(UsageError, match=f"noise_std {std!r} is out of range.*float16"):
            run(adapter, normal(3, 4, dtype=np.float16), {"L000": std})


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (BatchLayout(None), (3, 2)),
        (BatchLayout(0), (6, 3, 2)),
        (BatchLayout(2), (3, 2, 6)),
        (BatchLayout(0, 5), (30, 2)),
        (BatchLayout(0, 5, sample_major=False), (30, 2)),
        (BatchLayout(1, 5), (3, 30, 2)),
        (BatchLayout(1, 5, sample_major=False), (3, 30, 2)),
    ],
)
def test_a_layout_has_an_inverse(layout: BatchLayout, shape: tuple[int, ...]) -> None:
    tensor = normal(*shape)
    values = layout.by_sample(tensor)
    assert layout.shape(len(values), values.shape[1:]) == shape
    assert np.array_equal(layout.from_samples(values), tensor)


@pytest.mark.parametrize("sample_major", [True, False])
def test_each_position_of_a_merged_axis_has_noise_of_its_own(sample_major: bool) -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 5, 4))})
    here = "x" if sample_major else net.op("Transpose", "x", perm=[1, 0, 2])
    flat = net.op("Reshape", here, net.const("flat", [-1, 4], np.int64))
    model = net.build(net.bare(net.op("Tanh", net.bare(flat, 4, 3, "fc1")), 3, 2, "out"))
    w, x = weights(model), normal(6, 5, 4)
    found = run(opened(model), x, {"L000": 0.5})
    noisy = np.tanh(x @ w["fc1.weight"]) + 0.5 * z("L000", 6, 15).reshape(6, 5, 3)
    assert np.allclose(found["L001"], noisy @ w["out.weight"], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_fixed_batches_have_the_noise_of_free_ones(batch: int) -> None:
    x, stds = normal(8, 4), {"L000": 0.5, "L001": 0.25}
    want, found = run(opened(mlp()), x, stds), run(opened(mlp(batch=batch)), x, stds)
    assert all(np.allclose(found[key], want[key], atol=1e-6) for key in want)


def test_a_recurrent_layer_with_the_batch_inside() -> None:
    net = Net(inputs={"x": (FLOAT, (5, "batch", 3))})
    names = [net.weight("rnn.W", 1, 4, 3), net.weight("rnn.R", 1, 4, 4)]
    y = net.op("RNN", "x", *names, out=["y", "h"], hidden_size=4)
    out = net.bare(net.op("Squeeze", y, net.const("axis", [1], np.int64)), 4, 2, "out")
    model, x = net.build(out), normal(5, 6, 3)
    adapter = opened(model)
    layers = adapter.layers()
    assert layers[0].batch_axis == 2
    found = adapter.run({"x": x}, layers, samples=np.arange(6), noise=Noise({"L000": 0.5}, 3))
    noisy = found["L000"] + 0.5 * z("L000", 6, 20).reshape(6, *layers[0].unit_shape)
    want = noisy[:, :, 0] @ weights(model)["out.weight"]
    assert np.allclose(found["L001"], want, atol=1e-5)


@pytest.mark.parametrize("length", [1, 7])
def test_noise_is_never_broadcast_over_another_length(length: int) -> None:
    """With length 1 the sum would spread a sample's activation over all positions and say nothing."""
    net = Net(inputs={"x": (FLOAT, ("N", "T", 4))})
    hidden = net.bare("x", 4, 3, "fc1")
    adapter = opened(net.build(net.bare(net.op("ReduceMean", hidden, axes=[1], keepdims=0), 3, 2, "out")))
    layers = adapter.layers({"x": normal(3, 6, 4)})
    noise = Noise({"L000": 0.5}, 3)
    text = rf"layer L000 \(fc1\): found a tensor of shape \(3, {length}, 3\), expected \(3, 6, 3\)"
    with pytest.raises(InputRefusedError, match=text):
        adapter.run({"x": normal(3, length, 4)}, layers[1:], samples=np.arange(3), noise=noise)


# ---------------------------------------------------------------- what cannot be, and what must not happen


def test_a_layer_that_was_left_out_says_why() -> None:
    net = Net()
    pooled = net.op("Tanh", net.bare(net.op("ReduceMean", "x", axes=[0], keepdims=1), 4, 5, "pooled"))
    adapter = opened(net.build(net.bare(net.op("Add", net.bare("x", 4, 5, "fc1"), pooled), 5, 2, "out")))
    with pytest.raises(UsageError, match=r"cannot be told apart: layer L000 \(pooled\): no axis grows"):
        run(adapter, normal(3, 4), {"L000": 0.5})


def test_two_layers_of_one_tensor_get_noise_once() -> None:
    adapter = opened(mlp())
    adapter._found = (*adapter._found, replace(adapter._found[0], key="R000", kind="residual"))
    x = normal(4, 4)
    with pytest.raises(UsageError, match=r"twice in one tensor: layers L000 and R000.*one of them"):
        run(adapter, x, {"L000": 0.5, "R000": 0.5})
    found = run(adapter, x, {"R000": 0.5})
    assert np.array_equal(found["L000"], found["R000"])
    w = weights(mlp())
    noisy = np.tanh(x @ w["fc1.weight"] + w["fc1.bias"]) + 0.5 * z("R000", 4, 5)
    assert np.allclose(found["L001"], np.tanh(noisy @ w["fc2.weight"] + w["fc2.bias"]), atol=1e-6)


def test_one_session_serves_all_noise_in_the_same_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = opened(mlp())
    layers = adapter.layers()
    made: list[onnx.ModelProto] = []
    make = Runtime.session

    def counted(runtime: Runtime, model: onnx.ModelProto) -> ort.InferenceSession:
        made.append(model)
        return make(runtime, model)

    monkeypatch.setattr(Runtime, "session", counted)
    for i in range(3):
        noise = Noise({"L000": 0.1 + i, "L001": 0.2}, seed=i, realization=i)
        adapter.run({"x": normal(2, 4)}, layers, samples=np.arange(2) + i, noise=noise)
    assert len(made) == 1


def test_a_model_in_memory_is_not_changed_by_noise() -> None:
    model = with_subgraphs()
    before = model.SerializeToString(deterministic=True)
    run(opened(model), normal(3, 4), {"L000": 0.5})
    assert model.SerializeToString(deterministic=True) == before


def test_the_producer_is_renamed_and_the_consumers_stay_as_they_are() -> None:
    graph = onnx.GraphProto()
    graph.CopyFrom(with_subgraphs().graph)
    hidden = graph.node[1].output[0]
    port = add_ports(graph, {hidden: NoisyTensor("tensor(float)", 2)})[hidden]
    captured = [node.input[0] for a in graph.node[-2].attribute for node in a.g.node]
    assert captured == [hidden, hidden]
    sums = [list(node.input) for node in graph.node if list(node.output) == [hidden]]
    assert sums == [[port.clean, port.fed]]
