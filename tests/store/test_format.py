"""The file as docs/store-format.md has it, seen with other eyes than the reader's."""

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat import open_store
from repstat.store import verify
from repstat.store.layout import chunk_shape, n_chunks, stored_bytes
from tests.optional import require
from tests.store.making import IDENTITY, LAYERS, N_SAMPLES, contents, flat, layer, values, write

ARCHIVE = Path(__file__).parent / "archive"
SCALES = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("format") / "acts.h5")


def test_the_objects_are_those_of_the_page(path: Path) -> None:
    found: list[str] = []
    with h5py.File(path) as file:
        file.visit(found.append)
        assert set(file.attrs) == {
            "schema", "schema_version", "created_at", "creator", "identity", "metadata_sha256"
        }  # fmt: skip
        assert file.attrs["schema"] == b"repstat/activation-store"
        assert file.attrs["schema_version"].tolist() == [1, 0]
        assert json.loads(file.attrs["identity"]) == IDENTITY
        assert set(file["layers/L001"].attrs) == {
            "order", "name", "op", "kind", "unit_shape", "source_dtype", "signature"
        }  # fmt: skip
        assert file["layers/L001"].attrs["unit_shape"].tolist() == [2, 2, 2]
        assert file["layers/L001"].attrs["order"] == 1
        assert file["checkpoints/metrics/M000"].attrs["name"] == b"loss"
        assert json.loads(file["provenance/0001"].attrs["record"]) == {"adapter": "onnx", "step": 10}
        np.testing.assert_array_equal(file["layers/L001/value"][1, 0], flat(10, LAYERS[1]))
    layers = [f"layers/{key}/{name}" for key in ("L000", "L001") for name in ("value", "unit", "sha256")]
    counts = [f"layers/{key}/{name}" for key in ("L000", "L001") for name in ("n_nan", "n_inf")]
    columns = ["step", "epoch", "source", "sha256", "weights_sha256", "provenance", "metrics", "metrics/M000"]
    assert set(found) == {
        "checkpoint", "realization", "sample", "samples", "samples/index", "samples/label", "layers",
        "layers/L000", "layers/L001", "checkpoints", "provenance", *(f"provenance/000{i}" for i in range(3)),
        *layers, *counts, *(f"checkpoints/{name}" for name in columns),
    }  # fmt: skip


def test_the_hashes_are_those_of_the_page(path: Path) -> None:
    """Section 4, written down a second time."""
    with h5py.File(path) as file:
        for index, step in enumerate((0, 10, 200)):
            expected = hashlib.sha256(values(step, LAYERS[1]).astype("<f8").tobytes()).hexdigest()
            assert file["layers/L001/sha256"][index] == expected.encode()
        objects: dict[str, Any] = {"/": file}
        file.visititems(lambda name, item: objects.update({f"/{name}": item}))
        lines = []
        for name in sorted(objects, key=str.encode):
            item = objects[name]
            lines.append(name)
            for key in sorted(set(item.attrs) - SCALES - {"metadata_sha256"}):
                array = np.asarray(item.attrs[key])
                lines.append(f"@{key} {description(array, array.tobytes())}")
            if isinstance(item, h5py.Dataset) and not name.endswith("/value"):
                lines.append(f"={description(item, item[...].tobytes())}")
            elif isinstance(item, h5py.Dataset):
                lines.append(f"={description(item, None)}")
        text = "".join(f"{line}\n" for line in lines)
        assert file.attrs["metadata_sha256"] == hashlib.sha256(text.encode()).hexdigest().encode()


def description(item: Any, content: bytes | None) -> str:
    kind = f"{item.dtype.kind}{item.dtype.itemsize}"
    shape = "x".join(str(length) for length in item.shape) or "-"
    return f"{kind} {shape} {'-' if content is None else hashlib.sha256(content).hexdigest()}"


def test_the_hdf5_subset(path: Path) -> None:
    content = path.read_bytes()
    assert content[:9] == b"\x89HDF\r\n\x1a\n\x03"
    with h5py.File(path) as file:
        value = file["layers/L000/value"]
        assert (value.shape, value.dtype, value.maxshape) == ((3, 1, 20, 3), np.dtype("<f4"), value.shape)
        assert value.chunks == (1, 1, 20, 3)
        assert value.id.get_create_plist().get_nfilters() == 0
        assert value.id.get_storage_size() == value.nbytes


def test_files_are_written_within_both_bounds_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest` means another format with each library, and no file shows it with this one."""
    asked = []
    original = h5py.File

    def opened(*args: Any, **options: Any) -> Any:
        asked.append((options.get("libver"), args[1:2]))
        return original(*args, **options)

    monkeypatch.setattr(h5py, "File", opened)
    write(tmp_path / "acts.h5")
    written = [bounds for bounds, mode in asked if mode != ("r",)]
    assert len(written) == 4  # three checkpoints, and the joined file
    assert set(written) == {("v110", "v110")}


def test_dimension_scales_are_attached_as_the_library_does(path: Path) -> None:
    with h5py.File(path) as file:
        for key in ("L000", "L001"):
            group = file["layers"][key]
            scales = [file["checkpoint"], file["realization"], file["sample"], group["unit"]]
            for dimension, scale in enumerate(scales):
                assert h5py.h5ds.is_scale(scale.id)
                assert h5py.h5ds.is_attached(group["value"].id, scale.id, dimension)
            for name in ("sha256", "n_nan", "n_inf"):
                assert h5py.h5ds.is_attached(group[name].id, file["checkpoint"].id, 0)
        assert h5py.h5ds.is_attached(file["samples/label"].id, file["sample"].id, 0)


def test_xarray_knows_the_dimensions(path: Path) -> None:
    xarray = require("xarray")
    require("h5netcdf")
    with xarray.open_dataset(path, group="layers/L000", engine="h5netcdf") as found:
        assert found["value"].dims == ("checkpoint", "realization", "sample", "unit")
        np.testing.assert_array_equal(found["value"][1, 0], flat(10, LAYERS[0]))
        assert found.attrs["name"] == "/net/L000/Tanh_output_0"
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        found = tree["layers/L001"].sel(checkpoint=200, realization=0)
        assert found["value"].dims == ("sample", "unit")
        np.testing.assert_array_equal(found["value"], flat(200, LAYERS[1]))
        assert tree["checkpoints/metrics"]["M000"].dims == ("checkpoint",)


@pytest.mark.parametrize("n_samples", [1, 7, 4096, 50_000])
@pytest.mark.parametrize("n_units", [1, 10, 4096, 300_000, 5_000_000])
@pytest.mark.parametrize("itemsize", [2, 8])
def test_chunks_are_a_mebibyte_and_waste_little(n_samples: int, n_units: int, itemsize: int) -> None:
    chunks = chunk_shape(n_samples, n_units, itemsize)
    assert chunks[:2] == (1, 1)
    assert 1 <= chunks[2] <= n_samples
    assert 1 <= chunks[3] <= n_units
    size = np.prod(chunks) * itemsize
    assert size <= 2**20
    whole = n_samples * n_units * itemsize
    stored = stored_bytes((1, 1, n_samples, n_units), chunks, itemsize)
    assert size == whole or size > 2**18
    assert whole <= stored <= whole * 1.01 + n_chunks((1, 1, n_samples, n_units), chunks) * n_units * itemsize


def test_many_layers(tmp_path: Path) -> None:
    layers = tuple(layer(f"L{ordinal:03d}", (2,)) for ordinal in range(100))
    path = write(tmp_path / "acts.h5", (1,), layers=layers)
    assert verify(path) == []
    with open_store(path) as store:
        assert len(store.layers) == 100
        assert store.layers["L099"].index == 99


def test_stores_of_released_versions_are_read() -> None:
    """archive/README.md says how they were made."""
    files = sorted(ARCHIVE.glob("v*.h5"))
    assert [file.name for file in files] == ["v1.0.h5"]
    for file in files:
        assert verify(file) == []
        with open_store(file) as store:
            found = contents(store)
            assert store.steps == (0, 10, 200)
            assert store.samples.n == N_SAMPLES
            assert found["identity"] == IDENTITY
            for one in LAYERS:
                expected = np.load(ARCHIVE / "values.npz")[one.key]
                for index, step in enumerate(store.steps):
                    np.testing.assert_array_equal(store.layers[one.key].at(step=step).read(), expected[index])
