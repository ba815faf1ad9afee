"""Where analyze and inspect write, and what they refuse to destroy."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.store.making import NOISE, write_noisy


@pytest.fixture
def place(run_cli, tmp_path: Path, trajectory: list[Path], monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(1).choice([-1, 1], (60, 12)).astype(np.float32))
    Path("m.csv").write_text("step,loss\n0,1.5\n")
    assert run_cli("extract", *trajectory[:2], "--inputs", "x.npy", "--metrics", "m.csv").code == 0
    assert run_cli("extract", *trajectory[:2], "--inputs", "x.npy", "-o", "folder/").code == 0
    return tmp_path


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--csv", "acts.h5", "--overwrite"], "--csv acts.h5 is the store or the results file"),
        (["--csv", "./acts.results.h5"], "is the store or the results file"),
        (["--csv", "x.npy", "--overwrite"], "will not overwrite x.npy: it is not a CSV of repstat"),
        (["--csv", "m.csv"], "m.csv exists already; pass --overwrite"),
        (["-o", "folder/r.h5"], "its folder is an activation store"),
    ],
)
def test_nothing_of_the_user_s_is_destroyed(run_cli, place: Path, options: list[str], text: str) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    outcome = run_cli("analyze", "acts.h5", *options)
    assert text in outcome.err
    assert outcome.code == 2
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_csv_of_ours_is_replaced_when_asked(run_cli, place: Path) -> None:
    for _ in range(2):
        outcome = run_cli("analyze", "acts.h5", "--csv", "r.csv", "--overwrite", "--estimators", "binned")
        assert outcome.code == 0, outcome.err
    assert Path("r.csv").read_text().startswith("checkpoint,step,")


def test_one_file_of_a_folder_store_is_not_analysed_into_the_folder(run_cli, place: Path) -> None:
    member = sorted(Path("folder").glob("step-*.h5"))[0]
    outcome = run_cli("analyze", member)
    assert outcome.code == 2
    assert "its folder is an activation store" in outcome.err
    assert run_cli("analyze", member, "-o", "one.results.h5", "--estimators", "binned").code == 0
    assert run_cli("verify", "folder").code == 0


def test_the_store_may_be_the_current_folder(run_cli, place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place / "folder")
    assert run_cli("analyze", ".", "--estimators", "binned").code == 0
    assert (place / "folder.results.h5").exists()


def test_a_missing_metric_is_null(run_cli, place: Path) -> None:
    facts = json.loads(run_cli("inspect", "acts.h5", "--json").out)
    assert [c["metrics"]["loss"] for c in facts["checkpoints"]] == [1.5, None]


def test_noise_is_shown(run_cli, tmp_path: Path, place: Path) -> None:
    store = write_noisy(tmp_path / "noisy.h5")
    facts = json.loads(run_cli("inspect", store, "--json").out)
    assert facts["schema_version"] == "1.1"
    assert facts["noise"] == [{"layer": k, "noise_std": s} for k, s in NOISE.noise_std.items()]
    assert (facts["realizations"], facts["repeated_inputs"], facts["realizations_of_each"]) == (3, 5, 4)
    shown = run_cli("inspect", store).out
    for line in ("  layer L001  noise_std 0.25", "realizations: 3", "repeated_in: L001, L002"):
        assert line in shown.splitlines()
    assert not {"noise", "realizations"} & json.loads(run_cli("inspect", "acts.h5", "--json").out).keys()


def test_checkpoints_of_another_dtype_are_refused(run_cli, place: Path, models: Path) -> None:
    half, whole = models / "float16.onnx", models / "fixed_batch.onnx"
    outcome = run_cli("extract", half, whole, "--steps", "0,1", "-o", "mixed.h5")
    assert outcome.code == 3
    assert "float16" in outcome.err
    assert not Path("mixed.h5").exists()


def test_a_closed_stdout_is_no_error(place: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        f"{sys.executable} -m repstat analyze acts.h5 -o p.h5 --json | head -1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["quantity"] == "mi_input"
    assert "error" not in done.stderr
    assert "Exception" not in done.stderr


def test_findings_end_the_table_and_keep_out_of_the_data(run_cli, place: Path) -> None:
    options = ("analyze", "acts.h5", "--overwrite", "--noise-std", "0.2", "--tolerance", "0.05")
    table = run_cli(*options)
    assert "\nfindings\n- " in table.out
    assert "Whether I(X;T) through measurement noise falls cannot be judged in" in table.out
    assert "ompress" not in table.out.split("findings")[1]
    lines = run_cli(*options, "--json")
    assert {json.loads(line)["checkpoint"] for line in lines.out.splitlines()} == {0, 1}
    assert "repstat: No loss or accuracy at five checkpoints or more" in lines.err
