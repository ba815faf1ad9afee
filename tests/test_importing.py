"""Activations made elsewhere: what the store then holds, and what is refused."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.errors import InputRefusedError, RepstatError, ResourceError, UsageError
from repstat.importing.plan import UNKNOWN_INPUTS
from repstat.importing.recordings import as_checkpoints
from repstat.store import output
from tests.optional import require
from tests.recorded import Arrays, N, activations, as_folder, as_npz, as_packed_npz, as_safetensors

WRITERS = [as_npz, as_packed_npz, as_folder, as_safetensors]
SAVED, BY_NAME = ["fc1", "conv10", "conv2"], ["conv2", "conv10", "fc1"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_training_goes_in_and_comes_out(tmp_path: Path, write: Any) -> None:
    steps = (0, 90, 1000)
    labels = np.arange(N) % 3
    files = [write(tmp_path / f"step-{s}", activations(s) | {"labels": labels}) for s in reversed(steps)]
    path = repstat.import_arrays(files, store=tmp_path / "acts.h5")
    repstat.verify(path)
    with repstat.open_store(path) as store:
        assert store.steps == steps
        names = SAVED if write in (as_npz, as_packed_npz) else BY_NAME
        assert [(v.key, v.name) for v in store.layers.values()] == [
            (f"L{i:03d}", n) for i, n in enumerate(names)
        ]
        assert {v.kind for v in store.layers.values()} == {"hidden"}
        assert [c.source for c in store.checkpoints] == [f.name for f in reversed(files)]
        assert all(len(c.sha256) == 64 for c in store.checkpoints)
        assert store.samples.labels is not None
        assert store.samples.labels.tolist() == labels.tolist()
        assert not store.synthetic
        for view in store.layers.values():
            for step in steps:
                want = activations(step)[view.name]
                found = view.at(step=step).read()
                assert (found.dtype, view.unit_shape) == (want.dtype, want.shape[1:])
                np.testing.assert_array_equal(found, want.reshape(N, -1))


def test_arrays_in_memory(tmp_path: Path) -> None:
    checkpoints = {100: activations(100), 0: activations(0)}
    path = repstat.import_arrays(checkpoints, store=tmp_path / "a.h5", labels=["a", "b"] * 15, layers="conv*")
    with repstat.open_store(path) as store:
        assert store.steps == (0, 100)
        assert [(v.key, v.name) for v in store.layers.values()] == [("L001", "conv10"), ("L002", "conv2")]
        assert store.samples.class_names == ("a", "b")
        np.testing.assert_array_equal(
            store.layers["L001"].at(step=100).read(), activations(100)["conv10"].reshape(N, -1)
        )


def test_big_endian_columns_first_nan_and_bfloat16(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(N, 3))
    values[3, 1], values[5, 2] = np.nan, -np.inf
    arrays = {
        "big": values.astype(">f4"),
        "columns": np.asfortranarray(values),
        "strided": np.repeat(values, 2, 0)[::2],
    }
    for source in (as_npz(tmp_path / "a", arrays), as_folder(tmp_path / "b", arrays), {0: arrays}):
        path = repstat.import_arrays(source, store=tmp_path / "acts.h5", overwrite=True)
        with repstat.open_store(path) as store:
            for view in store.layers.values():
                want = values.astype(np.float32) if view.name == "big" else values
                np.testing.assert_array_equal(view.at(step=0).read(), want)
    rows = repstat.analyze(path, noise_std=1.0, estimators="noisy").rows
    assert {row.status.value for row in rows} == {"undefined"}
    bfloat16 = require("ml_dtypes").bfloat16
    narrow = np.arange(N * 2).reshape(N, 2).astype(bfloat16)
    entry = {"dtype": "BF16", "shape": [N, 2], "data_offsets": [0, narrow.nbytes]}
    head = json.dumps({"fc": entry}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + narrow.tobytes())
    path = repstat.import_arrays(tmp_path / "b.safetensors", store=tmp_path / "b.h5")
    with repstat.open_store(path) as store:
        view = store.layers["L000"]
        assert (view.dtype.name, view.source_dtype) == ("float32", "bfloat16")
        np.testing.assert_array_equal(view.at(step=0).read(), narrow.astype(np.float32))


def test_what_is_analysed_is_what_extract_would_have_stored(
    tmp_path: Path, trajectory: list[Path], data_file: Path
) -> None:
    """The same numbers, to the bit; samples in another order than their labels give others."""
    data = np.load(data_file)
    x, y = data["inputs"][:400], data["labels"][:400]
    models = [trajectory[i] for i in (0, 12, 19)]
    extracted = repstat.extract(models, x, labels=y, store=tmp_path / "extracted.h5")
    recorded: dict[int, Arrays] = {}
    with repstat.open_store(extracted) as store:
        entropy = store.samples.input_entropy
        for step in store.steps:
            views = store.layers.values()
            recorded[step] = {v.name: v.at(step=step).read() for v in views}
    files = [as_npz(tmp_path / f"step-{step}", arrays) for step, arrays in recorded.items()]
    imported = repstat.import_arrays(files, store=tmp_path / "imported.h5", inputs=x, labels=y)
    options: dict[str, Any] = {"noise_std": [0.1, "0.5x"], "binning": "count:30", "seed": 3}

    def rows(path: Path) -> list[Any]:
        return repstat.analyze(path, **options).to_rows()

    want = rows(extracted)
    assert len(want) > 100
    assert rows(imported) == want
    with repstat.open_store(imported) as store:
        assert store.samples.input_entropy == entropy
    wrong = repstat.import_arrays(files, store=tmp_path / "wrong.h5", inputs=x, labels=np.roll(y, 1))
    moved = [
        a["value"] != b["value"]
        for a, b in zip(rows(wrong), want, strict=True)
        if a["quantity"] == "mi_label"
    ]
    assert all(moved)
    assert moved


# --------------------------------------------------------------------------------------- what is no layer


def test_scalars_are_step_epoch_and_metrics(tmp_path: Path) -> None:
    for write in WRITERS:
        facts = {"step": np.array(250), "epoch": np.array(2.5), "loss": np.array(0.125, np.float32)}
        file = write(tmp_path / f"{write.__name__}-7", activations(0) | facts)
        plans = [file, {250: activations(0) | facts}]
        for source in plans:
            path = repstat.import_arrays(source, store=tmp_path / "a.h5", overwrite=True)
            with repstat.open_store(path) as store:
                (point,) = store.checkpoints
                assert (point.step, point.epoch, dict(point.metrics)) == (250, 2.5, {"loss": 0.125})
                assert {v.name for v in store.layers.values()} == set(SAVED)
        given = {250: {"loss": 1.0, "epoch": 9.0}}
        path = repstat.import_arrays(file, store=tmp_path / "b.h5", metrics=given, overwrite=True)
        with repstat.open_store(path) as store:
            assert (store.checkpoints[0].epoch, dict(store.checkpoints[0].metrics)) == (9.0, {"loss": 1.0})


@pytest.mark.parametrize(
    ("y", "is_labels"),
    [
        (np.arange(N) % 2, True),
        ((np.arange(N) % 2)[:, None], True),
        (np.array(["cat", "dog"] * 15), True),
        (np.linspace(0, 1, N), False),
        (np.ones((N, 2), np.float32), False),
    ],
)
def test_y_is_labels_if_it_can_be(tmp_path: Path, y: np.ndarray, is_labels: bool) -> None:
    path = repstat.import_arrays(as_npz(tmp_path / "a", activations(0) | {"y": y}), store=tmp_path / "a.h5")
    with repstat.open_store(path) as store:
        assert (store.samples.labels is not None) is is_labels
        assert ("y" in {v.name for v in store.layers.values()}) is not is_labels


def test_inputs_give_the_ceiling_and_nothing_else_claims_it(tmp_path: Path) -> None:
    """Ten samples, each three times: H(X) is ln 10, not ln 30."""
    x = np.repeat(np.eye(10, dtype=np.float32), 3, axis=0)
    inside = repstat.import_arrays({0: activations(0) | {"inputs": x}}, store=tmp_path / "inside.h5")
    given = repstat.import_arrays({0: activations(0)}, store=tmp_path / "given.h5", inputs=x)
    unknown = repstat.import_arrays({0: activations(0)}, store=tmp_path / "unknown.h5")
    hashes = []
    for path, source in ((inside, "arrays of step 0"), (given, "arrays")):
        with repstat.open_store(path) as store:
            assert store.samples.input_entropy == pytest.approx(np.log(10), rel=1e-12)
            assert store.samples.inputs_source == source
            assert "inputs" not in {v.name for v in store.layers.values()}
            hashes.append(store.samples.inputs_sha256)
    assert hashes[0] == hashes[1] != ""
    with repstat.open_store(unknown) as store:
        assert store.samples.input_entropy is None
        assert (store.samples.inputs_sha256, store.samples.inputs_source) == ("", UNKNOWN_INPUTS)
    ceilings = [
        {row.ceiling for row in found.rows if row.quantity == "mi_input"}
        for found in (repstat.analyze(p, noise_std=1.0, estimators="noisy") for p in (given, unknown))
    ]
    assert [sorted(found) for found in ceilings] == [[pytest.approx(np.log(n))] for n in (10, 30)]
    facts = [
        repstat.analyze(p, estimators="clustering").provenance["input_entropy"] for p in (given, unknown)
    ]
    assert facts == [pytest.approx(np.log(10)), None]


def test_the_order_of_layers_is_that_of_the_first_checkpoint(tmp_path: Path) -> None:
    arrays = activations(0)
    turned = dict(reversed(activations(1).items()))
    path = repstat.import_arrays({1: turned, 0: arrays}, store=tmp_path / "a.h5")
    with repstat.open_store(path) as store:
        assert [v.name for v in store.layers.values()] == SAVED
        np.testing.assert_array_equal(store.layers["L000"].at(step=1).read(), turned["fc1"])


def test_files_beside_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.arange(N)[:, None], labels=np.arange(N) % 2)
    (tmp_path / "metrics.csv").write_text("step,loss\n3,0.5\n")
    path = repstat.import_arrays(
        {3: {"fc": np.eye(N, 4)}},
        store=tmp_path / "a.h5",
        inputs=tmp_path / "data.npz",
        metrics=tmp_path / "metrics.csv",
    )
    with repstat.open_store(path) as store:
        assert (store.samples.inputs_source, dict(store.checkpoints[0].metrics)) == (
            "data.npz",
            {"loss": 0.5},
        )
        assert store.samples.labels is not None
        assert store.samples.labels.tolist() == (np.arange(N) % 2).tolist()


def test_integers_are_converted_when_asked(tmp_path: Path) -> None:
    arrays = {
        "codes": np.arange(N, dtype=np.int8)[:, None],
        "counts": np.arange(N)[:, None],
        "fc": np.arange(2 * N, dtype=np.float32).reshape(N, 2),
    }
    found: list[str] = []

    class Listener:
        def start(self, description: str, total: int, unit: str) -> None: ...
        def advance(self, amount: int) -> None: ...
        def note(self, text: str) -> None:
            found.append(text)

    path = repstat.import_arrays({0: arrays}, store=tmp_path / "a.h5", cast=True, progress=Listener())
    assert found == ["codes converted from int8 to float32", "counts converted from int64 to float64"]
    with repstat.open_store(path) as store:
        assert [v.dtype.name for v in store.layers.values()] == ["float32", "float64", "float32"]
        assert store.layers["L000"].at(step=0).read().ravel().tolist() == list(range(N))
    left_out = repstat.import_arrays({0: arrays}, store=tmp_path / "b.h5", layers=["-codes", "-counts"])
    with repstat.open_store(left_out) as store:
        assert [v.key for v in store.layers.values()] == ["L002"]


def test_steps_come_from_the_option_the_files_or_their_names(tmp_path: Path) -> None:
    arrays = {"fc": np.ones((N, 2))}
    files = [
        as_npz(tmp_path / "epoch-3", arrays | {"step": 30}),
        as_npz(tmp_path / "epoch-1", arrays | {"step": 10}),
    ]
    for options, steps in (({}, (10, 30)), ({"steps": [4, 5]}, (4, 5))):
        path = repstat.import_arrays(files, store=tmp_path / "a.h5", overwrite=True, **options)
        with repstat.open_store(path) as store:
            assert store.steps == steps
    silent = as_npz(tmp_path / "epoch-2", arrays)
    with pytest.raises(UsageError, match=r"there is no array 'step' in epoch-2.npz"):
        repstat.import_arrays([*files, silent], store=tmp_path / "b.h5")
    with pytest.raises(UsageError, match=r"found 1 steps for 2 checkpoints. Give one step per checkpoint"):
        repstat.import_arrays(files, store=tmp_path / "b.h5", steps=1)
    with pytest.raises(UsageError, match="two checkpoints stand for step 10"):
        repstat.import_arrays([files[1], files[1]], store=tmp_path / "b.h5")
    other = [as_npz(tmp_path / name, arrays) for name in ("first", "last")]
    with pytest.raises(UsageError, match=r"Name them like step-000100\.npz"):
        repstat.import_arrays(other, store=tmp_path / "b.h5")
    with pytest.raises(UsageError, match="steps are given twice"):
        repstat.import_arrays({0: arrays}, store=tmp_path / "b.h5", steps=[0])


# ------------------------------------------------------------------------------- the protocol of the store


def test_an_interrupted_import_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "acts.h5"
    good = {step: activations(step, 3000) for step in (0, 10, 20)}
    files = [as_npz(tmp_path / f"step-{step}", arrays) for step, arrays in good.items()]
    whole = files[2].read_bytes()
    at = whole.index(good[20]["conv10"].tobytes()) + 100_000
    files[2].write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(InputRefusedError, match=r"cannot read the arrays in .*step-20.npz: Bad CRC-32"):
        repstat.import_arrays(files, store=store)
    assert not store.exists()
    assert len(list((tmp_path / "acts.h5.parts").glob("step-*.h5"))) == 2
    files[2].write_bytes(whole)
    read: list[int] = []
    recordings = as_checkpoints(files)
    from repstat.importing.plan import plan_import
    from repstat.importing.run import run_import

    for recording, step in zip(recordings, good, strict=True):
        for name, tensor in recording.layers.items():
            watch(recording.layers, name, tensor, step, read)
    run_import(plan_import(recordings), store)
    assert set(read) == {20}  # what was finished is not read again
    with repstat.open_store(store) as found:
        assert found.steps == (0, 10, 20)
        for step, arrays in good.items():
            np.testing.assert_array_equal(found.layers["L000"].at(step=step).read(), arrays["fc1"])


def watch(layers: Mapping[str, Any], name: str, tensor: Any, step: int, read: list[int]) -> None:
    from dataclasses import replace

    def rows() -> Any:
        read.append(step)
        return tensor.rows()

    layers[name] = replace(tensor, rows=rows)  # type: ignore[index]


def test_resume_overwrite_and_other_files(tmp_path: Path) -> None:
    store = tmp_path / "acts.h5"
    first = {0: activations(0)}
    repstat.import_arrays(first, store=store)
    before = store.read_bytes()
    with pytest.raises(
        UsageError, match=r"already exists. Pass --overwrite .*`import` and recorders complete a store"
    ):
        repstat.import_arrays(first, store=store)
    repstat.import_arrays(first, store=store, resume=True)
    changed = {0: activations(0) | {"fc1": activations(1)["fc1"]}, 5: activations(5)}
    with pytest.raises(UsageError, match=r"was made differently: the sha256 of step 0 was .*, now"):
        repstat.import_arrays(changed, store=store, resume=True)
    with pytest.raises(UsageError, match=r"was made differently: .*layers.* was .*fc1.*"):
        repstat.import_arrays({5: activations(5)}, store=store, layers="conv*", resume=True)
    with pytest.raises(UsageError, match=r"was made differently: .*inputs_sha256"):
        repstat.import_arrays({5: activations(5)}, store=store, inputs=np.ones((N, 2)), resume=True)
    with pytest.raises(UsageError, match=r"was made differently: .*label"):
        repstat.import_arrays({5: activations(5)}, store=store, labels=np.arange(N), resume=True)
    assert store.read_bytes() == before
    repstat.import_arrays(first | {5: activations(5)}, store=store, resume=True)
    with repstat.open_store(store) as found:
        assert found.steps == (0, 5)
    repstat.import_arrays({7: activations(7)}, store=store, overwrite=True)
    with repstat.open_store(store) as found:
        assert found.steps == (7,)


def test_a_folder_of_files_and_merge(tmp_path: Path) -> None:
    repstat.import_arrays({0: activations(0), 3: activations(3)}, store=tmp_path / "acts", folder=True)
    assert len(list((tmp_path / "acts").glob("step-*.h5"))) == 2
    repstat.import_arrays({9: activations(9)}, store=tmp_path / "more.h5")
    repstat.merge([tmp_path / "acts", tmp_path / "more.h5"], tmp_path / "all.h5")
    with repstat.open_store(tmp_path / "all.h5") as store:
        assert store.steps == (0, 3, 9)
    renamed = {f"x{name}": array for name, array in activations(11).items()}
    repstat.import_arrays({11: renamed}, store=tmp_path / "other.h5")
    with pytest.raises(RepstatError, match="fc1"):
        repstat.merge([tmp_path / "more.h5", tmp_path / "other.h5"], tmp_path / "none.h5")


def test_what_does_not_fit_on_the_disk_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ResourceError, match=r"not enough space for .*: need .* kB, 1.0 kB free"):
        repstat.import_arrays({0: activations(0)}, store=tmp_path / "acts.h5")
    assert list(tmp_path.iterdir()) == []


def test_the_command_and_the_function_have_the_same_options() -> None:
    from repstat.cli.importing import command

    typed = {p.name for p in command.params} - {"output", "files", "selectors"}
    typed = {name.removesuffix("_file") for name in typed}
    called = set(inspect.signature(repstat.import_arrays).parameters)
    assert typed <= called
    assert called - typed == {"checkpoints", "store", "layers", "folder", "progress"}
