"""Attack a store through HDF5: what a stranger can build with h5py, drawn at random but repeatably.

Each changes how a file is built, or a text in it, and leaves its numbers: a reader must refuse it or find the
numbers of the intact file.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.store.breaking import edit

Rng = np.random.Generator
NASTY_TEXTS = (
    b"\x1b[31mred\x1b[0m", b"\x1b]0;title\x07", "a\u202eb\u2066c".encode(), b"a\0b", b"\xff\xfe", b"",
    b"=cmd|' /C calc'!A0", b"../../etc/passwd", b"<script>alert(1)</script>",
    b"[bold]x[/bold]", b"x" * 60_000,
    "\u2028\u0085\u200b".encode(), b"\r\n\r\nrepstat: error: all is well", b"%s%n{0}",
)  # fmt: skip
_DTYPES: tuple[Any, ...] = (
    ">f4", "<f2", "<f8", ">i8", "<i4", "<u8", "i1", "?", "<c8", "S3", "V5",
    np.dtype([("a", "<f4"), ("b", "<i8")]), np.dtype(("<f4", (2,))), h5py.string_dtype(),
    h5py.string_dtype("ascii", 9), h5py.vlen_dtype(np.int32), h5py.ref_dtype, h5py.regionref_dtype,
    h5py.enum_dtype({"a": 1, "b": 2}),
)  # fmt: skip
_SHAPES: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (2**40,), (2**62,), (2**31, 2**31), (3, 1, 20, 2**50), (1,) * 32, (0, 5), (7, 0, 3, 1),
)  # fmt: skip
_TEXTS = frozenset(
    ("name", "op", "signature", "source_dtype", "inputs_source", "creator", "created_at", "kind", "identity",
     "class_names", "record", "schema", "inputs_sha256")
)  # fmt: skip
_OPTIONAL = re.compile("label$|metrics/M|conditional|provenance/0|layers/L[0-9]+$")
_FILTERS: tuple[dict[str, Any], ...] = (
    {"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True},
    {"scaleoffset": 2}, {"compression": 32015, "allow_unknown_filter": True},
)  # fmt: skip


class Harmless(ValueError):
    """What was made is not against the format."""


def objects(file: h5py.File, kind: type = object) -> list[str]:
    """List the paths of a file's objects of one kind."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, kind) else None)
    return found


def _one(file: h5py.File, rng: Rng, kind: type = object) -> str:
    names = objects(file, kind)
    return names[int(rng.integers(len(names)))]


def _redo(file: h5py.File, name: str, **how: Any) -> None:
    """Replace a dataset by one that is made otherwise, with its attribute `name` if it has one."""
    old = file[name]
    keep = {key: old.attrs[key] for key in ("name",) if key in old.attrs}
    options = {"data": old[...]} | how
    if options["data"] is None:
        del options["data"]
    del file[name]
    file.create_dataset(name, **options).attrs.update(keep)


def _needed(file: h5py.File, rng: Rng) -> str:
    """Draw an object without which a file is not sound; without an optional one it is a sound other file."""
    while _OPTIONAL.search(name := _one(file, rng)):
        pass
    return name


def delete(file: h5py.File, rng: Rng) -> None:
    del file[_needed(file, rng)]


def rename(file: h5py.File, rng: Rng) -> None:
    name = _one(file, rng)
    text = NASTY_TEXTS[int(rng.integers(len(NASTY_TEXTS)))].replace(b"/", b"_").replace(b"\0", b"0") or b"new"
    file.move(name, f"{name.rpartition('/')[0]}/{text.decode('latin-1')}")


def copy(file: h5py.File, rng: Rng) -> None:
    file.copy(
        _one(file, rng), f"{_one(file, rng, h5py.Group)}/{rng.choice(['copy', 'L099', 'M099', '0009'])}"
    )


def _alike(file: h5py.File, name: str, rng: Rng) -> str:
    """Draw another dataset of the same type and shape, which could stand in the place of `name`."""
    mine = file[name].dtype, file[name].shape
    names = [one for one in objects(file, h5py.Dataset) if (file[one].dtype, file[one].shape) == mine]
    return names[int(rng.integers(len(names)))]


def link(file: h5py.File, rng: Rng) -> None:
    """Put a soft, external or second hard link, loops among them, in the place of an object or beside it."""
    name, target = _needed(file, rng), _one(file, rng)
    if isinstance(file[name], h5py.Dataset) and rng.random() < 0.7:
        target = _alike(file, name, rng)
    which = int(rng.integers(4))
    if which == 0:
        made: Any = h5py.SoftLink(str(rng.choice([f"/{target}", f"/{name}", "/", "nowhere"])))
    elif which == 1:
        made = h5py.ExternalLink(str(rng.choice(["acts.h5", "/etc/passwd", "/dev/zero", "x"])), f"/{target}")
    elif which == 2:
        made = file[target]
    else:
        made = file["/"]
    if rng.random() < 0.5:
        del file[name]
        if name not in file and not target.startswith(name):
            file[name] = made
    else:
        group = _one(file, rng, h5py.Group)
        file[f"{group}/{rng.choice(['other', 'L077', 'M077', '0007'])}"] = made


def retype(file: h5py.File, rng: Rng) -> None:
    name = _one(file, rng, h5py.Dataset)
    dtype = _DTYPES[int(rng.integers(len(_DTYPES)))]
    if np.dtype(dtype) == file[name].dtype:
        raise Harmless
    _redo(file, name, data=None, shape=file[name].shape, dtype=dtype)


def reshape(file: h5py.File, rng: Rng) -> None:
    """Declare another shape, absurd ones among them; nothing is stored."""
    name = _one(file, rng, h5py.Dataset)
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    chunks = tuple(min(n, 4) or 1 for n in shape) if shape and rng.random() < 0.6 else None
    if 0 in shape:
        chunks = None
    _redo(file, name, data=None, shape=shape, dtype=file[name].dtype, chunks=chunks)


def refilter(file: h5py.File, rng: Rng) -> None:
    name = _one(file, rng, h5py.Dataset)
    how = dict(_FILTERS[int(rng.integers(len(_FILTERS)))])
    if how.pop("allow_unknown_filter", False):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(tuple(max(1, n) for n in file[name].shape))
        plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
        old = file[name]
        new = h5py.h5d.create(
            file.id, b"filtered", old.id.get_type(), h5py.h5s.create_simple(old.shape), plan
        )
        h5py.Dataset(new)[...] = old[...]
        del file[name]
        file.move("filtered", name)
    elif "scaleoffset" not in how or file[name].dtype.kind in "if":
        _redo(file, name, chunks=True, **how)
    else:
        raise Harmless


def restore(file: h5py.File, rng: Rng) -> None:
    """Store a dataset otherwise: virtual, external, extendible, compact, other chunks, never written."""
    name = _one(file, rng, h5py.Dataset)
    old = file[name]
    which = int(rng.integers(6))
    if which == 0:
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        source = str(rng.choice([".", "acts.h5", "/etc/hostname", "missing.h5"]))
        layout[...] = h5py.VirtualSource(source, name, old.shape, old.dtype)
        del file[name]
        file.create_virtual_dataset(name, layout, fillvalue=0 if old.dtype.kind in "if" else None)
    elif which == 1:
        size = old.size * old.dtype.itemsize
        place = str(rng.choice(["/etc/passwd", "acts.h5", "missing.bin"]))
        _redo(file, name, data=None, shape=old.shape, dtype=old.dtype, external=[(place, 0, size)])
    elif which == 2:
        _redo(file, name, maxshape=(None,) * old.ndim)
    elif which == 3:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        values, kind, space = old[...], old.id.get_type(), h5py.h5s.create_simple(old.shape)
        if values.nbytes < 60_000:
            del file[name]
            h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, plan))[...] = values
        else:
            raise Harmless
    elif which == 4:
        _redo(file, name, chunks=tuple(max(1, n // 2) for n in old.shape))
        raise Harmless
    else:
        _redo(file, name, data=None, shape=old.shape, dtype=old.dtype, chunks=old.chunks)


def text(file: h5py.File, rng: Rng) -> None:
    """Replace a text by one that is hostile to terminals, spreadsheets, web pages or paths."""
    owners = ["/", *objects(file)]
    places = [(owner, name) for owner in owners for name in file[owner].attrs if name in _TEXTS]
    owner, name = places[int(rng.integers(len(places)))]
    value = NASTY_TEXTS[int(rng.integers(len(NASTY_TEXTS)))] or b"\0"
    if name in {"identity", "record"}:
        value = b"[" * 40_000 if rng.random() < 0.3 else b'{"a": "' + value + b'"}'
    dtype = (
        h5py.string_dtype("utf-8", len(value))
        if rng.random() < 0.9
        else h5py.string_dtype("ascii", len(value))
    )
    file[owner].attrs.create(name, np.bytes_(value), dtype=dtype)


def attribute(file: h5py.File, rng: Rng) -> None:
    """Remove an attribute, add one, or make one of another type or shape."""
    owner = "/" if rng.random() < 0.2 else _one(file, rng)
    names = list(file[owner].attrs)
    which = int(rng.integers(5))
    if which == 0 and names:
        gone = names[int(rng.integers(len(names)))]
        if gone != "input_entropy":
            del file[owner].attrs[gone]
        return
    name = str(rng.choice([*names, "more", "CLASS", "DIMENSION_LIST", "NAME", "metadata_sha256"]))
    if which == 1:
        dtype = _DTYPES[int(rng.integers(len(_DTYPES)))]
        shape: Any = (int(rng.integers(0, 4)),) if rng.random() < 0.5 else ()
        file[owner].attrs.create(
            name, None if dtype in (h5py.ref_dtype,) else np.zeros(shape, "i8"), shape, dtype
        )
    elif which == 2:
        file[owner].attrs[name] = h5py.Empty(str(rng.choice(["f4", "S3", "i8"])))
    elif which == 3:
        file[owner].attrs[name] = "text of variable length"
    else:
        file[owner].attrs[name] = np.zeros(int(rng.choice([1, 9, 9000, 200_000])), "i8")


def nest(file: h5py.File, rng: Rng) -> None:
    depth = int(rng.choice([5, 100, 2000]))
    group = file[_one(file, rng, h5py.Group)]
    for _ in range(depth):
        group = group.create_group(str(rng.choice(["L000", "x", "0000"])) + ("" if len(group) == 0 else "1"))


def crowd(file: h5py.File, rng: Rng) -> None:
    """Thousands of members or attributes."""
    group = file[_one(file, rng, h5py.Group)]
    for i in range(int(rng.choice([50, 3000]))):
        group.create_group(f"{rng.choice(['L', 'x', ''])}{i:05d}")


def swap_kinds(file: h5py.File, rng: Rng) -> None:
    """Put a group, dataset or named type where something else belongs."""
    name = _one(file, rng)
    del file[name]
    which = int(rng.integers(3))
    if which == 0:
        file.create_group(name)
        if name == "checkpoints/metrics":
            raise Harmless
    elif which == 1:
        file[name] = np.zeros((2, 2))
    else:
        file[name] = np.dtype("<f4")


LENIENT = ("text", "attribute")
"""Those of which some are not against the format; all others must be refused where they succeed."""
Attack = Callable[[h5py.File, Rng], None]
ATTACKS: Mapping[str, Attack] = {
    one.__name__: one
    for one in (delete, rename, copy, link, retype, reshape, refilter, restore, text, attribute, nest, crowd,
                swap_kinds)
}  # fmt: skip


def attack(source: Path, target: Path, name: str, rng: Rng) -> bool:
    """Write an attacked copy of `source`, its metadata hash made right again if that can be.

    Returns
    -------
    bool
        Whether h5py was able to make it, and it is against the format.
    """
    shutil.copy(source, target)
    target.chmod(0o600)
    try:
        edit(target, lambda file: ATTACKS[name](file, rng))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, RecursionError):
        return False  # h5py could not make it; what there is may be half done, which is an attack as well
    return True
