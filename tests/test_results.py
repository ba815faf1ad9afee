"""Rows, units, the results file and xarray."""

import json
from math import log
from pathlib import Path

import h5py
import numpy as np
import pytest

import repstat
from repstat.errors import StoreDamagedError, UsageError
from repstat.results import Estimate, Histogram, Results, Row, Status, saturates

HOSTILE = "=cmd|' /C calc'!A0 <script>\u202e 💥 " + "x" * 300


def row(**changes: object) -> Row:
    fields: dict[str, object] = {
        "checkpoint": 0, "step": 10, "epoch": 0.5, "layer": "L000", "layer_name": HOSTILE,
        "quantity": "mi_input", "estimator": "noisy_mi", "value": log(2), "std_error": log(2) / 10,
        "lower_bound": 0.0, "upper_bound": 1.0, "ceiling": 2.0, "status": Status.OK, "units": "nats",
        "n_samples": 4, "n_units": 2, "noise_std": 0.1, "noise_model": "measurement",
        "params": {"noise": "0.1"},
    }  # fmt: skip
    return Row(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def results() -> Results:
    undefined = row(
        checkpoint=1, step=20, epoch=None, value=None, std_error=None,
        status=Status.UNDEFINED, reason="NaN in 3 samples",
    )  # fmt: skip
    auc = row(quantity="distance_auc", units="1", noise_std=None, noise_model="", params={}, value=0.75)
    return Results(
        rows=(row(), undefined, auc),
        histograms=(
            Histogram("L000", "distance", "within", np.array([0.0, 1.0, 2.0]), np.array([[1, 2], [3, 4]])),
        ),
        steps=(10, 20),
        epochs=(0.5, None),
        metrics={"train_loss": (1.5, float("nan"))},
        layers={"L000": HOSTILE},
        n_samples=4,
        n_classes=2,
        synthetic=True,
        provenance={"seed": 0, "store": "acts.h5"},
    )


def test_the_results_file_gives_back_what_was_saved(results: Results, tmp_path: Path) -> None:
    path = results.save(tmp_path / "r.h5")
    again = repstat.open_results(path)
    assert again.to_rows() == results.to_rows()
    assert again.layers == results.layers
    assert (again.steps, again.epochs) == (results.steps, results.epochs)
    assert again.metrics["train_loss"][0] == 1.5
    assert np.isnan(again.metrics["train_loss"][1])
    assert (again.synthetic, again.n_samples, again.n_classes) == (True, 4, 2)
    assert again.provenance == results.provenance
    np.testing.assert_array_equal(again.histograms[0].counts, results.histograms[0].counts)
    assert (again.histograms[0].relation, again.histograms[0].layer) == ("within", "L000")
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]


def test_bits_convert_information_and_nothing_else(results: Results) -> None:
    mi, _, auc = results.to_rows("bits")
    assert mi["value"] == pytest.approx(1.0)
    assert mi["std_error"] == pytest.approx(0.1)
    assert mi["ceiling"] == pytest.approx(2 / log(2))
    assert mi["noise_std"] == 0.1
    assert mi["units"] == "bits"
    assert (auc["value"], auc["units"]) == (0.75, "1")


def test_rows_are_json_without_nan(results: Results) -> None:
    lines = [json.dumps(each, allow_nan=False) for each in results.to_rows()]
    assert json.loads(lines[1])["value"] is None
    assert json.loads(lines[1])["reason"] == "NaN in 3 samples"


def test_xarray_has_the_trajectory(results: Results) -> None:
    dataset = results.to_xarray("bits")
    assert dataset["mi_input"].dims == ("layer", "checkpoint", "noise")
    np.testing.assert_allclose(dataset["mi_input"].sel(layer="L000", noise="0.1"), [1.0, np.nan])
    assert dataset["mi_input_status"].sel(noise="0.1").values.tolist() == [["ok", "undefined"]]
    assert dataset["distance_auc"].dims == ("layer", "checkpoint")
    assert dataset["step"].values.tolist() == [10, 20]
    assert dataset["metric_train_loss"].values[0] == 1.5
    assert dataset.attrs["units"] == "bits"


def test_rows_are_selected_by_field_or_parameter(results: Results) -> None:
    assert len(results.select(quantity="mi_input")) == 2
    assert len(results.select(quantity="mi_input", noise="0.1", step=10)) == 1
    assert results.select(layer="L001") == ()


def test_nothing_is_overwritten_unasked(results: Results, tmp_path: Path) -> None:
    path = results.save(tmp_path / "r.h5")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"results exist already in .*r.h5: nothing is overwritten unasked"):
        results.save(path)
    assert path.read_bytes() == before
    results.save(path, overwrite=True)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="will not overwrite a file that is not a results file"):
        results.save(tmp_path / "precious.txt", overwrite=True)
    (tmp_path / "link.h5").symlink_to(path)
    with pytest.raises(UsageError, match="it is a link"):
        results.save(tmp_path / "link.h5", overwrite=True)


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        repstat.open_results(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreDamagedError, match=r"cannot read the results in .*text\.h5"):
        repstat.open_results(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["schema"] = "something else"
    with pytest.raises(StoreDamagedError, match="found schema 'something else', expected 'repstat/results'"):
        repstat.open_results(tmp_path / "other.h5")


def test_a_failed_write_leaves_nothing(results: Results, tmp_path: Path, monkeypatch) -> None:
    from repstat.store import results_file

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results_file, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        results.save(tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "ceiling", "expected"),
    [
        (8.25, 8.3, True),
        (8.1, 8.3, False),
        (0.0, 0.0, False),
        (0.05, 0.1, False),
        (0.08, 0.1, True),
        (0.6, 0.693, True),
    ],
)
def test_saturation_is_a_tenth_of_a_nat(value: float, ceiling: float, expected: bool) -> None:
    assert saturates(value, ceiling) is expected


def test_every_status_says_what_to_change() -> None:
    assert {status.value for status in Status} == {
        "ok", "saturated", "undefined", "too_few_samples", "too_few_realizations", "tolerance_not_reached",
    }  # fmt: skip
    assert len({status.advice for status in Status}) == len(Status)
    assert Status.OK == "ok"


def test_an_undefined_estimate_has_a_reason_and_no_value() -> None:
    estimate = Estimate.undefined("all values are NaN", n_samples=3, n_units=2)
    assert (estimate.value, estimate.status, estimate.reason) == (
        None,
        Status.UNDEFINED,
        "all values are NaN",
    )
