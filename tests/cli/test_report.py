"""``repstat report``: what is typed, what is written, what is refused."""

from pathlib import Path

import numpy as np
import pytest

import repstat
from tests.cli.conftest import RunCli


@pytest.fixture
def results(tmp_path: Path, trajectory: list[Path], data_file: Path) -> Path:
    with np.load(data_file) as arrays:
        inputs, labels = arrays["inputs"][::128], arrays["labels"][::128]
    store = repstat.extract(trajectory[::10], inputs, labels=labels, store=tmp_path / "acts.h5")
    return repstat.analyze(store, estimators="binned").save(tmp_path / "acts.results.h5")


def test_a_page_beside_the_results(run_cli: RunCli, results: Path) -> None:
    before = results.read_bytes()
    found = run_cli("report", results)
    page = results.with_name("acts.report.html")
    assert (found.code, found.out) == (0, "")
    assert f"wrote {page} (" in found.err
    assert "open it in a browser" in found.err
    assert page.read_text("utf-8").startswith("<!doctype html><!-- repstat report -->")
    assert "H(Bin)" in page.read_text("utf-8")
    assert results.read_bytes() == before
    assert sorted(p.name for p in results.parent.iterdir()) == [
        "acts.h5", "acts.report.html", "acts.results.h5",
    ]  # fmt: skip


def test_nothing_is_overwritten_unasked_and_nothing_foreign_at_all(run_cli: RunCli, results: Path) -> None:
    page = results.with_name("p.html")
    assert run_cli("report", results, "-o", page).code == 0
    again = run_cli("report", results, "-o", page)
    assert again.code == 2
    assert "exists already: nothing is overwritten unasked. Pass --overwrite." in again.err
    assert run_cli("report", results, "-o", page, "--overwrite").code == 0
    page.write_text("<html>mine</html>")
    foreign = run_cli("report", results, "-o", page, "--overwrite")
    assert (foreign.code, page.read_text()) == (2, "<html>mine</html>")
    assert "it is no report that repstat wrote" in foreign.err
    link = results.with_name("link.html")
    link.symlink_to(page)
    assert "it is a link or not a regular file" in run_cli("report", results, "-o", link, "--overwrite").err
    assert "it is one of the results" in run_cli("report", results, "-o", results, "--overwrite").err
    assert (
        "the folder does not exist" in run_cli("report", results, "-o", results.parent / "no" / "p.html").err
    )
    assert "the same results twice" in run_cli("report", results, results).err


def test_what_is_no_results_file_is_refused(run_cli: RunCli, results: Path, tmp_path: Path) -> None:
    store = run_cli("report", tmp_path / "acts.h5")
    assert store.code == 4
    assert "Traceback" not in store.err
    missing = run_cli("report", tmp_path / "none.results.h5")
    assert missing.code == 2
    broken = bytearray(results.read_bytes())
    broken[len(broken) // 2] ^= 255
    results.write_bytes(broken)
    assert run_cli("report", results).code == 4
    assert not results.with_name("acts.report.html").exists()


def test_what_reports_need_is_said(run_cli: RunCli, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    found = run_cli("report", results)
    assert found.code == 2
    assert "jinja2 is not installed. Install what reports need: pip install 'repstat[plot]'." in found.err


def test_runs_of_one_name_in_several_folders(run_cli: RunCli, results: Path, tmp_path: Path) -> None:
    other = tmp_path / "seed2"
    other.mkdir()
    (other / results.name).write_bytes(results.read_bytes())
    assert run_cli("report", results, other / results.name, "-o", tmp_path / "both.html").code == 0
    assert "seed2/acts" in (tmp_path / "both.html").read_text("utf-8")
