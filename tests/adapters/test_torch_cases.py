"""What people write into models of PyTorch: every way gives the activations of the plain one."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from repstat.errors import InputRefusedError
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import Said, both_ways, furthest, identities, linear, normal  # noqa: E402

F, nn = torch.nn.functional, torch.nn
X = normal(5, 4)
Pair = namedtuple("Pair", "first second")


@dataclass
class Output:
    """As models of libraries return them."""

    logits: Any
    text: str = "no tensor"


def plain(m: Any, x: Any) -> Any:
    return m.b(torch.tanh(m.a(x)))


def added(m: Any, x: Any) -> Any:
    here = m.a(x)
    here += 1.0
    return m.b(here.tanh_())


def multiplied(m: Any, x: Any) -> Any:
    here = m.a(x)
    here.mul_(2.0)
    return m.b(here.tanh())


def through_a_view(m: Any, x: Any) -> Any:
    here = m.a(x)
    here.view(-1).relu_()
    return m.b(here)


def through_a_slice(m: Any, x: Any) -> Any:
    here = m.a(x)
    here[:, :2].relu_()
    return m.b(here)


def into_a_slice(m: Any, x: Any) -> Any:
    here = m.a(x)
    here[:, :2].copy_(x[:, :2])
    return m.b(here)


def overwritten_later(m: Any, x: Any) -> Any:
    here = torch.tanh(m.a(x))
    y = m.b(here)
    here.zero_()
    return y


def input_written_to(m: Any, x: Any) -> Any:
    x += 1.0
    return plain(m, x)


def named_part(m: Any, x: Any) -> Any:
    with torch.profiler.record_function("trunk"):
        here = torch.tanh(m.a(x))
    return m.b(here)


def counted_loop(m: Any, x: Any) -> Any:
    """Control flow that depends on the data, which no tracing follows."""
    for _ in range(int(x.abs().max() > 1e-6)):
        x = torch.tanh(m.a(x))
    return m.b(x)


def vmapped(m: Any, x: Any) -> Any:
    return torch.func.vmap(lambda row: plain(m, row))(x)


def functional_call(m: Any, x: Any) -> Any:
    weights = {"weight": m.a.weight, "bias": m.a.bias}
    return m.b(torch.func.functional_call(m.a, weights, (x,)).tanh())


def checkpointed(m: Any, x: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(lambda y: plain(m, y), x, use_reentrant=True)


SAME: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "x += 1": (added, lambda m, x: m.b(torch.tanh(m.a(x) + 1.0))),
    "mul_": (multiplied, lambda m, x: m.b(torch.tanh(m.a(x) * 2.0))),
    "relu_ of a view": (through_a_view, lambda m, x: m.b(m.a(x).relu())),
    "relu_ of a slice": (
        through_a_slice,
        lambda m, x: m.b(torch.cat([(here := m.a(x))[:, :2].relu(), here[:, 2:]], 1)),
    ),
    "copy_ into a slice": (into_a_slice, lambda m, x: m.b(torch.cat([x[:, :2], m.a(x)[:, 2:]], 1))),
    "overwritten later": (overwritten_later, plain),
    "the input written to": (input_written_to, lambda m, x: plain(m, x + 1.0)),
    "a tuple": (lambda m, x: (plain(m, x), None), plain),
    "a dict": (lambda m, x: {"logits": [plain(m, x)], "n": 3}, plain),
    "a named tuple": (lambda m, x: Pair(plain(m, x), "text"), plain),
    "a dataclass": (lambda m, x: Output(plain(m, x)), plain),
    "an object of its own": (lambda m, x: type("Own", (), {"y": plain(m, x)})(), plain),
    "record_function": (named_part, plain),
    "a loop over the data": (counted_loop, plain),
    "vmap": (vmapped, plain),
    "functional_call": (functional_call, plain),
    "no_grad": (torch.no_grad()(plain), plain),
    "inference_mode": (torch.inference_mode()(plain), plain),
    "enable_grad": (torch.enable_grad()(plain), plain),
    "reentrant checkpointing": (checkpointed, plain),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("name", SAME)
def test_a_forward_has_the_layers_of_the_same_network_written_plainly(name: str) -> None:
    """The same keys, signatures, and numbers, clean and with noise in the hidden layer."""
    ways = [nets.opened(nets.seeded(lambda f=f: Said.of(f, **linear()))) for f in SAME[name]]
    found, want = (identities(adapter, {"x": X}) for adapter in ways)
    assert found == want
    for std in (0.0, 0.4):
        assert furthest(*(both_ways(adapter, X, std) for adapter in ways)) < 1e-6


def test_the_comparison_above_sees_another_network() -> None:
    """A mutant: the activation is left out."""
    ways = [lambda m, x: m.b(m.a(x)), plain]
    first, second = (nets.opened(nets.seeded(lambda f=f: Said.of(f, **linear()))) for f in ways)
    assert identities(first, {"x": X}) != identities(second, {"x": X})
    assert furthest(both_ways(first, X, 0.0), both_ways(second, X, 0.0)) > 1e-3


def test_autocast_inside_a_forward_is_the_model_s_and_stays() -> None:
    """What surrounds the model does not matter (`test_torch_undisturbed.py`); what is in it is its own."""

    def halved(m: Any, x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(m, x)

    model = nets.seeded(lambda: Said.of(halved, **linear())).eval()
    adapter = nets.opened(model)
    layers = adapter.layers({"x": X})
    assert [(x.source_dtype, x.dtype) for x in layers] == [("bfloat16", np.float32)] * 2
    values = adapter.run({"x": X}, layers, samples=np.arange(5))
    with torch.no_grad():
        want = model(torch.from_numpy(X)).float().numpy()
    np.testing.assert_array_equal(values["L001"], want)


def test_a_forward_that_takes_a_gradient_is_told_so() -> None:
    def force(m: Any, x: Any) -> Any:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return m.b(torch.autograd.grad(torch.tanh(m.a(x)).sum(), x)[0])

    text = r"its forward takes a gradient, and repstat runs models without gradients.*torch\.func\.grad"
    with pytest.raises(InputRefusedError, match=text):
        nets.opened(Said.of(force, **linear())).layers({"x": X})
    taken = lambda m, x: m.b(torch.func.vmap(torch.func.grad(lambda r: torch.tanh(m.a(r)).sum()))(x))  # noqa: E731
    assert nets.opened(Said.of(taken, **linear())).layers({"x": X})[-1].name == "b"


# ------------------------------------------------------------ modules


@pytest.mark.parametrize("make", [nets.TwoNames, nets.TiedWeights])
def test_a_module_under_two_names_is_a_layer_at_each_call(make: Any) -> None:
    model = nets.seeded(make)
    adapter = nets.opened(model)
    layers = adapter.layers()
    assert [layer.name for layer in layers] == ["a#0", "a#1", "out"]
    values = adapter.run({"x": X}, layers, samples=np.arange(5))
    with torch.no_grad():
        first = torch.tanh(model.a(torch.from_numpy(X)))
        second = torch.tanh(model.b(first))
    np.testing.assert_array_equal(values["L000"], first.numpy())
    np.testing.assert_array_equal(values["L001"], second.numpy())


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return x + torch.relu(self.fc(x))


class Listed(nn.Module):
    """Modules in a list and a dictionary, called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ModuleList([Skip() for _ in range(2)])
        self.heads = nn.ModuleDict({"policy": nn.Linear(4, 2)})

    def forward(self, x: Any) -> Any:
        for block in self.trunk:
            x = block(x)
        return self.heads["policy"](x)


@pytest.mark.parametrize("exported", [False, True])
def test_modules_in_lists_have_their_paths_live_and_exported(exported: bool) -> None:
    """A program of torch.export knows the modules of joins by ``nn_module_stack`` only."""
    model = nets.seeded(Listed).eval()
    source = torch.export.export(model, (torch.zeros(3, 4),)) if exported else model
    names = [layer.name for layer in nets.opened(source).layers()]
    assert names == ["trunk.0.fc", "trunk.0", "trunk.1.fc", "trunk.1", "heads.policy"]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        "parametrizations.weight_norm", "parametrizations.spectral_norm", "parametrizations.orthogonal",
        "weight_norm", "spectral_norm", "prune",
    ],
)  # fmt: skip
def test_weights_that_are_computed_are_those_of_their_layer(wrap: str) -> None:
    """Of each call, with the name they had; spectral norms are not moved on by looking."""
    import torch.nn.utils.parametrizations
    from torch.nn.utils import prune

    def make() -> Any:
        layer = nn.Linear(4, 4)
        if wrap == "prune":
            prune.random_unstructured(layer, "weight", 0.5)
        else:
            place = nn.utils.parametrizations if "." in wrap else nn.utils
            getattr(place, wrap.rpartition(".")[2])(layer)
        return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2))

    model = nets.seeded(make).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = nets.opened(model)
    layers = adapter.layers()
    assert [(layer.name, layer.signature) for layer in layers] == [("0", "linear>tanh"), ("2", "linear")]
    values = adapter.run({"input": X}, layers, samples=np.arange(5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        np.testing.assert_array_equal(values["L001"], model.eval()(torch.from_numpy(X)).numpy())


@pytest.mark.parametrize("how", ["transposed", "strided", "expanded"])
def test_weights_that_are_not_contiguous_give_the_same_numbers(how: str) -> None:
    model = nets.seeded(nets.Mlp)
    weight = torch.randn(6, 1, generator=torch.Generator().manual_seed(1)).repeat(1, 4)
    model.fc1.weight.data = weight
    want, sha = nets.values_of(model), nets.opened(model).provenance()["weights_sha256"]
    model.fc1.weight.data = {
        "transposed": lambda: weight.t().contiguous().t(),
        "strided": lambda: weight.repeat_interleave(2, dim=1)[:, ::2],
        "expanded": lambda: weight[:, :1].expand(6, 4),
    }[how]()
    assert not model.fc1.weight.is_contiguous()
    assert all(np.abs(value - want[key]).max() < 1e-6 for key, value in nets.values_of(model).items())
    assert nets.opened(model).provenance()["weights_sha256"] == sha


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_layer_that_has_seen_a_batch_is_a_layer() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.Linear(3, 2))
    model(torch.zeros(2, 4))
    assert [layer.name for layer in nets.opened(model).layers()] == ["0", "2"]


def test_a_buffer_will_do_as_weights() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", torch.from_numpy(normal(4, 3)))
            self.register_buffer("second", torch.from_numpy(normal(3, 2)), persistent=False)

        def forward(self, x: Any) -> Any:
            return torch.tanh(x @ self.first) @ self.second

    adapter = nets.opened(Fixed())
    layers = adapter.layers({"x": X})
    assert [(x.name, x.signature) for x in layers] == [("first", "linear>tanh"), ("second", "linear")]
    values = adapter.run({"x": X}, layers, samples=np.arange(5))
    assert np.abs(values["L000"] - np.tanh(X @ normal(4, 3))).max() < 1e-6


def test_a_nan_among_the_weights_is_in_the_activations_and_nowhere_else() -> None:
    model = nets.seeded(nets.Mlp)
    want = nets.values_of(model)
    model.fc2.weight.data[1, 0] = float("nan")
    values = nets.values_of(model)
    np.testing.assert_array_equal(values["L000"], want["L000"])
    assert np.isnan(values["L001"]).any(0).tolist() == [False, True, False, False, False]
    assert np.isnan(values["L002"]).all()
    model.fc2.weight.data.zero_()
    assert not any(np.isnan(value).any() for value in nets.values_of(model).values())


@pytest.mark.parametrize("model", [nn.Identity(), nn.Tanh()], ids=["identity", "activation"])
def test_a_model_without_weights_has_no_layers(model: Any) -> None:
    assert nets.opened(model).layers() == ()


@pytest.mark.parametrize("fast", [True, False])
def test_the_fast_path_of_encoders_hides_no_layer_and_stays_as_it_was(fast: bool) -> None:
    model = nets.seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    x, calls = normal(5, 3, 8), []
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        adapter = nets.opened(model)
        layers = adapter.layers({"src": x})
        values = adapter.run({"src": x}, layers, samples=np.arange(5))
        assert torch.backends.mha.get_fastpath_enabled() is fast
        with torch.inference_mode(), torch.profiler.profile() as seen:
            want = model(torch.from_numpy(x)).numpy()
        calls = [event.name for event in seen.events()]
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert ("aten::_transformer_encoder_layer_fwd" in calls) is fast  # the model takes it by itself
    names = [layer.name for layer in layers if layer.key.startswith("L")]
    assert names == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]
    assert np.abs(values["R001"] - want).max() < 1e-5


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_of_a_tuple_the_sequence_is_the_layer(make: Any, batch_first: bool) -> None:
    """A recurrent module returns (y, (h, c)), a layer of attention (y, None)."""
    model, x = nets.seeded(lambda: make(3, 4, batch_first=batch_first)), normal(5, 8, 3)
    adapter = nets.opened(model)
    (layer,) = adapter.layers({"input": x})
    values = adapter.run({"input": x}, [layer], samples=np.arange(5))
    given = torch.from_numpy(x)
    with torch.no_grad():
        want = model(given)[0] if batch_first else model(given.transpose(0, 1))[0].transpose(0, 1)
    assert np.abs(values["L000"] - want.numpy()).max() < 1e-6


def test_where_the_model_goes_on_with_the_last_state_that_is_the_layer() -> None:
    model = nets.seeded(lambda: Said.of(lambda m, x: m.b(m.g(x)[1][0]), g=nn.GRU(3, 4), b=nn.Linear(4, 2)))
    adapter, x = nets.opened(model), normal(5, 8, 3)
    values = adapter.run({"x": x}, adapter.layers({"x": x}), samples=np.arange(5))
    with torch.no_grad():
        want = model.g(torch.from_numpy(np.moveaxis(x, 0, 1).copy()))[1][0].numpy()
    assert np.abs(values["L000"].reshape(5, 4) - want).max() < 1e-6


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_gives_its_projections(batch_first: bool) -> None:
    attention = nets.seeded(lambda: nn.MultiheadAttention(4, 2, batch_first=batch_first)).eval()
    adapter, x = nets.opened(Said.of(lambda m, x: m.a(x, x, x), a=attention)), normal(5, 8, 4)
    layers = adapter.layers({"x": x})
    assert [layer.name for layer in layers] == ["a.in_proj", "a.out_proj"]
    values = adapter.run({"x": x}, layers, samples=np.arange(5))
    given = torch.from_numpy(x if batch_first else np.moveaxis(x, 0, 1).copy())
    with torch.no_grad():
        want = attention(given, given, given)[0].numpy()
    assert np.abs(values["L001"] - (want if batch_first else np.moveaxis(want, 0, 1))).max() < 1e-6
