"""Files of PyTorch: which are taken, which are refused and with what words, and that none runs code."""

import argparse
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.errors import (
    AdapterUnavailableError,
    DeviceUnavailableError,
    InputRefusedError,
    RepstatError,
    UsageError,
)
from repstat_adapters import pytorch
from tests.adapters.contract import AdapterContract, Case
from tests.adapters.test_torch_contract import KINDS, normal
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch

FACTORY = "tests.adapters.torch_models:Mlp"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def model() -> Any:
    return nets.seeded(nets.Mlp)


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def values(source: Any, **options: Any) -> dict[str, np.ndarray]:
    adapter = nets.opened(source, **options)
    return adapter.run({"x": normal(5, 4)}, adapter.layers(), samples=np.arange(5))


def as_safetensors(state: dict[str, Any], path: Path) -> Path:
    require("safetensors")
    from safetensors.torch import save_file

    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    return path


# ------------------------------------------------------------ what is taken

WRITERS: dict[str, Callable[[dict[str, Any], Path], Path]] = {
    "pt": lambda s, p: saved(s, p / "m.pt"),
    "legacy": lambda s, p: saved(s, p / "m.pth", _use_new_zipfile_serialization=False),
    "bin": lambda s, p: saved(s, p / "pytorch_model.bin"),
    "safetensors": lambda s, p: as_safetensors(s, p / "m.safetensors"),
    "lightning": lambda s, p: saved({"state_dict": s, "epoch": 3}, p / "m.ckpt"),
    "nested": lambda s, p: saved({"model_state_dict": s, "optimizer": {"lr": 0.1}, "step": 2**40}, p / "m.pt"),
    "model": lambda s, p: saved({"model": s}, p / "m.pt"),
    "twice": lambda s, p: saved({"model": {"state_dict": s}}, p / "m.pt"),
    "parallel": lambda s, p: saved({f"module.{k}": v for k, v in s.items()}, p / "m.pt"),
    "compiled": lambda s, p: saved({f"_orig_mod.{k}": v for k, v in s.items()}, p / "m.pt"),
    "both": lambda s, p: saved({f"module._orig_mod.{k}": v for k, v in s.items()}, p / "m.pt"),
    "scalars": lambda s, p: saved(
        {"state_dict": s, "loss": np.float64(0.5), "args": argparse.Namespace(lr=0.1), "n": np.int32(3)}, p / "m.pt"
    ),
    "legacy-scalars": lambda s, p: saved(
        {"state_dict": s, "loss": np.float32(0.5)}, p / "m.pt", _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_are_found_and_give_the_live_model_s_activations(name: str, model: Any, tmp_path: Path) -> None:
    path = WRITERS[name](model.state_dict(), tmp_path)
    assert pytorch.accepts(path)
    live = nets.opened(model)
    adapter = nets.opened(path, model_factory=FACTORY)
    assert adapter.layers() == live.layers()
    facts, alive = adapter.provenance(), live.provenance()
    assert facts["weights_sha256"] == alive["weights_sha256"]
    assert facts["files"][0]["name"] == path.name
    assert (facts["trust_model"], facts["model_factory"]) == (False, FACTORY)
    want = values(model)
    assert all(np.array_equal(v, want[k]) for k, v in values(path, model_factory=nets.Mlp).items())


class TestStateDict(AdapterContract):
    @pytest.fixture
    def case(self, model: Any, tmp_path: Path) -> Case:
        path = saved(model.state_dict(), tmp_path / "step-3.pt")
        kinds = [KINDS[letter] for letter in "hho"]
        opened = lambda: nets.opened(path, model_factory=FACTORY)  # noqa: E731
        return Case(opened, {"x": normal(7, 4)}, ["L000", "L001", "L002"], kinds, [path])


def exported(model: Any, path: Path) -> Path:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model.eval(), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["exported", "traced", "scripted", "pickled"])
def test_whole_models_give_the_live_model_s_activations(kind: str, model: Any, tmp_path: Path) -> None:
    model.eval()
    path = tmp_path / "m.pt"
    if kind == "exported":
        exported(model, path := tmp_path / "m.pt2")
    elif kind == "pickled":
        saved(model, path)
    else:
        script = torch.jit.script(model) if kind == "scripted" else torch.jit.trace(model, torch.zeros(2, 4))
        torch.jit.save(script, path)
    assert pytorch.accepts(path)
    trust = kind == "pickled"
    live = nets.opened(model).layers()
    adapter = nets.opened(path, trust_model=trust)
    assert [(x.key, x.name, x.kind, x.signature) for x in adapter.layers()] == [
        (x.key, x.name, x.kind, x.signature) for x in live
    ]
    assert adapter.provenance()["trust_model"] is trust
    want = values(model)
    assert all(np.abs(v - want[k]).max() < 1e-6 for k, v in values(path, trust_model=trust).items())


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
    want = values(other)
    assert all(np.array_equal(got[k], want[k]) for k in want)
    with pytest.raises(InputRefusedError, match="damaged"):
        adapter.reload(_truncated(second))  # type: ignore[attr-defined]


# ------------------------------------------------------------ what is not

def _truncated(path: Path) -> Path:
    cut = path.with_name("cut.pt")
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return cut


class Evil:
    """Pickles as a call."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _whole_model(path: Path, model: Any) -> None:
    saved(model, path)


def _evil(path: Path, model: Any) -> None:
    saved({"state_dict": model.state_dict(), "x": Evil(path.with_name("ran"))}, path)


def _evil_legacy(path: Path, model: Any) -> None:
    content = {"state_dict": model.state_dict(), "x": Evil(path.with_name("ran"))}
    saved(content, path, _use_new_zipfile_serialization=False)


def _missing(path: Path, model: Any) -> None:
    state = model.state_dict()
    del state["fc2.bias"]
    state["fc9.weight"] = torch.zeros(2)
    state["out.weight"] = torch.zeros(3, 7)
    saved(state, path)


def _partly_prefixed(path: Path, model: Any) -> None:
    saved({k if "out" in k else f"module.{k}": v for k, v in model.state_dict().items()}, path)


def _not_nested(path: Path, model: Any) -> None:
    saved({"generator": {"x": 3}, "epoch": 3}, path)


def _a_list(path: Path, model: Any) -> None:
    saved([torch.zeros(3)], path)


def _empty(path: Path, model: Any) -> None:
    path.write_bytes(b"")


def _text(path: Path, model: Any) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 3\n")


def _cut(path: Path, model: Any) -> None:
    saved(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-700])


def _compressed(path: Path, model: Any) -> None:
    raw = io.BytesIO()
    torch.save(model.state_dict(), raw)
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def _twice(path: Path, model: Any) -> None:
    saved(model.state_dict(), path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0], b"other")


def _huge(path: Path, model: Any) -> None:
    """A storage of 2^40 elements in a file of a few KB."""
    raw = io.BytesIO()
    torch.save({"w": torch.zeros(77_777)}, raw)
    number = struct.pack("<BI", ord("J"), 77_777)
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert number in data
                data = data.replace(number, b"\x8a\x06" + (2**40).to_bytes(6, "little"))
            new.writestr(name, data[:64] if "/data/" in name else data)


def _huge_legacy(path: Path, model: Any) -> None:
    saved({"w": torch.zeros(77_777)}, path, _use_new_zipfile_serialization=False)
    number = struct.pack("<BI", ord("J"), 77_777)
    data = path.read_bytes()
    assert number in data
    path.write_bytes(data.replace(number, b"\x8a\x06" + (2**40).to_bytes(6, "little"))[:2000])


REFUSED: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "whole model": (_whole_model, r"would run code.*tests\.adapters\.torch_models\.Mlp.*state_dict.*--trust-model"),
    "evil": (_evil, r"would run code.*(posix|nt|os)\.mkdir.*--trust-model"),
    "evil legacy": (_evil_legacy, r"would run code.*mkdir.*--trust-model"),
    "missing": (
        _missing,
        r"not those of the model.*missing: fc2\.bias; unexpected: fc9\.weight; of another shape: out\.weight is "
        r"\(3, 7\) instead of \(3, 5\)",
    ),
    "partly prefixed": (_partly_prefixed, r"missing: fc1\.weight, .*; unexpected: module\.fc1\.weight"),
    "not nested": (_not_nested, r"no weights in the checkpoint.*keys 'generator', 'epoch', expected.*model_state_dict"),
    "a list": (_a_list, r"no weights in the checkpoint.*a builtins\.list"),
    "empty": (_empty, r"(damaged|cannot read)"),
    "text": (_text, r"(damaged|cannot read)"),
    "cut": (_cut, r"(damaged|cannot read)"),
    "compressed": (_compressed, r"is compressed, which PyTorch never does"),
    "twice": (_twice, r"two records have the same name"),
    "huge": (_huge, r"are said to have 1,099,511,.* elements"),
    "huge legacy": (_huge_legacy, r"are said to have 1,099,511,.* elements"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said(name: str, model: Any, tmp_path: Path) -> None:
    write, text = REFUSED[name]
    path = tmp_path / "m.pt"
    write(path, model)
    assert pytorch.accepts(path)
    with pytest.raises(InputRefusedError, match=text):
        nets.opened(path, model_factory=FACTORY)
    assert not (tmp_path / "ran").exists()


def test_trust_is_the_only_way_round(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    _evil(path, model)
    adapter = nets.opened(path, model_factory=FACTORY, trust_model=True)
    assert (tmp_path / "ran").exists()
    assert adapter.provenance()["trust_model"] is True


def test_numpy_scalars_are_read_without_numpy_s_own_unpickling(tmp_path: Path) -> None:
    """A dtype that claims to hold objects would make NumPy take bytes for addresses."""
    from repstat_adapters.pytorch.unpickle import load_checkpoint

    numbers = {"a": np.float64(0.25), "b": np.int8(-3), "c": np.bool_(True), "d": np.float32(1.5).newbyteorder("=")
               if hasattr(np.float32, "newbyteorder") else np.float32(1.5)}  # fmt: skip
    path = saved(numbers, tmp_path / "n.pt")
    content, trusted = load_checkpoint(path, legacy=False, trust=False)
    assert not trusted
    assert {k: float(v) for k, v in content.items()} == {"a": 0.25, "b": -3.0, "c": 1.0, "d": 1.5}

    class Crafted:
        def __reduce__(self) -> tuple[Any, ...]:
            return np._core.multiarray.scalar, (np.dtype("O"), "not a number")

    path = saved({"a": Crafted()}, tmp_path / "o.pt")
    with pytest.raises(InputRefusedError, match="only numbers are read from NumPy scalars"):
        load_checkpoint(path, legacy=False, trust=False)


def test_weights_without_a_factory_are_half_a_model(model: Any, tmp_path: Path) -> None:
    path = saved(model.state_dict(), tmp_path / "m.pt")
    text = r"holds weights only.*6 tensors such as fc1\.weight.*Give --model-factory package\.module:function"
    with pytest.raises(UsageError, match=text):
        nets.opened(path)


def _fails() -> None:
    message = "no data folder"
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("Mlp", "not of the form package.module:function"),
        ("nowhere.at.all:f", "cannot import the model factory 'nowhere.at.all:f'.*ModuleNotFoundError"),
        ("tests.adapters.torch_models:Nobody", "there is no 'Nobody' in the module"),
        ("tests.adapters.torch_models:__doc__", "is not a function"),
        (_fails, "factory .*_fails fails.*RuntimeError: no data folder"),
        (dict, "returns no torch.nn.Module.*builtins.dict"),
    ],
)
def test_a_factory_that_does_not_work_is_said(factory: Any, text: str, model: Any, tmp_path: Path) -> None:
    path = saved(model.state_dict(), tmp_path / "m.pt")
    with pytest.raises(UsageError, match=text):
        nets.opened(path, model_factory=factory)


def test_a_factory_is_found_in_the_working_directory(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_very_own_nets.py").write_text("from tests.adapters.torch_models import Mlp as make\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    path = saved(model.state_dict(), tmp_path / "m.pt")
    assert len(nets.opened(path, model_factory="my_very_own_nets:make").layers()) == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"provider": "cuda:99"}, DeviceUnavailableError, "no device 'cuda:99'.*sees"),
        ({"provider": "tpu"}, DeviceUnavailableError, "no device 'tpu'.*cpu, cuda"),
        ({"opt_level": "all"}, UsageError, "opt level 'all' has no meaning for PyTorch"),
        ({"model_factory": FACTORY}, UsageError, "a model factory has no meaning here.*the model is there already"),
        ({"extra": {"speed": 3}}, UsageError, "unknown options speed"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_honoured(options: Any, error: type[Exception], text: str, model: Any) -> None:
    with pytest.raises(error, match=text):
        nets.opened(model, **options)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model not found"):
        nets.opened(tmp_path / "none.pt")


def test_weights_of_another_type_are_noted(model: Any, tmp_path: Path) -> None:
    path = saved({k: v.bfloat16() for k, v in model.state_dict().items()}, tmp_path / "m.pt")
    notes = nets.opened(path, model_factory=FACTORY).provenance()["notes"]
    assert notes == ["weights were converted from bfloat16 to float32"]


# ------------------------------------------------------------ programs

class Saves(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "stolen")
        return self.fc(x)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_that_writes_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(Saves()), "m.pt")
    with pytest.raises(InputRefusedError, match=r"reaches outside itself.*it uses save.*--trust-model"):
        nets.opened(Path("m.pt"))
    assert not Path("stolen").exists()


HARM: dict[str, tuple[str, str, str]] = {
    "op": ('"torch.ops.aten.relu.default"', '"torch.os.system"', r"the op 'torch\.os\.system'"),
    "file op": ('"torch.ops.aten.relu.default"', '"torch.ops.aten.save.default"', r"the op"),
    "attribute": ('"torch.ops.aten.relu.default"', '"_operator.attrgetter"', r"the op '_operator\.attrgetter'"),
    "expression": ('"Symbol(', '"__import__(\'os\').getcwd() or Symbol(', r"the expression .*__import__"),
    "pickle": ('"use_pickle": false', '"use_pickle": true', r"a pickled tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_exported_programs_that_could_run_code_are_refused(name: str, model: Any, tmp_path: Path) -> None:
    old, new, text = HARM[name]
    good, bad = exported(model, tmp_path / "good.pt2"), tmp_path / "bad.pt2"
    replaced = 0
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for record in source.namelist():
            data = source.read(record)
            replaced += data.count(old.encode())
            target.writestr(record, data.replace(old.encode(), new.encode()))
    assert replaced
    with pytest.raises(InputRefusedError, match=rf"could run code.*{text}.*--trust-model"):
        nets.opened(bad)
    assert nets.opened(good).layers()


def test_an_exported_program_says_what_it_takes(model: Any, tmp_path: Path) -> None:
    (spec,) = nets.opened(exported(model, tmp_path / "m.pt2")).inputs()
    assert (spec.name, spec.dtype, spec.shape, spec.declared) == ("x", np.float32, (None, 4), True)


# ------------------------------------------------------------ what files are

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
        f"assert pytorch.accepts({str(path)!r}); assert not pytorch.accepts(3); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "torch", None)
    yield


@pytest.mark.usefixtures("no_torch")
def test_a_missing_torch_is_said(tmp_path: Path) -> None:
    from repstat.adapter import AdapterOptions

    with pytest.raises(AdapterUnavailableError, match=r"PyTorch is not installed.*pip install 'repstat\[torch\]'"):
        pytorch.open_model(tmp_path / "m.pt", AdapterOptions())
    assert "not installed" in pytorch.describe()


def test_a_missing_safetensors_is_said(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_safetensors(model.state_dict(), tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(RepstatError, match=r"safetensors is not installed.*repstat\[torch\]"):
        nets.opened(path, model_factory=FACTORY)
