"""What is written comes back: values, names, numbers that are none, and every kind of slice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from repstat import open_store
from repstat.errors import UsageError
from repstat.store import Checkpoint, StoreWriter, verify
from tests.store.making import LAYERS, N_SAMPLES, checkpoint, flat, layer, samples, write, writer

TEXT = st.text(max_size=40)


@st.composite
def stores(draw: st.DrawFn) -> dict[str, Any]:
    """Any store of up to 3 layers, 3 checkpoints, 2 realizations."""
    n = draw(st.integers(1, 6))
    n_realizations = draw(st.integers(1, 2))
    layers = [
        layer(
            draw(st.sampled_from("LR")) + f"{ordinal:03d}",
            draw(st.lists(st.integers(1, 3), max_size=3).map(tuple)),
            draw(st.sampled_from(["float16", "float32", "float64"])),
            name=draw(TEXT),
            op=draw(TEXT),
            signature=draw(TEXT),
            kind=draw(st.sampled_from(["hidden", "residual", "output"])),
        )
        for ordinal in draw(st.permutations(range(draw(st.integers(1, 3)))))
    ]
    steps = draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=3, unique=True))
    arrays = {
        (step, one.key): draw(npst.arrays(one.dtype, (n_realizations, n, *one.unit_shape)))
        for step in steps
        for one in layers
    }
    metrics = st.dictionaries(TEXT, st.floats(), max_size=2)
    return {
        "n": n, "n_realizations": n_realizations, "layers": layers, "steps": steps, "arrays": arrays,
        "batch": draw(st.integers(1, 6)), "metrics": {step: draw(metrics) for step in steps},
        "text": draw(TEXT), "identity": draw(st.dictionaries(TEXT, st.integers() | TEXT, max_size=2)),
    }  # fmt: skip


def storable(text: str) -> str:
    return text.replace("\0", "\ufffd")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(store=stores(), folder=st.booleans())
def test_whatever_is_written_is_read(
    store: dict[str, Any], folder: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "acts.h5"
    table = samples(store["n"], inputs_source=store["text"], class_names=(store["text"],))
    with StoreWriter(
        path, samples=table, layers=store["layers"], steps=store["steps"], identity=store["identity"],
        n_realizations=store["n_realizations"], folder=folder,
    ) as into:  # fmt: skip
        for step in store["steps"]:
            with into.checkpoint(checkpoint(step, metrics=store["metrics"][step])) as part:
                for realization in range(store["n_realizations"]):
                    for start in range(0, store["n"], store["batch"]):
                        for one in store["layers"]:
                            rows = store["arrays"][step, one.key][realization, start : start + store["batch"]]
                            part.write(one.key, rows, realization=realization)
        into.finish()
    assert verify(path) == []
    with open_store(path) as read:
        assert read.steps == tuple(sorted(store["steps"]))
        assert read.identity == store["identity"]
        assert read.samples.inputs_source == storable(store["text"])
        assert read.samples.class_names == (store["text"],)
        assert list(read.layers) == [one.key for one in store["layers"]]
        for one in store["layers"]:
            view = read.layers[one.key]
            assert (view.name, view.op, view.kind) == (storable(one.name), storable(one.op), one.kind)
            assert (view.unit_shape, view.dtype) == (one.unit_shape, one.dtype)
            for step in store["steps"]:
                expected = store["arrays"][step, one.key].reshape(store["n_realizations"], store["n"], -1)
                found = view.at(step=step)
                expected = expected[0] if store["n_realizations"] == 1 else expected
                assert found.shape == expected.shape
                assert found.read().tobytes() == expected.tobytes()
                assert found.n_nonfinite == np.count_nonzero(~np.isfinite(expected))
        for found in read.checkpoints:
            for name, value in store["metrics"][found.step].items():
                np.testing.assert_equal(found.metrics[storable(name)], value)


@pytest.mark.parametrize(
    "name",
    [
        "/a/b",
        "a//b:0",
        ":",
        "/",
        "😀" * 300,
        "<script>alert(1)</script>",
        "..",
        "x" * 100_000,
        "",
        "a\nb\x1b[31m",
        "naïve ",
        ".",
    ],
    ids=lambda name: ascii(name[:12]),
)
def test_foreign_names_are_data(tmp_path: Path, name: str) -> None:
    layers = (layer("L000", name=name, op=name, signature=name),)
    with writer(tmp_path / "acts.h5", [1], layers=layers) as into:
        with into.checkpoint(checkpoint(1, source=name, metrics={name: 0.5})) as part:
            part.write("L000", flat(1, layers[0]))
        into.finish()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["acts.h5"]
    with open_store(tmp_path / "acts.h5") as store:
        view = store.layers["L000"]
        assert (view.name, view.op, view.signature) == (name, name, name)
        assert store.checkpoints[0].source == name
        assert store.checkpoints[0].metrics == {name: 0.5}


def test_unstorable_characters_are_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "acts.h5", [1], layers=(layer("L000", name="a\0b\ud800"), LAYERS[1]))
    with open_store(path) as store:
        assert store.layers["L000"].name == "a\ufffdb\ufffd"


def test_large_provenance_and_identity(tmp_path: Path) -> None:
    big = {"files": ["é" * 100_000]}
    with writer(tmp_path / "acts.h5", [1, 2], identity=big) as into:
        for step in (1, 2):
            with into.checkpoint(checkpoint(step, provenance=big)) as part:
                for one in LAYERS:
                    part.write(one.key, flat(step, one).reshape(-1, *one.unit_shape))
        into.finish()
    with open_store(tmp_path / "acts.h5") as store:
        assert store.identity == big
        assert store.provenance == (big,)
        assert store.checkpoints[1].provenance == big


def test_metrics_that_one_checkpoint_lacks_are_nan(tmp_path: Path) -> None:
    with writer(tmp_path / "acts.h5", [1, 2]) as into:
        for step, metrics in ((1, {"loss": 2.0}), (2, {"accuracy": 0.5})):
            with into.checkpoint(checkpoint(step, metrics=metrics, epoch=None)) as part:
                for one in LAYERS:
                    part.write(one.key, flat(step, one).reshape(-1, *one.unit_shape))
        into.finish()
    with open_store(tmp_path / "acts.h5") as store:
        assert [c.epoch for c in store.checkpoints] == [None, None]
        assert store.checkpoints[0].metrics["loss"] == 2.0
        assert np.isnan(store.checkpoints[1].metrics["loss"])
        assert np.isnan(store.checkpoints[0].metrics["accuracy"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with open_store(write(tmp_path_factory.mktemp("store") / "acts.h5")) as opened:
        yield opened


SLICES = [
    3, -1, np.int64(2), slice(None), slice(2, 9, 3), slice(None, None, -1), slice(15, 3, -4), slice(5, 5),
    ..., (..., 1), (slice(1, 4), 2), (4, slice(None, None, -2)), (4, 1), [5, 1, 1, -1], (slice(None), [2, 0]),
    np.arange(N_SAMPLES) % 2 == 0, (2, [1, 0]), ([1, 2], 0), [], (slice(None), np.array([True, False, True])),
    (slice(3, 1), [0, 1]), (),
]  # fmt: skip


@pytest.mark.parametrize("key", SLICES, ids=repr)
def test_slices_are_numpy_s(store: Any, key: Any) -> None:
    expected = flat(10, LAYERS[0])[key]
    found = store.layers["L000"].at(step=10)[key]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_slices_of_arrays_cross_blocks(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repstat.store.slicing.BLOCK_BYTES", 48)
    monkeypatch.setattr("repstat.store.values.BLOCK_BYTES", 48)
    view = store.layers["L000"].at(step=10)
    chosen = np.random.default_rng(0).integers(-N_SAMPLES, N_SAMPLES, 50)
    np.testing.assert_array_equal(view[chosen, 1:], flat(10, LAYERS[0])[chosen, 1:])
    np.testing.assert_array_equal(view.read(), flat(10, LAYERS[0]))


@pytest.mark.parametrize(
    "key", [20, -21, (0, 3), None, True, 1.5, "x", ([0], [1]), (..., ...), (0, 0, 0), [20], [[0]], [True]]
)
def test_what_is_no_index(store: Any, key: Any) -> None:
    with pytest.raises(IndexError):
        store.layers["L000"].at(step=10)[key]


def test_a_slice_reads_only_what_it_selects(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    view = store.layers["L000"].at(step=10)
    monkeypatch.setattr(type(view), "read", lambda _: pytest.fail("read everything"))
    assert view[4:6].shape == (2, 3)


def test_an_array_of_a_view(store: Any) -> None:
    view = store.layers["L001"].at(index=-1)
    assert (view.step, view.ndim, view.size, len(view), view.nbytes) == (200, 2, 160, 20, 1280)
    np.testing.assert_array_equal(np.asarray(view), flat(200, LAYERS[1]))
    assert np.asarray(view, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="always a copy"):
        np.array(view, copy=False)


def test_what_is_not_there(store: Any) -> None:
    with pytest.raises(UsageError, match=r"no checkpoint of step 12: the closest of 3 are 0, 10, 200"):
        store.layers["L000"].at(step=12)
    with pytest.raises(UsageError, match="no checkpoint 3: there are 3"):
        store.layers["L000"].at(index=3)
    with pytest.raises(UsageError, match="either step= or index="):
        store.layers["L000"].at()
    with pytest.raises(UsageError, match=r"no layer 'L0O1': the keys are L000, L001. Did you mean L001"):
        store.layers["L0O1"]
    with pytest.raises(UsageError, match="Did you mean L001"):
        store.layers["/net/L001/Tanh_output_0"]
    assert "L002" not in store.layers
    assert store.layers.get("L002") is None


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "acts.h5", [1]))
    store.close()
    with pytest.raises(UsageError, match="is closed"):
        store.layers["L000"].at(step=1).read()


def test_a_folder_of_many_files_is_opened_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repstat.store.reader.MAX_OPEN_FILES", 1)
    path = write(tmp_path / "acts", folder=True)
    with open_store(path) as store:
        for step in store.steps:
            np.testing.assert_array_equal(store.layers["L000"].at(step=step)[:], flat(step, LAYERS[0]))


@pytest.mark.parametrize(
    "facts", [{"step": -1}, {"step": True}, {"step": 1.5}, {"step": 2**63}, {"epoch": float("nan")},
              {"metrics": {"a": "b"}}, {"provenance": {"a": object()}}, {"provenance": {"a": float("nan")}}]
)  # fmt: skip
def test_checkpoints_that_cannot_be(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="step"):
        Checkpoint(**({"step": 0} | facts))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"index": np.arange(3.0)}, "float64"),
        ({"labels": np.arange(2)}, "2 labels for 20 samples"),
        ({"labels": np.zeros((20, 2), int)}, "shape"),
        ({"index": np.full(20, 2**64 - 1, np.uint64)}, "64 bits"),
        ({"input_entropy": float("nan")}, "entropy"),
        ({"labels": None, "index": np.arange(0)}, "no samples"),
    ],
)
def test_samples_that_cannot_be(facts: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        samples(**facts)
