"""Files of PyTorch that are taken: one network in every form gives the same activations."""

import argparse
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.errors import AdapterUnavailableError, InputRefusedError, RepstatError
from repstat_adapters import pytorch
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import FACTORY, as_safetensors, exported, normal, saved, truncated, values_of  # noqa: E402

KINDS = {"h": "hidden", "o": "output"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def model() -> Any:
    return nets.seeded(nets.Mlp)


WRITERS: dict[str, Callable[[dict[str, Any], Path], Path]] = {
    "pt": lambda s, p: saved(s, p / "m.pt"),
    "legacy": lambda s, p: saved(s, p / "m.pth", _use_new_zipfile_serialization=False),
    "bin": lambda s, p: saved(s, p / "pytorch_model.bin"),
    "safetensors": lambda s, p: as_safetensors(s, p / "m.safetensors"),
    "lightning": lambda s, p: saved({"state_dict": s, "epoch": 3}, p / "m.ckpt"),
    "nested": lambda s, p: saved(
        {"model_state_dict": s, "optimizer": {"lr": 0.1}, "step": 2**40}, p / "m.pt"
    ),
    "model": lambda s, p: saved({"model": s}, p / "m.pt"),
    "twice": lambda s, p: saved({"model": {"state_dict": s}}, p / "m.pt"),
    "parallel": lambda s, p: saved({f"module.{k}": v for k, v in s.items()}, p / "m.pt"),
    "compiled": lambda s, p: saved({f"_orig_mod.{k}": v for k, v in s.items()}, p / "m.pt"),
    "lightning module": lambda s, p: saved({f"model.{k}": v for k, v in s.items()}, p / "m.pt"),
    **{
        f"{key} of a compiled one": lambda s, p, key=key: saved(
            {key: {f"_orig_mod.{k}": v for k, v in s.items()}, "epoch": 3}, p / "m.pt"
        )
        for key in ("state_dict", "model_state_dict", "model")
    },
    "both": lambda s, p: saved({f"module._orig_mod.{k}": v for k, v in s.items()}, p / "m.pt"),
    "scalars": lambda s, p: saved(
        {"state_dict": s, "loss": np.float64(0.5), "args": argparse.Namespace(lr=0.1), "n": np.int32(3)},
        p / "m.pt",
    ),
    "legacy-scalars": lambda s, p: saved(
        {"state_dict": s, "loss": np.float32(0.5)}, p / "m.pt", _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_are_found_and_give_the_live_model_s_activations(
    name: str, model: Any, tmp_path: Path
) -> None:
    path = WRITERS[name](model.state_dict(), tmp_path)
    assert pytorch.accepts(path)
    live = nets.opened(model)
    adapter = nets.opened(path, model_factory=FACTORY)
    assert adapter.layers() == live.layers()
    facts, alive = adapter.provenance(), live.provenance()
    assert facts["weights_sha256"] == alive["weights_sha256"]
    assert facts["files"][0]["name"] == path.name
    assert (facts["trust_model"], facts["model_factory"]) == (False, FACTORY)
    want = values_of(model)
    assert all(np.array_equal(v, want[k]) for k, v in values_of(path, model_factory=nets.Mlp).items())


class TestStateDict(AdapterContract):
    @pytest.fixture
    def case(self, model: Any, tmp_path: Path) -> Case:
        path = saved(model.state_dict(), tmp_path / "step-3.pt")
        kinds = [KINDS[letter] for letter in "hho"]
        opened = lambda: nets.opened(path, model_factory=FACTORY)  # noqa: E731
        return Case(opened, {"x": normal(7, 4)}, ["L000", "L001", "L002"], kinds, [path])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("kind", ["exported", "decomposed", "traced", "scripted", "frozen", "pickled"])
def test_whole_models_give_the_live_model_s_activations(kind: str, model: Any, tmp_path: Path) -> None:
    model.eval()
    path = tmp_path / "m.pt"
    if kind in {"exported", "decomposed"}:
        exported(model, path := tmp_path / "m.pt2", decomposed=kind == "decomposed")
    elif kind == "pickled":
        saved(model, path)
    else:
        script = torch.jit.script(model) if kind == "scripted" else torch.jit.trace(model, torch.zeros(2, 4))
        torch.jit.save(torch.jit.freeze(script) if kind == "frozen" else script, path)
    assert pytorch.accepts(path)
    trust = kind == "pickled"
    live = nets.opened(model).layers()
    adapter = nets.opened(path, trust_model=trust)
    found = adapter.layers({"x": normal(3, 4)})
    assert [(x.key, x.kind, x.signature) for x in found] == [(x.key, x.kind, x.signature) for x in live]
    if kind != "frozen":  # which has forgotten its parameters' names
        assert [x.name for x in found] == [x.name for x in live]
    assert adapter.provenance()["trust_model"] is trust
    want = values_of(model)
    got = adapter.run({"x": normal(5, 4)}, found, samples=np.arange(5))
    assert all(np.abs(got[k] - want[k]).max() < 1e-6 for k in want)


@pytest.mark.parametrize("make", [nets.TwoNames, nets.TiedWeights])
@pytest.mark.parametrize("kind", ["safetensors", "first", "second", "both"])
def test_a_tied_tensor_may_be_saved_under_one_of_its_names(make: Any, kind: str, tmp_path: Path) -> None:
    """`safetensors.torch.save_model` keeps it once."""
    model, path = nets.seeded(make), tmp_path / "m.pt"
    state = dict(model.state_dict())
    if kind == "safetensors":
        save_model = require("safetensors.torch").save_model
        save_model(model, str(path := tmp_path / "m.safetensors"))
    else:
        dropped = {"first": "b.weight", "second": "a.weight", "both": ""}[kind]
        torch.save({name: value for name, value in state.items() if name != dropped}, path)
    adapter = nets.opened(path, model_factory=make)
    assert adapter.provenance()["weights_sha256"] == nets.opened(model).provenance()["weights_sha256"]
    other = nets.seeded(make, seed=8)
    torch.save({n: v for n, v in other.state_dict().items() if n != "b.weight"}, tmp_path / "next.pt")
    assert adapter.reload(tmp_path / "next.pt")  # type: ignore[attr-defined]
    assert adapter.provenance()["weights_sha256"] == nets.opened(other).provenance()["weights_sha256"]


def test_two_values_for_one_tied_tensor_are_refused(tmp_path: Path) -> None:
    state = dict(nets.seeded(nets.TiedWeights).state_dict())
    path = nets.saved({**state, "b.weight": state["b.weight"] + 1}, tmp_path / "m.pt")
    text = r"without loss.*a\.weight and b\.weight are one tensor in the model, and two in the file"
    with pytest.raises(InputRefusedError, match=text):
        nets.opened(path, model_factory=nets.TiedWeights)
    nan = {**state, "a.weight": state["a.weight"] * np.nan, "b.weight": state["b.weight"] * np.nan}
    assert nets.opened(nets.saved(nan, tmp_path / "nan.pt"), model_factory=nets.TiedWeights).layers()


def test_weights_are_taken_over_by_the_prepared_model(model: Any, tmp_path: Path) -> None:
    other = nets.seeded(nets.Mlp, seed=4)
    first = saved(model.state_dict(), tmp_path / "1.pt")
    second = saved({"model_state_dict": other.state_dict()}, tmp_path / "2.pt")
    wide = saved({k: torch.zeros(9, 9) for k in model.state_dict()}, tmp_path / "3.pt")
    adapter = nets.opened(first, model_factory=FACTORY)
    layers = adapter.layers()
    before = adapter.provenance()
    assert not adapter.reload(wide)  # type: ignore[attr-defined]
    assert adapter.provenance() | {"run_batch": None} == before | {"run_batch": None}
    assert adapter.reload(second)  # type: ignore[attr-defined]
    facts = adapter.provenance()
    assert (facts["files"][0]["name"], facts["weights_sha256"]) == (
        "2.pt", nets.opened(other).provenance()["weights_sha256"],
    )  # fmt: skip
    got = adapter.run({"x": normal(5, 4)}, layers, samples=np.arange(5))
    want = values_of(other)
    assert all(np.array_equal(got[k], want[k]) for k in want)
    with pytest.raises(InputRefusedError, match="damaged"):
        adapter.reload(truncated(second))  # type: ignore[attr-defined]


def quietly(make: Callable[[], Any]) -> Any:
    """TorchScript warns of itself, which is its maker's affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make()


@pytest.mark.parametrize("how", ["scripted", "traced", "inside"])
@pytest.mark.parametrize("file", [False, True])
def test_torchscript_is_read_without_a_word_of_deprecation(how: str, file: bool, tmp_path: Path) -> None:
    """Warnings are errors in these tests, and repstat's own use of TorchScript must not raise any."""
    model = nets.seeded(nets.Mlp).eval()
    want = nets.values_of(model)
    script = quietly(
        lambda: torch.jit.trace(model, torch.zeros(2, 4)) if how == "traced" else torch.jit.script(model)
    )
    if file:
        quietly(lambda: torch.jit.save(script, tmp_path / "m.pt"))
    source: Any = tmp_path / "m.pt" if file else script
    if how == "inside":
        inner = nets.opened(source)._source.model if file else script  # type: ignore[attr-defined]
        source = nets.Said.of(lambda m, x: m.inner(x), inner=inner)
    adapter = nets.opened(source)
    layers = adapter.layers({"x": normal(5, 4)})
    prefix = "inner." if how == "inside" else ""
    assert [layer.name for layer in layers] == [f"{prefix}{name}" for name in ("fc1", "fc2", "out")]
    values = adapter.run({"x": normal(5, 4)}, layers, samples=np.arange(5))
    assert all(np.array_equal(values[key], want[key]) for key in want)


@pytest.mark.parametrize("training", [True, False])
def test_a_live_script_keeps_its_mode(training: bool) -> None:
    script = quietly(lambda: torch.jit.script(nets.seeded(nets.Cnn).train(training)))
    assert nets.opened(script).layers({"x": normal(5, 1, 6, 6)})
    assert {bool(module.training) for module in script.modules()} == {training}


@pytest.mark.parametrize("n", [1, 4, 5, 9])
def test_a_program_of_four_samples_takes_any_number(n: int, tmp_path: Path) -> None:
    """torch.export without dynamic shapes guards the batch: ``x.size()[0] == 4``."""
    model, path = nets.seeded(nets.Mlp).eval(), tmp_path / "m.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(4, 4),)), path)
    adapter, x = nets.opened(path), normal(n, 4)
    layers = adapter.layers({"x": x})
    assert (adapter.provenance()["run_batch"], "fixed at 4" in adapter.provenance()["run_batch_note"]) == (
        4,
        True,
    )
    values = adapter.run({"x": x}, layers, samples=np.arange(n))
    with torch.no_grad():
        want = model(torch.from_numpy(x)).numpy()
    assert np.abs(values["L002"] - want).max() < 1e-6


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_a_program_that_wants_time_first_has_its_samples_on_the_free_axis() -> None:
    model, x = nets.seeded(nets.Lstm).eval(), normal(5, 8, 3)
    free = ({1: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (torch.zeros(8, 4, 3),), dynamic_shapes=free)
    adapter = nets.opened(program)
    (spec,) = adapter.inputs()
    assert (spec.batch_axis, spec.shape) == (1, (8, None, 3))
    feeds = {"x": np.moveaxis(x, 0, 1)}
    values = adapter.run(feeds, adapter.layers(feeds), samples=np.arange(5))
    with torch.no_grad():
        want = model(torch.from_numpy(x).transpose(0, 1)).numpy()
    assert np.abs(values["L001"] - want).max() < 1e-6


def test_a_file_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)).train()
    torch.export.save(torch.export.export(model, (torch.zeros(3, 4),)), tmp_path / "m.pt2")
    with pytest.raises(InputRefusedError, match=r"m\.pt2: batch normalisation in 1 takes the statistics"):
        nets.opened(tmp_path / "m.pt2").layers({"input": normal(5, 4)})


def test_a_program_that_takes_a_number_is_refused() -> None:
    class Scaled(nets.Mlp):
        def forward(self, x: Any, n: Any) -> Any:
            return super().forward(x) * n

    program = torch.export.export(Scaled(), (torch.zeros(3, 4), 2))
    with pytest.raises(InputRefusedError, match=r"not a numeric tensor: found the constant 2.*tensors only"):
        nets.opened(program)


@pytest.mark.parametrize("other", ["ema", "state_dict_ema", "model"])
def test_of_several_sets_of_weights_the_one_that_is_taken_is_said(
    other: str, model: Any, tmp_path: Path
) -> None:
    """Moving averages have the names of the weights, and an optimizer's state has not."""
    ema = {f"module.{name}": value * 0.5 for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 4)).sum().backward()
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    path = saved({**content, other: ema}, tmp_path / "1.pt")
    adapter = nets.opened(path, model_factory=FACTORY)
    note = f"the weights are those in ['state_dict'], and not those in [{other!r}]"
    assert adapter.provenance()["run_batch_note"] == note
    want = nets.opened(model).provenance()["weights_sha256"]
    assert adapter.provenance()["weights_sha256"] == want
    assert adapter.reload(saved(content, tmp_path / "2.pt"))  # type: ignore[attr-defined]
    assert adapter.provenance()["run_batch_note"] == ""
    assert adapter.reload(path)  # type: ignore[attr-defined]
    assert adapter.provenance()["run_batch_note"] == note


def test_an_average_is_read_with_a_factory_of_averages(model: Any, tmp_path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel
    path = saved(average(model).state_dict(), tmp_path / "m.pt")
    adapter = nets.opened(path, model_factory=lambda: average(nets.Mlp()))
    (spec,) = adapter.inputs()
    values = adapter.run({spec.name: normal(5, 4)}, adapter.layers(), samples=np.arange(5))
    want = values_of(model)
    assert all(np.array_equal(values[key], want[key]) for key in want)


def test_reading_a_checkpoint_leaves_what_pytorch_trusts_as_it_was(model: Any, tmp_path: Path) -> None:
    """Objects that pass here are refused by `torch.load` before and after, read or refused."""
    args = {"state_dict": model.state_dict(), "args": argparse.Namespace(lr=0.1), "loss": np.float64(0.5)}
    good, bad = saved(args, tmp_path / "good.pt"), saved(model, tmp_path / "bad.pt")
    trusted = set(torch.serialization.get_safe_globals())
    assert nets.opened(good, model_factory=FACTORY).layers()
    with pytest.raises(InputRefusedError, match="would run code"):
        nets.opened(bad)
    assert set(torch.serialization.get_safe_globals()) == trusted
    for path in (good, bad):
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            torch.load(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_model_of_either_format_is_read_on_trust(legacy: bool, model: Any, tmp_path: Path) -> None:
    path = saved(model, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    want = values_of(model)
    assert all(np.array_equal(v, want[k]) for k, v in values_of(path, trust_model=True).items())


def _npz(path: Path) -> None:
    np.savez(path, a=np.zeros(3))


def _keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")


def _hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)


def _onnx(path: Path) -> None:
    path.write_bytes((ROOT / "fixtures/models/cnn.onnx").read_bytes())


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(OrderedDict(a=3)))


@pytest.mark.parametrize("write", [_npz, _keras, _hdf5, _onnx, _pickle], ids=lambda f: f.__name__)
def test_other_people_s_files_are_left_to_them(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    write(path)
    assert not pytorch.accepts(path)


def test_content_counts_whatever_the_suffix(model: Any, tmp_path: Path) -> None:
    for number, write in enumerate([WRITERS["pt"], WRITERS["legacy"], WRITERS["safetensors"]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert pytorch.accepts(write(model.state_dict(), folder).rename(folder / "weights"))
    assert not pytorch.accepts(tmp_path)
    assert not pytorch.accepts(3)
    assert pytorch.accepts(model)


def test_looking_at_a_file_does_not_import_torch(model: Any, tmp_path: Path) -> None:
    path = saved(model.state_dict(), tmp_path / "m.pt")
    code = (
        "import sys; from repstat_adapters import pytorch; "
        f"assert pytorch.accepts({str(path)!r}) and not pytorch.accepts(3); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_extraction_does_not_load_the_compiler(tmp_path: Path) -> None:
    """It takes a second to load, and nothing is compiled."""
    code = f"""
import sys, torch, repstat
layers = torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)
repstat.extract(torch.nn.Sequential(*layers), store={str(tmp_path / "a.h5")!r})
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("no_torch")
def test_a_missing_torch_is_said(tmp_path: Path) -> None:
    from repstat.adapter import AdapterOptions

    with pytest.raises(
        AdapterUnavailableError, match=r"PyTorch is not installed.*pip install 'repstat\[torch\]'"
    ):
        pytorch.open_model(tmp_path / "m.pt", AdapterOptions())
    assert "not installed" in pytorch.describe()


def test_a_missing_safetensors_is_said(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_safetensors(model.state_dict(), tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(RepstatError, match=r"safetensors is not installed.*repstat\[torch\]"):
        nets.opened(path, model_factory=FACTORY)
