"""``repstat import`` as a user types it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import repstat

X = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40) % 2


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for step in (0, 20, 100):
        np.savez(f"step-{step}.npz", fc1=X + step, fc2=X[:, :2], labels=Y)
    Path("run/step-5").mkdir(parents=True)
    for name in ("fc1", "fc2", "fc10"):
        np.save(f"run/step-5/{name}.npy", X)
    Path("run/step-5/notes.txt").write_text("made on Monday\n")
    Path("empty").mkdir()
    np.savez("ints.npz", fc1=X, ids=Y[:, None])
    Path("text.npz").write_text("not a zip\n")
    Path("text.dat").write_text("nothing\n")
    Path("nothing.npz").touch()
    Path("x.safetensors").write_bytes(b"\xff" * 40)
    np.save("x.npy", X)
    np.save("short.npy", Y[:7])
    return tmp_path


def test_a_training_is_imported_and_analysed(run_cli, place: Path) -> None:
    done = run_cli("import", "step-0.npz", "step-20.npz", "step-100.npz")
    assert (done.code, done.out) == (0, "acts.h5\n")
    said = done.err.splitlines()
    assert said[0].startswith(
        "repstat: no --inputs given, so the inputs are unknown: the ceiling of I(X;T) is ln n"
    )
    assert said[1] == "repstat: layers: L000 fc1, L001 fc2; labels"
    assert said[2].startswith("repstat: 2 layers × 40 samples × 3 checkpoints = ")
    assert said[3] == "next: repstat analyze acts.h5"
    analysed = run_cli("analyze", "acts.h5", "--noise-std", "1", "--json")
    assert analysed.code == 0
    assert "the inputs are unknown" in analysed.err
    rows = [json.loads(line) for line in analysed.out.splitlines()]
    assert {row["step"] for row in rows} == {0, 20, 100}
    assert {row["layer_name"] for row in rows} == {"fc1", "fc2"}
    looked = run_cli("inspect", "acts.h5")
    assert "inputs: unknown (activations made elsewhere)" in looked.out
    assert "input_entropy: the inputs are unknown: the ceiling of I(X;T) is ln n" in looked.out
    assert json.loads(run_cli("inspect", "acts.h5", "--json").out)["input_entropy"] is None
    assert run_cli("verify", "acts.h5").code == 0


def test_quoted_patterns_name_checkpoints_as_for_extract(run_cli, place: Path) -> None:
    assert run_cli("import", "step-*.npz").code == 0
    with repstat.open_store("acts.h5") as store:
        assert store.steps == (0, 20, 100)
        assert [c.source for c in store.checkpoints] == ["step-0.npz", "step-20.npz", "step-100.npz"]
    repstat.import_arrays(place / "run" / "*", store="b.h5")
    with repstat.open_store("b.h5") as store:
        assert store.steps == (5,)


def test_with_inputs_nothing_is_unknown(run_cli, place: Path) -> None:
    done = run_cli("import", "step-0.npz", "--inputs", "x.npy")
    assert done.code == 0
    assert "unknown" not in done.err
    analysed = run_cli("analyze", "acts.h5", "--estimators", "clustering")
    assert "unknown" not in analysed.err
    looked = run_cli("inspect", "acts.h5").out
    assert "inputs: x.npy" in looked
    assert f"input_entropy: {np.log(40):.4f} nats, the ceiling of I(X;T)" in looked


def test_a_folder_of_layers(run_cli, place: Path) -> None:
    done = run_cli("import", "run/step-5/", "-o", "acts/")
    assert (done.code, done.out) == (0, "acts\n")
    assert "repstat: step-5/: left alone notes.txt" in done.err
    assert "layers: L000 fc1, L001 fc2, L002 fc10; no labels" in done.err
    with repstat.open_store("acts") as store:
        assert store.steps == (5,)


def test_options_do_what_they_say(run_cli, place: Path) -> None:
    Path("metrics.csv").write_text("step,epoch,loss\n7,0.5,0.25\n")
    np.savez("labels.npz", labels=Y + 3)
    line = (
        "step-0.npz --steps 7 --metrics metrics.csv --layers fc2 --dtype float64 --labels labels.npz -o b.h5"
    )
    done = run_cli("import", *line.split())
    assert done.code == 0, done.err
    assert "fc2 converted from float32 to float64" in done.err
    with repstat.open_store("b.h5") as store:
        (point,) = store.checkpoints
        assert (point.step, point.epoch, dict(point.metrics)) == (7, 0.5, {"loss": 0.25})
        assert [(v.key, v.dtype.name) for v in store.layers.values()] == [("L001", "float64")]
        assert store.samples.labels is not None
        assert store.samples.labels.tolist() == (Y + 3).tolist()
        assert store.provenance[0]["import"]["source"] == "step-0.npz"


BAD = [
    ("missing.npz", 2, "cannot import activations in missing.npz: there is no such file"),
    (
        "miss*.npz",
        2,
        "no checkpoint in the pattern miss*.npz: nothing matches it. Check the spelling",
    ),
    ("nothing.npz", 3, "cannot import activations in nothing.npz: the file is empty"),
    ("text.npz", 3, "cannot read the arrays in text.npz: File is not a zip file"),
    (
        "text.dat",
        2,
        "cannot tell the format of the activations in text.dat: expected an .npz, a folder of .npy",
    ),
    ("x.npy", 2, "a .npy file holds one layer, and each file named is one checkpoint. Name the folder"),
    ("x.safetensors", 3, "x.safetensors: it is not a sound safetensors file: its header should have"),
    ("empty", 2, "a folder of .npy files, one per layer, was expected, it is empty"),
    ("run", 2, "was expected, found step-5. Name the checkpoints themselves, for example run/*"),
    ("acts.h5", 2, "it is an HDF5 file, expected an .npz"),
    ("pipe", 2, "a device, socket or pipe was found"),
    (
        "ints.npz",
        3,
        "'ids': found int64, expected float16, float32 or float64. Leave it out with --layers '-ids'",
    ),
    ("step-0.npz --labels short.npy", 3, "found 7 labels for 40 samples"),
    (
        "step-0.npz --inputs short.npy",
        3,
        "the inputs do not fit the activations in short.npy: 'inputs': found int64 (7,)",
    ),
    ("step-0.npz --inputs none.npy", 2, "array file not found in none.npy"),
    ("step-0.npz --layers fc3", 2, "no layer is called 'fc3'"),
    ("step-0.npz --steps one", 2, "cannot read the steps 'one'"),
    ("step-0.npz --steps 1,2", 2, "found 2 steps for 1 checkpoints"),
    ("step-0.npz step-0.npz", 2, "two checkpoints stand for step 0"),
    (
        "step-0.npz run/step-5",
        3,
        "the arrays differ from those of step-0.npz in run/step-5: it has 'fc10' besides",
    ),
    (
        "step-0.npz -o acts.h5",
        2,
        "already exists. Pass --overwrite (overwrite=True), or give another output (-o, store=)",
    ),
    ("step-0.npz -o nowhere/a.h5", 2, "nowhere does not exist"),
    ("step-0.npz -o /", 2, "names no file"),
    ("step-0.npz --resume --overwrite", 2, "contradict each other"),
    ("step-0.npz --dtype int8", 2, "'int8' is not one of"),
    ("step-0.npz --metrics none.csv", 2, "none.csv"),
    ("", 2, "Missing argument 'FILE...'"),
]


@pytest.mark.parametrize(("line", "code", "text"), BAD, ids=[line for line, *_ in BAD])
def test_bad_input(run_cli, place: Path, line: str, code: int, text: str) -> None:
    assert run_cli("import", "step-20.npz").code == 0
    os.mkfifo("pipe")
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    outcome = run_cli("import", *line.split())
    assert outcome.out == ""
    assert text in outcome.err
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    assert outcome.code == code
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


def test_a_pickle_is_never_opened(run_cli, place: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return Path.touch, (Path("unpickled"),)

    np.savez("evil.npz", fc1=np.array([Evil()], dtype=object), allow_pickle=True)
    Path("evil").mkdir()
    np.save("evil/fc1.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    for name in ("evil.npz", "evil"):
        done = run_cli("import", name)
        assert done.code == 3
        assert "it holds Python objects (a pickle), which may run code; numbers were expected" in done.err
    assert not Path("unpickled").exists()


def test_a_file_that_cannot_be_opened(run_cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *words: object, **facts: object) -> object:
        if path.name == "step-0.npz":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words, **facts)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    done = run_cli("import", "step-0.npz")
    assert (done.code, done.out) == (2, "")
    assert "cannot open the file in step-0.npz: permission denied. Check who may read it" in done.err


def test_names_do_not_reach_the_terminal_raw(run_cli, place: Path) -> None:
    np.savez("a.npz", **{"\x1b[31mred\u202e": X})
    done = run_cli("import", "a.npz")
    assert done.code == 0
    assert "\x1b" not in done.err
    assert "\u202e" not in done.err
