"""``.safetensors``: eight bytes that give the length of a JSON header, the header, and raw numbers.

Read here and not by the safetensors package: its NumPy interface has no bfloat16, reads whole arrays, and is
not among the base dependencies. The rules are those of the format: offsets inside the file, without gaps or
overlaps, and as many bytes as the shape needs.
"""

import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Array
from repstat.errors import InputRefusedError
from repstat.tensors.npy import refused
from repstat.tensors.tensor import Tensor, check_shape, of_bytes

MAX_HEADER_BYTES = 1 << 24
"""The header of a hundred thousand arrays."""
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[Tensor, ...]:
    """Return the arrays in a ``.safetensors`` file in the order of its header, unread.

    bfloat16 is widened to float32.

    Raises
    ------
    InputRefusedError
        It breaks a rule of the format, or holds a type that NumPy does not have.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            why = (
                f"its header should have {length} bytes, and the file has {size}"
                if size >= 8
                else "it is too short"
            )
            raise _refused(path, "", why)
        if length > MAX_HEADER_BYTES:
            raise _refused(path, "", f"its header has {length} bytes, expected at most {MAX_HEADER_BYTES}")
        header = _parse(file.read(length), path)
    begin = 8 + length
    spans: list[tuple[int, int, str]] = []
    tensors = []
    for name, facts in header.items():
        if name != "__metadata__":
            shape, kind, (start, stop) = _entry(name, facts, path)
            spans.append((start, stop, name))
            tensors.append(_tensor(name, path, begin + start, shape, kind))
    _check_spans(spans, size - begin, path)
    return tuple(tensors)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise _refused(path, repr(twice)[:200], "the header has this name twice")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputRefusedError):
            raise
        raise _refused(path, "", f"its header is not JSON ({str(error)[:100]})") from None
    if not isinstance(header, dict):
        raise _refused(path, "", "its header is not a JSON object")
    return header


def _entry(name: str, facts: Any, path: Path) -> tuple[tuple[int, ...], str, tuple[int, int]]:
    """Return shape, type and offsets of one array, after checking that they fit each other."""
    place = repr(name)[:200]
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise _refused(path, place, "expected dtype, shape and data_offsets")
    kind, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        why = f"its type is {str(kind)[:20]!r}, expected {', '.join(_DTYPES)}"
        raise refused(path, place, why, "Convert it to float16 or float32 before saving")
    if not _are_lengths(shape) or not _are_lengths(offsets) or len(offsets) != 2:
        raise _refused(
            path, place, f"its shape or its offsets are no lengths: {str(shape)[:50]}, {str(offsets)[:50]}"
        )
    start, stop = offsets
    needed = prod(shape) * np.dtype(_DTYPES[kind]).itemsize
    if stop - start != needed:
        why = f"{kind} of shape {tuple(shape)} has {needed} bytes, its offsets say {start} to {stop}"
        raise _refused(path, place, why)
    return tuple(shape), kind, (start, stop)


def _are_lengths(value: Any) -> bool:
    return isinstance(value, list) and not check_shape(tuple(value))


def _check_spans(spans: Sequence[tuple[int, int, str]], size: int, path: Path) -> None:
    """Refuse arrays that overlap, leave gaps, or lie outside the file."""
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            what = "overlaps the array before it" if start < end else "leaves a gap before it"
            raise _refused(path, repr(name)[:200], f"it {what}: offsets {start} to {stop}, expected {end}")
        end = stop
    if end != size:
        raise _refused(path, "", f"its arrays end at byte {end} of the data, which has {size}")


def _tensor(name: str, path: Path, begin: int, shape: tuple[int, ...], kind: str) -> Tensor:
    bfloat16 = kind == "BF16"
    return of_bytes(
        name, path, lambda: path.open("rb"), begin, shape, np.dtype(_DTYPES[kind]),
        widen=_from_bfloat16 if bfloat16 else None, source_dtype="bfloat16" if bfloat16 else "",
    )  # fmt: skip


def _from_bfloat16(words: Array) -> Array:
    """Widen the upper halves of float32 numbers."""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _refused(path: Path, place: str, why: str) -> InputRefusedError:
    return refused(path, place, f"it is not a sound safetensors file: {why}", "Save it again")
