"""``repstat plot``: what is typed, what is written, what is refused."""

from pathlib import Path

import pytest

from repstat.results import Results
from tests.cli.conftest import RunCli


@pytest.fixture
def results(tmp_path: Path, training: Results) -> Path:
    return training.save(tmp_path / "acts.results.h5")


@pytest.mark.parametrize(("suffix", "begin"), [("pdf", b"%PDF-"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure(run_cli: RunCli, results: Path, suffix: str, begin: bytes) -> None:
    target = results.with_name(f"f.{suffix}")
    found = run_cli("plot", results, "trajectories", "-o", target)
    assert (found.code, found.out) == (0, "")
    assert f"wrote {target}" in found.err
    assert target.read_bytes().startswith(begin)
    assert "exists already" in run_cli("plot", results, "trajectories", "-o", target).err
    assert run_cli("plot", results, "distances", "--step", "13", "-o", target, "--overwrite").code == 0
    target.write_bytes(begin + b" but mine")
    foreign = run_cli("plot", results, "trajectories", "-o", target, "--overwrite")
    assert foreign.code == 2
    assert "it is no figure that repstat wrote" in foreign.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trajectory", "-o", "f.pdf"], "Did you mean trajectories?"),
        (
            ["trajectories", "-o", "f.jpg"],
            "its suffix is '.jpg'. Give -o a name that ends in .pdf, .svg or .png",
        ),
        (["trajectories", "-o", "f"], "it has no suffix"),
        (["trajectories"], "-o is missing: name the figure, for example -o trajectories.pdf"),
        (["-o", "f.pdf"], "the kind of figure is missing"),
        (["scatter", "--layers", "L077", "-o", "f.pdf"], "L077"),
        (["scatter", "--step", "3", "-o", "f.pdf"], "step 3"),
    ],
)
def test_what_is_wrong_is_said(
    run_cli: RunCli, results: Path, words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parent)
    found = run_cli("plot", results, *words)
    assert found.code == 2
    assert text in found.err
    assert not Path("f.pdf").exists()


def test_several_runs(run_cli: RunCli, results: Path, tmp_path: Path) -> None:
    other = tmp_path / "acts-2.results.h5"
    other.write_bytes(results.read_bytes())
    found = run_cli("plot", results, other, "noise-profile", "-o", tmp_path / "both.png", "--width", "7")
    assert found.code == 0
    assert (
        "the same results twice" in run_cli("plot", results, results, "scatter", "-o", tmp_path / "x.png").err
    )
