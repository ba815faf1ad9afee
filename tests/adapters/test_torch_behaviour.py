"""PyTorch models that are refused, inputs that are guessed, and noise."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Noise
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.pytorch import ActivationNoise
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import Said, both_ways, furthest, identities, linear, normal  # noqa: E402

F, nn = torch.nn.functional, torch.nn


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "dropout that stays": (
        lambda m, x: m.b(F.dropout(m.a(x), 0.5)), linear(),
        r"random in evaluation mode.*drawn by dropout in the model.*self\.training",
    ),
    "noise of its own": (
        lambda m, x: m.b(m.a(x) + torch.randn(4)), linear(), r"random in evaluation mode.*drawn by randn",
    ),
    "batch statistics": (
        lambda m, x: m.b(m.n(m.a(x))), linear(n=nn.BatchNorm1d(4, track_running_stats=False)),
        r"not a function of single samples.*batch normalisation in n takes the statistics of the batch",
    ),
    "functional batch statistics": (
        lambda m, x: m.b(F.batch_norm(m.a(x), None, None, training=True)), linear(),
        r"batch normalisation in the model takes the statistics",
    ),
    "an error": (
        lambda m, x: m.b(x.reshape(-1, 3)), linear(), r"fails on a small batch.*mat1 and mat2 shapes",
    ),
    "lazy": (lambda m, x: m.b(x), {"b": nn.LazyLinear(3)}, r"no weights yet.*b\.weight has no shape yet"),
    "buffer on meta": (
        lambda m, x: m.b(x), {"b": nn.Linear(4, 3), "n": nn.BatchNorm1d(3, affine=False, device="meta")},
        r"no weights yet: n\.running_mean is on the meta device and holds no numbers\. Load the w",
    ),
    "meta": (lambda m, x: m.b(x), {"b": nn.Linear(4, 3, device="meta")}, r"on the meta device"),
}  # fmt: skip


WRAPPED: dict[str, Any] = {
    "data parallel": lambda m: nn.DataParallel(m),
    "data parallel, compiled": lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
    "compiled, and run before": lambda m: torch.compile(m, backend="eager"),
    "compiled in place": lambda m: m.compile(backend="eager") or m,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_model_in_a_wrapper_is_the_model(name: str) -> None:
    """Hooks that are made after the first call of a compiled model would never fire."""
    plain, feeds = nets.seeded(nets.Mlp), {"x": normal(5, 4)}
    wrapped = WRAPPED[name](nets.seeded(nets.Mlp))
    wrapped(torch.from_numpy(feeds["x"]))
    found = []
    for model in (plain, wrapped):
        adapter = nets.opened(model)
        found.append(adapter.run(feeds, adapter.layers(feeds), samples=np.arange(5)))
    assert list(found[1]) == ["L000", "L001", "L002"]
    for key, value in found[0].items():
        np.testing.assert_array_equal(found[1][key], value)


@pytest.mark.parametrize(
    ("middle", "text"),
    [
        (lambda: nn.Dropout(0.5), "random in evaluation mode.*dropout"),
        (lambda: nn.BatchNorm1d(4), "not a function of single samples.*batch"),
    ],
)
def test_a_program_exported_in_training_mode_is_refused(middle: Any, text: str) -> None:
    """It cannot be put into evaluation mode any more."""
    model = nn.Sequential(nn.Linear(4, 4), middle(), nn.Tanh(), nn.Linear(4, 2)).train()
    with pytest.raises(InputRefusedError, match=text):
        nets.opened(torch.export.export(model, (torch.zeros(3, 4),))).layers({"input": normal(5, 4)})


def test_complex_activations_are_refused() -> None:
    modules = {"a": nn.Linear(4, 4, dtype=torch.complex64), "b": nn.Linear(4, 3)}
    model = Said.of(lambda m, x: m.b(m.a(x.to(torch.complex64)).abs()), **modules)
    with pytest.raises(InputRefusedError, match=r"complex activations.*L000 \(a\).*complex64"):
        nets.opened(model).layers({"x": normal(5, 4)})


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_models_without_activations_of_single_samples_are_refused(name: str) -> None:
    forward, modules, text = REFUSED[name]
    with pytest.raises(InputRefusedError, match=text):
        nets.opened(Said.of(forward, **modules)).layers()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_packed_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    text = r"weights of a layer cannot be seen.*linear_dynamic.* in 0 .*packed object.*export it to ONNX"
    with pytest.raises(InputRefusedError, match=text):
        nets.opened(torch.ao.quantization.quantize_dynamic(model, {nn.Linear})).layers(
            {"input": normal(5, 4)}
        )


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process only."""
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_replica_is_the_model_and_a_shard_is_not() -> None:
    model = nets.seeded(nets.Mlp)
    replica = nn.parallel.DistributedDataParallel(nets.seeded(nets.Mlp))
    want, found = nets.values_of(model), nets.values_of(replica)
    assert all(np.array_equal(found[key], want[key]) for key in want)
    from torch.distributed.fsdp import fully_shard

    with pytest.raises(
        InputRefusedError, match=r"fc1\.weight is a shard of a distributed tensor. Gather a sta"
    ):
        nets.opened(fully_shard(model))


def test_statistics_are_not_touched_before_the_refusal() -> None:
    norm = nn.BatchNorm1d(4)
    model = Said.of(
        lambda m, x: m.b(F.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, training=True)),
        **linear(n=norm),
    )
    with pytest.raises(InputRefusedError, match="takes the statistics of the batch"):
        nets.opened(model).layers()
    assert torch.equal(norm.running_mean, torch.zeros(4))


def test_a_model_that_branches_on_its_data_is_refused_where_it_strays() -> None:
    model = Said.of(lambda m, x: m.b(m.a(x).relu() if x.sum() > 0 else m.a(x).tanh()), **linear())
    adapter = nets.opened(model)
    up, down = np.ones((4, 4), np.float32), -np.ones((4, 4), np.float32)
    layers = adapter.layers({"x": up})
    adapter.run({"x": up}, layers, samples=np.arange(4))
    text = r"another path for these samples.*its layers differ, from L000 \(linear>tanh\) on"
    with pytest.raises(InputRefusedError, match=text):
        adapter.run({"x": down}, layers, samples=np.arange(4))


def test_a_detour_that_changes_no_layer_is_followed() -> None:
    """As where a mask is applied only if some sample needs it."""

    def detour(m: Any, x: Any) -> Any:
        here = m.a(x.masked_fill(x < 0, 0.0).clone()) if (x < 0).any() else m.a(x)
        return m.b(here.relu())

    model = nets.seeded(lambda: Said.of(detour, **linear()))
    straight = nets.seeded(lambda: Said.of(lambda m, x: m.b(m.a(x.clamp(min=0)).relu()), **linear()))
    adapter, other = nets.opened(model), nets.opened(straight)
    x = np.concatenate([np.abs(normal(4, 4)), normal(4, 4)])
    layers = adapter.layers({"x": x[:4]})
    noise = Noise({"L000": 0.3}, seed=1)
    for part in (slice(0, 4), slice(4, 8), slice(2, 6), slice(0, 4)):
        rows = np.arange(8)[part]
        got = adapter.run({"x": x[part]}, layers, samples=rows, noise=noise)
        want = other.run({"x": x[part]}, other.layers({"x": x[:4]}), samples=rows, noise=noise)
        assert furthest(got, want) < 1e-6


def test_a_model_that_mixes_its_samples_is_run_one_by_one() -> None:
    model = Said.of(lambda m, x: m.b(torch.tanh(m.a(x - x.mean(0)))), **linear())
    adapter = nets.opened(model)
    adapter.layers({"x": normal(5, 4)})
    assert adapter.provenance()["run_batch"] == 1
    assert "depend on the other samples" in adapter.provenance()["run_batch_note"]


def test_a_model_that_swallows_exceptions_is_no_trap() -> None:
    def forward(m: Any, x: Any) -> Any:
        try:
            return m.b(torch.tanh(m.a(x)))
        except Exception:
            return x

    adapter = nets.opened(Said.of(forward, **linear()))
    layers = adapter.layers({"x": normal(5, 4)})
    noise = Noise({"L000": 0.5}, seed=0)
    values = adapter.run({"x": normal(5, 4)}, layers[:1], samples=np.arange(5), noise=noise)
    assert list(values) == ["L000"]


def test_numbers_that_leave_pytorch_and_come_back_still_depend_on_the_samples() -> None:
    def forward(m: Any, x: Any) -> Any:
        return m.b(torch.from_numpy(np.tanh(m.a(x).numpy())))

    adapter = nets.opened(Said.of(forward, **linear()))
    found = adapter.layers({"x": normal(5, 4)})
    assert [(layer.name, layer.kind) for layer in found] == [
        ("b", "output")
    ]  # what is behind NumPy is not seen
    (skipped,) = adapter.provenance()["skipped"]
    assert "outside PyTorch is not seen" in skipped["why"]


def test_packed_sequences_are_no_layer() -> None:
    """Two batches of as many steps in all may share them out otherwise between the samples."""

    def forward(m: Any, x: Any) -> Any:
        lengths = torch.full((len(x),), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        padded, _ = nn.utils.rnn.pad_packed_sequence(m.g(packed)[0], batch_first=True)
        return m.f(padded[:, -1])

    adapter = nets.opened(Said.of(forward, g=nn.LSTM(3, 4, batch_first=True), f=nn.Linear(4, 2)))
    assert [layer.name for layer in adapter.layers({"x": normal(5, 8, 3)})] == ["f"]
    assert "packed sequences are not extracted" in adapter.provenance()["skipped"][0]["why"]


def test_threads_are_those_asked_for_and_given_back() -> None:
    seen = []

    def forward(m: Any, x: Any) -> Any:
        seen.append(torch.get_num_threads())
        return m.b(m.a(x))

    before = torch.get_num_threads()
    adapter = nets.opened(Said.of(forward, **linear()))
    adapter.layers({"x": normal(5, 4)})
    assert (set(seen), torch.get_num_threads(), adapter.provenance()["threads"]) == ({1}, before, 1)


# ------------------------------------------------------------ inputs


def test_inputs_have_the_names_that_forward_cannot_do_without() -> None:
    specs = nets.opened(nets.seeded(nets.TwoInputs)).inputs()
    assert [(s.name, s.shape, s.declared) for s in specs] == [
        ("a", (None, 4), False),
        ("b", (None, 3), False),
    ]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        *((name, name) for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "int4")),
        ("U3", "<U3"), ("S3", r"\|S3"), ("O", "object"), ("M8[s]", r"datetime64\[s\]"),
    ],
)  # fmt: skip
def test_samples_that_are_no_numbers_are_refused(dtype: str, name: str) -> None:
    kind = np.dtype(getattr(require("ml_dtypes"), dtype, dtype))
    adapter = nets.opened(nets.seeded(nets.Mlp))
    layers, x = adapter.layers(), np.zeros((5, 4)).astype(kind)
    for act in (
        lambda: adapter.layers({"x": x}),
        lambda: adapter.run({"x": x}, layers, samples=np.arange(5)),
    ):
        with pytest.raises(InputRefusedError, match=f"wrong dtype: found {name}, expected float32"):
            act()


@pytest.mark.parametrize(
    ("make", "dtype", "shape"),
    [
        (nets.Mlp, np.float32, (None, 4)),
        (lambda: nets.Mlp().double(), np.float64, (None, 4)),
        (nets.Ids, np.int64, (None, None)),
        (nets.Cnn, np.float32, (None, 1, 6, 6)),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3)),
            np.float32, (None, 3, 28, 28),
        ),
        (nets.Lstm, np.float32, (None, None, 3)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16), np.float32, (None, None, 8)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), np.float32, (None, 12)),
        (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)), np.float32, (None, 5)),
        (lambda: nn.LSTMCell(3, 4), np.float32, (None, 3)),
        (lambda: Said.of(lambda m, x: m.b(m.g(x[:, 0])), g=nn.GRUCell(3, 4), b=nn.Linear(4, 2)),
         np.float32, (None, None, 3)),
    ],
)  # fmt: skip
def test_types_and_shapes_are_guessed_from_the_weights(make: Any, dtype: Any, shape: Any) -> None:
    adapter = nets.opened(make())
    (spec,) = adapter.inputs()
    assert (spec.dtype, spec.shape, spec.batch_axis, spec.declared) == (dtype, shape, 0, False)
    assert adapter.layers()


def test_samples_come_first_though_the_model_wants_time_first() -> None:
    model = nets.seeded(nets.Lstm)
    adapter = nets.opened(model)
    x = normal(5, 8, 3)
    values = adapter.run({"x": x}, adapter.layers({"x": x}), samples=np.arange(5))
    assert "second axis" in adapter.provenance()["run_batch_note"]
    with torch.inference_mode():
        want = model(torch.from_numpy(x).transpose(0, 1)).numpy()
        wrong = model(torch.from_numpy(x)).numpy()
    assert np.abs(values["L001"] - want).max() < 1e-6
    assert wrong.shape != want.shape


def test_a_model_that_turns_its_batch_itself_is_left_alone() -> None:
    """Its recurrent layer takes time first, but the model samples first."""
    model = Said.of(lambda m, x: m.b(m.l(x.transpose(0, 1))[0][-1]), l=nn.LSTM(3, 4), b=nn.Linear(4, 2))
    adapter = nets.opened(model)
    x = normal(5, 8, 3)
    values = adapter.run({"x": x}, adapter.layers({"x": x}), samples=np.arange(5))
    with torch.inference_mode():
        want = model(torch.from_numpy(x)).numpy()
    assert np.abs(values["L001"] - want).max() < 1e-6


# ------------------------------------------------------------ noise


def test_the_training_layer_is_off_in_extraction_and_no_part_of_a_layer() -> None:
    def make(*noise: Any) -> Any:
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *noise, nn.Linear(5, 2))

    noisy, plain = nets.seeded(lambda: make(ActivationNoise(0.7))).train(), nets.seeded(make)
    a, b = nets.opened(noisy), nets.opened(plain)
    x = normal(5, 4)
    assert [i[:1] + i[2:] for i in identities(a)] == [i[:1] + i[2:] for i in identities(b)]
    for std in (0.0, 0.3):
        assert all(np.array_equal(v, both_ways(b, x, std)[k]) for k, v in both_ways(a, x, std).items())
    with torch.no_grad():
        assert not torch.equal(noisy(torch.from_numpy(x)), noisy(torch.from_numpy(x)))
        noisy.eval()
        assert torch.equal(noisy(torch.from_numpy(x)), noisy(torch.from_numpy(x)))


def test_the_training_layer_draws_what_it_says() -> None:
    """The standard deviation of n normal numbers has a relative error of 1/sqrt(2 n)."""
    n, std = 200_000, 0.3
    torch.manual_seed(5)
    drawn = ActivationNoise(std).train()(torch.ones(n)) - 1
    assert abs(float(drawn.std()) / std - 1) < 4 / (2 * n) ** 0.5
    assert abs(float(drawn.mean())) < 4 * std / n**0.5
    assert "noise_std=0.3" in repr(ActivationNoise(std))
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not a number from 0"):
            ActivationNoise(bad)


def test_noise_is_felt_through_memory_that_is_shared() -> None:
    """In-place ops and views behind a noisy layer, against the same network without any of them."""

    def in_place(m: Any, x: Any) -> Any:
        here = m.a(x)
        F.relu_(here)
        return m.b(here.view(-1).mul_(0.5).view(here.shape))

    def plain(m: Any, x: Any) -> Any:
        return m.b(m.a(x).relu() * 0.5)

    results = [both_ways(nets.opened(nets.seeded(lambda f=f: Said.of(f, **linear()))), normal(5, 4), 0.4)
               for f in (in_place, plain)]  # fmt: skip
    assert furthest(*results) < 1e-6


def test_noise_of_an_unknown_layer() -> None:
    adapter = nets.opened(nets.seeded(nets.Mlp))
    with pytest.raises(UsageError, match="that the model does not have"):
        adapter.run(
            {"x": normal(5, 4)}, adapter.layers(), samples=np.arange(5), noise=Noise({"L009": 0.1}, 0)
        )
