"""What a stranger typed: each of these once went wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from rich.console import Console

import repstat
from repstat.cli.table import Layout, _noise_table
from tests.interrupts import hear_interrupts

PYTHON = [sys.executable, "-m", "repstat"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(1).choice([-1, 1], (60, 12)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("output", ["", "/", ".", "..", "sub/.."])
def test_an_output_without_a_name_is_refused(
    run_cli, place: Path, trajectory: list[Path], output: str
) -> None:
    outcome = run_cli("extract", trajectory[0], "--inputs", "x.npy", "-o", output)
    assert outcome.code == 2
    assert "names no file" in outcome.err
    assert [path.name for path in place.iterdir()] == ["x.npy"]


def test_a_folder_of_something_else_is_left_alone(run_cli, place: Path, trajectory: list[Path]) -> None:
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").write_text("meow")
    outcome = run_cli("extract", trajectory[0], "--inputs", "x.npy", "-o", "photos")
    assert outcome.code == 2
    assert "photos: it contains 'cat.jpg', which repstat did not write" in outcome.err
    assert [path.name for path in (place / "photos").iterdir()] == ["cat.jpg"]


def test_a_checkpoint_with_another_layer_is_refused(run_cli, place: Path, models: Path) -> None:
    outcome = run_cli("extract", models / "float64.onnx", models / "residual.onnx", "--steps", "0,1")
    assert outcome.code == 3
    assert "the checkpoint's inputs differ" in outcome.err or "layers differ" in outcome.err
    assert not (place / "acts.h5").exists()


def test_a_missing_model_is_said_before_anything_is_computed(run_cli, place: Path, trajectory) -> None:
    outcome = run_cli("extract", trajectory[0], "step-9.onnx", "--inputs", "x.npy")
    assert outcome.code == 2
    assert "model not found in step-9.onnx" in outcome.err
    assert [path.name for path in place.iterdir()] == ["x.npy"]


def test_too_many_threads_are_refused(run_cli, place: Path, trajectory: list[Path]) -> None:
    outcome = run_cli("extract", trajectory[0], "--inputs", "x.npy", "--threads", "100000")
    assert outcome.code == 2
    assert "cannot use 100,000 threads" in outcome.err


def test_the_provider_typed_does_not_matter_the_one_used_does(run_cli, place: Path, trajectory) -> None:
    assert run_cli("extract", trajectory[0], "--inputs", "x.npy", "--provider", "cpu").code == 0
    both = trajectory[:2]
    resumed = run_cli("extract", *both, "--inputs", "x.npy", "--provider", "auto", "--resume")
    assert resumed.code == 0, resumed.err
    with repstat.open_store("acts.h5") as store:
        assert store.steps == (0, 13)


@pytest.mark.parametrize("command", ["analyze acts.h5", "inspect acts.h5", "info", "layers MODEL"])
def test_a_reader_that_goes_away_is_no_error(run_cli, place: Path, trajectory, command: str) -> None:
    assert run_cli("extract", trajectory[0], "--inputs", "x.npy").code == 0
    words = [str(trajectory[0]) if word == "MODEL" else word for word in command.split()]
    with subprocess.Popen([*PYTHON, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read().decode()
    assert process.returncode == 0, error
    assert "error" not in error
    assert "Exception" not in error


def test_a_terminal_without_unicode_gets_the_table(run_cli, place: Path, trajectory: list[Path]) -> None:
    assert run_cli("extract", trajectory[0], "--inputs", "x.npy").code == 0
    for variables in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}):
        done = subprocess.run(
            [*PYTHON, "analyze", "acts.h5", "--overwrite"],
            env=os.environ | variables, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"I(X;T)" in done.stdout


def test_no_value_loses_its_mark_on_a_narrow_terminal(run_cli, place: Path, trajectory: list[Path]) -> None:
    assert run_cli("extract", *trajectory[:3], "--inputs", "x.npy").code == 0
    results = repstat.analyze("acts.h5", noise_std=0.01, estimators="noisy")
    assert {row.status.value for row in results.rows} == {"saturated"}
    for width, layout in ((76, Layout(wide=False)), (140, Layout(wide=True))):
        text = StringIO()
        table = _noise_table(results, results.rows, "nats", layout)
        Console(file=text, width=width).print(table)
        lines = [line for line in text.getvalue().splitlines() if "█" in line]
        assert len(lines) == 5
        assert all("*" in line for line in lines)
        assert "…" not in text.getvalue()


def endless_model(path: Path) -> None:
    """A Loop without a trip count whose condition stays true."""
    float_, bool_, int_ = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Identity", ["v"], ["v_out"])],
        "body",
        [value("i", int_, []), value("c", bool_, []), value("v", float_, None)],
        [value("c_out", bool_, []), value("v_out", float_, None)],
    )
    weight = helper.make_tensor("fc.weight", float_, [3, 3], np.eye(3, dtype=np.float32).ravel())
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", bool_, [], [True])),
            helper.make_node("Loop", ["", "yes", "x"], ["looped"], body=body),
            helper.make_node("MatMul", ["looped", "fc.weight"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "fc.weight"], ["y"]),
        ],
        "endless",
        [value("x", float_, ["N", 3])],
        [value("y", float_, ["N", 3])],
        [weight],
    )
    save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_model_that_never_ends_can_be_stopped(place: Path, number: int, code: int) -> None:
    endless_model(place / "endless.onnx")
    process = subprocess.Popen(
        [*PYTHON, "extract", "endless.onnx"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(number)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "Traceback" not in error
    assert [path.name for path in place.iterdir() if path.suffix == ".h5"] == []


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("label\n" + "cat\ndog\n" * 30, 2, ""),
        ("cat#0\ncat#1\n" * 30, 2, ""),
        ("name\n" + "cat\ndog\n" * 29 + "cat\n", None, ""),
        ("label\n" + "1\n" * 59, None, "found 59 labels for 60 samples"),
        ("NA\n" + "1\n" * 59, None, "found 59 labels for 60 samples"),
        ("\n", None, "it has no lines"),
    ],
)
def test_labels_in_csv(
    run_cli, place: Path, trajectory, text: str, classes: int | None, message: str
) -> None:
    (place / "y.csv").write_text(text)
    outcome = run_cli("extract", trajectory[0], "--inputs", "x.npy", "--labels", "y.csv")
    if classes is not None:
        assert outcome.code == 0, outcome.err
        assert json.loads(run_cli("inspect", "acts.h5", "--json").out)["classes"] == classes
    elif message:
        assert outcome.code == 3
        assert message in outcome.err


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.csv", b"\xff\xfe1,2\n", "x.csv"),
        ("x.csv", b"1,2,3\n4;5;6\n", "line 2: found '4;5;6', expected 3 numbers separated by commas"),
        ("x.npy", b"hello", "it is not what its suffix .npy says"),
    ],
)
def test_arrays_that_are_not_what_they_seem(run_cli, place: Path, trajectory, name, content, text) -> None:
    (place / name).write_bytes(content)
    outcome = run_cli("extract", trajectory[0], "--inputs", name)
    assert outcome.code == 3, outcome.err
    assert text in outcome.err
    metrics = run_cli("extract", trajectory[0], "--metrics", name)
    assert metrics.code == 3
    assert "internal error" not in metrics.err
