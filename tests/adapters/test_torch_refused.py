"""Files of PyTorch that are refused, and with what words; none of them runs code."""

import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.errors import DeviceUnavailableError, InputRefusedError, UsageError
from repstat_adapters import pytorch
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import FACTORY, exported, saved  # noqa: E402


@pytest.fixture
def model() -> Any:
    return nets.seeded(nets.Mlp)


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


def _whole_model_legacy(path: Path, model: Any) -> None:
    saved(model, path, _use_new_zipfile_serialization=False)


def _with(key: str, value: Any, *, zipped: bool = True) -> Callable[[Path, Any], None]:
    def write(path: Path, model: Any) -> None:
        content = {"state_dict": model.state_dict(), key: value}
        saved(content, path, _use_new_zipfile_serialization=zipped)

    return write


def _only_ema(path: Path, model: Any) -> None:
    saved({"ema": model.state_dict(), "epoch": 3}, path)


def _two_models(path: Path, model: Any) -> None:
    saved({"generator": model.state_dict(), "discriminator": model.state_dict()}, path)


def _averaged(path: Path, model: Any) -> None:
    saved(torch.optim.swa_utils.AveragedModel(model).state_dict(), path)


def _complex(path: Path, model: Any) -> None:
    saved({k: v.to(torch.complex64) if "fc1" in k else v for k, v in model.state_dict().items()}, path)


REFUSED: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "whole model": (_whole_model, r"would run code.*adapters\.torch_models\.Mlp.*state_dict.*--trust-model"),
    "evil": (_evil, r"would run code.*(posix|nt|os)\.mkdir.*--trust-model"),
    "evil legacy": (_evil_legacy, r"would run code.*mkdir.*--trust-model"),
    "missing": (
        _missing,
        r"not those of the model.*missing: fc2\.bias; unexpected: fc9\.weight; "
        r"of another shape: out\.weight is \(3, 7\) instead of \(3, 5\)",
    ),
    "partly prefixed": (_partly_prefixed, r"missing: fc1\.weight, .*; unexpected: module\.fc1\.weight"),
    "averaged": (_averaged, r"missing: fc1\.weight, .*; unexpected: n_averaged, module\.fc1\.weight, "),
    "only an average": (_only_ema, r"there are no weights in .*keys 'ema', 'epoch', expected.*alone or"),
    "two models": (_two_models, r"there are no weights in .*keys 'generator', 'discriminator', expected"),
    "complex": (_complex, r"without loss.*complex in the file and real in the model: fc1\.weight, fc1\.b"),
    "an array": (_with("loss", np.zeros(3)), r"run code.*it holds numpy.*_reconstruct, numpy\.ndarray\."),
    "a path": (_with("args", {"path": Path("a")}), r"run code.*it holds pathlib\.PosixPath\. Save.*--trust"),
    "a path, legacy": (
        _with("path", Path("a"), zipped=False), r"run code.*: it holds pathlib\.PosixPath\. Save the state",
    ),
    "whole model, legacy": (_whole_model_legacy, r"run code.*: it holds .*torch_models\.Mlp\."),
    "not nested": (_not_nested, r"there are no weights in .*keys 'generator', 'epoch', expected.*model"),
    "a list": (_a_list, r"there are no weights in .*a builtins\.list"),
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


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_distributed_checkpoint_is_to_be_joined_first(model: Any, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    folder = tmp_path / "step-3"
    dcp.save({"model": model.state_dict()}, checkpoint_id=str(folder))
    (piece,) = folder.glob("*.distcp")
    for path in (folder, piece, folder / ".metadata"):
        assert pytorch.accepts(path)
        with pytest.raises(
            InputRefusedError, match=r"weights are in pieces in .*dcp_to_torch_save\(folder, f"
        ):
            nets.opened(path, model_factory=FACTORY)
        with pytest.raises(InputRefusedError, match="are in pieces"):
            repstat.extract(
                path, store=tmp_path / "a.h5", options=repstat.AdapterOptions(model_factory=FACTORY)
            )
    dcp_to_torch_save(folder, tmp_path / "joined.pt")
    assert nets.opened(tmp_path / "joined.pt", model_factory=FACTORY).layers() == nets.opened(model).layers()
    assert not pytorch.accepts(tmp_path)


def test_trust_is_the_only_way_round(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    _evil(path, model)
    adapter = nets.opened(path, model_factory=FACTORY, trust_model=True)
    assert (tmp_path / "ran").exists()
    assert adapter.provenance()["trust_model"] is True


def test_numpy_scalars_are_read_without_numpy_s_own_unpickling(tmp_path: Path) -> None:
    """A dtype that claims to hold objects would make NumPy take bytes for addresses."""
    from repstat_adapters.pytorch.unpickle import load_checkpoint

    numbers = {"a": np.float64(0.25), "b": np.int8(-3), "c": np.bool_(True), "d": np.float32(1.5)}
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
    text = (
        r"only weights, and no model, in .*6 tensors such as fc1\.weight.*Give --model-factory package\.mod"
    )
    with pytest.raises(UsageError, match=text):
        nets.opened(path)


def _fails() -> None:
    message = "no data folder"
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "cannot read the checkpoint in .*ckpt-10.pt: the file is empty. Save it again with torch.save"),
        (
            b"step,loss\n1,0.5\n",
            "no file of torch.save: it begins with b'step,loss.n1,', expected b'PK'",
        ),
        (b"\x80", r"no file of torch.save: it begins with b'.x80'"),
        (
            pickle.dumps({"w": [1.0]}),
            "it is a plain pickle, which may run code when it is loaded. Save",
        ),
    ],
)
def test_what_torch_never_wrote_is_called_what_it_is(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "ckpt-10.pt"
    path.write_bytes(content)
    for trust in (False, True):
        with pytest.raises(InputRefusedError, match=text) as refused:
            nets.opened(path, model_factory=FACTORY, trust_model=trust)
        assert "harm" not in str(refused.value)


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("Mlp", "cannot read the model factory 'Mlp': package.module:function was expected"),
        (
            "nets.py:build",
            r"was expected, found the file nets.py. A module is .*: write nets:build\.$",
        ),
        ("./nets.py:build", r"found the file ./nets.py. A module is named without .*: write nets:build\.$"),
        ("a/nets.py:build", "found the file a/nets.py.*write nets:build, and start repstat in a"),
        ("nets.py", "found the file nets.py.*write nets:build"),
        (".nets:build", "module:function was expected, found the module '.nets'. Write for example"),
        ("nets:Net.", r"module:function was expected, and 'Net\.' is no name of a function"),
        ("nets:", "module:function was expected, and '' is no name of a function"),
        ("nowhere.at.all:f", "cannot import .* the model factory 'nowhere.at.all:f'.*ModuleNotFoundError"),
        ("tests.adapters.torch_models:Nobody", "there is no model factory .* has no Nobody"),
        ("tests.adapters.torch_models:__doc__", "is not a function"),
        (_fails, "factory .*_fails failed.*RuntimeError: no data folder"),
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
        ({"model_factory": FACTORY}, UsageError, "a model factory has no meaning here.*is there already"),
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
    note = nets.opened(path, model_factory=FACTORY).provenance()["run_batch_note"]
    assert note == "weights were converted from bfloat16 to float32"


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
    "attribute": ('"torch.ops.aten.relu.default"', '"_operator.attrgetter"', r"the op '_operator\.attr"),
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
