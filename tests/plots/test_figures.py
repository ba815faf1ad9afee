"""Figures hold the numbers of the results, bear what strangers put in them, and are the same each time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from benchmarks.pages import tiled
from repstat.errors import UsageError
from repstat.plots import KINDS, encode, figure, save
from repstat.results import Results, Row, Status
from repstat.trajectories import trajectories
from tests.report.making import HOSTILE, renamed, seed_of

EVERY = tuple(KINDS)


def lines(drawn: Any) -> list[tuple[list[float], list[float]]]:
    """Return every line of every panel, as numbers."""
    return [
        (np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist())
        for ax in drawn.axes
        for line in ax.get_lines()
    ]


def is_drawn(drawn: Any, wanted: np.ndarray) -> bool:
    """Whether some line has these values, whatever lies between gaps."""
    return any(
        len(y) == len(wanted) and np.allclose(y, wanted, rtol=1e-12, equal_nan=True) for _, y in lines(drawn)
    )


@pytest.mark.parametrize("units", ["nats", "bits"])
def test_trajectories_are_those_of_the_results(training: Results, units: Any) -> None:
    drawn = figure("trajectories", [training], units=units)
    for t in trajectories(training, "mi_input"):
        assert is_drawn(drawn, t.numbers("value", units)) is (t.level == 0)
    for quantity in ("binned_mi_input", "distance_auc"):
        for t in trajectories(training, quantity):
            assert is_drawn(drawn, t.numbers("value", units))
    assert is_drawn(drawn, np.array(training.metrics["test_loss"]))


def test_the_plane_has_every_checkpoint_of_every_layer(training: Results) -> None:
    drawn = figure("information-plane", [training], level=1)
    for x, y in zip(trajectories(training, "mi_input"), trajectories(training, "mi_label"), strict=True):
        found = any(
            np.allclose(a, x.numbers("value")) and np.allclose(b, y.numbers("value"))
            for a, b in lines(drawn)
            if len(a) == 20
        )
        assert found is (x.level == 1)


def test_the_profile_is_that_of_the_results(training: Results) -> None:
    drawn = figure("noise-profile", [training], step=training.steps[7])
    for layer in training.layers:
        rows = training.select(layer=layer, quantity="effective_clusters", checkpoint=7)
        assert is_drawn(drawn, np.array([row.value for row in rows]))


def test_scatter_shows_the_samples(training: Results) -> None:
    drawn = figure("scatter", [training], step=training.steps[4])
    points = np.concatenate([np.asarray(c.get_offsets()) for ax in drawn.axes for c in ax.collections])
    expected = np.concatenate([s.coordinates[4][:, :2] for s in training.scatters if len(s.axes) == 2])
    assert {tuple(p) for p in expected.tolist()} <= {tuple(p) for p in points.tolist()}


def test_distances_are_densities_of_the_histograms(training: Results) -> None:
    drawn = figure("distances", [training], step=training.steps[6])
    for ax, layer in zip(drawn.axes, training.layers, strict=True):
        stairs = [p.get_data() for p in ax.patches if isinstance(p, mpl.patches.StepPatch)]
        ends = []
        for one in (h for h in training.histograms if (h.layer, h.quantity) == (layer, "distance")):
            density = one.counts[6] / one.counts[6].sum() / np.diff(one.edges)
            assert (density * np.diff(one.edges)).sum() == pytest.approx(1.0)
            assert (
                sum(np.array_equal(one.edges, s.edges) and np.allclose(density, s.values) for s in stairs)
                == 2
            )
            ends.append(one.edges[one.counts[6].nonzero()[0][-1] + 1])
        assert len(ends) == 2
        # All pairs are seen, and little else.
        assert max(ends) <= ax.get_xlim()[1] <= 1.04 * max(ends)


def test_errors_ceilings_and_spreads_are_those_of_the_results(training: Results) -> None:
    def band(results: list[Results]) -> list[np.ndarray]:
        ax = figure("trajectories", results, layers=["L003"]).axes[0]
        return [c.get_paths()[0].vertices for c in ax.collections if c.get_paths()]

    def reaches(bands: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> bool:
        return any(
            all(np.isclose(v[:, 1], y).any() for y in (*low, *high)) and np.isclose(v[:, 1].max(), high.max())
            for v in bands
        )

    one = trajectories(training, "mi_input", "L003")[0]
    value, error = one.numbers("value"), one.numbers("std_error")
    assert (error > 0).all()
    assert reaches(band([training]), value - error, value + error)
    assert not reaches(band([training]), value - 2 * error, value + 2 * error)
    assert reaches(band([training]), one.numbers("lower_bound"), one.numbers("upper_bound"))

    runs = [training, seed_of(training, 1), seed_of(training, 2)]
    seeds = [trajectories(run, "mi_input", "L003")[0].numbers("value") for run in runs]
    mean, std = np.mean(seeds, axis=0), np.std(seeds, axis=0, ddof=1)
    assert reaches(band(runs), mean - std, mean + std)
    assert not reaches(band(runs), mean - np.std(seeds, axis=0), mean + np.std(seeds, axis=0))

    drawn = figure("trajectories", [training], layers=["L003"]).axes[0]
    flat = {y[0] for x, y in lines(type("Drawn", (), {"axes": [drawn]})) if x == [0.0, 1.0]}
    assert flat == {round(float(one.numbers("ceiling")[0]), 9)}


def test_saturated_points_are_hollow_and_doubtful_ones_crossed(training: Results) -> None:
    def status_of(row: Row) -> Row:
        if (row.layer, row.quantity, row.checkpoint) == ("L002", "mi_input", 4):
            return replace(row, status=Status.SATURATED)
        if (row.layer, row.quantity, row.checkpoint) == ("L002", "mi_input", 9):
            return replace(row, status=Status.TOO_FEW_SAMPLES)
        return replace(row, status=Status.OK)

    changed = replace(training, rows=tuple(map(status_of, training.rows)))
    ax = figure("trajectories", [changed], layers=["L002"]).axes[0]
    value = trajectories(changed, "mi_input", "L002")[0].numbers("value")
    hollow = [x for x in ax.get_lines() if x.get_markerfacecolor() == "white"]
    crossed = [x for x in ax.get_lines() if x.get_marker() == "x"]
    assert [list(x.get_ydata()) for x in hollow] == [[value[4]]]
    assert [list(x.get_ydata()) for x in crossed] == [[value[9]]]


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize("kind", EVERY)
def test_every_text_is_on_the_figure(training: Results, kind: str, width: float) -> None:
    far = replace(training, epochs=tuple(1000.0 * (epoch or 0.0) for epoch in training.epochs))
    for runs in ([far], [far, seed_of(training, 1), seed_of(training, 2)]):
        drawn = figure(
            kind, runs, names=[f"a long name of a setting {i}" for i in range(len(runs))], width=width
        )
        encode(drawn, "png")
        page = drawn.bbox
        # Ticks beyond the axes have labels too, which are not drawn.
        ticks = {t for ax in drawn.axes for axis in (ax.xaxis, ax.yaxis) for t in axis.findobj(mpl.axis.Tick)}
        hidden = {text for tick in ticks for text in (tick.label1, tick.label2)}
        for text in drawn.findobj(mpl.text.Text):
            if text.get_text() and text.get_visible() and text not in hidden:
                box = text.get_window_extent()
                assert page.x0 - 1 <= box.x0, text
                assert box.x1 <= page.x1 + 1, text
        assert drawn.get_figwidth() == width


@pytest.mark.parametrize("kind", EVERY)
def test_a_long_and_deep_training(training: Results, kind: str) -> None:
    started = perf_counter()
    assert encode(figure(kind, [tiled(training, 100, 12)], width=7.0), "pdf").startswith(b"%PDF-")
    assert perf_counter() - started < 60


def test_without_matplotlib_it_is_said_what_to_install(
    training: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'repstat\[plot\]'"):
        figure("trajectories", [training])


def test_no_figure_through_a_link_or_over_what_is_not_ours(training: Results, tmp_path: Path) -> None:
    drawn = figure("distances", [training])
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"\x89PNG\r\n and not of repstat")
    (tmp_path / "link.png").symlink_to(mine)
    for target in (mine, tmp_path / "link.png", tmp_path / "none" / "f.png"):
        with pytest.raises(UsageError, match=r"figure|link|folder"):
            save(drawn, target, overwrite=True)
    assert mine.read_bytes().endswith(b"not of repstat")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.png", "mine.png"]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("form", ["pdf", "svg", "png"])
def test_the_bytes_are_the_same_each_time(training: Results, kind: str, form: Any) -> None:
    content = encode(figure(kind, [training]), form)
    assert content == encode(figure(kind, [training]), form)
    assert len(content) > 5000


def test_the_bytes_are_the_same_in_another_process(training: Results, tmp_path: Path) -> None:
    training.save(tmp_path / "a.results.h5")
    save(figure("trajectories", [training], names=["a"]), tmp_path / "here.svg")
    code = (
        "import sys, repstat; from repstat.plots import figure, save;"
        "save(figure('trajectories', [repstat.open_results(sys.argv[1])], names=['a']), sys.argv[2]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    there = tmp_path / "there.svg"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.results.h5"), str(there)], check=True)
    assert there.read_bytes() == (tmp_path / "here.svg").read_bytes()


@pytest.mark.parametrize("kind", EVERY)
def test_names_that_mean_harm_are_text(training: Results, kind: str) -> None:
    drawn = figure(kind, [renamed(training)], names=[HOSTILE[0]])
    assert encode(drawn, "pdf").startswith(b"%PDF-")
    texts = " ".join(text.get_text() for ax in drawn.axes for text in ax.findobj(mpl.text.Text))
    assert "\x1b" not in texts
    assert "n" * 60 not in texts
    assert encode(drawn, "svg").count(b"<script") == 0


@pytest.mark.parametrize("kind", EVERY)
def test_seeds_have_a_mean_and_a_spread(training: Results, kind: str) -> None:
    runs = [training, seed_of(training, 1), seed_of(training, 2)]
    drawn = figure(kind, runs, names=["tanh-1", "tanh-2", "tanh-3"])
    assert encode(drawn, "png").startswith(b"\x89PNG")
    if kind == "trajectories":
        values = [next(iter(trajectories(run, "mi_input", "L000"))).numbers("value") for run in runs]
        assert is_drawn(drawn, np.mean(values, axis=0))
        texts = " ".join(t.get_text() for t in drawn.findobj(mpl.text.Text))
        assert "of 3 runs" in texts


@pytest.mark.parametrize("kind", ["trajectories", "distances", "scatter", "noise-profile"])
def test_one_checkpoint_without_labels(unlabelled: Results, kind: str) -> None:
    assert encode(figure(kind, [unlabelled]), "pdf").startswith(b"%PDF-")


def test_what_cannot_be_drawn_is_said(unlabelled: Results, noisy: Results, training: Results) -> None:
    with pytest.raises(UsageError, match=r"--labels"):
        figure("information-plane", [unlabelled])
    with pytest.raises(UsageError, match="profile"):
        figure("noise-profile", [noisy])
    with pytest.raises(UsageError, match="the kinds are information-plane, trajectories"):
        figure("planes", [training])
    with pytest.raises(UsageError, match=r"L009"):
        figure("scatter", [training], layers=["L009"])
    with pytest.raises(UsageError, match="step 7"):
        figure("distances", [training], step=7)
    with pytest.raises(UsageError, match="level"):
        figure("trajectories", [training], level=5)
    with pytest.raises(UsageError, match=r"scatter"):
        figure("scatter", [replace(training, scatters=())])


def test_noise_of_the_network_and_of_the_measurement_are_told_apart(
    training: Results, noisy: Results
) -> None:
    def text(results: Results) -> str:
        drawn = figure("trajectories", [results])
        return " ".join(t.get_text() for t in drawn.findobj(mpl.text.Text))

    assert "noise" in text(training)
    assert "noisy network" in text(noisy)
    assert "noisy network" not in text(training)


@pytest.mark.parametrize("kind", EVERY)
def test_undefined_values_are_gaps(training: Results, kind: str) -> None:
    def undefined(row: Row) -> Row:
        if row.layer != "L002":
            return row
        return replace(
            row, value=None, std_error=None, lower_bound=None, upper_bound=None, status=Status.UNDEFINED
        )

    broken = replace(training, rows=tuple(map(undefined, training.rows)))
    assert encode(figure(kind, [broken]), "pdf").startswith(b"%PDF-")


def test_nothing_of_matplotlib_s_state_is_changed(training: Results) -> None:
    before = dict(mpl.rcParams)
    encode(figure("trajectories", [training]), "pdf")
    assert dict(mpl.rcParams) == before


def test_into_axes_of_the_user(training: Results) -> None:
    own = mpl.figure.Figure()
    ax = own.subplots()
    assert training.plot.information_plane(ax) is own
    assert ax.get_lines()
    with pytest.raises(UsageError, match="layer"):
        training.plot.distances(own.subplots())
    assert training.plot.trajectories(own.subplots(), quantity="mi_input") is own
