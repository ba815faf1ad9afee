"""Findings of trajectories whose answer is known, and of the fixture trajectory."""

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import repstat
from repstat.findings import Fall, Findings, Verdict, Why, alarm, find
from repstat.rank import decline, rank_correlation
from repstat.results import Results, Row, Status
from repstat.wording import sentences

N_STEPS = 20
FALLING = [5.0, 5.2, 5.5, 5.4, *np.linspace(5.0, 2.0, 16)]
LOSS = tuple(np.linspace(0.7, 0.01, N_STEPS))


def row(checkpoint: int, value: float | None, **changes: object) -> Row:
    fields: dict[str, object] = {
        "checkpoint": checkpoint, "step": 10 * checkpoint, "epoch": None, "layer": "L000",
        "layer_name": "fc1", "quantity": "mi_input", "estimator": "noisy_mi", "value": value,
        "std_error": 0.01, "lower_bound": None, "upper_bound": None, "ceiling": 8.0,
        "status": Status.UNDEFINED if value is None else Status.OK, "units": "nats", "n_samples": 3000,
        "n_units": 4, "noise_std": 0.1, "noise_model": "measurement", "params": {"noise": "0.1"},
    }  # fmt: skip
    return Row(**fields | changes)  # type: ignore[arg-type]


def network(values: list[float], **changes: object) -> list[Row]:
    return [row(i, v, **({"noise_model": "network"} | changes)) for i, v in enumerate(values)]


def neighbours(agreement: float, n_steps: int = N_STEPS) -> list[Row]:
    params = {"n_queries": 1000, "k": 10, "chance": 0.5}
    of = {"quantity": "knn_agreement", "units": "1", "noise_std": None, "noise_model": "", "params": params}
    return [row(i, 0.6 + (agreement - 0.6) * i / (n_steps - 1), **of) for i in range(n_steps)]


def results(rows: list[Row], **metrics: tuple[float, ...]) -> Results:
    n = 1 + max(r.checkpoint for r in rows)
    return Results(
        rows=tuple(rows), steps=tuple(range(0, 10 * n, 10)), epochs=(None,) * n, metrics=metrics,
        layers={"L000": "fc1"}, n_samples=3000, n_classes=2, synthetic=False, provenance={},
    )  # fmt: skip


def fall_of(rows: list[Row], **metrics: tuple[float, ...]) -> Fall:
    return next(fall for fall in find(results(rows, **metrics)).falls if fall.quantity == "mi_input")


def said(found: Findings) -> str:
    return " ".join(sentences(found, "nats"))


def test_a_network_that_learns_and_forgets_its_input_compresses() -> None:
    found = find(results(network(FALLING) + neighbours(0.9), test_loss=LOSS))
    (fall,) = found.falls
    assert (fall.verdict, fall.compresses, fall.why) == (Verdict.YES, Verdict.YES, Why.NUMBERS)
    assert fall.peak is not None
    assert (fall.peak.step, fall.fall) == (20, pytest.approx(3.5))
    assert fall.std_error == pytest.approx(0.01 * 2**0.5)
    assert found.learning.learned is True
    assert "Compression in L000 (3.500±0.014 nats from step 20, noise_std 0.1)" in said(found)
    assert "5.049±0.020 bits from step 20" in " ".join(sentences(found, "bits"))


def test_a_deterministic_network_clusters_and_is_not_said_to_compress() -> None:
    found = find(results([row(i, v) for i, v in enumerate(FALLING)] + neighbours(0.9), test_loss=LOSS))
    (fall,) = found.falls
    assert (fall.verdict, fall.compresses) == (Verdict.YES, None)
    assert "Clustering at the scale of the noise in L000" in said(found)
    assert "ompress" not in said(found)


@pytest.mark.parametrize(
    ("agreement", "metrics", "why"),
    [
        (0.5, {"test_loss": LOSS}, Why.NOT_LEARNED),
        (0.505, {}, Why.NOT_LEARNED),
        (0.9, {"test_loss": (0.7,) * N_STEPS}, Why.NOT_LEARNED),
        (0.9, {"train_loss": LOSS, "val_loss": tuple(reversed(LOSS))}, Why.NOT_LEARNED),
        (0.9, {"test_acc": tuple(0.5 + 0.001 * i for i in range(N_STEPS))}, Why.NOT_LEARNED),
        (None, {}, Why.LEARNING_UNKNOWN),
        (0.9, {"test_acc": tuple(0.5 + 0.02 * i for i in range(N_STEPS))}, Why.NUMBERS),
        (None, {"loss": LOSS}, Why.NUMBERS),
    ],
)
def test_what_has_not_learned_is_not_said_to_compress(
    agreement: float | None, metrics: dict[str, tuple[float, ...]], why: Why
) -> None:
    """Shuffled labels (neighbours at chance), a loss that stays or rises, and nothing known at all."""
    rows = network(FALLING) + ([] if agreement is None else neighbours(agreement))
    found = find(results(rows, **metrics))
    assert found.falls[0].why is why
    assert (found.falls[0].compresses is Verdict.YES) is (why is Why.NUMBERS)
    assert ("Compression" in said(found)) is (why is Why.NUMBERS)


def test_an_untrained_network_is_not_said_to_fall() -> None:
    """4,000 trajectories of the same weights, seen with error 0.01: at most one in a thousand falls.

    The peak is the highest of twenty, and a threshold of two errors would call most of them falls.
    """
    rng = np.random.default_rng(0)
    beyond = naive = 0
    for _ in range(4000):
        values = 5.0 + 0.01 * rng.standard_normal(N_STEPS)
        fall = fall_of(network(values.tolist()))
        assert fall.fall is not None
        assert fall.std_error is not None
        assert fall.verdict in (Verdict.NO, Verdict.WITHIN_ERROR)
        beyond += fall.fall > fall.threshold * fall.std_error
        naive += fall.fall > 1.96 * fall.std_error
    assert beyond <= 4 + 4 * 2
    assert naive > 700  # a fifth of them, by simulation


def test_networks_drawn_anew_at_each_checkpoint_have_no_trend() -> None:
    """1,000 trajectories of exchangeable values far beyond their error: 1 % may decline, the peak aside."""
    rng = np.random.default_rng(1)
    verdicts = [fall_of(network(rng.normal(5.0, 1.0, N_STEPS).tolist()), loss=LOSS) for _ in range(1000)]
    yes = sum(fall.verdict is Verdict.YES for fall in verdicts)
    assert yes <= 10 + 4 * 10**0.5
    assert sum(fall.why is Why.NO_TREND for fall in verdicts) > 800


def test_a_drop_that_lasts_is_a_trend() -> None:
    """Down once and level after, which the values after the peak alone would not show."""
    rng = np.random.default_rng(2)
    values = [4.1, 4.2, 4.15, 4.2, 4.3, 4.25, 4.4, *(3.3 + 0.02 * rng.standard_normal(13))]
    fall = fall_of(network([float(v) for v in values]), loss=LOSS)
    assert fall.verdict is Verdict.YES


@pytest.mark.parametrize(
    ("values", "changes", "verdict", "why"),
    [
        ([5.0] * 20, {}, Verdict.NO, Why.NUMBERS),
        (list(range(1, 8)), {}, Verdict.NO, Why.NUMBERS),
        ([5.0] * 10 + [4.98] * 10, {"std_error": 0.001}, Verdict.NO, Why.NUMBERS),
        ([5.0] * 10 + [4.9] * 10, {"std_error": 0.1}, Verdict.WITHIN_ERROR, Why.NUMBERS),
        ([7.95, 7.94, 7.93], {"status": Status.SATURATED}, Verdict.CANNOT_BE_JUDGED, Why.SATURATED),
        ([5.0, 2.0], {}, Verdict.CANNOT_BE_JUDGED, Why.FEW_CHECKPOINTS),
        ([5.0], {}, Verdict.CANNOT_BE_JUDGED, Why.FEW_CHECKPOINTS),
        ([5.0, 4.0, 3.0, 2.0, None], {}, Verdict.CANNOT_BE_JUDGED, Why.UNDEFINED),
        (FALLING, {"std_error": None}, Verdict.CANNOT_BE_JUDGED, Why.NO_ERROR),
        (FALLING, {"params": {"noise": "0.1", "bias": 3.45}}, Verdict.CANNOT_BE_JUDGED, Why.FEW_REALIZATIONS),
        (FALLING, {"params": {"noise": "0.1", "bias": 0.5}}, Verdict.YES, Why.NUMBERS),
    ],
)  # fmt: skip
def test_verdicts(values: list[float], changes: dict[str, object], verdict: Verdict, why: Why) -> None:
    n = len(values)
    fall = fall_of(network(values, **changes), loss=tuple(np.linspace(1, 0, n)))
    assert (fall.verdict, fall.why) == (verdict, why)


def test_a_fall_from_the_ceiling_is_a_lower_end() -> None:
    rows = network(FALLING)
    rows[2] = replace(rows[2], status=Status.SATURATED)
    found = find(results(rows, loss=LOSS))
    assert found.falls[0].from_ceiling
    assert "at least 3.500" in said(found)


def test_rank_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 6, 15).astype(float)
    b = a + rng.integers(0, 4, 15)
    found = rank_correlation(a.tolist(), b.tolist())
    assert found.value == pytest.approx(spearmanr(a, b).statistic)
    assert found.beyond_chance
    # Under permutation the variance is 1 / (n - 1), exactly.
    n = 40
    found = rank_correlation(rng.random(n).tolist(), rng.random(n).tolist())
    assert found.chance_high == pytest.approx(1.96 / (n - 1) ** 0.5, abs=0.03)
    assert found.chance_low == pytest.approx(-1.96 / (n - 1) ** 0.5, abs=0.03)
    assert rank_correlation([1, 2, 3], [1, 2, 3]).reason == "fewer than 5 checkpoints"
    assert rank_correlation([1] * 6, list(range(6))).reason == "one of them is constant"


def test_declines_by_counting() -> None:
    """Of the 120 orders of five values one declines throughout, and four more but for one swap."""
    assert decline([5, 4, 3, 2, 1]) == pytest.approx(1 / 120)
    assert decline([5, 4, 3, 1, 2]) == pytest.approx(5 / 120)
    assert decline([1, 2, 3, 4, 5]) == 1.0
    assert decline([1, 1, 1, 1, 1]) == 1.0
    assert decline([4, 3, 2, 1]) is None
    assert decline(list(range(30, 0, -1))) == pytest.approx(1 / 5000)


def test_what_moves_together() -> None:
    rng = np.random.default_rng(4)
    binned = {
        "quantity": "binned_mi_input",
        "noise_std": None,
        "noise_model": "",
        "params": {"binning": "szt"},
    }
    rows = [row(i, v) for i, v in enumerate(FALLING)]
    rows += [row(i, v + 1.0, **binned) for i, v in enumerate(FALLING)] + neighbours(0.9)
    found = find(results(rows, test_loss=LOSS, noise=tuple(rng.random(N_STEPS))))
    pairs = {(p.first, p.second): p.correlation for p in found.together}
    assert set(pairs) == {
        ("mi_input 0.1", "binned_mi_input szt"), ("mi_input 0.1", "knn_agreement"),
        ("binned_mi_input szt", "knn_agreement"),
    }  # fmt: skip
    assert pairs["mi_input 0.1", "binned_mi_input szt"].value == pytest.approx(1.0)
    assert (pairs["mi_input 0.1", "knn_agreement"].value or 0.0) < -0.9
    metrics = {(p.first, p.second): p.correlation for p in found.with_metrics}
    assert metrics["knn_agreement", "test_loss"].value == pytest.approx(-1.0)
    assert metrics["knn_agreement", "test_loss"].beyond_chance
    assert not metrics["knn_agreement", "noise"].beyond_chance
    assert "L000 knn_agreement (-1.00" in said(found)
    ceiling = [replace(r, status=Status.SATURATED) if r.quantity == "mi_input" else r for r in rows]
    saturated = find(results(ceiling, test_loss=LOSS))
    assert {p.correlation.reason for p in saturated.together if p.first == "mi_input 0.1"} == {
        "saturated at most checkpoints"
    }
    assert find(results(rows, test_loss=LOSS)) == find(results(rows, test_loss=LOSS))


def test_the_alarm_counts_what_is_above_its_error() -> None:
    rises = [row(i, v, quantity="mi_input_rise") for i, v in enumerate([-0.5, 0.04, 0.06, 0.3])]
    found = alarm(rises)
    assert (found.n_cases, found.n_alarms) == (4, 2)
    assert found.worst is rises[3]
    assert alarm(rises[:2]).worst is None


def test_what_was_not_measured_is_said() -> None:
    collapse = {"quantity": "nc1", "units": "1", "noise_std": None, "noise_model": "", "params": {}}
    found = find(results([row(i, 1.0 - i / 10, **collapse) for i in range(5)]))
    assert set(found.left_out) == {"nc3", "nc4"}
    assert "nc3 (a store holds no last weights; repstat.clustering.self_duality takes them)" in said(found)
    assert find(results(neighbours(0.9))).left_out == {}
    assert "synthetic" in said(replace(found, synthetic=True))


def test_many_layers_take_few_lines() -> None:
    rows = [replace(r, layer=f"L{i:03d}") for i in range(40) for r in network(FALLING)]
    many = replace(results(rows, loss=LOSS), layers={f"L{i:03d}": "fc" for i in range(40)})
    lines = sentences(find(many), "nats")
    assert len(lines) <= 5
    assert "and 34 more" in lines[0]


@pytest.fixture(scope="module")
def twelve_bit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The fixture trajectory on 1,024 of its inputs, with its labels and with shuffled ones."""
    folder = Path(__file__).parents[1] / "fixtures" / "twelve_bit"
    data = np.load(folder / "data.npz")
    chosen = np.random.default_rng(0).choice(4096, 1024, replace=False)
    place = tmp_path_factory.mktemp("twelve")
    models = sorted(folder.glob("step-*.onnx"))[::2]
    labels = data["labels"][chosen]
    for name, y in (("true", labels), ("shuffled", np.random.default_rng(1).permutation(labels))):
        repstat.extract(models, data["inputs"][chosen], labels=y, store=place / f"{name}.h5")
    return place / "true.h5", place / "shuffled.h5"


def test_the_fixture_trajectory_clusters(twelve_bit: tuple[Path, Path]) -> None:
    found = find(repstat.analyze(twelve_bit[0], noise_std="auto", tolerance=0.03))
    last = [f for f in found.falls if f.layer == "L004"]
    # The finer level and the bins; after the late peak of the coarser one are five checkpoints only.
    assert [fall.verdict for fall in last if fall.scale != last[1].scale] == [Verdict.YES] * 2
    assert last[1].why is Why.NO_TREND
    assert all((fall.fall or 0.0) > 0.5 for fall in last)
    assert {fall.compresses for fall in found.falls} == {None}
    assert found.learning.apart is True
    assert found.alarm.n_cases == 0
    moves = {(p.first, p.second): p.correlation for p in found.together if p.layer == "L004"}
    assert (moves["binned_mi_input count:30", "distance_ratio"].value or 0.0) > 0.9
    text = said(found)
    assert "Clustering at the scale of" in text
    assert "ompress" not in text


def test_shuffled_labels_belong_to_no_layer(twelve_bit: tuple[Path, Path]) -> None:
    """Were this a noisy network, its falls would not be called compression either."""
    found = find(repstat.analyze(twelve_bit[1], estimators=["clustering", "binned"]))
    assert (found.learning.apart, found.learning.learned) == (False, False)
    text = said(found)
    assert "ompress" not in text
    assert "neighbours share their class no more than by chance" in text
    assert log(1024) > 6
