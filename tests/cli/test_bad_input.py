"""Bad input: one sentence names what was found, expected and to do; the exit code; nothing half-written."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from repstat.results import Results

GOOD = "step-000000.onnx"


@pytest.fixture
def model(trajectory: list[Path]) -> Path:
    return trajectory[0]


@pytest.fixture
def folder(tmp_path: Path, model: Path, models: Path) -> Path:
    """A folder with one of each kind of bad file."""
    whole = model.read_bytes()
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("this is not a model\n")
    (tmp_path / "picture.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "pointer.onnx").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"
    )
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04" + bytes(60))
    np.save(tmp_path / "wide.npy", np.zeros((5, 13), np.float32))
    np.save(tmp_path / "ints.npy", np.zeros((5, 12), np.int32))
    np.save(tmp_path / "good.npy", np.zeros((5, 12), np.float32))
    np.save(tmp_path / "four.npy", np.zeros(4, np.int64))
    np.savez(tmp_path / "names.npz", left=np.zeros((5, 12), np.float32), right=np.zeros((5, 1)))
    (tmp_path / "notes.h5").write_text("not HDF5\n")
    (tmp_path / "exists.h5").write_text("precious\n")
    return tmp_path


CASES = [
    ("extract nothing.onnx", 2, "model not found in nothing.onnx: there is no such file"),
    ("extract .", 2, "cannot tell the training steps from the file names"),
    ("extract empty.onnx", 3, "empty"),
    ("extract truncated.onnx", 3, "truncated.onnx"),
    ("extract text.onnx", 3, "text.onnx"),
    ("extract picture.onnx", 3, "picture.onnx"),
    ("extract pointer.onnx", 3, "Git LFS"),
    ("extract model.pt", 3, "the file is damaged, or was made to do harm"),
    ("extract good.npy", 2, "cannot read the model in good.npy: none of the installed adapters"),
    ("extract MODEL --inputs nothing.npy", 2, "array file not found in nothing.npy"),
    ("extract MODEL --inputs wide.npy", 3, "found (5, 13), expected (samples, 12)"),
    ("extract MODEL --inputs ints.npy", 3, "found int32, expected float32. Pass --cast"),
    ("extract MODEL --inputs names.npz", 3, "found 'left', 'right', expected 'x'"),
    ("extract MODEL --inputs good.npy --labels four.npy", 3, "found 4 labels for 5 samples"),
    ("extract MODEL --layers fc11", 2, "no layer is called 'fc11'"),
    ("extract MODEL --steps one", 2, "cannot read the steps 'one'"),
    ("extract MODEL --steps 1,2", 2, "found 2 steps for 1 models"),
    ("extract MODEL MODEL", 2, "two models stand for step 0"),
    ("extract MODEL --provider npu", 2, "no execution provider 'npu'"),
    ("extract MODEL --provider cuda", 2, "no execution provider 'cuda'"),
    ("extract MODEL -o exists.h5", 2, "exists.h5"),
    ("extract MODEL -o nowhere/acts.h5", 2, "nowhere"),
    ("extract MODEL --resume --overwrite", 2, "contradict each other"),
    ("extract MODEL --batch-size 0", 2, "--batch-size"),
    ("extract MODEL --metrics nothing.csv", 2, "nothing.csv"),
    ("layers nothing.onnx", 2, "model not found"),
    ("layers empty.onnx", 3, "empty"),
    ("analyze nothing.h5", 2, "nothing.h5"),
    ("analyze notes.h5", 4, "notes.h5"),
    ("analyze MODEL", 4, "step-000000.onnx"),
    ("inspect nothing.h5", 2, "nothing.h5"),
    ("inspect notes.h5", 4, "notes.h5"),
    ("merge notes.h5 -o all.h5", 4, "notes.h5"),
]


@pytest.mark.parametrize(("line", "code", "text"), CASES, ids=[line for line, *_ in CASES])
def test_bad_input(run_cli, folder: Path, model: Path, monkeypatch, line: str, code: int, text: str) -> None:
    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcome = run_cli(*(str(model) if word == "MODEL" else word for word in line.split()))
    assert outcome.out == ""
    assert text in outcome.err
    assert "repstat: error: " in outcome.err
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    assert outcome.code == code
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--noise-std", "0"], "noise_std '0' is not a positive number"),
        (["--noise-std", "wide"], "noise_std 'wide' is not a positive number"),
        (["--noise-std", "nan"], "noise_std 'nan' is not a positive number"),
        (["--binning", "width:-1"], "width"),
        (["--binning", "bins"], "bins"),
        (["--estimators", "kde"], "no estimator is called 'kde': the estimators are noisy, binned"),
        (["--layers", "L9"], "no layer is called 'L9'"),
        (["--steps", "7"], "no checkpoint at step 7"),
        (["--steps", "100:200"], "holds no checkpoint"),
        (["--tolerance", "0"], "tolerance 0.0 is not a positive number"),
        (["--units", "digits"], "'digits' is not one of"),
        (["-o", "nowhere/r.h5"], "the folder does not exist"),
        (["-o", "acts.h5"], "acts.h5"),
        (["-o", "acts.h5", "--overwrite"], "will not overwrite a file that is not a results file"),
    ],
)
def test_bad_analysis_options(
    run_cli, tmp_path: Path, model: Path, monkeypatch, options: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(12, dtype=np.float32))
    assert run_cli("extract", model, "--inputs", "x.npy").code == 0
    before = Path("acts.h5").read_bytes()
    outcome = run_cli("analyze", "acts.h5", *options)
    assert text in outcome.err
    assert outcome.code == 2
    assert outcome.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acts.h5", "x.npy"]
    assert Path("acts.h5").read_bytes() == before


def test_verify_lists_what_is_wrong_on_stdout(run_cli, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    outcome = run_cli("verify", "notes.h5")
    assert outcome.code == 4
    assert outcome.out.startswith("notes.h5 is not an activation store: it begins with")
    assert "repstat: error: 1 problem in notes.h5: it is not sound." in outcome.err


def test_verify_judges_a_results_file_as_what_it_is(run_cli, folder: Path, training: Results) -> None:
    path = training.save(folder / "r.results.h5")
    outcome = run_cli("verify", path)
    assert (outcome.code, outcome.out) == (0, "")
    assert f"{path}: sound" in outcome.err
    with h5py.File(path, "r+") as file:
        file["rows/value"][0] += 1
    outcome = run_cli("verify", path)
    assert outcome.code == 4
    assert "its SHA-256 is" in outcome.out
    assert "1 problem in" in outcome.err


def test_a_folder_that_cannot_be_written(run_cli, tmp_path: Path, model: Path, monkeypatch) -> None:
    import os

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    outcome = run_cli("extract", model, "-o", tmp_path / "acts.h5")
    assert outcome.code == 2
    assert "is not writable" in outcome.err
    assert list(tmp_path.iterdir()) == []
