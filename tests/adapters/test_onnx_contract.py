"""The ONNX adapter keeps the contract on models of every shape."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from repstat.adapter import Array
from tests.adapters.contract import AdapterContract, Case
from tests.adapters.onnx_models import FLOAT, Net, mlp, normal, opened, reference, saved

N = 7
Made = tuple[onnx.ModelProto, dict[str, Array], str, dict[str, str]]
"""Model, batch, kinds of its layers (h, r, o), and the tensor of each layer to compare."""


def plain() -> Made:
    return mlp(), {"x": normal(N, 4)}, "hho", {"L000": "t1", "L001": "t3", "L002": "t4"}


def double() -> Made:
    net = Net(inputs={"x": (TensorProto.DOUBLE, ("N", 4))}, dtype=np.float64)
    out = net.linear(net.linear("x", 4, 5, "fc1", "Relu"), 5, 2, "out")
    return net.build(out), {"x": normal(N, 4, dtype=np.float64)}, "ho", {"L000": "t1", "L001": "t2"}


def half() -> Made:
    net = Net(inputs={"x": (TensorProto.FLOAT16, ("N", 4))}, dtype=np.float16)
    out = net.linear(net.linear("x", 4, 5, "fc1", "Relu"), 5, 2, "out")
    return net.build(out), {"x": normal(N, 4, dtype=np.float16)}, "ho", {"L000": "t1"}


def cnn() -> Made:
    net = Net(inputs={"x": (FLOAT, ("N", 1, 6, 6))})
    here = net.op("Conv", "x", net.weight("c1.weight", 3, 1, 3, 3))
    statistics = {"scale": [1, 2, -1], "bias": [0.3, 0.2, 0.1], "mean": [0.1, 0, -0.1], "var": [0.5, 1, 2]}
    names = [net.const(f"bn.{name}", value) for name, value in statistics.items()]
    here = net.op("BatchNormalization", here, *names)
    here = net.op("MaxPool", net.op("Relu", here), kernel_shape=[2, 2], strides=[2, 2])
    out = net.linear(net.op("Flatten", here), 12, 2, "head")
    return net.build(out), {"x": normal(N, 1, 6, 6)}, "ho", {"L000": "t2", "L001": "t5"}


def residual() -> Made:
    net = Net()
    stem = net.linear("x", 4, 4, "stem", "Relu")
    block = net.linear(net.linear(stem, 4, 6, "b.fc1", "Relu"), 6, 4, "b.fc2")
    join = net.op("Relu", net.op("Add", block, stem))
    model = net.build(net.linear(join, 4, 2, "head"))
    return model, {"x": normal(N, 4)}, "hhhro", {"L002": block, "R000": join, "L003": "t7"}


def two_inputs() -> Made:
    net = Net(inputs={"a": (FLOAT, ("N", 4)), "b": (FLOAT, ("N", 3))})
    left, right = net.linear("a", 4, 5, "left", "Tanh"), net.linear("b", 3, 5, "right", "Tanh")
    both = net.op("Concat", left, right, axis=1)
    model = net.build(net.linear(both, 10, 2, "head"))
    return model, {"a": normal(N, 4), "b": normal(N, 3, seed=2)}, "hho", {"L000": left, "L001": right}


def fixed_one() -> Made:
    return mlp(batch=1), {"x": normal(N, 4)}, "hho", {}


def fixed_three() -> Made:
    return mlp(batch=3), {"x": normal(N, 4)}, "hho", {}


def ids() -> Made:
    net = Net(inputs={"ids": (TensorProto.INT64, ("N", 3))})
    table = net.weight("embedding.weight", 16, 4)
    flat = net.op("Flatten", net.op("Gather", table, "ids"))
    model = net.build(net.linear(net.linear(flat, 12, 5, "fc1", "Tanh"), 5, 2, "out"))
    feeds = {"ids": np.random.default_rng(3).integers(0, 16, (N, 3))}
    return model, feeds, "ho", {"L000": "t3", "L001": "t4"}


def several_outputs() -> Made:
    net = Net()
    trunk = net.linear("x", 4, 5, "trunk", "Tanh")
    one, two = net.linear(trunk, 5, 2, "policy"), net.linear(trunk, 5, 3, "value", "Tanh")
    return net.build(one, two, trunk), {"x": normal(N, 4)}, "hoo", {"L000": trunk, "L001": one, "L002": two}


def recurrent() -> Made:
    net = Net(inputs={"x": (FLOAT, (5, "batch", 3))})
    names = [net.weight("lstm.W", 1, 16, 3), net.weight("lstm.R", 1, 16, 4)]
    y = net.op("LSTM", "x", *names, out=["y", "h", "c"], hidden_size=4)
    out = net.bare(net.op("Squeeze", y, net.const("axis", [1], np.int64)), 4, 2, "out")
    return net.build(out), {"x": normal(5, N, 3)}, "ho", {}


def merged_time() -> Made:
    net = Net(inputs={"x": (FLOAT, ("N", 5, 4))})
    flat = net.op("Reshape", "x", net.const("flat", [-1, 4], np.int64))
    here = net.op("Tanh", net.bare(flat, 4, 3, "fc1"))
    deep = net.op("Reshape", here, net.const("deep", [-1, 5, 3], np.int64))
    mean = net.op("ReduceMean", deep, axes=[1], keepdims=0)
    return net.build(net.linear(mean, 3, 2, "out")), {"x": normal(N, 5, 4)}, "ho", {}


def dynamically_quantised() -> Made:
    net = Net()
    quantised = net.op("DynamicQuantizeLinear", "x", out=["xq", "xs", "xz"])
    weight = net.const("fc1.weight", np.arange(-10, 10).reshape(4, 5), np.int8)
    whole = net.op("MatMulInteger", quantised, weight, "xz", net.const("wz", 0, np.int8))
    scale = net.op("Mul", "xs", net.const("ws", 0.02))
    here = net.op("Mul", net.op("Cast", whole, to=FLOAT), scale)
    here = net.op("Relu", net.op("Add", here, net.weight("fc1.bias", 5)))
    return net.build(net.linear(here, 5, 2, "out")), {"x": normal(N, 4)}, "ho", {}


KINDS = {"h": "hidden", "r": "residual", "o": "output"}
MAKERS: list[Callable[[], Made]] = [
    plain, double, half, cnn, residual, two_inputs, fixed_one, fixed_three, ids, several_outputs,
    recurrent, merged_time, dynamically_quantised,
]  # fmt: skip


def make_case(maker: Callable[[], Made], folder: Path) -> Case:
    model, feeds, kinds, tensors = maker()
    path = saved(model, folder)
    letters = iter(kinds)
    counts = {"L": 0, "R": 0}
    keys = []
    for letter in letters:
        first = "R" if letter == "r" else "L"
        keys.append(f"{first}{counts[first]:03d}")
        counts[first] += 1
    values = reference(model, feeds, *tensors.values()) if tensors else []
    return Case(
        open=lambda: opened(path),
        feeds=feeds,
        keys=keys,
        kinds=[KINDS[letter] for letter in kinds],
        files=[path],
        expected=dict(zip(tensors, values, strict=True)),
    )


class TestOnnx(AdapterContract):
    @pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        return make_case(request.param, tmp_path)


class TestOnnxInMemory(AdapterContract):
    @pytest.fixture
    def case(self) -> Case:
        model, feeds, _, _ = plain()
        return Case(lambda: opened(model), feeds, ["L000", "L001", "L002"], ["hidden", "hidden", "output"])


def test_a_model_in_memory_is_not_changed() -> None:
    model = plain()[0]
    before = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    adapter = opened(model)
    adapter.run({"x": normal(2, 4)}, adapter.layers(), samples=np.arange(2))
    assert hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest() == before


def test_the_contract_is_broken_by_an_adapter_that_ignores_its_batch(tmp_path: Path) -> None:
    """A mutant: the suite must not pass for an adapter that returns the same rows whatever it is fed."""
    case = make_case(plain, tmp_path)
    adapter = case.open()
    layers = adapter.layers()
    frozen = adapter.run(case.feeds, layers, samples=np.arange(N))
    adapter.run = lambda *_, **__: {k: v.copy() for k, v in frozen.items()}  # type: ignore[method-assign]
    suite = TestOnnx()
    with pytest.raises(AssertionError):
        suite.test_samples_follow_their_order(adapter, case)
