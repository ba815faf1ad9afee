"""What judges ``FILE.h5:DATASET`` in a process of its own (`repstat.tensors.hdf5`), under limits.

Unlike stores, arrays from elsewhere may be compressed: by gzip, with shuffle and fletcher32. A block
that unpacks into fewer bytes than it declares would be filled up with whatever is in memory, so all are
unpacked here.
"""

import math
import os
import resource
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import h5py
from h5py import h5, h5d, h5g, h5i, h5l, h5o, h5z

from repstat.errors import InputRefusedError, RepstatError, UsageError
from repstat.serving import address_space, limit, refusal, serve
from repstat.tensors.npy import refused

CPU_SECONDS = 30
BYTES_PER_SECOND = 10**7
"""Large files have more time: unpacking is much faster than this."""
MEMORY_BYTES = 2**30
MAX_CHUNK_BYTES = 2**28
_LISTED, _OBJECTS, _DEPTH = 8, 1000, 32
_FILTERS = {h5z.FILTER_DEFLATE: "gzip", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_FLETCHER32: "fletcher32"}
_CHECKSUM_BYTES = 4
_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, zlib.error)


def main() -> None:
    """Answer questions until there are no more."""
    serve(_answer)


def _answer(question: Mapping[str, str]) -> dict[str, Any]:
    path, dataset = Path(question["path"]), question["dataset"]
    try:
        if question["folder"]:
            os.chdir(question["folder"])
        seconds = CPU_SECONDS + path.stat().st_size // BYTES_PER_SECOND
        limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
        limit(resource.RLIMIT_AS, address_space() + MEMORY_BYTES)
        judge(path, dataset)
    except RepstatError as error:
        return refusal(error)
    except (MemoryError, RecursionError):
        return refusal(refused(path, dataset, f"judging it takes more than {MEMORY_BYTES} bytes of memory"))
    except _ERRORS as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return refusal(refused(path, dataset, f"HDF5 cannot read it ({why})"))
    return {}


def judge(path: Path, dataset: str) -> None:
    """Refuse a dataset that is not there, or not plain numbers, all of them in this file.

    Raises
    ------
    UsageError, InputRefusedError
        Saying which.
    """
    with h5py.File(path, "r", locking=False) as file:
        root = h5g.open(file.id, b"/")
        found = _find(root, dataset, path)
        if found is None:
            names = list(_names(root, "", [0]))
            listed = ", ".join(names[:_LISTED]) or "no dataset"
            raise UsageError(
                what="no such dataset" if dataset else "a dataset must be named",
                path=path,
                why=f"found {listed}{' and more' if len(names) > _LISTED else ''}",
                fix=f"Write for example {path.name}:{names[0] if names else 'DATASET'}",
            )
        _check(found, dataset, path)
        values = h5py.Dataset(found)
        for corner in (0, -1) if values.size else ():
            values[tuple(corner % length for length in values.shape)]


def _find(group: Any, name: str, path: Path) -> Any:
    """Follow a name one hard link at a time; None if it leads nowhere."""
    here = group
    for part in filter(None, name.split("/")):
        encoded = part.encode()
        if "\0" in part or h5i.get_type(here) != h5i.GROUP or not here.links.exists(encoded):
            return None
        if here.links.get_info(encoded).type != h5l.TYPE_HARD:
            why = f"{part!r} is a link, which may lead to another file"
            raise refused(path, name, why, "Copy the numbers into the file itself")
        here = h5o.open(here, encoded)
    return here if h5i.get_type(here) == h5i.DATASET else None


def _names(group: Any, prefix: str, seen: list[int]) -> Iterator[str]:
    children: list[bytes] = []
    group.links.iterate(children.append, order=h5.ITER_NATIVE)
    for child in children:
        seen[0] += 1
        if seen[0] > _OBJECTS or prefix.count("/") > _DEPTH:
            return
        if group.links.get_info(child).type == h5l.TYPE_HARD:
            place, found = prefix + child.decode("utf-8", "replace"), h5o.open(group, child)
            if h5i.get_type(found) == h5i.DATASET:
                yield place
            elif h5i.get_type(found) == h5i.GROUP:
                yield from _names(found, f"{place}/", seen)


def _check(dataset: Any, name: str, path: Path) -> None:
    plan, dtype = dataset.get_create_plist(), dataset.dtype
    if dtype.kind not in "fiub":
        raise _not_plain(path, name, f"found dtype {dtype}, expected plain numbers")
    if dataset.shape is None:
        raise _not_plain(path, name, "it is empty")
    if plan.get_layout() == h5d.VIRTUAL or plan.get_external_count():
        raise _not_plain(path, name, "its data are in another file")
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if unknown := [code for code in filters if code not in _FILTERS]:
        why = f"it is packed by filter {unknown[0]}, expected gzip or nothing"
        raise _not_plain(path, name, why, "Save it with compression='gzip', or without")
    if plan.get_layout() == h5d.CHUNKED:
        _check_chunks(dataset, plan.get_chunk(), filters, name, path)
        return
    declared, stored = prod(dataset.shape) * dataset.get_type().get_size(), dataset.get_storage_size()
    if declared != stored:
        raise _not_plain(path, name, f"it declares {declared} bytes and stores {stored}")


def _check_chunks(dataset: Any, chunks: tuple[int, ...], filters: list[int], name: str, path: Path) -> None:
    """Check that every chunk is there, and unpack those that are packed."""
    size = prod(chunks) * dataset.get_type().get_size()
    expected = prod(ceil(length / chunk) for length, chunk in zip(dataset.shape, chunks, strict=True))
    if size > MAX_CHUNK_BYTES:
        raise _not_plain(path, name, f"its chunks of {size} bytes are larger than {MAX_CHUNK_BYTES}")
    stored: list[Any] = []
    dataset.chunk_iter(lambda info: stored.append((info.chunk_offset, info.filter_mask, info.size)))
    if len(stored) != expected:
        raise _not_plain(path, name, f"it should have {expected} chunks and has {len(stored)}")
    for offset, mask, length in stored:
        found = length
        if filters:
            found = _unpacked(dataset.read_direct_chunk(offset)[1], mask, filters, size)
        if found != size:
            raise _not_plain(path, name, f"the chunk at {offset} holds {found} bytes, expected {size}")


def _unpacked(data: bytes, mask: int, filters: list[int], size: int) -> int:
    """Return the bytes that a chunk unpacks into; one more than `size` stands for more."""
    for position, code in reversed(list(enumerate(filters))):
        if mask >> position & 1:
            continue  # HDF5 leaves a filter out that does not make the chunk smaller
        if code == h5z.FILTER_FLETCHER32:
            data = data[:-_CHECKSUM_BYTES]
        elif code == h5z.FILTER_DEFLATE:
            data = zlib.decompressobj().decompress(data, size + _CHECKSUM_BYTES + 1)
    return len(data)


def _not_plain(path: Path, name: str, why: str, fix: str = "Save plain numeric arrays") -> InputRefusedError:
    return refused(path, name, why, fix)


if __name__ == "__main__":
    sys.exit("run by repstat.tensors.hdf5")
