"""Running: providers, options, inputs, and models that are refused because of what they compute."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from repstat.cores import usable_cores
from repstat.errors import DeviceUnavailableError, InputRefusedError, RepstatError, ResourceError, UsageError
from repstat_adapters.onnx.session import Runtime, run_session, translated
from tests.adapters.onnx_models import FLOAT, Net, layers_of, mlp, normal, opened, values_of

# ---------------------------------------------------------------- providers and options


@pytest.mark.parametrize("name", ["auto", "cpu", "CPU", "CPUExecutionProvider"])
def test_providers_that_work(name: str) -> None:
    available = ort.get_available_providers()
    wanted = "CUDAExecutionProvider" if name == "auto" and "CUDAExecutionProvider" in available else "CPU"
    assert opened(mlp(), provider=name).provenance()["provider"].startswith(wanted)


@pytest.mark.parametrize("name", ["gpu", "cpuexecutionprovider", "TensorrtExecutionProvider", ""])
def test_unknown_providers_are_an_error_that_lists_the_known(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceUnavailableError, match=f"no execution provider '{name}'.*CPUExecutionProvider"):
        opened(mlp(), provider=name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is there")
def test_cuda_is_never_replaced_by_cpu() -> None:
    with pytest.raises(DeviceUnavailableError, match=r"'cuda'.*offers .*CPU.*onnxruntime-gpu"):
        opened(mlp(), provider="cuda")


class FellBack:
    """A session that was asked for CUDA and runs on the CPU, as onnxruntime does without its libraries."""

    def __init__(self, *_: object, **options: Any) -> None:
        self.options = options

    def disable_fallback(self) -> None:
        assert self.options["enable_fallback"] == 0

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_silent_fallback_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(ort, "InferenceSession", FellBack)
    with pytest.raises(DeviceUnavailableError, match="fell back to CPUExecutionProvider"):
        opened(mlp(), provider="cuda")


def test_auto_takes_the_cpu_where_cuda_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(ort, "InferenceSession", FellBack)
    assert opened(mlp(), provider="auto").provenance()["provider"] == "CPUExecutionProvider"


def test_threads_and_level_are_recorded() -> None:
    facts = opened(mlp()).provenance()
    assert (facts["threads"], facts["opt_level"]) == (usable_cores(), "none")
    facts = opened(mlp(), threads=1, opt_level="all").provenance()
    assert (facts["threads"], facts["opt_level"]) == (1, "all")
    assert facts["versions"] == {name: importlib.metadata.version(name) for name in facts["versions"]}
    assert {"onnx", "onnxruntime", "numpy"} <= facts["versions"].keys()
    assert (facts["ir_version"], facts["opset"]) == (10, {"ai.onnx": 17})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "cannot use 0 threads"),
        ({"opt_level": "most"}, "unknown opt level 'most'.*none, basic, extended, all"),
        ({"extra": {"speed": 11}}, "unknown options speed"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        opened(mlp(), **options)


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_levels_change_the_values_by_rounding_only(level: str) -> None:
    x = {"x": normal(5, 4)}
    for key, value in values_of(mlp(), x).items():
        assert np.allclose(values_of(mlp(), x, opt_level=level)[key], value, atol=1e-6)


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("ir", "opset", "text"),
    [
        (99, 17, r"IR version 99 and opset 17; onnxruntime \S+ reads IR up to \d+"),
        (10, 999, r"IR version 10 and opset 999; onnxruntime \S+ reads opsets up to \d+"),
    ],
)
def test_models_newer_than_the_runtime(ir: int, opset: int, text: str) -> None:
    model = mlp()
    model.ir_version, model.opset_import[0].version = ir, opset
    with pytest.raises(InputRefusedError, match=text):
        opened(model)


# ---------------------------------------------------------------- models that are refused


def random_noise(net: Net, t: str) -> str:
    return net.op("Add", t, net.op("RandomNormalLike", t))


def dropout(net: Net, t: str) -> str:
    return net.op("Dropout", t, net.const("ratio", 0.5), net.const("training", True, np.bool_), name="drop")


def computed_dropout(net: Net, t: str) -> str:
    flag = net.op("Greater", net.op("ReduceSum", t, keepdims=0), net.const("zero", 0))
    return net.op("Dropout", t, net.const("ratio", 0.5), flag)


def batch_norm(net: Net, t: str) -> str:
    names = [net.const(f"bn.{s}", np.ones(5)) for s in ("scale", "bias", "mean", "var")]
    return net.op("BatchNormalization", t, *names, out=["bn", "mean_out", "var_out"], training_mode=1)


def random_in_a_branch(net: Net, t: str) -> str:
    noise = helper.make_node("RandomNormalLike", [t], ["r"])
    value = helper.make_tensor_value_info("r", FLOAT, None)
    body = helper.make_graph([noise], "body", [], [value])
    return net.op("If", net.const("yes", True, np.bool_), then_branch=body, else_branch=body)


@pytest.mark.parametrize(
    ("middle", "text"),
    [
        (random_noise, "RandomNormalLike ''.*draws random numbers"),
        (random_in_a_branch, "RandomNormalLike ''.*draws random numbers"),
        (dropout, "Dropout 'drop': its training_mode is true"),
        (computed_dropout, "Dropout '': its training_mode is computed"),
        (batch_norm, "BatchNormalization ''.*training mode.*other samples of the batch"),
    ],
)
def test_models_that_are_not_deterministic(middle: Callable[[Net, str], str], text: str) -> None:
    net = Net()
    here = middle(net, net.linear("x", 4, 5, "fc1"))
    with pytest.raises(InputRefusedError, match=rf"not deterministic: {text}.*model\.eval\(\)"):
        opened(net.build(net.linear(here, 5, 2, "out")))


def test_dropout_in_inference_mode_is_fine() -> None:
    net = Net()
    flag = net.const("training", False, np.bool_)
    here = net.op("Dropout", net.linear("x", 4, 5, "fc1"), net.const("ratio", 0.5), flag)
    assert len(layers_of(net.build(net.linear(net.op("Relu", here), 5, 2, "out")))) == 2


def test_custom_ops_are_refused_by_name() -> None:
    net = Net()
    here = net.op("Warp", net.linear("x", 4, 5, "fc1"), domain="my.ops")
    with pytest.raises(InputRefusedError, match=r"custom ops: found my.ops::Warp"):
        opened(net.build(here, domains={"my.ops": 1}))


def test_ops_of_onnxruntime_are_known() -> None:
    net = Net()
    here = net.op("Gelu", net.bare("x", 4, 5, "fc1"), domain="com.microsoft")
    model = net.build(net.bare(here, 5, 2, "out"), domains={"com.microsoft": 1})
    assert [x.signature for x in layers_of(model).values()] == ["linear>gelu", "linear"]


def test_fused_activations_of_onnxruntime_are_seen() -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 1, 4, 4))})
    here = net.op(
        "FusedConv", "x", net.weight("c.weight", 2, 1, 3, 3), domain="com.microsoft", activation="Relu"
    )
    model = net.build(net.bare(net.op("Flatten", here), 8, 2, "out"), domains={"com.microsoft": 1})
    assert [x.signature for x in layers_of(model).values()] == ["conv>relu", "linear"]


# ---------------------------------------------------------------- inputs


def only(name: str, element: int, shape: Any) -> onnx.ModelProto:
    net = Net(inputs={name: (element, shape)})
    return net.build(net.bare(name, 4, 2, "out"))


def test_inputs_that_are_no_numbers() -> None:
    with pytest.raises(InputRefusedError, match="input 'words': found STRING, expected a tensor of numbers"):
        opened(only("words", TensorProto.STRING, ("N", 4)))
    model = mlp()
    sequence = helper.make_tensor_sequence_value_info("seq", FLOAT, None)
    model.graph.input.append(sequence)
    with pytest.raises(InputRefusedError, match="input 'seq': found sequence_type"):
        opened(model)
    model.graph.input[1].ClearField("type")
    with pytest.raises(InputRefusedError, match="input 'seq': found no type"):
        opened(model)


def test_an_input_of_unknown_rank_gets_its_shape_from_the_weights() -> None:
    net = Net(inputs={"x": (FLOAT, None)})
    model = net.build(net.linear(net.op("Sub", "x", net.const("mean", 0.5)), 4, 2, "out"))
    assert opened(model).inputs()[0].shape == (None, 4)
    net = Net(inputs={"x": (FLOAT, None)})
    model = net.build(net.op("Conv", "x", net.weight("c.weight", 2, 3, 3, 3)))
    assert opened(model).inputs()[0].shape == (None, 3, None, None)
    assert layers_of(model)["L000"].unit_shape == (2, 6, 6)


def test_an_input_of_unknown_rank_that_tells_nothing_is_refused() -> None:
    net = Net(inputs={"x": (FLOAT, None)})
    with pytest.raises(
        InputRefusedError, match=r"no declared shape: input 'x'|input 'x': its number of axes"
    ):
        opened(net.build(net.bare(net.op("Flatten", "x"), 4, 2, "out")))


def test_an_input_that_is_one_number_takes_one_per_sample_if_they_agree() -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 4)), "gain": (FLOAT, ())})
    model = net.build(net.op("Tanh", net.op("Mul", net.bare("x", 4, 3, "fc1"), "gain")))
    adapter = opened(model)
    layers = adapter.layers()
    x = normal(3, 4)
    want = x @ onnx.numpy_helper.to_array(model.graph.initializer[0])
    for gain in (np.array(2, np.float32), np.full(3, 2, np.float32)):
        values = adapter.run({"x": x, "gain": gain}, layers, samples=np.arange(3))
        assert np.allclose(values["L000"], want, atol=1e-6)
    with pytest.raises(InputRefusedError, match="one number for the whole batch"):
        adapter.run({"x": x, "gain": np.array([1, 2, 3], np.float32)}, layers, samples=np.arange(3))


def test_close_matches_are_offered_for_names() -> None:
    adapter = opened(mlp())
    model = only("pixel_values", FLOAT, ("N", 4))
    adapter = opened(model)
    with pytest.raises(InputRefusedError, match="Did you mean 'pixel_values'"):
        adapter.run({"pixel_value": normal(2, 4)}, adapter.layers(), samples=np.arange(2))


def test_inputs_must_have_equally_many_samples() -> None:
    net = Net(inputs={"a": (FLOAT, ("N", 4)), "b": (FLOAT, ("N", 4))})
    model = net.build(net.bare(net.op("Add", "a", "b"), 4, 2, "out"))
    with pytest.raises(InputRefusedError, match="a has 3, b has 2"):
        opened(model).run({"a": normal(3, 4), "b": normal(2, 4)}, [], samples=np.arange(3))


def test_different_fixed_batches_are_refused() -> None:
    net = Net(inputs={"a": (FLOAT, (2, 4)), "b": (FLOAT, (3, 4))})
    with pytest.raises(InputRefusedError, match=r"different fixed batch lengths.*a has 2, b has 3"):
        opened(net.build(net.op("Concat", "a", "b", axis=0)))


def test_free_axes_and_vocabularies_are_found_by_trying() -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 1, "H", "W"))})
    here = net.op("Conv", "x", net.weight("c.weight", 2, 1, 20, 20))
    assert layers_of(net.build(here))["L000"].unit_shape == (2, 13, 13)
    net = Net(inputs={"flag": (TensorProto.INT64, ("N", 3))})
    table = net.weight("embedding.weight", 2, 4)
    flat = net.op("Flatten", net.op("Gather", table, "flag"))
    assert layers_of(net.build(net.bare(flat, 12, 2, "out")))["L000"].unit_shape == (2,)


def test_a_model_that_fails_on_every_probe_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    net = Net()
    here = net.op("Reshape", net.bare("x", 4, 5, "fc1"), net.const("shape", [7, 7], np.int64))
    with pytest.raises(InputRefusedError, match=r"fails on a small batch.*cannot be reshaped.*--inputs"):
        layers_of(net.build(net.bare(here, 7, 2, "out")))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_probe_that_fails_says_why() -> None:
    net = Net(inputs={"ids": (TensorProto.INT64, ("N", 3))})
    flat = net.op("Flatten", net.op("Gather", net.weight("embedding.weight", 9, 4), "ids"))
    adapter = opened(net.build(net.bare(flat, 12, 2, "out")))
    with pytest.raises(InputRefusedError, match=r"fails on a small batch.*out of data bounds"):
        adapter.layers({"ids": np.full((3, 3), 9)})
    with pytest.raises(InputRefusedError, match="wrong shape"):
        adapter.layers({"ids": np.zeros((3, 4), np.int64)})


# ---------------------------------------------------------------- errors of the runtime


def test_errors_of_the_runtime_become_ours_without_its_source_lines() -> None:
    adapter = opened(mlp())
    adapter.layers()
    session = adapter._runtime.session(mlp())
    with pytest.raises(
        InputRefusedError, match=r"the model fails on a batch: .*Got: 9 Expected: 4"
    ) as caught:
        run_session(session, ["t0"], {"x": normal(2, 9)}, None)
    assert "onnxruntime_src" not in str(caught.value)
    error: RepstatError = translated(
        RuntimeError("Failed to allocate memory for requested buffer"), "x", None
    )
    assert isinstance(error, ResourceError)
    assert "smaller --batch-size" in str(error)


def test_big_models_are_not_loaded_twice_for_the_same_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = opened(mlp())
    layers = adapter.layers()
    made: list[onnx.ModelProto] = []
    make = Runtime.session

    def counted(runtime: Runtime, model: onnx.ModelProto) -> ort.InferenceSession:
        made.append(model)
        return make(runtime, model)

    monkeypatch.setattr(Runtime, "session", counted)
    x, samples = {"x": normal(2, 4)}, np.arange(2)
    for _ in range(3):
        adapter.run(x, layers, samples=samples)
    assert len(made) == 0  # the session of the probe computes all layers already
    for _ in range(3):
        adapter.run(x, layers[:2], samples=samples)
    assert len(made) == 1
