"""The main job on the real trajectory: extract, analyse, and what the numbers must say."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import repstat
from tests.cli.conftest import RunCli

LN_4096 = float(np.log(4096))
CHOSEN = (0, 8, 12, 19)
"""Positions in the trajectory: initialisation, fitting, falling, end."""
ROW_KEYS = [
    "checkpoint",
    "step",
    "epoch",
    "layer",
    "layer_name",
    "quantity",
    "estimator",
    "value",
    "std_error",
    "lower_bound",
    "upper_bound",
    "ceiling",
    "status",
    "units",
    "n_samples",
    "n_units",
    "noise_std",
    "noise_model",
    "params",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main-job")


@pytest.fixture(scope="module")
def store_file(workplace: Path, trajectory: list[Path], data_file: Path, metrics_file: Path) -> Path:
    from repstat.cli import _run

    store = workplace / "acts.h5"
    models = [str(trajectory[i]) for i in CHOSEN]
    options = ["--inputs", str(data_file), "--metrics", str(metrics_file), "-o", str(store)]
    assert _run(["extract", *models, *options]) == 0
    return store


@pytest.fixture(scope="module")
def rows(workplace: Path, store_file: Path) -> list[dict[str, object]]:
    from repstat.cli import _run

    arguments = ["analyze", str(store_file), "-o", str(workplace / "r.h5"), "--csv", str(workplace / "r.csv")]
    assert _run([*arguments, "--noise-std", "0.01,0.1,0.4", "--binning", "szt", "--tolerance", "0.01"]) == 0
    return repstat.open_results(workplace / "r.h5").to_rows()


def values(rows: list[dict[str, object]], quantity: str, **wanted: object) -> np.ndarray:
    found = [r for r in rows if r["quantity"] == quantity and all(r[k] == v for k, v in wanted.items())]
    assert found
    return np.array([r["value"] for r in found], dtype=float)


def test_the_store_holds_what_the_network_computes(
    store_file: Path, trajectory: list[Path], data_file: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(trajectory[CHOSEN[-1]]).graph
    weights = {t.name: numpy_helper.to_array(t).astype(float) for t in graph.initializer}
    hidden = np.load(data_file)["inputs"].astype(float)
    with repstat.open_store(store_file) as store:
        assert list(store.layers) == ["L000", "L001", "L002", "L003", "L004"]
        assert [view.n_units for view in store.layers.values()] == [10, 7, 5, 4, 3]
        assert store.checkpoints[-1].metrics["test_accuracy"] > 0.99
        assert store.checkpoints[-1].epoch == 8000
        for number, view in enumerate(store.layers.values(), start=1):
            hidden = np.tanh(hidden @ weights[f"fc{number}.weight"].T + weights[f"fc{number}.bias"])
            # float32 pre-activations of up to 50 are rounded to 4e-6 before the last tanh.
            np.testing.assert_allclose(np.asarray(view.at(index=3)), hidden, atol=2e-5)


def test_layer_1_is_at_its_ceiling_at_small_noise(rows: list[dict[str, object]]) -> None:
    first = [r for r in rows if (r["layer"], r["quantity"], r["noise_std"]) == ("L000", "mi_input", 0.01)]
    assert len(first) == len(CHOSEN)
    for row in first:
        assert row["status"] == "saturated"
        assert row["ceiling"] == pytest.approx(LN_4096)
        assert row["value"] == pytest.approx(LN_4096, abs=0.1)


def test_information_falls_with_noise(rows: list[dict[str, object]]) -> None:
    for quantity in ("mi_input", "mi_label"):
        by_noise = [values(rows, quantity, noise_std=std) for std in (0.01, 0.1, 0.4)]
        # 0.04 is four times the tolerance on the standard error of each of them.
        assert (by_noise[0] >= by_noise[1] - 0.04).all()
        assert (by_noise[1] >= by_noise[2] - 0.04).all()
    assert (values(rows, "mi_input", noise_std=0.4) < values(rows, "mi_input", noise_std=0.01) - 0.5).all()


def test_labels_know_less_than_inputs(rows: list[dict[str, object]], data_file: Path) -> None:
    labels = np.load(data_file)["labels"]
    p = np.bincount(labels) / len(labels)
    entropy = -(p * np.log(p)).sum()
    for quantity_x, quantity_y in (("mi_input", "mi_label"), ("binned_mi_input", "binned_mi_label")):
        x, y = values(rows, quantity_x), values(rows, quantity_y)
        assert (y <= x + 0.04).all()
        assert (y <= entropy + 0.04).all()
        assert (y >= -0.04).all()


def test_bounds_hold_and_statuses_say_saturated_exactly_there(rows: list[dict[str, object]]) -> None:
    for row in rows:
        if row["quantity"] != "mi_input":
            continue
        slack = 4 * row["std_error"] + 1e-9
        assert row["lower_bound"] - slack <= row["value"] <= row["upper_bound"] + slack
        assert row["std_error"] <= 0.01
        assert row["status"] == ("saturated" if row["value"] > LN_4096 - 0.1 else "ok")


def test_the_last_layer_clusters_late(rows: list[dict[str, object]]) -> None:
    last = values(rows, "binned_mi_input", layer="L004")
    assert last[0] > 6.5
    assert last[-1] < last.max() - 1
    auc = values(rows, "distance_auc", layer="L004")
    assert auc[-1] > 0.9 > auc[0]


def test_the_csv_has_the_promised_columns(workplace: Path, rows: list[dict[str, object]]) -> None:
    with (workplace / "r.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[: len(ROW_KEYS)] == ROW_KEYS
    assert len(table) == len(rows)
    for cells, row in zip(table, rows, strict=True):
        assert (cells["value"] == "") == (row["value"] is None)
        if row["value"] is not None:
            assert float(cells["value"]) == row["value"]


def test_json_is_pure_and_in_bits_when_asked(run_cli, workplace: Path, store_file: Path) -> None:
    before = store_file.read_bytes()
    arguments = ("--noise-std", "0.4", "--estimators", "noisy", "--layers", "L004", "--steps", "7800:")
    nats = run_cli("analyze", store_file, "-o", workplace / "n.h5", "--json", *arguments)
    bits = run_cli("analyze", store_file, "-o", workplace / "b.h5", "--json", "--units", "bits", *arguments)

    def refuse(text: str) -> None:
        raise AssertionError(text)

    in_nats = [json.loads(line, parse_constant=refuse) for line in nats.out.splitlines()]
    in_bits = [json.loads(line, parse_constant=refuse) for line in bits.out.splitlines()]
    assert [row["step"] for row in in_nats] == [7800, 7800, 104000, 104000]
    assert list(in_nats[0])[: len(ROW_KEYS)] == ROW_KEYS
    for a, b in zip(in_nats, in_bits, strict=True):
        assert (a["units"], b["units"]) == ("nats", "bits")
        for name in ("value", "std_error", "upper_bound", "ceiling"):
            assert a[name] == pytest.approx(b[name] * np.log(2))
    assert store_file.read_bytes() == before


def test_the_same_seed_gives_the_same_numbers(store_file: Path) -> None:
    def run(seed: int) -> list[float | None]:
        found = repstat.analyze(store_file, noise_std=0.2, layers="L003", steps=[0], seed=seed)
        return [row.value for row in found.rows]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_table_is_for_people(run_cli, workplace: Path, store_file: Path) -> None:
    outcome = run_cli("analyze", store_file, "-o", workplace / "t.h5", "--steps", "0,7800")
    assert outcome.code == 0
    for text in (
        "2 checkpoints, step 0 to 7,800",
        "4,096 samples, 2 classes",
        "I(X;T) ≤8.318",
        "saturated (",
    ):
        assert text in outcome.out
    assert "information through Gaussian noise, in nats" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 140
    assert f"wrote {workplace / 't.h5'}" in outcome.err


def test_one_model_and_nothing_else(run_cli, tmp_path: Path, models: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_cli("extract", models / "cnn.onnx")
    assert outcome.code == 0
    assert outcome.out == "acts.h5\n"
    assert "WARNING: no --inputs given: 1024 synthetic samples, seed 0" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["acts.h5"]
    analyzed = run_cli("analyze", "acts.h5")
    assert analyzed.code == 0
    assert "WARNING: the store was made from synthetic inputs" in analyzed.err
    assert "SYNTHETIC" in analyzed.out
    inspected = json.loads(run_cli("inspect", "acts.h5", "--json").out)
    assert inspected["synthetic"] is True
    assert inspected["samples"] == 1024
    assert json.loads(run_cli("inspect", "acts.results.h5", "--json").out)["synthetic"] is True
    assert "sound" in run_cli("verify", "acts.h5").err


def test_every_small_model_goes_through(run_cli, tmp_path: Path, models: Path) -> None:
    for model in sorted(models.glob("*.onnx")):
        store = tmp_path / f"{model.stem}.h5"
        assert run_cli("extract", model, "-o", store).code == 0
        outcome = run_cli("analyze", store, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.out.count("\n") > 5


def test_a_folder_store_gives_the_same_numbers(
    run_cli, workplace: Path, store_file: Path, trajectory: list[Path], data_file: Path
) -> None:
    names = [trajectory[i] for i in CHOSEN[:2]]
    folder = f"{workplace}/folder/"
    assert run_cli("extract", *names, "--inputs", data_file, "-o", folder).code == 0
    steps = [0, int(names[1].stem[5:])]
    # Without the profile, whose levels are those of the whole trajectory, as edges are.
    chosen = ["noisy", "binned", "clustering"]
    options = {
        "noise_std": 0.3,
        "binning": "width:0.07",
        "layers": "L004",
        "steps": steps,
        "estimators": chosen,
    }
    one, other = repstat.analyze(store_file, **options), repstat.analyze(folder, **options)
    for a, b in zip(one.rows, other.rows, strict=True):
        if a.quantity == "distance_auc":
            # Its bins divide the edges of a trajectory, which has four checkpoints here and two there.
            assert a.value == pytest.approx(b.value, abs=1e-7)
            assert b.lower_bound <= a.value <= b.upper_bound
        else:
            assert (a.quantity, a.value) == (b.quantity, b.value)


def test_extraction_resumes(run_cli, tmp_path: Path, trajectory: list[Path], data_file: Path) -> None:
    broken = tmp_path / "step-000013.onnx"
    broken.write_bytes(trajectory[1].read_bytes()[:100])
    arguments = ("--inputs", data_file, "-o", tmp_path / "acts.h5")
    failed = run_cli("extract", trajectory[0], broken, *arguments)
    assert failed.code == 3
    assert not (tmp_path / "acts.h5").exists()
    broken.write_bytes(trajectory[1].read_bytes())
    resumed = run_cli("extract", trajectory[0], broken, *arguments)
    assert resumed.code == 0
    assert "resuming: 1 of 2 checkpoints are there" in resumed.err
    with repstat.open_store(tmp_path / "acts.h5") as store:
        assert store.steps == (0, 13)
    assert run_cli("verify", tmp_path / "acts.h5").code == 0


def test_picked_noise_levels_are_explained(store_file: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """Round multiples of the spread in the table, and a sentence on where they come from."""
    chosen = ("--estimators", "noisy", "--layers", "L004", "--steps", "0")
    picked = run_cli("analyze", store_file, *chosen, "-o", tmp_path / "picked.results.h5")
    assert picked.code == 0
    assert "noise_std was picked for each layer, the same for all its checkpoints" in picked.out
    assert "0.05x = " in picked.out
    named = run_cli("analyze", store_file, *chosen, "--noise-std", "0.3", "-o", tmp_path / "named.results.h5")
    assert named.code == 0
    assert "was picked" not in named.out


def test_a_device_that_is_not_there_is_refused_at_once(
    store_file: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repstat.estimators import Backend

    monkeypatch.setattr(Backend, "_torch", classmethod(lambda cls, device: "torch 9 sees no CUDA device"))
    monkeypatch.setattr(Backend, "_cupy", classmethod(lambda cls, device: "cupy is not installed"))
    done = run_cli("analyze", store_file, "--device", "cuda", "-o", tmp_path / "cuda.results.h5")
    assert (done.code, done.out) == (2, "")
    expected = "device 'cuda' is not there: torch 9 sees no CUDA device; cupy is not installed"
    assert expected in " ".join(done.err.split())
    assert not (tmp_path / "cuda.results.h5").exists()
