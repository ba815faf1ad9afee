"""A noisy network from its model to its rows: which passes are made, what is stored, what is claimed."""

import json
from math import log
from pathlib import Path

import numpy as np
import onnx
import pytest

import repstat
from repstat.adapter import AdapterOptions, Noise
from repstat.discovery import open_model
from repstat.errors import RepstatError, UsageError
from repstat.noise import BIT_GENERATOR, FIRST_CONDITIONAL, checksum, standard_normal
from repstat.results import Status
from repstat.store import Store

HIDDEN = ("L000", "L001", "L002", "L003", "L004")


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(2).choice([-1, 1], (60, 12)).astype(np.float32)


def extract(
    tmp_path: Path, models: object, inputs: np.ndarray, name: str = "n.h5", **options: object
) -> Path:
    options = {
        "noise_std": 0.1,
        "realizations": 3,
        "conditional_samples": 8,
        "conditional_realizations": 40,
        "labels": np.arange(60) % 2,
    } | options
    return repstat.extract(models, inputs, store=tmp_path / name, **options)


def contents(store: Store) -> dict[str, np.ndarray]:
    found = {}
    for key, view in store.layers.items():
        found[key] = view.at(index=0).read()
        if (conditional := view.at(index=0).conditional) is not None:
            found[f"{key}c"] = conditional.read()
    return found


def test_what_is_stored(tmp_path: Path, trajectory: list[Path], inputs: np.ndarray) -> None:
    path = extract(tmp_path, trajectory[:2], inputs, seed=5)
    with repstat.open_store(path) as store:
        assert store.noise is not None
        assert store.noise.noise_std == dict.fromkeys(HIDDEN, 0.1)
        assert (store.noise.seed, store.noise.bit_generator) == (5, BIT_GENERATOR)
        assert store.noise.checksum == checksum(5, HIDDEN)
        assert store.n_realizations == 3
        assert store.conditional is not None
        assert store.conditional.n_realizations == 40
        # No noise reaches the first layer: it is the same in every pass, and has no conditional part.
        assert store.conditional.layers == HIDDEN[1:]
        found = contents(store)
        assert np.array_equal(found["L000"][0], found["L000"][1])
        assert not np.array_equal(found["L001"][0], found["L001"][1])
        assert found["L001c"].shape == (8, 40, 7)


def test_stored_is_what_the_adapter_says(tmp_path: Path, trajectory: list[Path], inputs: np.ndarray) -> None:
    """Before the layer's own noise, behind that of the layers before it; the second layer by hand."""
    path = extract(tmp_path, trajectory[-1], inputs, seed=3)
    with repstat.open_store(path) as store:
        found, repeated = contents(store), store.conditional.samples
    adapter = open_model(trajectory[-1], AdapterOptions())
    feeds = {adapter.inputs()[0].name: inputs}
    layers = adapter.layers(feeds)
    clean = adapter.run(feeds, layers, samples=np.arange(60))
    noisy = clean["L000"] + 0.1 * standard_normal(3, "L000", 2, np.arange(60), 10)
    again = adapter.run(feeds, layers, samples=np.arange(60), noise=Noise({"L000": 0.1}, 3, 2))
    assert found["L001"][2] == pytest.approx(again["L001"], abs=1e-6)
    assert np.abs(found["L001"][2] - clean["L001"]).max() > 0.01
    assert np.abs(noisy - clean["L000"]).std() > 0.01
    row = int(repeated[4])
    one = adapter.run(
        {adapter.inputs()[0].name: inputs[row : row + 1]},
        layers,
        samples=np.array([row]),
        noise=Noise(dict.fromkeys(HIDDEN, 0.1), 3, FIRST_CONDITIONAL + 17),
    )
    assert found["L004c"][4, 17] == pytest.approx(one["L004"][0], abs=1e-6)


def test_batch_size_and_selection_change_nothing(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    stores = {
        size: extract(tmp_path, trajectory[-1], inputs, f"{size}.h5", batch_size=size) for size in (1, 7, 256)
    }
    with repstat.open_store(stores[256]) as store:
        whole = contents(store)
    for size in (1, 7):
        with repstat.open_store(stores[size]) as store:
            for key, values in contents(store).items():
                np.testing.assert_allclose(values, whole[key], atol=1e-6)
    path = extract(tmp_path, trajectory[-1], inputs, "last.h5", layers="L004")
    with repstat.open_store(path) as store:
        # Layers that are not recorded have their noise all the same.
        assert store.noise.noise_std == dict.fromkeys(HIDDEN, 0.1)
        np.testing.assert_allclose(contents(store)["L004"], whole["L004"], atol=1e-6)


def test_a_resumed_extraction_is_the_same(tmp_path: Path, trajectory: list[Path], inputs: np.ndarray) -> None:
    whole = extract(tmp_path, trajectory[:3], inputs, "whole.h5")
    extract(tmp_path, trajectory[:2], inputs, "parts.h5")
    parts = extract(tmp_path, trajectory[:3], inputs, "parts.h5", resume=True)
    with repstat.open_store(whole) as one, repstat.open_store(parts) as other:
        assert one.steps == other.steps
        for step in one.steps:
            for key in HIDDEN[1:]:
                a, b = one.layers[key].at(step=step), other.layers[key].at(step=step)
                assert np.array_equal(a.read(), b.read())
                assert np.array_equal(a.conditional.read(), b.conditional.read())
    with pytest.raises(RepstatError, match="noise"):
        extract(tmp_path, trajectory[:3], inputs, "parts.h5", resume=True, noise_std=0.2)


@pytest.mark.parametrize("noise_std", ["L001=0.2,fc4=0.1", {"L001": 0.2, "L003": 0.1}])
def test_single_layers_may_have_noise(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray, noise_std: object
) -> None:
    path = extract(tmp_path, trajectory[-1], inputs, noise_std=noise_std)
    with repstat.open_store(path) as store:
        assert store.noise.noise_std == {"L001": 0.2, "L003": 0.1}
        assert store.conditional.layers == ("L002", "L003", "L004")
    rows = repstat.analyze(path, estimators="noisy").rows
    undefined = [row for row in rows if row.quantity == "mi_input" and row.value is None]
    assert [row.layer for row in undefined] == ["L000", "L002", "L004"]
    assert "no noise of its own" in undefined[0].reason


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"noise_std": -0.1}, "noise_std -0.1 is not a number from 0"),
        ({"noise_std": "much"}, "noise_std 'much' is not a number from 0"),
        ({"noise_std": 0.0}, "no layer gets noise: every noise_std is 0"),
        ({"noise_std": {"fc9": 0.1}}, "in a layer 'fc9': 0 layers of the model are called so"),
        ({"noise_std": "L001=0.1,L001=0.2"}, "noise_std names the layer 'L001' twice"),
        ({"noise_std": {"L001": 0.1, "fc2": 0.2}}, "noise_std names the layer 'L001' twice"),
        ({"noise_std": None}, "realizations without noise_std"),
        ({"realizations": 0}, "realizations 0 is not a whole number of at least 1"),
        ({"realizations": 1, "conditional_samples": 0}, "a single noisy pass does not tell"),
        ({"conditional_samples": 61}, "cannot repeat 61 inputs: there are 60"),
        ({"conditional_realizations": 1.5}, "conditional_realizations 1.5 is not a whole number"),
    ],
)
def test_options_that_cannot_be_right(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray, options: dict[str, object], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        extract(tmp_path, trajectory[0], inputs, **options)
    assert list(tmp_path.iterdir()) == []


def test_no_repeated_inputs_on_request(tmp_path: Path, trajectory: list[Path], inputs: np.ndarray) -> None:
    """The recorded passes then serve both densities."""
    path = extract(tmp_path, trajectory[-1], inputs, conditional_samples=0, realizations=20)
    with repstat.open_store(path) as store:
        assert store.conditional is None
    rows = [row for row in repstat.analyze(path, estimators="noisy").rows if row.quantity == "mi_input"]
    assert [row.params["n_conditional"] for row in rows] == [1, 20, 20, 20, 20]


def test_one_repeated_input_tells_no_error(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    path = extract(tmp_path, trajectory[7], inputs, conditional_samples=1, noise_std=0.5, realizations=1)
    results = repstat.analyze(path, estimators="noisy")
    (row,) = [row for row in results.rows if row.quantity == "mi_input" and row.layer == "L004"]
    assert row.std_error is None
    assert row.status is not Status.OK
    assert json.dumps(results.to_rows(), allow_nan=False)


def test_a_single_pass_of_another_program_is_undefined(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    """One pass and no repeated inputs: with the entropy of the noise for h(T|X) it would be wrong."""
    path = extract(tmp_path, trajectory[0], inputs, layers="L000", realizations=1)
    rows = repstat.analyze(path, estimators="noisy").rows
    assert [row.value for row in rows] == [None, None]
    assert "a single noisy pass does not tell h(T|X)" in rows[0].reason
    assert {row.noise_std for row in rows} == {0.1}


def test_a_layer_without_noise_of_its_own_is_undefined(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    path = extract(tmp_path, trajectory[0], inputs, noise_std={"fc2": 0.1})
    rows = repstat.analyze(path, estimators="noisy").rows
    assert [row.layer for row in rows if row.quantity == "mi_input" and row.value is not None] == ["L001"]
    assert "the layer has no noise of its own, which the estimator needs" in rows[-1].reason


@pytest.mark.parametrize(("dtype", "noise_std"), [(None, 1e-12), ("float16", 1e-5)])
def test_noise_that_rounding_swallows_is_no_noise(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray, dtype: str | None, noise_std: float
) -> None:
    """float32 resolves 6e-8 about 0.5: a network with noise 1e-12 is one without, not one that knows ln n."""
    path = extract(tmp_path, trajectory[-1], inputs, noise_std=noise_std, dtype=dtype)
    rows = [r for r in repstat.analyze(path, estimators="noisy").rows if r.quantity == "mi_input"]
    assert [row.status for row in rows] == [Status.UNDEFINED] * 5
    assert f"noise_std {noise_std:g} is below the rounding of the float" in rows[0].reason


def test_each_information_has_a_bias_of_its_own(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    path = extract(tmp_path, trajectory[-1], inputs)
    rows = [r for r in repstat.analyze(path, estimators="noisy").rows if r.layer == "L003"]
    bias = {row.quantity: row.params["bias"] for row in rows if "bias" in row.params}
    assert 0.0 <= bias["mi_label"] < bias["mi_input"] == bias["conditional_entropy"]


def test_rows_of_a_noisy_network(tmp_path: Path, trajectory: list[Path], inputs: np.ndarray) -> None:
    path = extract(tmp_path, [trajectory[0], trajectory[-1]], inputs, realizations=10)
    results = repstat.analyze(path, binning="count:5")
    rows = [row for row in results.rows if row.estimator == "sample_propagation_mi"]
    assert {row.noise_model for row in rows} == {"network"}
    assert not any(row.noise_model == "measurement" for row in results.rows)
    assert {row.noise_std for row in rows} == {0.1}
    information = [row for row in rows if row.quantity == "mi_input"]
    assert len(information) == 10
    for row in information:
        assert row.value is not None
        assert row.value <= log(60) + 1e-9
        assert row.ceiling <= log(60)
    rises = [row for row in rows if row.quantity == "mi_input_rise"]
    assert [row.params["from_layer"] for row in rises[:4]] == list(HIDDEN[:-1])
    for row in rises:
        assert row.value < 4 * row.std_error + 0.05
    assert {row.quantity for row in results.rows} >= {
        "conditional_entropy",
        "mi_input_linearised",
        "mi_label",
        "binned_mi_input",
        "distance_auc",
    }
    linear = repstat.analyze(path, estimators="noisy", conditional="linearised").rows
    both = {(r.layer, r.checkpoint, r.quantity): r.value for r in linear}
    assert both["L003", 0, "mi_input"] == both["L003", 0, "mi_input_linearised"]
    assert json.dumps(results.to_rows(), allow_nan=False)


def test_noise_levels_of_ones_own_are_refused(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    path = extract(tmp_path, trajectory[0], inputs)
    with pytest.raises(UsageError, match="--noise-std for the store of a noisy network"):
        repstat.analyze(path, noise_std=0.1)
    with pytest.raises(UsageError, match="conditional 'guessed' is not known"):
        repstat.analyze(path, conditional="guessed")


def test_an_alarm_where_information_rises(
    tmp_path: Path,
    trajectory: list[Path],
    inputs: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A single pass of very small noise looks as if nothing were lost: the rise is told where it is seen."""
    from dataclasses import replace

    from repstat.cli.table import print_results

    path = extract(tmp_path, trajectory[0], inputs)
    results = repstat.analyze(path, estimators="noisy")
    risen = tuple(
        replace(row, value=0.5, std_error=0.01) if row.quantity == "mi_input_rise" else row
        for row in results.rows
    )
    print_results(replace(results, rows=risen), "nats")
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "ALARM: in 4 of 4 cases I(X;T) rises from a layer to the next, "
        "most by 0.500±0.010 nats from L000 to L001" in text
    )
    print_results(results, "nats")
    assert "ALARM" not in capsys.readouterr().out


def jacobian_excess(path: Path, inputs: np.ndarray) -> list[np.ndarray]:
    """h(T_l|x) - h(Z) of each hidden tanh layer by linearisation: half the log-determinant of Sigma_l,
    Sigma_l = 1 + J_l Sigma_(l-1) J_l^T along the noiseless pass."""
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    hidden, sigma, found = inputs.astype(np.float64), None, []
    for layer in range(1, 6):
        matrix = weights[f"fc{layer}.weight"].astype(np.float64)
        hidden = np.tanh(hidden @ matrix.T + weights[f"fc{layer}.bias"])
        jacobian = (1.0 - hidden**2)[:, :, None] * matrix
        identity = np.eye(len(matrix))
        own = identity if sigma is None else jacobian @ sigma @ jacobian.swapaxes(1, 2)
        sigma = np.broadcast_to(identity, (len(inputs), *identity.shape)) if sigma is None else identity + own
        found.append(0.5 * np.linalg.slogdet(sigma)[1])
    return found


def test_the_network_of_the_paper_at_its_noise(
    tmp_path: Path, trajectory: list[Path], data_file: Path
) -> None:
    """12-10-7-5-4-3-2, trained, noise 0.005, 48 inputs with 1,000 realizations.

    Conditional entropies of layers 2 to 5 agree with their linearisation to 0.02 nat; the first layer tells
    all inputs apart, and no layer knows more than the one before.
    """
    (model,) = (path for path in trajectory if path.stem == "step-002080")
    data = np.load(data_file)
    path = repstat.extract(
        model,
        data["inputs"],
        labels=data["labels"],
        store=tmp_path / "n.h5",
        noise_std=0.005,
        realizations=4,
        conditional_samples=48,
        conditional_realizations=1000,
    )
    linear = jacobian_excess(model, data["inputs"])
    with repstat.open_store(path) as store:
        repeated = store.conditional.samples
        for number, key in enumerate(HIDDEN[1:], start=1):
            view = store.layers[key].at(index=0)
            some = repstat.sample_propagation_mi(
                view.read()[:, repeated], view.conditional.read(), noise_std=0.005
            )
            assert some.conditional_entropy.value == pytest.approx(linear[number][repeated].mean(), abs=0.02)
            assert some.input.value <= log(48) + 1e-9
    rows = repstat.analyze(path, estimators="noisy").rows
    information = [row for row in rows if row.quantity == "mi_input"]
    assert information[0].value == pytest.approx(log(4096), abs=0.001)
    assert all(row.value <= log(4096) + 1e-9 for row in information)
    for row in rows:
        if row.quantity == "mi_input_rise":
            assert row.value < 4 * row.std_error + 0.01
