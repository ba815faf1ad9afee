"""Arrays in files: what is read, in blocks and to the bit, and what hostile files meet."""

import json
import os
import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.errors import InputRefusedError, ResourceError
from repstat.files import read_arrays
from repstat.tensors import Tensor, read_npy, read_npz, read_safetensors, tensor
from tests.optional import require


@pytest.fixture(params=[1 << 24, 40])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All at once, and a sample or two at a time."""
    monkeypatch.setattr(tensor, "BLOCK_BYTES", request.param)
    return int(request.param)


def written(path: Path, array: np.ndarray, how: str) -> Tensor:
    if how == "npy":
        np.save(path.with_suffix(".npy"), array)
        return read_npy(path.with_suffix(".npy"), "a")
    save = np.savez if how == "npz" else np.savez_compressed
    save(path.with_suffix(".npz"), before=np.zeros(3), a=array)
    return read_npz(path.with_suffix(".npz"))[1]


@pytest.mark.parametrize("how", ["npy", "npz", "packed"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", ">f8", "<i8", "?"])
@pytest.mark.usefixtures("block_bytes")
def test_what_was_saved_is_read(tmp_path: Path, how: str, order: Any, dtype: str) -> None:
    for shape in [(7, 3, 2), (7,), (1, 5), ()]:
        values = np.random.default_rng(3).normal(size=shape) * 50
        array = np.asarray(values, order=order).astype(dtype)
        if shape == (7, 3, 2) and dtype[1:] != "?" and np.dtype(dtype).kind == "f":
            array[2, 1, 0], array[3, 0, 1] = np.nan, np.inf
        found = written(tmp_path / "a", array, how)
        assert (found.shape, found.dtype) == (shape, array.dtype.newbyteorder("="))
        blocks = list(found.blocks())
        assert all(block.flags.c_contiguous and block.dtype.isnative for block in blocks)
        np.testing.assert_array_equal(found.read(), array)
        if shape:
            np.testing.assert_array_equal(np.concatenate(blocks), array)
            assert len(blocks) == 1 or all(len(b) * found.n_bytes // shape[0] <= 48 for b in blocks)


def test_an_array_need_not_fit_into_memory(tmp_path: Path) -> None:
    """192 MiB, of which at most a few blocks are in memory at a time."""
    np.save(tmp_path / "a.npy", np.zeros((1, 1024), np.float32))
    path, n = tmp_path / "big.npy", 48 * 1024
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": (n, 1024), "fortran_order": False, "descr": "<f4"})
    path.write_bytes(head.getvalue())
    os.truncate(path, len(head.getvalue()) + n * 4096)
    for found in (read_npy(path), read_npz(packed(tmp_path, path))[0]):
        tracemalloc.start()
        n_bytes = sum(block.nbytes for block in found.blocks())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_bytes == n * 4096
        assert peak < 4 * tensor.BLOCK_BYTES


def packed(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(folder / "big.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(path, "big.npy")
    return folder / "big.npz"


# ------------------------------------------------------------------------------------ hostile .npy and .npz


class Evil:
    """Leaves a trace if it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("unpickled"),)


def npy(shape: Any = (4, 2), descr: Any = "<f4", data: bytes = bytes(32), order: bool = False) -> bytes:
    text = repr({"descr": descr, "fortran_order": order, "shape": shape})
    return header(text) + data


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode("latin-1")


def npz(folder: Path, members: dict[str, bytes], **facts: Any) -> Path:
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w", **facts) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


OBJECTS = BytesIO()
np.save(OBJECTS, np.array([Evil(), {}], dtype=object), allow_pickle=True)
BAD_ARRAYS = {
    "objects": (OBJECTS.getvalue(), r"it holds Python objects \(a pickle\), which may run code"),
    "objects in a record": (npy(descr=[("a", "|O")]), r"it holds Python objects \(a pickle\)"),
    "shape bomb": (npy(shape=(2**40, 2**10)), r"its header says 4503599627370496 bytes of .*, found 32"),
    "many dimensions": (npy(shape=(1,) * 200), "it has 200 dimensions"),
    "negative": (npy(shape=(-4, -2)), r"its shape is \(-4, -2\)"),
    "huge length": (npy(shape=(2**70, 0), data=b""), "its shape is"),
    "short": (npy(data=bytes(31)), r"its header says 32 bytes of float32 \(4, 2\), found 31"),
    "two arrays in a row": (npy() + npy(), r"its header says 32 bytes of float32 \(4, 2\), found \d+"),
    "no bytes per number": (npy(descr="<U0", data=b""), "its dtype is <U0"),
    "not a header": (header("lambda: 0"), "its header is damaged"),
    "nested header": (header("(" * 9000), "its header is damaged"),
    "long header": (header("{'descr':" + " " * 60000), "its header is damaged"),
    "huge header": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "its header is damaged"),
    "version 9": (header("{}", b"\x09\x00"), "its header is damaged|format is version"),
    "text": (b"these are no numbers", "its header is damaged"),
    "nothing": (b"", "its header is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "text"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InputRefusedError, match=rf"^cannot read the arrays in a.npy: {text}"):
        read_npy(Path("a.npy"))
    archive = npz(Path(), {"fc.npy": data}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputRefusedError, match=rf"^cannot read the arrays in a.npz: 'fc': {text}"):
        read_npz(archive)
    with pytest.raises(InputRefusedError, match=rf"cannot read the arrays in a.npz: 'fc': {text}"):
        read_arrays("a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24
    assert not Path("unpickled").exists()


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 MB of zeros in 4 kB: read in blocks, it may be what somebody has; read as a whole, it has a limit."""
    path = npz(tmp_path, {"fc.npy": npy((1, 2**20), data=bytes(2**22))}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    assert sum(block.nbytes for block in read_npz(path)[0].blocks()) == 2**22
    monkeypatch.setattr(tensor, "memory_limit", lambda: 10**6)
    text = (
        r"^a sample of the array is too large in .*a.npz: 'fc': found 4.2 MB, and at most 1.0 MB are read at"
    )
    with pytest.raises(ResourceError, match=text):
        list(read_npz(path)[0].blocks())
    with pytest.raises(ResourceError, match=r"^the array is too large in .*a.npz: 'fc'"):
        read_arrays(str(path))
    turned = npz(tmp_path, {"fc.npy": npy((2**20, 1), data=bytes(2**22), order=True)})
    with pytest.raises(ResourceError, match=r"^the array is too large"):
        list(read_npz(turned)[0].blocks())


def test_archives_that_lie_are_refused(tmp_path: Path) -> None:
    whole = npz(tmp_path, {"fc.npy": npy(data=bytes(range(32)))}).read_bytes()
    cases = {
        "truncated": (whole[: len(whole) // 2], "File is not a zip file"),
        "text": (b"PK\x03\x04 and then nothing", "File is not a zip file"),
        "encrypted": (flagged(whole, 8, 1), "it is encrypted, expected stored or deflated"),
        "another packing": (flagged(whole, 10, 14), "it is packed by method 14, expected stored or deflated"),
    }
    for data, text in cases.values():
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(InputRefusedError, match=text):
            read_npz(tmp_path / "a.npz")
    changed = bytearray(whole)
    changed[whole.index(bytes(range(32))) + 5] ^= 1
    (tmp_path / "a.npz").write_bytes(changed)
    with pytest.raises(InputRefusedError, match="Bad CRC-32"):
        read_npz(tmp_path / "a.npz")[0].read()


def flagged(archive: bytes, offset: int, value: int) -> bytes:
    """Set two bytes of the first entry of the archive's directory."""
    at = archive.index(b"PK\x01\x02") + offset
    return archive[:at] + struct.pack("<H", value) + archive[at + 2 :]


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match=r"'readme.txt': it is not an array"):
        read_npz(npz(tmp_path, {"fc.npy": npy(), "readme.txt": b"hello"}))
    with pytest.raises(InputRefusedError, match="it is a PyTorch file"):
        read_npz(npz(tmp_path, {"archive/data.pkl": b"x"}))
    whole = npz(tmp_path, {"one.npy": npy(), "two.npy": npy()}).read_bytes()
    (tmp_path / "b.npz").write_bytes(whole.replace(b"two.npy", b"one.npy"))
    with pytest.raises(InputRefusedError, match="two arrays have this name"):
        read_npz(tmp_path / "b.npz")


def test_a_file_that_shrinks_while_it_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy())
    found = read_npy(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 80)
    with pytest.raises(InputRefusedError, match="the file ends before the array does"):
        found.read()


# -------------------------------------------------------------------------------------------- safetensors


def safetensors(path: Path, entries: Any, data: bytes = bytes(32), length: int | None = None) -> Path:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (4, 2), offsets: Any = (0, 32)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.usefixtures("block_bytes")
def test_the_library_s_files_are_read(tmp_path: Path) -> None:
    library = require("safetensors.numpy")
    rng = np.random.default_rng(2)
    arrays = {
        "fc10": rng.normal(size=(6, 3)).astype(np.float32),
        "fc2": rng.normal(size=(6, 2, 2)),
        "half": rng.normal(size=(6, 1)).astype(np.float16),
        "codes": np.arange(6, dtype=np.int32),
        "one": np.array(3.5),
        "on": np.array([True, False]),
    }
    library.save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "np"})
    found = {one.name: one for one in read_safetensors(tmp_path / "a.safetensors")}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name].read(), array)


@pytest.mark.usefixtures("block_bytes")
def test_bfloat16_is_widened_to_the_same_numbers(tmp_path: Path) -> None:
    bfloat16 = require("ml_dtypes").bfloat16
    words = np.arange(2**16, dtype=np.uint16)
    path = safetensors(
        tmp_path / "a.safetensors", {"a": entry("BF16", (2**14, 4), (0, 2**17))}, words.tobytes()
    )
    (found,) = read_safetensors(path)
    assert (found.dtype.name, found.source_dtype) == ("float32", "bfloat16")
    np.testing.assert_array_equal(found.read().ravel(), words.view(bfloat16).astype(np.float32))


BAD_SAFETENSORS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "length beyond the file": ({}, {"length": 2**63}, "should have 9223372036854775808 bytes, and the"),
    "no JSON": (b"{nonsense", {}, "its header is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', {}, "its header is not JSON"),
    "a list": ([], {}, "its header is not a JSON object"),
    "nested": (b"[" * 100_000, {}, "its header is not JSON"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", {}, "its header is not JSON"),
    "twice": (b'{"a": {}, "a": {}}', {}, "'a': it is not .*: the header has this name twice"),
    "no facts": ({"a": 7}, {}, "'a': it is not .*: expected dtype, shape and data_offsets"),
    "float8": ({"a": entry("F8_E4M3")}, {}, "'a': its type is 'F8_E4M3', expected F64"),
    "a list as type": ({"a": entry(["F32"])}, {}, "'a': its type is"),  # type: ignore[arg-type]
    "negative length": ({"a": entry(shape=[-4, -2])}, {}, "its shape or its offsets are no lengths"),
    "fractional": ({"a": entry(shape=[4.0, 2])}, {}, "its shape or its offsets are no lengths"),
    "three offsets": ({"a": entry(offsets=[0, 16, 32])}, {}, "its shape or its offsets are no lengths"),
    "shape bomb": ({"a": entry(shape=[2**40, 2**40])}, {}, "has 4835703278458516698824704 bytes, its off"),
    "backwards": ({"a": entry(shape=[0], offsets=[32, 0])}, {}, "its offsets say 32 to 0"),
    "beyond the file": ({"a": entry(shape=[8, 2], offsets=[0, 64])}, {}, "end at byte 64 of the data, which"),
    "trailing bytes": ({"a": entry(shape=[2, 2], offsets=[0, 16])}, {}, "end at byte 16 of the data, which"),
    "a gap": ({"a": entry(shape=[4], offsets=[16, 32])}, {}, "'a': .*: it leaves a gap before it"),
    "an overlap": ({"a": entry(), "b": entry(shape=[4], offsets=[16, 32])}, {}, "'b': .*: it overlaps"),
    "the same bytes": ({"a": entry(), "b": entry()}, {}, "'b': .*: it overlaps the array before"),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "facts", "text"), BAD_SAFETENSORS.values(), ids=BAD_SAFETENSORS)
def test_bad_safetensors_are_refused(tmp_path: Path, entries: Any, facts: dict[str, Any], text: str) -> None:
    path = safetensors(tmp_path / "a.safetensors", entries, **facts)
    tracemalloc.start()
    with pytest.raises(InputRefusedError, match=text):
        read_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**30))
    os.truncate(path, 2**30 + 8)
    with pytest.raises(InputRefusedError, match="its header has 1073741824 bytes, expected at most 16777216"):
        read_safetensors(path)
    path.write_bytes(b"1234")
    with pytest.raises(InputRefusedError, match="it is not a sound safetensors file: it is too short"):
        read_safetensors(path)
