"""Stores at the ends of what there can be: each number has its conditions, or is missing with a reason."""

import json
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repstat.results import Status
from repstat.store import StoreWriter
from tests.store.making import checkpoint, layer, samples

N = 40
X = np.random.default_rng(0).normal(size=(N, 3))
PAIRS = np.arange(N) % 2
NUMBERS = (
    "value", "std_error", "lower_bound", "upper_bound", "ceiling", "population_lower", "population_upper",
    "noise_std", "epoch",
)  # fmt: skip
INFORMATION = ("mi_input", "mi_label", "binned_mi_input", "binned_mi_label")
DISTANCES = ("within_class_distance", "between_class_distance")

Rows = list[dict[str, Any]]


def clipped(value: float) -> NDArray[Any]:
    return np.where(X > 1.5, value, X).astype("<f4")


CASES: dict[str, tuple[NDArray[Any], Any]] = {
    "plain": (X.astype("<f4"), PAIRS),
    "no labels": (X.astype("<f4"), None),
    "one sample": (X[:1], PAIRS[:1]),
    "one sample, no labels": (X[:1], None),
    "one sample of many units": (np.arange(7.0)[None], PAIRS[:1]),
    "two samples of two classes": (X[:2], PAIRS[:2]),
    "one class": (X, PAIRS * 0),
    "constant": (X * 0 + 3, PAIRS),
    "zero": (X * 0, PAIRS),
    "two kinds of zero": (np.where(PAIRS[:, None], 0.0, -0.0) * np.ones((N, 3)), PAIRS),
    "repeated rows": (np.repeat(X[:4], 10, axis=0), PAIRS),
    "one unit": (X[:, :1], PAIRS),
    "a constant unit": (np.c_[X, np.ones(N)], PAIRS),
    "a class each": (X, np.arange(N)),
    "a class of one": (X, np.r_[1, np.zeros(N - 1, int)]),
    "labels far apart": (X, PAIRS * 2**62 - 2**61),
    "NaN": (clipped(np.nan), PAIRS),
    "Inf": (clipped(np.inf), PAIRS),
    "all NaN": (X * np.nan, PAIRS),
    "float16": ((X * 1e4).astype("<f2"), PAIRS),
    "large float32": ((X * 1e38).astype("<f4"), PAIRS),
    "1e300": (X * 1e300, PAIRS),
    "largest": (np.sign(X) * 1.7e308, PAIRS),
    "1e-20": (X * 1e-20, PAIRS),
    "1e-300": (X * 1e-300, PAIRS),
    "subnormal": (X * 5e-323, PAIRS),
    "offset 1e4": (X + 1e4, PAIRS),
    "offset 1e12": (X + 1e12, PAIRS),
}


def store(path: Path, values: NDArray[Any], labels: Any, metrics: dict[str, float] | None = None) -> Path:
    n = len(values)
    of = samples(n, labels=None if labels is None else labels.astype(int), input_entropy=log(n))
    layers = (layer("L000", (values.shape[1],), str(values.dtype)),)
    with StoreWriter(path, samples=of, layers=layers, steps=(0,), identity={}) as into:
        with into.checkpoint(checkpoint(0, **({"metrics": metrics} if metrics else {}))) as part:
            part.write("L000", np.ascontiguousarray(values))
        return into.finish()


@pytest.fixture
def rows_of(run_cli, tmp_path: Path):
    def rows(name: str, noise_std: str = "auto") -> Rows:
        path = store(tmp_path / f"{name.replace(' ', '-')}.h5", *CASES[name])
        outcome = run_cli("analyze", path, "--json", "--overwrite", "--noise-std", noise_std)
        assert outcome.code == 0, outcome.err
        assert "Warning" not in outcome.err
        return [json.loads(line, parse_constant=pytest.fail) for line in outcome.out.splitlines()]

    return rows


def value(rows: Rows, quantity: str, at: int = 0) -> Any:
    return [row["value"] for row in rows if row["quantity"] == quantity][at]


@pytest.mark.parametrize("noise_std", ["auto", "0.1,0.5x"])
@pytest.mark.parametrize("name", CASES)
def test_every_number_is_a_value_or_has_a_reason(rows_of, name: str, noise_std: str) -> None:
    """Values beyond their bounds by more than four standard errors would be wrong for any data."""
    values, labels = CASES[name]
    rows = rows_of(name, noise_std)
    assert len(rows) == (30 if labels is not None else 17)
    for row in rows:
        assert row["status"] in set(Status)
        assert all(row[name] is None or isfinite(row[name]) for name in NUMBERS)
        assert (row["value"] is None) == (row["status"] == "undefined")
        assert (row["n_samples"], row["n_units"]) == values.shape
        if row["value"] is None:
            assert len(row["reason"]) > 10
            continue
        assert row["std_error"] is not None
        slack = 4 * row["std_error"] + 1e-9 * max(1.0, abs(row["value"]))
        for below in ("lower_bound",):
            assert row[below] is None or row[below] <= row["value"] + slack
        for above in ("upper_bound", "ceiling"):
            assert row[above] is None or row["value"] <= row[above] + slack
        if row["quantity"] in DISTANCES:
            assert row["value"] >= 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one sample", dict.fromkeys(INFORMATION, 0.0)),
        ("one class", {"mi_label": 0.0, "binned_mi_label": 0.0}),
        ("constant", dict.fromkeys(INFORMATION, 0.0) | dict.fromkeys(DISTANCES, 0.0)),
        ("zero", dict.fromkeys(INFORMATION, 0.0) | dict.fromkeys(DISTANCES, 0.0)),
        ("two kinds of zero", dict.fromkeys(INFORMATION, 0.0) | dict.fromkeys(DISTANCES, 0.0)),
        ("two samples of two classes", {"binned_mi_input": log(2), "binned_mi_label": log(2)}),
        ("repeated rows", {"binned_mi_input": log(4), "binned_mi_label": 0.0}),
        ("a class each", {"binned_mi_input": log(N), "binned_mi_label": log(N)}),
    ],
)
def test_what_mathematics_says(rows_of, name: str, expected: dict[str, float]) -> None:
    rows = rows_of(name)
    for quantity, truth in expected.items():
        assert value(rows, quantity) == pytest.approx(truth, abs=2e-9), quantity


@pytest.mark.parametrize(
    ("name", "quantities", "reason"),
    [
        ("one sample", ("distance_ratio", "distance_auc", "within_class_distance"), "one sample has no pair"),
        ("one class", ("distance_ratio", "distance_auc", "between_class_distance"), "one class only"),
        ("constant", ("distance_ratio", "distance_auc"), "all samples coincide"),
        ("a class each", ("within_class_distance", "distance_auc"), ""),
        ("NaN", (*INFORMATION, "distance_auc", "within_class_distance"), ""),
        ("Inf", (*INFORMATION, "distance_auc", "within_class_distance"), ""),
        ("all NaN", (*INFORMATION, "distance_auc", "within_class_distance"), ""),
        ("largest", DISTANCES, "exceeds the largest"),
    ],
)
def test_what_has_no_value(rows_of, name: str, quantities: tuple[str, ...], reason: str) -> None:
    rows = rows_of(name)
    for row in rows:
        if row["quantity"] in quantities:
            assert row["value"] is None, row["quantity"]
            assert reason in row["reason"]


@pytest.mark.parametrize(
    ("name", "scale"), [("1e-20", 1e-20), ("1e-300", 1e-300), ("1e300", 1e300), ("offset 1e4", 1)]
)
def test_scale_and_offset_do_not_matter(rows_of, name: str, scale: float) -> None:
    """Relative noise and bins between the extremes: the same numbers; distances scale."""
    plain, other = rows_of("plain", "0.5x"), rows_of(name, "0.5x")
    for one, two in zip(plain, other, strict=True):
        if one["noise_std"]:
            assert two["noise_std"] == pytest.approx(one["noise_std"] * scale, rel=5e-3)
        factor = scale if one["quantity"] in DISTANCES else 1.0
        if one["value"] is None:
            assert (two["value"], two["reason"]) == (None, one["reason"])
            continue
        assert two["value"] == pytest.approx(one["value"] * factor, rel=1e-5, abs=1e-6 * factor), one[
            "quantity"
        ]


def test_noise_too_small_for_one_layer_does_not_end_the_analysis(rows_of) -> None:
    rows = rows_of("1e300", "0.1")
    assert value(rows, "mi_input") is None
    (reason,) = {row["reason"] for row in rows if row["quantity"] == "mi_input"}
    assert "noise_std 0.1 is too small for activations of size 2.67877e+300" in reason
    assert value(rows, "binned_mi_input") == pytest.approx(log(N))


def test_one_level_that_is_refused_leaves_the_others(rows_of) -> None:
    both, plain = rows_of("1e300", "0.1,0.5x"), rows_of("plain", "0.5x")

    def of(rows: list[dict[str, Any]], noise: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["quantity"] == "mi_input" and row["params"]["noise"] == noise]

    (refused,) = of(both, "0.1")
    assert "noise_std 0.1 is too small" in refused["reason"]
    (kept,), (expected,) = of(both, "0.5x"), of(plain, "0.5x")
    assert kept["value"] == pytest.approx(expected["value"], rel=1e-5)


def test_metrics_that_json_has_no_form_for_are_null(run_cli, tmp_path: Path) -> None:
    path = store(tmp_path / "acts.h5", X, PAIRS, {"loss": np.inf, "gain": -np.inf, "none": np.nan, "ok": 1.0})
    (only,) = json.loads(run_cli("inspect", path, "--json").out)["checkpoints"]
    assert only["metrics"] == {"loss": None, "gain": None, "none": None, "ok": 1.0}
