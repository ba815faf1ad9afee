"""The analysis passes on what it is told, and every row can be computed again from what it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import repstat
from repstat.adapter import Layer
from repstat.errors import UsageError
from repstat.estimators import noise_profile
from repstat.estimators.noise_profile import SCALES
from repstat.results import Status
from repstat.store import Checkpoint, Samples, StoreWriter

N = 240
STEPS = (0, 10, 30)


def layer(key: str, units: int) -> Layer:
    return Layer(
        key, key, "Gemm+Tanh", "hidden", (units,), np.dtype(np.float32), "float32", "linear>tanh", key
    )


def activations(step: int, units: int) -> NDArray[np.float32]:
    """Two classes that drift apart; the spread differs between checkpoints and between units."""
    rng = np.random.default_rng([step, units])
    labels = np.arange(N) % 2
    values = rng.normal(size=(N, units)) * (1 + step / 10) * np.arange(1, units + 1)
    return (values + 3 + labels[:, None] * step).astype(np.float32)


def write(path: Path, *, realizations: int = 1, entropy: float | None = None, labels: bool = True) -> Path:
    layers = (layer("L000", 2), layer("L001", 3))
    samples = Samples(
        index=np.arange(N),
        labels=np.arange(N) % 2 if labels else None,
        inputs_sha256="0" * 64,
        inputs_source="test",
        synthetic=False,
        class_names=(),
        input_entropy=np.log(N) if entropy is None else entropy,
    )
    writer = StoreWriter(
        path, samples=samples, layers=layers, steps=STEPS, identity={}, n_realizations=realizations
    )
    with writer:
        for step in STEPS:
            facts = Checkpoint(step, None, "m", "0" * 64, "0" * 64, {"loss": 1.0 / (step + 1)}, {})
            with writer.checkpoint(facts) as part:
                for each in layers:
                    for realization in range(realizations):
                        part.write(each.key, activations(step, each.n_units), realization=realization)
        return writer.finish()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("analysis") / "acts.h5")


def test_noise_rows_are_what_noisy_mi_gives_with_the_row_s_parameters(store: Path) -> None:
    results = repstat.analyze(store, noise_std=["0.5", "0.3x"], tolerance=0.02, seed=7, estimators="noisy")
    assert len(results.rows) == 2 * 2 * 2 * 3
    for row in results.rows:
        units = {"L000": 2, "L001": 3}[row.layer]
        pooled = np.sqrt(np.mean([activations(s, units).astype(float).var(axis=0).mean() for s in STEPS]))
        expected_std = 0.5 if row.params["noise"] == "0.5" else 0.3 * pooled
        assert row.noise_std == pytest.approx(expected_std, rel=5e-3)  # relative levels have three digits
        again = repstat.noisy_mi(
            activations(row.step, units),
            row.noise_std or 0.0,
            labels=np.arange(N) % 2,
            tolerance=row.params["tolerance"],
            seed=row.params["seed"],
        )
        estimate = again.input if row.quantity == "mi_input" else again.label
        assert estimate is not None
        assert row.params["tolerance"] == 0.02
        assert (row.value, row.std_error, row.ceiling) == (
            estimate.value,
            estimate.std_error,
            estimate.ceiling,
        )
        assert (row.units, row.noise_model, row.estimator) == ("nats", "measurement", "noisy_mi")


def test_the_noise_level_is_the_same_along_the_trajectory_and_the_noise_is_not(store: Path) -> None:
    rows = repstat.analyze(store, noise_std="0.3x", estimators="noisy").select(
        layer="L000", quantity="mi_input"
    )
    assert len({row.noise_std for row in rows}) == 1
    assert len({row.params["seed"] for row in rows}) == len(STEPS)


def test_bins_are_common_to_the_trajectory(store: Path) -> None:
    rows = repstat.analyze(store, binning=["count:5", "count:5"], estimators="binned").select(layer="L001")
    rule = repstat.Binning.parse("count:5")
    edges = rule.edges([activations(step, 3) for step in STEPS])
    assert len(rows) == 2 * len(STEPS)
    for row in rows:
        again = repstat.binned_mi(activations(row.step, 3), np.arange(N) % 2, binning=rule, edges=edges)
        estimate = again.input if row.quantity == "binned_mi_input" else again.label
        assert estimate is not None
        assert row.value == estimate.value
        assert row.params["n_cells"] == again.n_cells
    own = repstat.binned_mi(activations(0, 3), binning=rule)
    assert own.input.value != rows[0].value


def test_histograms_share_their_edges_and_hold_every_pair(store: Path) -> None:
    results = repstat.analyze(store, estimators="clustering")
    found = {(h.layer, h.quantity, h.relation): h for h in results.histograms}
    assert len(found) == 2 * 2 * 2
    within, between = found["L001", "distance", "within"], found["L001", "distance", "between"]
    half = N // 2
    assert within.counts.shape == (len(STEPS), len(within.edges) - 1)
    assert within.counts.sum(axis=1).tolist() == [half * (half - 1)] * len(STEPS)
    assert between.counts.sum(axis=1).tolist() == [half * half] * len(STEPS)
    np.testing.assert_array_equal(within.edges, between.edges)


def test_distances_are_in_activation_units_and_ratios_have_none(store: Path) -> None:
    rows = repstat.analyze(store, estimators="clustering").select(layer="L000", step=30)
    geometry = ("nc1", "nc2_equinorm", "nc2_equiangularity", "nc2_simplex", "knn_agreement", "silhouette")
    assert {row.quantity: row.units for row in rows} == dict.fromkeys(
        (*geometry, "participation_ratio", "constant_units"), "1"
    ) | {
        "within_class_distance": "activation",
        "between_class_distance": "activation",
        "distance_ratio": "1",
        "distance_auc": "1",
        "within_class_cosine": "1",
        "between_class_cosine": "1",
    }
    values = activations(30, 2).astype(float)
    labels = np.arange(N) % 2
    distance = np.linalg.norm(values[:, None] - values, axis=-1)
    same = (labels[:, None] == labels) & ~np.eye(N, dtype=bool)
    by_quantity = {row.quantity: row.value for row in rows}
    assert by_quantity["within_class_distance"] == pytest.approx(distance[same].mean())
    assert by_quantity["between_class_distance"] == pytest.approx(distance[labels[:, None] != labels].mean())


def test_the_subset_of_a_large_store_is_the_same_at_every_checkpoint(store: Path, monkeypatch) -> None:
    from repstat import compute

    seeds = []

    def spy(*args: object, seed: int, **options: object) -> object:
        seeds.append(seed)
        return original(*args, seed=seed, **options)

    original = compute.clustering
    monkeypatch.setattr(compute, "clustering", spy)
    results = repstat.analyze(store, estimators="clustering", seed=5)
    assert seeds == [5] * 6
    seeded = [row for row in results.rows if row.estimator not in ("neural_collapse", "constant_units")]
    assert {row.params["seed"] for row in seeded} == {5}


def test_duplicate_inputs_lower_the_ceiling(tmp_path: Path) -> None:
    results = repstat.analyze(write(tmp_path / "a.h5", entropy=2.5), noise_std=1e-3)
    for quantity in ("mi_input", "binned_mi_input"):
        assert {row.ceiling for row in results.select(quantity=quantity)} == {2.5}


def test_without_labels_there_are_no_label_rows(tmp_path: Path) -> None:
    results = repstat.analyze(write(tmp_path / "a.h5", labels=False), noise_std=1.0)
    quantities = {row.quantity for row in results.rows}
    assert quantities == {
        "mi_input", "binned_mi_input", "mean_distance", "mean_cosine", "participation_ratio",
        "constant_units", "effective_clusters",
    }  # fmt: skip
    assert results.n_classes == 0
    assert (results.scatters[0].labels == -1).all()


def test_geometry_rows_are_what_geometry_gives(store: Path) -> None:
    results = repstat.analyze(store, estimators="clustering", seed=3)
    for step in STEPS:
        found = repstat.clustering.geometry(activations(step, 3), np.arange(N) % 2, seed=3)
        rows = {row.quantity: row for row in results.select(layer="L001", step=step)}
        for quantity, estimate in found.estimates.items():
            row = rows[quantity]
            assert (row.value, row.std_error, row.ceiling) == (
                estimate.value, estimate.std_error, estimate.ceiling,
            )  # fmt: skip
            assert (row.status, row.reason) == (estimate.status, estimate.reason)
        assert rows["nc1"].estimator == "neural_collapse"
        assert (rows["knn_agreement"].params["k"], rows["knn_agreement"].params["chance"]) == (
            10,
            found.chance,
        )


def test_outputs_in_the_store_give_nc4(tmp_path: Path) -> None:
    """The output is right for all but 24 samples, and classes lie far apart: NC4 is 24 of 240."""
    layers = (layer("L000", 2), replace(layer("L001", 2), kind="output"))
    labels = np.arange(N) % 2
    said = np.where(np.arange(N) < 24, 1 - labels, labels)
    samples = Samples(
        index=np.arange(N), labels=labels, inputs_sha256="0" * 64, inputs_source="test", synthetic=False,
        class_names=(), input_entropy=np.log(N),
    )  # fmt: skip
    with StoreWriter(tmp_path / "a.h5", samples=samples, layers=layers, steps=(0,), identity={}) as writer:
        with writer.checkpoint(Checkpoint(0, None, "m", "0" * 64, "0" * 64, {}, {})) as part:
            part.write("L000", activations(30, 2))
            part.write("L001", np.eye(2, dtype=np.float32)[said])
        path = writer.finish()
    (row,) = repstat.analyze(path, estimators="clustering", layers="L000").select(quantity="nc4")
    assert row.value == pytest.approx(24 / N, abs=1e-12)


def test_profile_rows_are_what_noise_profile_gives(store: Path) -> None:
    results = repstat.analyze(store, estimators="profile", seed=2)
    for units in (2, 3):
        distance = np.sqrt(np.mean([activations(s, units).astype(float).var(axis=0).sum() for s in STEPS]))
        rows = results.select(layer=f"L00{units - 2}", step=10)
        assert [row.noise_std for row in rows] == pytest.approx(distance * np.array(SCALES), rel=5e-3)
        found = noise_profile(
            activations(10, units), [row.noise_std or 0.0 for row in rows], seed=rows[0].params["seed"]
        )
        assert [row.value for row in rows] == [estimate.value for estimate in found.clusters]
        assert {(r.units, r.noise_model, r.estimator) for r in rows} == {
            ("1", "measurement", "noise_profile")
        }
    data = results.to_xarray()
    assert data["effective_clusters"].dims == ("layer", "checkpoint", "scale")
    assert data.sizes["scale"] == len(SCALES)
    assert not data["effective_clusters"].isnull().any()


def test_scatters_share_their_axes(store: Path) -> None:
    results = repstat.analyze(store, estimators="clustering", layers="L001")
    (scatter,) = results.scatters
    assert scatter.axes == ("unit 0", "unit 1", "unit 2")
    for position, step in enumerate(STEPS):
        np.testing.assert_array_equal(scatter.coordinates[position], activations(step, 3)[scatter.samples])
    np.testing.assert_array_equal(scatter.labels, scatter.samples % 2)
    assert scatter.coordinates.shape == (3, N, 3)
    np.testing.assert_allclose(scatter.shown, 1.0)
    chosen = repstat.analyze(store, estimators="clustering", layers="L001", steps=[10]).scatters[0]
    np.testing.assert_array_equal(chosen.coordinates[0], scatter.coordinates[1])


def test_metrics_and_steps_come_along(store: Path) -> None:
    results = repstat.analyze(store, noise_std=1.0, steps=[30, 0], estimators=["binned"])
    assert results.steps == (0, 30)
    assert results.metrics["loss"] == (1.0, 1 / 31)
    assert [row.checkpoint for row in results.rows] == sorted(row.checkpoint for row in results.rows)


def test_several_realizations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"several realizations .* holds 2 passes per sample and does not"):
        repstat.analyze(write(tmp_path / "a.h5", realizations=2))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": -1}, "seed -1 is not a whole number"),
        ({"seed": 1.5}, "seed 1.5 is not a whole number"),
        ({"tolerance": "x"}, "tolerance 'x' is not a positive number"),
        ({"tolerance": float("nan")}, "tolerance nan is not a positive number"),
        ({"estimators": "noise"}, "no estimator is called 'noise'"),
        ({"noise_std": np.array([0.1, -1.0])}, r"noise_std '-1.0' is not a positive number"),
        ({"noise_std": None}, "noise_std 'None' is not a positive number"),
        ({"steps": []}, "no step: the steps are 0, 10, 30"),
        ({"estimators": []}, "no estimator: they are noisy, binned, clustering, profile"),
        ({"steps": [5]}, "no checkpoint at step 5 in .*: the steps are 0, 10, 30"),
    ],
)
def test_options_that_cannot_be_right(store: Path, options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        repstat.analyze(store, **options)


def test_every_public_name_works_again_after_everything_was_imported() -> None:
    import importlib

    for module in ("repstat.analysis", "repstat.clustering", "repstat.store", "repstat.estimators"):
        importlib.import_module(module)
    values = np.random.default_rng(0).normal(size=(20, 2))
    for _ in range(2):
        assert repstat.clustering(values, np.arange(20) % 2).estimates["distance_auc"].value is not None
        assert repstat.noisy_mi(values, 0.1).input.status in set(Status)
        assert repstat.binned_mi(values).n_cells > 0
    for name in repstat.__all__:
        assert getattr(repstat, name) is not None
