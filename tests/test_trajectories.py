"""Rows as arrays, and the axis of a training."""

from dataclasses import replace
from math import log, log10

import numpy as np
import pytest

from repstat.results import Results, Status
from repstat.trajectories import group_of, places_of, profile, spread, time_axis, trajectories


def at(results: Results, steps: tuple[int, ...], epochs: tuple[float | None, ...] | None = None) -> Results:
    return replace(results, rows=(), steps=steps, epochs=epochs or (None,) * len(steps))


def test_series_are_the_rows_in_order(training: Results) -> None:
    found = trajectories(training, "mi_input")
    assert [t.layer for t in found] == [key for key in training.layers for _ in range(2)]
    assert [t.level for t in found] == [0, 1] * 5
    for t in found:
        rows = training.select(layer=t.layer, quantity="mi_input", noise=t.scale)
        assert t.known == rows
        assert t.numbers("value").tolist() == [row.value for row in rows]
        assert t.numbers("value", "bits") == pytest.approx(np.array([row.value for row in rows]) / log(2))
        assert t.are(Status.SATURATED).tolist() == [row.status is Status.SATURATED for row in rows]
    (distances,) = trajectories(training, "distance_auc", "L002")
    assert distances.numbers("value", "bits").tolist() == distances.numbers("value").tolist()


def test_a_missing_row_is_a_gap(training: Results) -> None:
    rows = tuple(r for r in training.rows if not (r.checkpoint == 3 and r.layer == "L001"))
    (found,) = trajectories(replace(training, rows=rows), "nc1", "L001")
    assert found.rows[3] is None
    assert np.isnan(found.numbers("value")[3])
    assert np.isfinite(np.delete(found.numbers("value"), 3)).all()
    assert len(found.known) == 19


def test_the_axis_is_logarithmic_with_a_place_for_zero(training: Results) -> None:
    axis = time_axis(at(training, (0, 10, 100, 1000)))
    assert (axis.name, axis.linear) == ("step", False)
    assert axis.places.tolist() == [0.5, 1.0, 2.0, 3.0]
    assert axis.ticks[0] == (0.5, "0")
    assert (1.0, "10") in axis.ticks
    assert (3.0, "1,000") in axis.ticks


@pytest.mark.parametrize(
    ("steps", "texts"),
    [
        ((1, 100_000), ["1", "10", "100", "1,000", "10,000", "10⁵"]),
        ((20, 300), ["20", "50", "100", "200"]),
        ((0, 5, 9), ["0", "2", "4", "6", "8"]),
        ((7,), ["7"]),
    ],
)
def test_ticks_are_numbers_that_people_write(
    training: Results, steps: tuple[int, ...], texts: list[str]
) -> None:
    assert [text for _, text in time_axis(at(training, steps)).ticks] == texts


def test_epochs_where_all_have_one_and_they_rise(training: Results) -> None:
    rising = at(training, (1, 2, 3), (0.5, 5.0, 50.0))
    assert time_axis(rising).name == "epoch"
    for epochs in ((0.5, None, 50.0), (5.0, 5.0, 50.0), (-1.0, 5.0, 50.0), (0.5, float("inf"), 50.0)):
        assert time_axis(at(training, (1, 2, 3), epochs)).name == "step"
    assert time_axis(rising, at(training, (1, 2, 3))).name == "step"


def test_runs_of_different_checkpoints_share_an_axis(training: Results) -> None:
    first, second = at(training, (1, 10, 1000)), at(training, (10, 100))
    axis = time_axis(first, second)
    assert axis.values.tolist() == [1, 10, 100, 1000]
    assert places_of(first, axis).tolist() == [0.0, 1.0, 3.0]
    assert places_of(second, axis) == pytest.approx([log10(10), log10(100)])


def test_the_spread_of_seeds_by_hand() -> None:
    t = np.array([0.0, 1.0, 2.0])
    runs = [(t, np.array([1.0, 2.0, np.nan])), (t[:2], np.array([3.0, 6.0])), (t, np.array([2.0, 1.0, 9.0]))]
    found = spread(runs)
    assert found is not None
    assert found.values.tolist() == [0.0, 1.0]
    assert found.mean.tolist() == [2.0, 3.0]
    assert found.std == pytest.approx([1.0, np.sqrt(7.0)])
    assert found.n_runs == 3
    assert spread(runs[:1]) is None
    assert spread([(t[:1], np.array([1.0])), (t[1:2], np.array([1.0]))]) is None


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("tanh-1", "tanh"), ("tanh-s12", "tanh"), ("tanh_seed3", "tanh_seed"), ("run7", "run"),
        ("reg.2", "reg"), ("vgg16", "vgg16"), ("plain", "plain"), ("12", "12"),
    ],
)  # fmt: skip
def test_seeds_of_one_setting(name: str, group: str) -> None:
    assert group_of(name) == group


def test_the_profile_is_a_table_over_scales(training: Results) -> None:
    found = profile(training, "L004")
    assert found is not None
    assert (np.diff(found.noise_std) > 0).all()
    assert found.clusters.shape == (20, len(found.noise_std))
    row = training.select(layer="L004", quantity="effective_clusters", checkpoint=5)[2]
    assert found.clusters[5, 2] == row.value
    assert found.ceiling == pytest.approx(row.ceiling)
    assert profile(replace(training, rows=()), "L004") is None
