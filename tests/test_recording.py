"""Live recording, with ONNX models in memory standing for a model that is being trained."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import repstat
from repstat import Recorder, discovery
from repstat.errors import InputRefusedError, LockedError, ResourceError, StoreIncompleteError, UsageError
from tests.adapters.onnx_models import mlp, normal

X = normal(6, 4)


@pytest.fixture
def model() -> onnx.ModelProto:
    return mlp()


def train(model: onnx.ModelProto, steps: Iterator[int] | range, by: float = 0.01) -> Iterator[int]:
    """Change the weights in place, as an optimizer does."""
    for step in steps:
        yield step
        for tensor in model.graph.initializer:
            weights = onnx.numpy_helper.to_array(tensor) + np.float32(by)
            tensor.raw_data = weights.tobytes()


def values(path: Path) -> dict[int, np.ndarray]:
    with repstat.open_store(path) as store:
        return {step: np.asarray(store.layers["L001"].at(step=step)) for step in store.steps}


def test_a_recording_is_the_extraction_of_the_same_checkpoints(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    with Recorder(model, X, store=tmp_path / "live.h5", labels=[0, 1] * 3, every=2) as recorder:
        saved = [
            copy.deepcopy(model)
            for step in train(model, range(7))
            if recorder.record(step, epoch=step / 2, metrics={"loss": np.float32(1 / (step + 1))})
        ]
        assert recorder.recorded == (0, 2, 4, 6)
    post_hoc = repstat.extract(saved, X, labels=[0, 1] * 3, steps=[0, 2, 4, 6], store=tmp_path / "b.h5")
    live, after = values(tmp_path / "live.h5"), values(post_hoc)
    assert live.keys() == after.keys()
    assert all(np.array_equal(live[step], after[step]) for step in live)
    assert not np.array_equal(live[0], live[2])
    with repstat.open_store(tmp_path / "live.h5") as store:
        assert [c.epoch for c in store.checkpoints] == [0.0, 1.0, 2.0, 3.0]
        assert store.checkpoints[1].metrics["loss"] == pytest.approx(1 / 3)
        assert len({c.weights_sha256 for c in store.checkpoints}) == 4
    assert not repstat.verify(tmp_path / "live.h5")
    assert list(tmp_path.glob("*.parts")) == []


def test_noise_is_that_of_an_extraction(tmp_path: Path, model: onnx.ModelProto) -> None:
    noisy: dict[str, Any] = {
        "noise_std": 0.1,
        "realizations": 2,
        "conditional_samples": 3,
        "conditional_realizations": 4,
        "seed": 3,
    }
    with Recorder(model, X, store=tmp_path / "live.h5", **noisy) as recorder:
        recorder.record(5)
    repstat.extract(model, X, steps=5, store=tmp_path / "b.h5", **noisy)
    live, after = values(tmp_path / "live.h5"), values(tmp_path / "b.h5")
    assert live[5].shape[0] == 2
    assert np.array_equal(live[5], after[5])


def test_what_was_recorded_before_a_crash_is_kept_and_gone_on_with(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    path = tmp_path / "a.h5"

    def crash() -> None:
        with Recorder(model, X, store=path, every=2) as recorder:
            for step in train(model, range(5)):
                recorder.record(step)
            msg = "the training died"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="died"):
        crash()
    assert not path.exists()
    assert list(values(tmp_path / "a.h5.parts")) == [0, 2, 4]  # a folder of checkpoints is a store
    with pytest.raises(UsageError, match=r"holds 3 checkpoints of an earlier recording.*resume=True"):
        Recorder(model, X, store=path, every=2)
    with Recorder(model, X, store=path, every=2, resume=True) as recorder:
        for step in train(model, range(5, 9)):
            recorder.record(step)
    assert list(values(path)) == [0, 2, 4, 6, 8]


def test_a_training_that_goes_on_from_earlier_drops_what_it_gave_up(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    path = tmp_path / "a.h5"
    recorder = Recorder(model, X, store=path, every=2)
    for step in train(model, range(9)):
        recorder.record(step)
    recorder.__exit__(RuntimeError, RuntimeError(), None)
    before = values(tmp_path / "a.h5.parts")
    with Recorder(model, X, store=path, every=2, resume=True) as recorder:
        again = train(model, range(3, 7))
        with pytest.warns(UserWarning, match=r"goes on at step 3: 3 checkpoints .* the last at step 8"):
            recorder.record(next(again))
        for step in again:
            recorder.record(step)
    after = values(path)
    assert list(after) == [0, 2, 4, 6]
    assert np.array_equal(before[2], after[2])
    assert not np.array_equal(before[4], after[4])


def test_a_training_that_goes_on_where_it_was_recorded_keeps_that_checkpoint(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    path = tmp_path / "a.h5"
    with Recorder(model, X, store=path) as recorder:
        recorder.record(0)
        recorder.record(4)
    for _ in range(2):  # the weights of step 4 are those of the model
        with Recorder(model, X, store=path, resume=True) as recorder:
            assert not recorder.record(4)
    with Recorder(model, X, store=path, resume=True) as recorder:
        recorder.record(4)
        assert recorder.record(5)
    assert list(values(path)) == [0, 4, 5]


def test_a_finished_store_is_added_to_and_never_changed(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = tmp_path / "a.h5"
    with Recorder(model, X, store=path) as recorder:
        recorder.record(0)
        recorder.record(1)
    with pytest.raises(UsageError, match="already exists"):
        Recorder(model, X, store=path)
    next(moved := train(model, range(2)))
    next(moved)
    with (
        Recorder(model, X, store=path, resume=True) as recorder,
        pytest.raises(UsageError, match=r"cannot replace step 1 in .*: the finished store holds it"),
    ):
        recorder.record(1)
    with Recorder(model, X, store=path, resume=True) as recorder:
        recorder.record(2)
    assert list(values(path)) == [0, 1, 2]
    with Recorder(model, X, store=path, overwrite=True) as recorder:
        recorder.record(9)
    assert list(values(path)) == [9]


@pytest.mark.parametrize("name", ["acts", "acts.h5"])
def test_overwriting_forgets_the_parts_of_another_training(
    tmp_path: Path, model: onnx.ModelProto, name: str
) -> None:
    folder = name == "acts"
    recorder = Recorder(model, X, store=tmp_path / name, folder=folder)
    recorder.record(0)
    recorder.__exit__(RuntimeError, RuntimeError(), None)
    with Recorder(model, X, store=tmp_path / name, folder=folder, overwrite=True) as recorder:
        assert recorder.recorded == ()
        recorder.record(7)
    assert list(values(tmp_path / name)) == [7]


def test_a_folder_takes_checkpoints_without_a_join(tmp_path: Path, model: onnx.ModelProto) -> None:
    with Recorder(model, X, store=tmp_path / "acts", folder=True, per_decade=1) as recorder:
        for step in range(12):
            recorder.record(step)
    assert list(values(tmp_path / "acts")) == [0, 1, 10]


def test_what_cannot_be_recorded_is_said(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputRefusedError, match="wrong shape"):
        Recorder(model, X[:, :3], store=path)
    with pytest.raises(UsageError, match="exclude each other"):
        Recorder(model, X, store=path, every=1, per_decade=2)
    with pytest.raises(UsageError, match="unknown on_error 'never'"):
        Recorder(model, X, store=path, on_error="never")  # type: ignore[arg-type]
    recorder = Recorder(model, X, store=path)
    with pytest.raises(LockedError):
        Recorder(model, X, store=path)
    for step, text in (
        (-1, "step -1 is negative"),
        (1.0, "step 1.0 is not a whole number"),
        (True, "step True is not a whole number"),
    ):
        with pytest.raises(UsageError, match=text):
            recorder.record(step)  # type: ignore[arg-type]
    with pytest.raises(InputRefusedError, match="the metric 'loss' is not a number: found str"):
        recorder.record(0, metrics={"loss": "low"})
    with pytest.raises(StoreIncompleteError, match=r"the store is empty.*no checkpoint was recorded"):
        recorder.close()
    with pytest.raises(UsageError, match=r"cannot record step 4: the recorder was closed. Record before"):
        recorder.record(4)
    assert list(tmp_path.iterdir()) == []
    with Recorder(model, X, store=path) as recorder:
        recorder.record(4)
        with pytest.raises(UsageError, match=r"step 4 comes after step 4.*only grow"):
            recorder.record(4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, r"already exists. Pass .*\(overwrite=True\), or .*store=\); .* recorders .*\(resume=True\)"),
        ({"layers": "nobody"}, "nobody"),
        ({"overwrite": True, "resume": True}, "^resume and overwrite exclude each other"),
    ],
)
def test_a_recorder_that_is_refused_lets_go_of_the_model(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, options: Any, text: str
) -> None:
    path = repstat.extract(model, X, steps=0, store=tmp_path / "a.h5")
    opened = []
    original = discovery.open_model
    monkeypatch.setattr(discovery, "open_model", lambda *a: opened.append(original(*a)) or opened[-1])
    with pytest.raises(UsageError, match=text):
        Recorder(model, X, store=path, **options)
    (adapter,) = opened
    with pytest.raises(UsageError, match="the model was closed"):
        adapter.layers()


def test_a_training_need_not_die_of_its_recording(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ResourceError(what="not enough space for a.h5")

    recorder = Recorder(model, X, store=tmp_path / "a.h5", on_error="warn")
    recorder.record(0)
    monkeypatch.setattr("repstat.store.writer.check_space", full)
    with pytest.warns(UserWarning, match="repstat records no more: not enough space"):
        assert not recorder.record(1)
    assert not recorder.record(2)
    recorder.close()
    assert not recorder.record(3)
    assert list(values(tmp_path / "a.h5")) == [0]


def test_numbers_of_numpy_are_numbers(tmp_path: Path, model: onnx.ModelProto) -> None:
    one = np.int64(1)
    with Recorder(model, X, store=tmp_path / "a.h5", every=one, seed=one, batch_size=one) as recorder:
        assert recorder.record(np.int64(4), epoch=np.float32(0.5), metrics={"loss": np.array([0.25])})
        with pytest.raises(InputRefusedError, match=r"metric 'loss' is not a number: found ndarray of shape"):
            recorder.record(np.int32(5), metrics={"loss": np.zeros(2)})
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (4,)
        assert type(store.steps[0]) is int
        assert store.checkpoints[0].metrics == {"loss": 0.25}


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([-5], "step -5 is negative: a step counts optimizer updates"),
        ([5, 3, -1], "step -1 is negative"),
        ([], "steps is empty: nothing would be recorded"),
        ([1.5], "step 1.5 is not a whole number from 0"),
        ("1,2", "cannot read the steps '1,2': whole numbers from 0 were expected"),
    ],
)
def test_steps_that_cannot_come_are_refused_before_the_training(
    tmp_path: Path, model: onnx.ModelProto, steps: Any, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        Recorder(model, X, store=tmp_path / "a.h5", steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_goes_on_after_the_recording_is_told_once(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    with Recorder(model, X, store=tmp_path / "a.h5", on_error="warn") as recorder:
        recorder.record(0)
    with pytest.warns(UserWarning, match=r"records no more: cannot record step 1: the recorder was closed"):
        assert not recorder.record(1)
    assert not recorder.record(2)
