"""The layers of PyTorch models are those of their ONNX export, with the same values, clean and noisy."""

import importlib.util
import io
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from repstat.adapter import Adapter, AdapterOptions
from repstat_adapters.onnx import open_model as open_onnx
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import Said, both_ways, furthest, identities, linear, normal  # noqa: E402

F, nn = torch.nn.functional, torch.nn
FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "exporters"


def exported(model: Any, x: np.ndarray, *, dynamo: bool = False) -> Adapter:
    """The model through one of PyTorch's exporters and the ONNX adapter."""
    raw, example = io.BytesIO(), (torch.from_numpy(x[:3]),)
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):  # the exporters, about themselves
            warnings.simplefilter("ignore", category)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        if dynamo:
            require("onnxscript")
            sizes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                input_names=["x"],
                dynamic_shapes=sizes,
                external_data=False,
                verbose=False,
            )
            return open_onnx(program.model_proto, AdapterOptions())
        axes = {"x": {0: "batch"}}
        torch.onnx.export(
            model, example, raw, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=17
        )
    return open_onnx(onnx.load_from_string(raw.getvalue()), AdapterOptions())


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_exporters", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    ["mlp.torchscript", "mlp.dynamo", "mlp.keras", "cnn.torchscript", "cnn.dynamo", "cnn.dynamo-unoptimised"],
)
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_a_network_is_the_same_live_and_from_every_exporter(name: str, std: float, make: ModuleType) -> None:
    kind = name.partition(".")[0]
    model, x = make._torch_network(kind)
    folded = kind == "cnn" and not name.endswith("unoptimised")  # batch normalisation, into the weights
    tolerance = 4e-6 if folded else 1e-6
    live, file = nets.opened(model), open_onnx(FOLDER / f"{name}.onnx", AdapterOptions())
    assert identities(live, {live.inputs()[0].name: x.numpy()}) == identities(file)
    assert furthest(both_ways(live, x.numpy(), std), both_ways(file, x.numpy(), std)) < tolerance


class Between(nn.Module):  # type: ignore[misc]
    """Two layers with something between them."""

    def __init__(self, middle: Any) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(12, 8), middle, nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.middle(self.first(x)))


def rms(h: Any) -> Any:
    return h * torch.rsqrt((h**2).mean(-1, keepdim=True) + 1e-6)


def standardised(h: Any) -> Any:
    centred = h - h.mean(-1, keepdim=True)
    return torch.relu(centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("middle", "words", "exporters"),
    [
        (nn.Softplus(), "softplus", "both"),
        (nn.Softplus(2.0, 5.0), "softplus", "both"),
        (nn.LogSigmoid(), "logsigmoid", "both"),
        (nn.Hardshrink(), "shrink", "both"),
        (nn.Softshrink(), "shrink", "both"),
        (nn.Threshold(0.1, 0.0), "thresholdedrelu", "dynamo"),
        (lambda h: torch.where(h > 0, h, 0.3 * h), "thresholdedrelu", "both"),
        (lambda h: h * (h > 0), "thresholdedrelu", "both"),
        (lambda h: h.clamp(min=0), "clip", "both"),
        (lambda h: torch.maximum(h, torch.zeros(())), "clip", "both"),
        (nn.RMSNorm(8), "rmsnormalization", "dynamo"),
        (rms, "rmsnormalization", "both"),
        (standardised, "layernormalization>relu", "both"),
        (nn.Sequential(nn.LayerNorm(8), nn.SiLU()), "layernormalization>silu", "both"),
    ],
)
def test_what_exporters_spell_as_several_ops_is_one(middle: Any, words: str, exporters: str) -> None:
    model, x = nets.seeded(lambda: Between(middle)), normal(40, 12)
    live = nets.opened(model)
    for dynamo in (True, False) if exporters == "both" else (True,):
        file = exported(model, x, dynamo=dynamo)
        for adapter in (live, file):
            name = adapter.inputs()[0].name
            assert [y.signature for y in adapter.layers({name: x})] == [f"linear>{words}", "linear"]
        assert furthest(both_ways(live, x, 0.3), both_ways(file, x, 0.3)) < 2e-6


@pytest.mark.parametrize(
    "middle",
    [
        lambda h: h.max(-1, keepdim=True).values.expand(-1, 8),
        lambda h: h + rms(h),
        lambda h: h * h.mean(-1, keepdim=True),
        lambda h: h - h.mean(-1, keepdim=True),
    ],
)
def test_what_only_looks_like_an_activation_is_no_part_of_a_layer(middle: Any) -> None:
    model, x = nets.seeded(lambda: Between(middle)), normal(40, 12)
    live = nets.opened(model)
    found = live.layers({live.inputs()[0].name: x})
    assert [y.signature for y in found if y.kind != "residual"] == ["linear", "linear"]


RESNET = """
L000 conv1 conv>relu
L001 layer1.0.conv1 conv>relu
L002 layer1.0.conv2 conv
R000 layer1.0 add>relu
L003 layer1.1.conv1 conv>relu
L004 layer1.1.conv2 conv
R001 layer1.1 add>relu
L005 layer2.0.conv1 conv>relu
L006 layer2.0.conv2 conv
L007 layer2.0.downsample.0 conv
R002 layer2.0 add>relu
L008 layer2.1.conv1 conv>relu
L009 layer2.1.conv2 conv
R003 layer2.1 add>relu
L010 layer3.0.conv1 conv>relu
L011 layer3.0.conv2 conv
L012 layer3.0.downsample.0 conv
R004 layer3.0 add>relu
L013 layer3.1.conv1 conv>relu
L014 layer3.1.conv2 conv
R005 layer3.1 add>relu
L015 layer4.0.conv1 conv>relu
L016 layer4.0.conv2 conv
L017 layer4.0.downsample.0 conv
R006 layer4.0 add>relu
L018 layer4.1.conv1 conv>relu
L019 layer4.1.conv2 conv
R007 layer4.1 add>relu
L020 fc linear
"""
ENCODER = """
L000 encoder.layers.0.self_attn.in_proj linear
L001 encoder.layers.0.self_attn.out_proj linear
R000 encoder.layers.0 add{norm}
L002 encoder.layers.0.linear1 linear>relu
L003 encoder.layers.0.linear2 linear
R001 encoder.layers.0 add{norm}
L004 encoder.layers.1.self_attn.in_proj linear
L005 encoder.layers.1.self_attn.out_proj linear
R002 encoder.layers.1 add{norm}
L006 encoder.layers.1.linear1 linear>relu
L007 encoder.layers.1.linear2 linear
R003 encoder.layers.1 add{norm}
L008 head linear
"""
IDS = np.random.default_rng(2).integers(0, 16, (6, 8))
NETWORKS: dict[str, tuple[Any, np.ndarray, str]] = {
    "resnet": (nets.ResNet, normal(6, 3, 32, 32), RESNET),
    "encoder": (nets.Encoder, IDS, ENCODER.format(norm=">layernormalization")),
    "encoder, norm first": (lambda: nets.Encoder(norm_first=True), IDS, ENCODER.format(norm="")),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"]
)
def test_real_architectures_have_the_layers_a_person_would_write_down(name: str, dynamo: bool) -> None:
    make, x, text = NETWORKS[name]
    model = nets.seeded(make).eval()
    live, file = nets.opened(model), exported(model, x, dynamo=dynamo)
    feeds = {live.inputs()[0].name: x}
    written = [tuple(line.split()) for line in text.split("\n") if line]
    assert [(x.key, x.name, x.signature) for x in live.layers(feeds)] == written
    plain = [(key, kind, signature, shape) for key, _, kind, signature, shape in identities(live, feeds)]
    assert plain == [(key, kind, sig, shape) for key, _, kind, sig, shape in identities(file)]
    for std in (0.0, 0.1):
        assert furthest(both_ways(live, x, std), both_ways(file, x, std)) < 4e-6


def test_a_recurrent_layer_is_onnx_s_but_for_the_axis_of_directions() -> None:
    """PyTorch joins the directions to the units, ONNX gives them an axis of their own."""
    model = nets.seeded(lambda: nets.Lstm(batch_first=True)).eval()
    live, file = nets.opened(model), exported(model, normal(6, 8, 3))
    assert [x[:4] for x in identities(live)] == [x[:4] for x in identities(file)]
    assert (live.layers()[0].unit_shape, file.layers()[0].unit_shape) == ((8, 4), (8, 1, 4))
    for std in (0.0, 0.1):
        assert furthest(both_ways(live, normal(6, 8, 3), std), both_ways(file, normal(6, 8, 3), std)) < 1e-6


def test_a_stack_of_recurrent_layers_in_one_module_is_one_layer() -> None:
    found = identities(nets.opened(nets.seeded(lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True))))
    assert [(key, signature, shape) for key, _, _, signature, shape in found] == [("L000", "gru", (8, 8))]


WAYS: dict[str, tuple[Any, list[str]]] = {
    "method": (lambda m, x: m.b(m.a(x).relu()), ["linear>relu", "linear"]),
    "function": (lambda m, x: m.b(F.gelu(m.a(x))), ["linear>gelu", "linear"]),
    "in place": (lambda m, x: m.b(F.elu_(m.a(x))), ["linear>elu", "linear"]),
    "clamp": (lambda m, x: m.b(m.a(x).clamp(min=0)), ["linear>clip", "linear"]),
    "silu by hand": (lambda m, x: m.b((h := m.a(x)) * torch.sigmoid(h)), ["linear>silu", "linear"]),
    "gelu by hand": (
        lambda m, x: m.b(0.5 * (h := m.a(x)) * (1 + torch.erf(h / 2**0.5))), ["linear>gelu", "linear"],
    ),
    "bias by hand": (lambda m, x: m.b((x @ m.a.weight.T + m.a.bias).tanh()), ["linear>tanh", "linear"]),
    "scaled": (lambda m, x: m.b(torch.tanh(2 * m.a(x) + 1)), ["linear>tanh", "linear"]),
    "addmm": (lambda m, x: m.b(torch.addmm(m.a.bias, x, m.a.weight.T).relu()), ["linear>relu", "linear"]),
    "einsum": (lambda m, x: m.b(torch.einsum("ni,oi->no", x, m.a.weight).relu()), ["linear>relu", "linear"]),
    "softsign": (lambda m, x: m.b(F.softsign(m.a(x))), ["linear>softsign", "linear"]),
    "softmax": (lambda m, x: F.softmax(m.b(m.a(x)), -1), ["linear", "linear>softmax"]),
    "dropout": (lambda m, x: m.b(F.dropout(m.a(x), 0.5, m.training).relu()), ["linear>relu", "linear"]),
    "layer norm": (
        lambda m, x: m.b(F.relu(F.layer_norm(m.a(x), (4,)))), ["linear>layernormalization>relu", "linear"],
    ),
    "checkpointing": (
        lambda m, x: torch.utils.checkpoint.checkpoint(lambda y: m.b(m.a(y).tanh()), x, use_reentrant=False),
        ["linear>tanh", "linear"],
    ),
    "a dead head": (lambda m, x: (m.a(x), m.b(x))[0], ["linear"]),
    "out=": (
        lambda m, x: m.b(torch.tanh(m.a(x), out=torch.empty(x.shape[0], 4))), ["linear>tanh", "linear"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_write_a_layer_down(name: str) -> None:
    forward, signatures = WAYS[name]
    model = nets.seeded(lambda: Said.of(forward, **linear()))
    adapter = nets.opened(model)
    layers = adapter.layers({"x": normal(5, 4)})
    assert [layer.signature for layer in layers] == signatures
    values = adapter.run({"x": normal(5, 4)}, layers, samples=np.arange(5))
    with torch.inference_mode():
        want = model.eval()(torch.from_numpy(normal(5, 4)))
    assert np.abs(values[layers[-1].key] - want.numpy()).max() < 1e-6


def test_weights_that_are_computed_keep_their_name() -> None:
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    for wrap in (weight_norm, spectral_norm):
        model = nn.Sequential(wrap(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2))
        assert [x[1] for x in identities(nets.opened(model))] == ["0", "2"]


def test_parameters_that_are_no_module_s_weight_give_their_own_name() -> None:
    model = Said.of(lambda m, x: m.b(x @ m.low @ m.high), b=nn.Linear(4, 2))
    model.low, model.high = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))
    assert [x[1] for x in identities(nets.opened(model), {"x": normal(3, 4)})] == ["low", "high", "b"]


def test_tied_weights_are_two_layers_by_their_calls() -> None:
    model = Said.of(lambda m, x: m.b(torch.tanh(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    model.b.weight = model.a.weight
    found = nets.opened(model).layers({"x": normal(5, 4)})
    assert [layer.signature for layer in found] == ["linear>tanh", "linear"]
    reused = nets.opened(nets.seeded(nets.Reused)).layers()
    assert [layer.name for layer in reused] == ["fc#0", "fc#1", "fc#2", "out"]


def test_activations_before_work_in_place_are_what_they_were() -> None:
    """The linear layer is wanted as it was, though the ReLU behind it writes into its memory."""
    model = nets.seeded(nets.InPlace)
    adapter = nets.opened(model)
    layers = adapter.layers()
    x = normal(5, 4)
    values = adapter.run({"x": x}, layers, samples=np.arange(5))
    want = x @ model.fc1.weight.detach().numpy().T + model.fc1.bias.detach().numpy()
    assert want.min() < 0
    assert np.abs(values["L000"] - want).max() < 1e-6
    assert np.array_equal(x, normal(5, 4))
