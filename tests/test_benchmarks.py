"""The benchmarks are not run here; that they import and write what they found is."""

import importlib
import sys

import numpy as np
import pytest

MODULES = ("cases", "kernels", "measure", "memory", "peers", "precision", "report", "run", "sidejobs")
MODULES += ("network", "overhead", "pages", "safety", "small_cnn", "suite", "traps", "trajectory")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_without_a_trace_in_the_path(name):
    before = list(sys.path)
    importlib.import_module(f"benchmarks.{name}")
    assert sys.path == before


def test_the_table_of_a_fake_result():
    from benchmarks.report import Table

    table = Table("Speed", "What is measured.", ("job", "time|"), [["a", "1 s"], ["b", "2 s"]], "All of it.")
    assert table.markdown() == (
        "## Speed\n\nWhat is measured.\n\n| job | time |\n|---|---:|\n| a | 1 s |\n| b | 2 s |\n\nAll of it."
    )


def test_a_row_of_another_length_is_refused():
    from benchmarks.report import Table

    with pytest.raises(ValueError, match="'Speed': found 1 cells, expected 2"):
        Table("Speed", "", ("job", "time|"), [["a"]]).markdown()


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-6, "2 µs"), (0.0123, "12.3 ms"), (5.0, "5 s"), (1200.0, "20 min"), (36000.0, "10 h")],
)
def test_times_come_in_the_unit_that_suits_them(value, text):
    from benchmarks.report import seconds

    assert seconds(value) == text


def test_the_page_names_the_machine_and_no_place():
    from benchmarks.cases import ROOT
    from benchmarks.measure import QUICK
    from benchmarks.report import Table
    from benchmarks.suite import page

    text = page([Table("Speed", "", ("job",), [["a"]])], QUICK, 60.0)
    assert "From a quick run" in text
    assert f"numpy {np.__version__}" in text
    assert str(ROOT) not in text


def test_the_peers_agree_with_the_sum_itself():
    from benchmarks.peers import present

    rng = np.random.default_rng(2)
    centres, points = rng.normal(size=(50, 3)), rng.normal(size=(7, 3))
    squared = ((points[:, None] - centres[None]) ** 2).sum(2)
    exact = np.log(np.exp(-squared / 0.5).mean(1)) - 1.5 * np.log(2 * np.pi * 0.25)
    for name, score in present().items():
        np.testing.assert_allclose(score(centres, points, 0.5), exact, atol=1e-9, err_msg=name)
