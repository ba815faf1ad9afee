"""Extraction from Python: what `repstat.extract` takes, keeps and refuses."""

from pathlib import Path

import numpy as np
import pytest

import repstat
from repstat.errors import InputRefusedError, UsageError


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(2).choice([-1, 1], (40, 12)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": -1}, "seed -1 is not a whole number of at least 0"),
        ({"batch_size": 1.5}, "batch size 1.5 is not a whole number of at least 1"),
        ({"batch_size": 0}, "batch size 0 is not a whole number of at least 1"),
        ({"dtype": "int8"}, "cannot store activations as 'int8'"),
        ({"steps": [1, 2]}, "found 2 steps for 1 models"),
    ],
)
def test_options_that_cannot_be_right(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray, options: dict[str, object], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        repstat.extract(trajectory[0], inputs, store=tmp_path / "a.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_lists_mappings_and_one_step_are_taken(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    path = repstat.extract(
        trajectory[0], {"x": inputs.tolist()}, labels=["a", "b"] * 20, steps=7, store=tmp_path / "a.h5"
    )
    with repstat.open_store(path) as store:
        assert store.steps == (7,)
        assert store.samples.class_names == ("a", "b")


def test_files_are_read_as_on_the_command_line(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    labels = np.arange(40) % 3
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=labels, mask=inputs[:3])
    np.save(tmp_path / "x.npy", inputs)
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(map(str, labels)))
    (tmp_path / "metrics.csv").write_text("step,loss\n0,0.5\n")
    ways = [
        (str(tmp_path / "data.npz"), {}, "data.npz", labels),
        (tmp_path / "x.npy", {"labels": tmp_path / "y.csv"}, "x.npy", labels),
        (tmp_path / "data.npz", {"labels": labels + 1}, "data.npz", labels + 1),
        (inputs, {"labels": str(tmp_path / "data.npz")}, "arrays", labels),
    ]
    for i, (given, options, source, expected) in enumerate(ways):
        path = repstat.extract(
            trajectory[0], given, store=tmp_path / f"{i}.h5", metrics=tmp_path / "metrics.csv", **options
        )
        with repstat.open_store(path) as store:
            assert store.samples.inputs_source == source
            assert store.samples.labels is not None
            assert store.samples.labels.tolist() == expected.tolist()
            assert dict(store.checkpoints[0].metrics) == {"loss": 0.5}
    with pytest.raises(UsageError, match=r"array file not found in .*none\.npy: there is no such file"):
        repstat.extract(trajectory[0], tmp_path / "none.npy", store=tmp_path / "n.h5")
    short = np.arange(7)
    np.save(tmp_path / "short.npy", short)
    with pytest.raises(repstat.RepstatError, match=r"7 labels for 40 samples"):
        repstat.extract(trajectory[0], inputs, labels=tmp_path / "short.npy", store=tmp_path / "n.h5")


def test_values_do_not_depend_on_the_batch_size(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    stores = [
        repstat.extract(trajectory[-1], inputs, store=tmp_path / f"{size}.h5", batch_size=size)
        for size in (1, 7, 40)
    ]
    values = []
    for path in stores:
        with repstat.open_store(path) as store:
            values.append({key: view.at(index=0).read() for key, view in store.layers.items()})
    for key in values[0]:
        for other in values[1:]:
            np.testing.assert_allclose(other[key], values[0][key], atol=1e-6)


def test_another_dtype_is_stored_when_asked(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    whole = repstat.extract(trajectory[0], inputs, store=tmp_path / "a.h5", layers="fc5")
    half = repstat.extract(trajectory[0], inputs, store=tmp_path / "b.h5", layers="fc5", dtype="float16")
    with repstat.open_store(whole) as a, repstat.open_store(half) as b:
        assert list(b.layers) == ["L004"]
        assert b.layers["L004"].dtype == np.float16
        expected = a.layers["L004"].at(index=0).read().astype(np.float16)
        np.testing.assert_array_equal(b.layers["L004"].at(index=0).read(), expected)


def test_resuming_after_a_model_changed_is_refused(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    first, second = tmp_path / "step-1.onnx", tmp_path / "step-2.onnx"
    first.write_bytes(trajectory[0].read_bytes())
    second.write_bytes(trajectory[1].read_bytes())
    repstat.extract([first], inputs, store=tmp_path / "a.h5")
    first.write_bytes(trajectory[2].read_bytes())
    with pytest.raises(repstat.RepstatError, match=r"sha256|changed|differ"):
        repstat.extract([first, second], inputs, store=tmp_path / "a.h5", resume=True)


def test_a_list_for_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "fixtures" / "models" / "two_inputs.onnx"
    x = np.zeros((5, 4), np.float32)
    with pytest.raises(InputRefusedError, match="found a list of 2, and the model has 2 inputs"):
        repstat.extract(model, [x, x], store=tmp_path / "a.h5")


def test_resuming_with_other_inputs_is_refused(
    tmp_path: Path, trajectory: list[Path], inputs: np.ndarray
) -> None:
    repstat.extract(trajectory[:1], inputs, store=tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(repstat.RepstatError, match="inputs_sha256"):
        repstat.extract(trajectory[:2], -inputs, store=tmp_path / "a.h5", resume=True)
    assert (tmp_path / "a.h5").read_bytes() == before
