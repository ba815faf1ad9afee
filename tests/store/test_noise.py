"""Stores of noisy networks: what is written comes back, in any batches, from files, folders and merges."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repstat import merge, open_store
from repstat.errors import InputRefusedError, ResourceError, UsageError
from repstat.store import Conditional, layout, predicted_bytes, verify
from repstat.store.builder import StoreFileBuilder
from repstat.store.layout import conditional_chunk_shape
from repstat.store.storefile import load
from repstat.store.values import blocks, put_rows, tally
from tests.optional import require
from tests.store.making import (
    LAYERS,
    N_SAMPLES,
    NOISE,
    NOISY,
    NOISY_LAYERS,
    REPEATED,
    checkpoint,
    contents,
    flat,
    layer,
    passes,
    record,
    record_noisy,
    record_some,
    repeats,
    samples,
    write,
    write_noisy,
    writer,
)

ARCHIVE = Path(__file__).parent / "archive"
STEPS = (0, 10, 200)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noisy(tmp_path_factory.mktemp("noisy") / "acts.h5")


def stored(step: int, one: Any) -> Any:
    """The realizations of the repeated inputs as they are stored, shape (inputs, realizations, units)."""
    return repeats(step, one).reshape(5, 4, -1)


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_written_is_read(tmp_path: Path, path: Path, folder: bool) -> None:
    written = write_noisy(tmp_path / "acts", folder=True) if folder else path
    assert verify(written) == []
    with open_store(written) as store:
        assert (store.schema_version, store.n_realizations) == ((1, 1), 3)
        assert store.noise == NOISE
        assert store.conditional is not None
        np.testing.assert_array_equal(store.conditional.samples, REPEATED.samples)
        assert (store.conditional.n, store.conditional.n_realizations) == (5, 4)
        assert store.conditional.layers == ("L001", "L002")
        for step in STEPS:
            for one in NOISY_LAYERS:
                view = store.layers[one.key].at(step=step)
                np.testing.assert_array_equal(view.read(), passes(step, one).reshape(3, N_SAMPLES, -1))
                if one.key == "L000":
                    assert view.conditional is None
                    continue
                assert view.conditional is not None
                assert view.conditional.shape == (5, 4, one.n_units)
                assert view.conditional.dtype == one.dtype
                np.testing.assert_array_equal(view.conditional.read(), stored(step, one))
                np.testing.assert_array_equal(np.asarray(view.conditional), stored(step, one))


@pytest.mark.parametrize(
    "key",
    [2, -1, (slice(1, 4), 0), (..., 3), ([4, 0, 4], 1), (slice(None), [2, 0], slice(None, None, -2)), ()],
)
def test_slices_of_the_repeated_inputs_are_numpy_s(path: Path, key: Any) -> None:
    with open_store(path) as store:
        view = store.layers["L001"].at(step=10).conditional
        assert view is not None
        np.testing.assert_array_equal(view[key], stored(10, LAYERS[1])[key])
        assert (view.step, view.ndim, len(view), view.nbytes) == (10, 3, 5, 5 * 4 * 8 * 8)
        assert "L001/conditional step 10 (5, 4, 8)" in repr(view)


def test_nonfinite_values_are_counted_where_they_are(tmp_path: Path) -> None:
    one = layer("L001")
    noisy = NOISY | {"layers": (one,), "conditional": Conditional(np.array([1]), 2, ("L001",))}
    rows = np.array([[1, np.nan, 3], [np.inf, 5, -np.inf]], np.float32)
    with writer(tmp_path / "acts.h5", (0,), **noisy) as into:
        with into.checkpoint(checkpoint(0)) as part:
            for realization in range(3):
                part.write("L001", flat(0, one), realization=realization)
            part.write_conditional("L001", rows)
        into.finish()
    with open_store(tmp_path / "acts.h5") as store:
        view = store.layers["L001"].at(step=0)
        assert view.conditional is not None
        assert (view.n_nonfinite, view.conditional.n_nonfinite) == (0, 3)
        assert view.conditional.shape == (1, 2, 3)
        np.testing.assert_array_equal(view.conditional.read()[0], rows)


@pytest.mark.parametrize("batch", [1, 3, 5, 6, 13, 20])
@pytest.mark.parametrize("chunk", [16, 150, 2**20])
def test_rows_stream_in_batches_that_end_anywhere(
    tmp_path: Path, path: Path, batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of a part of an input, of one, and of all; blocks of a few rows."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", chunk)
    monkeypatch.setattr("repstat.store.values.BLOCK_BYTES", 2 * chunk)
    written = write_noisy(tmp_path / "acts.h5", (0, 10), batch=batch)
    assert verify(written) == []
    whole = write_noisy(tmp_path / "again.h5", (0, 10), batch=20)
    with open_store(written) as store, open_store(whole) as expected:
        assert contents(store) == contents(expected)
        view = store.layers["L001"].at(step=10).conditional
        assert view is not None
        np.testing.assert_array_equal(view.read(), stored(10, LAYERS[1]))
        starts = [start for _, start, _ in view.blocks()]
        assert starts == sorted(set(starts))


@settings(max_examples=50, deadline=None)
@given(
    outer=st.integers(1, 6), inner=st.integers(1, 6), apart=st.booleans(), block=st.integers(1, 200),
    batches=st.lists(st.integers(0, 9), max_size=40), chunked=st.booleans(),
)  # fmt: skip
def test_rows_and_blocks_cover_a_table_once(
    outer: int, inner: int, apart: bool, block: int, batches: list[int], chunked: bool
) -> None:
    expected = np.arange(outer * inner * 3.0).reshape(-1, 3)
    with (
        h5py.File("rows.h5", "w", driver="core", backing_store=False) as file,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr("repstat.store.values.BLOCK_BYTES", block)
        chunks = (1, (outer + 1) // 2, (inner + 1) // 2, 3) if chunked else None
        dataset = file.create_dataset("value", (2, outer, inner, 3), "<f8", chunks=chunks)
        first = 0
        for size in [*batches, len(expected)]:
            rows = expected[first : first + size]
            put_rows(dataset, 1, first, rows)
            first += len(rows)
        np.testing.assert_array_equal(dataset[1].reshape(-1, 3), expected)
        n_streams = outer if apart else 1
        found = list(blocks(dataset, 1, n_streams))
        part = len(expected) // n_streams
        assert [stream * part + start for stream, start, _ in found] == [
            sum(len(rows) for *_, rows in found[:i]) for i in range(len(found))
        ]
        np.testing.assert_array_equal(np.concatenate([rows for *_, rows in found]), expected)
        parts = expected.reshape(n_streams, part, 3)
        digests = [hashlib.sha256(rows.tobytes()) for rows in parts]
        whole = digests[0] if n_streams == 1 else hashlib.sha256(b"".join(d.digest() for d in digests))
        assert tally(dataset, 1, n_streams).sha256 == whole.hexdigest()


def test_the_objects_are_those_of_the_page(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["schema_version"].tolist() == [1, 1]
        assert set(file) == {
            "checkpoint", "realization", "sample", "samples", "checkpoints", "layers", "provenance", "noise",
            "conditional", "conditional_sample", "conditional_realization",
        }  # fmt: skip
        assert file["noise/layer"][:].tolist() == [b"L000", b"L001", b"L007"]
        assert file["noise/noise_std"][:].tolist() == [0.1, 0.25, 1.0]
        assert {name: file["noise"].attrs[name] for name in file["noise"].attrs} == {
            "seed": 2**40, "bit_generator": b"Philox", "checksum": b"c0ffee"
        }  # fmt: skip
        assert list(file["conditional"]) == ["position"]
        assert file["conditional/position"][:].tolist() == [0, 3, 4, 11, 19]
        assert "conditional" not in file["layers/L000"]
        found = file["layers/L001/conditional"]
        assert set(found) == {"value", "sha256", "n_nan", "n_inf"}
        assert (found["value"].shape, found["value"].chunks) == ((3, 5, 4, 8), (1, 5, 4, 8))
        for index, step in enumerate(STEPS):
            digest = hashlib.sha256(stored(step, LAYERS[1]).astype("<f8").tobytes()).hexdigest()
            assert found["sha256"][index] == digest.encode()
        scales = [file[name] for name in ("checkpoint", "conditional_sample", "conditional_realization")]
        for dimension, scale in enumerate([*scales, file["layers/L001/unit"]]):
            assert h5py.h5ds.is_attached(found["value"].id, scale.id, dimension)
        assert h5py.h5ds.is_attached(file["conditional/position"].id, file["conditional_sample"].id, 0)


def test_xarray_selects_the_repeated_inputs_by_their_labels(tmp_path: Path) -> None:
    xarray = require("xarray")
    require("h5netcdf")
    path = write_noisy(tmp_path / "acts.h5", samples=samples(index=np.arange(N_SAMPLES) * 10))
    dims = ("checkpoint", "conditional_sample", "conditional_realization", "unit")
    with xarray.open_dataset(path, group="layers/L001/conditional", engine="h5netcdf") as found:
        assert found["value"].dims == dims
        np.testing.assert_array_equal(found["value"][1], stored(10, LAYERS[1]))
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        found = tree["layers/L001/conditional"].to_dataset()
        assert found["conditional_sample"].values.tolist() == [0, 30, 40, 110, 190]
        one = found["value"].sel(checkpoint=200, conditional_sample=110, conditional_realization=2)
        np.testing.assert_array_equal(one, stored(200, LAYERS[1])[3, 2])
        same = tree["layers/L001"]["value"].sel(checkpoint=200, sample=found["conditional_sample"])
        np.testing.assert_array_equal(same[0], passes(200, LAYERS[1])[0].reshape(20, 8)[REPEATED.samples])
        noise_std = tree["noise"]["noise_std"]
        assert noise_std.dims == ("layer",)
        assert noise_std.values.tolist() == [0.1, 0.25, 1.0]
        assert tree["conditional"].to_dataset()["position"].values.tolist() == [0, 3, 4, 11, 19]


def test_a_store_without_noise_is_that_of_version_1_0(tmp_path: Path) -> None:
    """Written anew, the archived store has the same metadata, hence the same objects, and the same values."""
    archived = load(ARCHIVE / "v1.0.h5")
    assert archived.header.schema_version == (1, 0)
    builder = StoreFileBuilder(tmp_path / "acts.h5", archived.header)
    with archived.open() as old:
        for key in archived.records:
            for index in range(3):
                builder.append(key, old["layers"][key]["value"][index, 0], checkpoint=index)
        builder.commit()
        with h5py.File(tmp_path / "acts.h5") as new:
            assert new.attrs["metadata_sha256"] == old.attrs["metadata_sha256"]
    with open_store(ARCHIVE / "v1.0.h5") as store:
        assert (store.noise, store.conditional) == (None, None)
        assert store.layers["L000"].at(step=0).conditional is None


def test_noise_without_repeated_inputs(tmp_path: Path) -> None:
    with writer(tmp_path / "acts.h5", (1,), noise=NOISE) as into:
        record(into, 1)
        into.finish()
    assert verify(tmp_path / "acts.h5") == []
    with open_store(tmp_path / "acts.h5") as store:
        assert (store.noise, store.conditional, store.schema_version) == (NOISE, None, (1, 1))
        view = store.layers["L001"].at(step=1)
        assert (view.shape, view.conditional) == ((20, 8), None)


@pytest.mark.parametrize("folder", [False, True])
def test_an_interrupted_run_is_resumed(tmp_path: Path, path: Path, folder: bool) -> None:
    output = tmp_path / "acts"
    with writer(output, folder=folder, **NOISY) as into:
        record_noisy(into, 0)
        with pytest.raises(InputRefusedError, match="got 0 of 20 samples"):
            record_some(into, 10)
    with writer(output, folder=folder, **NOISY) as into:
        assert into.done == {0}
    write_noisy(output, folder=folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["acts"]
    with open_store(output) as resumed, open_store(path) as whole:
        assert contents(resumed) == contents(whole)


def test_a_finished_store_is_extended(tmp_path: Path, path: Path) -> None:
    output = write_noisy(tmp_path / "acts.h5", (0, 200))
    write_noisy(output, resume=True)
    with open_store(output) as extended, open_store(path) as whole:
        assert contents(extended) == contents(whole)


def test_stores_are_merged(tmp_path: Path, path: Path) -> None:
    one, two = write_noisy(tmp_path / "a.h5", (10,)), write_noisy(tmp_path / "b", (0, 200), folder=True)
    merge([one, two], tmp_path / "all.h5")
    assert verify(tmp_path / "all.h5") == []
    with open_store(tmp_path / "all.h5") as merged, open_store(path) as whole:
        assert contents(merged) == contents(whole)
        assert merged.schema_version == (1, 1)
    other = write_noisy(tmp_path / "c.h5", (300,), noise=replace(NOISE, seed=1))
    plain = write(tmp_path / "d.h5", (300,))
    for wrong, text in (
        (other, "noise.seed is 1, expected 1099511627776"),
        (plain, "n_realizations is 1, ex"),
    ):
        with pytest.raises(UsageError, match=text):
            merge([one, wrong], tmp_path / "never.h5")


@pytest.mark.parametrize("steps", [(0,), (0, 10, 200)])
def test_sizes_are_predicted(tmp_path: Path, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    path, one = tmp_path / "acts.h5", layer("L001", (700,))
    many = Conditional(np.arange(15), 300, ("L001",))
    options = NOISY | {"layers": (one,), "n_realizations": 1, "conditional": many}
    with writer(path, steps, **options) as into:
        announced = into.required_bytes
        for step in steps:
            with into.checkpoint(checkpoint(step)) as part:
                part.write("L001", flat(step, one))
                for _ in range(15):
                    part.write_conditional("L001", np.ones((300, 700), np.float32))
        into.finish()
    predicted = predicted_bytes(N_SAMPLES, (one,), len(steps), 1, many)
    single = predicted_bytes(N_SAMPLES, (one,), 1, 1, many)
    assert path.stat().st_size <= predicted <= path.stat().st_size * 1.01 + 60_000
    assert announced == (predicted if len(steps) == 1 else predicted + len(steps) * single)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10_000_000))
    with pytest.raises(ResourceError, match="not enough space"), writer(tmp_path / "b.h5", steps, **options):
        pass


@pytest.mark.parametrize("n_inputs", [1, 7, 1000])
@pytest.mark.parametrize("n_realizations", [1, 50, 3000])
@pytest.mark.parametrize("n_units", [1, 300, 400_000])
def test_chunks_are_a_mebibyte_and_waste_little(n_inputs: int, n_realizations: int, n_units: int) -> None:
    chunks = conditional_chunk_shape(n_inputs, n_realizations, n_units, 4)
    shape = (1, n_inputs, n_realizations, n_units)
    size, whole = int(np.prod(chunks)) * 4, int(np.prod(shape)) * 4
    assert all(1 <= c <= n for c, n in zip(chunks, shape, strict=True))
    assert size <= 2**20
    assert size == whole or size > 2**18
    assert whole <= layout.stored_bytes(shape, chunks, 4) <= whole * 1.2
