"""What is not a store, or not a sound one, is refused before its data are read."""

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat import open_store
from repstat.errors import StoreDamagedError, UsageError
from repstat.store import structure, verify
from repstat.store.schema import LIBVER
from tests.store.breaking import attribute, edit, named, one_byte_damages, refused, removed, replaced, text
from tests.store.making import IDENTITY, LAYERS, flat, layer, write


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "acts.h5")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "acts.h5"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it is empty"),
        (b"step,loss\n1,2\n", r"it begins with b'step,los', which is not HDF5"),
        (b"<html>" + b" " * 506 + b"\x89HDF\r\n\x1a\n", "is not HDF5"),
        (b"\x89HDF\r\n\x1a\n", "superblock"),
        (b"\x89HDF\r\n\x1a\n\x03" + b"\0" * 40, "HDF5 cannot read it"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "acts.h5"
    path.write_bytes(content)
    message = refused(path)
    assert text in message
    assert str(path) in message


def test_other_hdf5_files(tmp_path: Path) -> None:
    path = tmp_path / "acts.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    assert "is not an activation store: it is HDF5 with superblock 0" in refused(path)
    with h5py.File(path, "w", libver=LIBVER) as file:
        file["x"] = 1
    assert "is not an activation store: it is HDF5 without the attribute schema" in refused(path)
    with h5py.File(path, "w", libver=LIBVER) as file:
        file.attrs["schema"] = np.array(b"repstat/results", h5py.string_dtype("utf-8", 15))
        file.attrs["schema_version"] = np.array([1, 0])
    with pytest.raises(StoreDamagedError) as caught:
        open_store(path)
    why = "its schema is 'repstat/results', not 'repstat/activation-store': it is a results file"
    assert why in str(caught.value)
    assert verify(path) != [str(caught.value)]  # it is checked as what it says it is
    assert len(verify(path)) == 1


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refused(tmp_path / "fifo")
    assert "not a regular file" in refused(Path(os.devnull))


def test_a_missing_store_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "acts.h5", tmp_path / "acts.h5" / "more", tmp_path / ("x" * 300), Path("a\0b")):
        with pytest.raises(UsageError, match=r"there is no store|cannot open") as caught:
            open_store(path)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"has no file \*\.h5"):
        open_store(tmp_path)


def test_truncated(copy: Path) -> None:
    size = copy.stat().st_size
    for length in (size - 1, size // 2, 100):
        os.truncate(copy, length)
        assert "HDF5 cannot read it" in refused(copy)


@pytest.mark.parametrize(
    ("version", "text"), [((2, 0), "found format 2.0"), ((1, 2), "found format 1.2"), ((0, 9), "format 0.9")]
)
def test_other_versions(copy: Path, version: tuple[int, int], text: str) -> None:
    edit(copy, lambda file: file.attrs.modify("schema_version", np.array(version)))
    message = refused(copy)
    assert text in message
    assert "this repstat reads 1.0 to 1.1" in message


def external_link(file: h5py.File) -> None:
    del file["layers/L000/value"]
    file["layers/L000/value"] = h5py.ExternalLink("/etc/other.h5", "/x")


def soft_link(file: h5py.File) -> None:
    del file["layers/L000/value"]
    file["layers/L000/value"] = h5py.SoftLink("/layers/L001/value")


def hard_link(file: h5py.File) -> None:
    del file["layers/L000/n_nan"]
    file["layers/L000/n_nan"] = file["layers/L000/n_inf"]


def cycle(file: h5py.File) -> None:
    file["layers/L002"] = file["layers"]


def virtual(file: h5py.File) -> None:
    shape = file["layers/L000/value"].shape
    del file["layers/L000/value"]
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[...] = h5py.VirtualSource("/etc/other.h5", "x", shape)
    file.create_virtual_dataset("layers/L000/value", layout)


def vlen_attribute(file: h5py.File) -> None:
    file.attrs["creator"] = "a string of variable length"


def committed_type(file: h5py.File) -> None:
    del file["layers/L000/value"]
    file["layers/L000/value"] = np.dtype("<f4")


def large_chunk(file: h5py.File) -> None:
    del file["layers/L000/value"]
    shape = (1, 1, 1, 2**24 + 1)
    file.create_dataset("layers/L000/value", shape, "<f4", chunks=shape)


def group_for_dataset(file: h5py.File) -> None:
    del file["sample"]
    file.create_group("sample")


def deep(file: h5py.File) -> None:
    file.create_group("layers/L000/" + "/".join("x" * 200))


SHAPE = (3, 1, 20, 3)
WHOLE = {"shape": SHAPE, "dtype": "<f4"}
BREAKS = {
    "external link": (external_link, "layers/L000/value: it is a link to elsewhere"),
    "soft link": (soft_link, "layers/L000/value: it is a link to elsewhere"),
    "second hard link": (hard_link, "reached by more than one path"),
    "cycle": (cycle, "reached by more than one path"),
    "virtual": (virtual, "layers/L000/value: it is virtual"),
    "external storage": (
        replaced("layers/L000/value", data=None, external=[("other.bin", 0, 720)], **WHOLE),
        "layers/L000/value: its data are in another file",
    ),
    "compressed": (replaced("layers/L000/value", compression="gzip"), "it is filtered"),
    "fletcher32": (replaced("layers/L000/value", fletcher32=True), "it is filtered"),
    "extendible": (replaced("layers/L000/value", maxshape=(None, 1, 20, 3)), "it can be extended"),
    "shape bomb": (
        replaced("layers/L000/value", data=None, shape=(3, 1, 20, 2**46), dtype="<f4", chunks=(1, 1, 1, 16)),
        "declares 16888498602639360 bytes and stores 0",
    ),
    "contiguous bomb": (
        replaced("layers/L000/value", data=None, shape=(3, 1, 20, 2**46), dtype="<f4"),
        "declares 16888498602639360 bytes and stores 0",
    ),
    "never written": (replaced("layers/L000/value", data=None, **WHOLE), "declares 720 bytes and stores 0"),
    "large chunk": (large_chunk, "larger than 64 MiB"),
    "big-endian": (replaced("layers/L000/value", data=np.ones(SHAPE, ">f4")), "its type is none of"),
    "integers": (replaced("layers/L000/value", data=np.ones(SHAPE, "<i4")), "its type is none of f2, f4, f8"),
    "compound": (replaced("layers/L000/value", data=np.ones(SHAPE, [("a", "<f4")])), "its type is none of"),
    "opaque": (replaced("layers/L000/value", data=np.ones(SHAPE, "V2")), "its type is none of"),
    "variable-length": (replaced("checkpoints/source", data=["a", "b", "c"]), "its type is none of S"),
    "samples disagree": (replaced("samples/label", data=np.arange(19)), "(19,), expected 20 samples"),
    "units disagree": (replaced("layers/L000/unit", data=np.arange(4)), "units of the layer"),
    "rank": (replaced("samples/index", data=np.zeros((20, 1), int)), "expected 1 dimensions"),
    "scalar": (replaced("samples/index", data=np.int64(3)), "samples/index"),
    "vlen attribute": (vlen_attribute, "has another type than S"),
    "attribute shape": (attribute("layers/L000", "order", np.array([0, 0])), "has the shape (2,)"),
    "empty attribute": (attribute("layers/L000", "name", h5py.Empty("S1")), "layers/L000 @name"),
    "unknown attribute": (attribute("layers/L000", "more", np.int64(1)), "no attribute more"),
    "scale attribute on a group": (attribute("layers", "CLASS", np.int64(1)), "no attribute CLASS"),
    "committed type": (committed_type, "expected a dataset"),
    "group for dataset": (group_for_dataset, "expected a dataset"),
    "dataset for group": (lambda f: f.create_dataset("layers/L002", data=1) and None, "expected a group"),
    "reserved": (named("/noise"), "noise: the format has nothing of this name"),
    "reserved in a layer": (named("L000/conditional"), "layers/L000/conditional: the format has nothing"),
    "name with control characters": (named("\x1b[31m"), r"layers/\x1b[31m: the format has nothing"),
    "dots": (named(".."), "layers/..: the format has nothing"),
    "long name": (named("x" * 60_000), "nothing of this name"),
    "newline after a key": (named("L002\n"), "nothing of this name"),
    "other digits": (named("L٠٠٣"), "nothing of this name"),  # noqa: RUF001
    "deep": (deep, "nothing of this name"),
    "missing dataset": (removed("layers/L001/sha256"), "layers/L001: sha256 is missing"),
    "missing group": (removed("provenance"), "provenance is missing"),
    "no layers": (lambda f: f.pop("layers/L000") and f.pop("layers/L001") and None, "layers"),
    "missing attribute": (lambda f: f["layers/L000"].attrs.pop("op") and None, "the attribute op is missing"),
    "unit_shape": (attribute("layers/L001", "unit_shape", np.array([2, 2])), "found (2, 2) for 8 units"),
    "zero unit_shape": (attribute("layers/L001", "unit_shape", np.array([8, 0])), "for 8 units"),
    "order": (attribute("layers/L001", "order", np.int64(0)), "their orders are not 0, 1, 2"),
    "kind": (text("layers/L001", "kind", b"gate"), "found 'gate'"),
    "synthetic": (attribute("samples", "synthetic", np.int64(2)), "expected 0 or 1"),
    "entropy": (attribute("samples", "input_entropy", np.inf), "not a finite number"),
    "not UTF-8": (text("layers/L001", "name", b"\xff\xfe"), "it is not UTF-8"),
    "identity": (text("/", "identity", b"[1]"), "expected a JSON object"),
    "JSON": (text("/", "identity", b"{"), "it is not JSON"),
    "NaN in JSON": (text("/", "identity", b'{"a": NaN}'), "it is not JSON"),
    "deep JSON": (text("/", "identity", b"[" * 50_000), "it is not JSON"),
    "class names": (text("samples", "class_names", b"[1]"), "expected an array of strings"),
    "steps": (replaced("checkpoints/step", data=np.array([0, 200, 10])), "the steps do not increase"),
    "negative step": (replaced("checkpoints/step", data=np.array([-1, 10, 200])), "steps do not increase"),
    "scale": (replaced("sample", data=np.arange(1, 21)), "sample: the dimension scale differs"),
    "unit scale": (replaced("layers/L000/unit", data=np.arange(1, 4)), "the dimension scale is not 0, 1, 2"),
    "provenance": (replaced("checkpoints/provenance", data=np.array([0, 1, 3])), "there are 3 records"),
    "provenance names": (lambda f: f.move("provenance/0002", "provenance/0004"), "not numbered 0000"),
    "epoch": (replaced("checkpoints/epoch", data=np.array([0, 1, np.inf])), "an epoch is infinite"),
    "hash": (
        replaced("layers/L000/sha256", data=np.array([b"x" * 64] * 3, h5py.string_dtype("utf-8", 64))),
        "no SHA-256",
    ),
    "metric names": (
        lambda f: f.copy("checkpoints/metrics/M000", "checkpoints/metrics/M001"), "'loss' occurs twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_broken_rules(copy: Path, name: str) -> None:
    change, text = BREAKS[name]
    edit(copy, change)
    message = refused(copy)
    assert text in message
    assert str(copy) in message
    assert message.isprintable()


def test_an_edit_alone_is_sound(copy: Path) -> None:
    edit(copy, replaced("samples/label"))
    assert verify(copy) == []


def test_metadata_are_hashed(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["samples/label"][3] += 1
    assert "metadata: their SHA-256 is" in refused(copy)


@pytest.mark.filterwarnings("ignore")
def test_no_damage_of_one_byte_changes_a_number(copy: Path, rng: np.random.Generator) -> None:
    """100 random bytes, seed of `rng`: each is noticed, or what is read is what was written."""
    for _ in one_byte_damages(copy, rng):
        with open_store(copy) as store:
            assert store.identity == IDENTITY
            for step in (0, 10, 200):
                for one in LAYERS:
                    np.testing.assert_array_equal(store.layers[one.key].at(step=step).read(), flat(step, one))


@pytest.mark.parametrize("signature", [b"BTLF", b"FHDB"])
def test_damaged_links_of_a_large_group(tmp_path: Path, signature: bytes) -> None:
    """More than eight layers: HDF5 keeps their links in a tree and a heap. Damage must not end Python."""
    path = write(tmp_path / "acts.h5", (0,), layers=tuple(layer(f"L{i:03d}") for i in range(10)))
    original = path.read_bytes()
    for offset in range(4, 60, 5):
        damaged = bytearray(original)
        damaged[original.index(signature) + offset] ^= 16
        path.write_bytes(damaged)
        assert "HDF5 cannot read it" in refused(path)


def test_data_larger_than_the_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets that share storage would need a forged file: instead the file is called smaller than it is."""
    items: list[h5py.Group | h5py.Dataset] = []
    with h5py.File(copy) as file:
        file.visititems(lambda _, item: items.append(item))
        size = sum(item.id.get_storage_size() for item in items if isinstance(item, h5py.Dataset))
    monkeypatch.setattr(structure, "check_outside", lambda *_: size)
    structure.check_structure(copy)
    monkeypatch.setattr(structure, "check_outside", lambda *_: size - 1)
    with pytest.raises(StoreDamagedError, match=f"its data exceed the file, which has {size - 1} bytes"):
        structure.check_structure(copy)


@pytest.mark.parametrize("key", ["L000", "L001"])
def test_a_flipped_bit_in_the_activations_is_named(copy: Path, key: str) -> None:
    with h5py.File(copy) as file:
        offset = file["layers"][key]["value"].id.get_chunk_info(1).byte_offset
    content = bytearray(copy.read_bytes())
    content[offset + 5] ^= 64
    copy.write_bytes(content)
    with open_store(copy) as store:
        store.layers[key].at(step=0).read()
        with pytest.raises(StoreDamagedError, match=rf"step 10, layer {key}: their SHA-256 is"):
            store.layers[key].at(step=10).read()
        with pytest.raises(StoreDamagedError, match="damaged"):
            np.asarray(store.layers[key].at(step=10))
    problems = verify(copy)
    assert len(problems) == 1
    assert f"step 10, layer {key}" in problems[0]


def test_wrong_counts_are_found(copy: Path) -> None:
    edit(copy, replaced("layers/L000/n_nan", data=np.array([0, 1, 0])))
    (problem,) = verify(copy)
    assert "step 10, layer L000: the counts of NaN or Inf are wrong" in problem


def test_a_store_that_is_replaced_while_open(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "acts"
    folder.mkdir()
    shutil.copy(sound, folder / "a.h5")
    store = open_store(folder)
    write(tmp_path / "other.h5").replace(folder / "a.h5")
    with pytest.raises(StoreDamagedError, match="was replaced while it was open"):
        store.layers["L000"].at(step=10).read()


def test_reading_leaves_the_file_alone(copy: Path) -> None:
    copy.chmod(0o400)
    before = copy.stat()
    content = copy.read_bytes()
    with open_store(copy) as store:
        store.layers["L000"].at(step=10).read()
    verify(copy)
    assert copy.stat().st_mtime_ns == before.st_mtime_ns
    assert copy.read_bytes() == content
    assert [entry.name for entry in copy.parent.iterdir()] == ["acts.h5"]


@pytest.mark.parametrize("locking", [None, False, True, "best-effort"])
def test_others_may_have_it_open(copy: Path, locking: Any) -> None:
    with h5py.File(copy, locking=locking) as file, open_store(copy) as store:
        np.testing.assert_array_equal(store.layers["L000"].at(step=10)[:], file["layers/L000/value"][1, 0])
    with open_store(copy) as store:
        view = store.layers["L000"].at(step=10)
        first = view[0]
        with h5py.File(copy) as file:
            np.testing.assert_array_equal(file["layers/L000/value"][1, 0, 0], first)


def test_a_gate_of_one_s_own(copy: Path) -> None:
    def gate(path: Path) -> None:
        raise StoreDamagedError(what="the child process died", path=path)

    with pytest.raises(StoreDamagedError, match="the child process died"):
        open_store(copy, gate=gate)
