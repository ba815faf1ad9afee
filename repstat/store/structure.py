"""The gate: whether a file is built as docs/store-format.md says, before any of its data is read.

`check_structure` needs nothing but a path and runs in a process of its own (`repstat.store.gate`). It walks
one link at a time, opens nothing that a link or a layout could lead elsewhere, and compares all it meets
with one table.
"""

import re
import stat
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5, h5a, h5d, h5i, h5l, h5o, h5s, h5t

from repstat.errors import StoreDamagedError, UsageError
from repstat.store.layout import MAX_CHUNK_BYTES, stored_bytes
from repstat.store.rules import SCALE_ATTRIBUTES, STORE, SYMBOLS, Attribute, Data, Form, Group
from repstat.store.schema import KINDS, SIGNATURE

MAX_ATTRIBUTE_BYTES = 2**26
SUPERBLOCK_VERSION = 3
_LOCKING = (None, False, True, "best-effort")
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises for a file that the library cannot make sense of."""


_NUMBERS = {"i8": h5t.STD_I64LE, "f2": h5t.IEEE_F16LE, "f4": h5t.IEEE_F32LE, "f8": h5t.IEEE_F64LE}


def foreign(path: Path, why: str, form: Form = STORE) -> StoreDamagedError:
    """Return the error for a file that is something else."""
    return StoreDamagedError(
        what=f"{path} is not {KINDS[form.schema]}",
        why=f"{why}; expected an HDF5 file written by {form.command}",
        fix="Check the path.",
    )


def broken(path: Path, place: str, why: str, form: Form = STORE) -> StoreDamagedError:
    """Return the error for a file that violates its format."""
    return StoreDamagedError(
        what=f"the {form.short} breaks a rule of its format",
        path=path,
        place=place,
        why=why,
        fix=f"Do not use it: take another copy, or {form.remedy}.",
    )


def open_for_reading(path: Path) -> h5py.File:
    """Open a file of the format, with whatever kind of HDF5 lock is to be had.

    No lock is needed, since a file never changes under its name. But HDF5 refuses to open a file in two ways
    at once, and somebody else in this process (xarray, say) may have it open already, or open it next.
    """
    *others, last = _LOCKING
    for locking in others:
        try:
            return h5py.File(path, "r", locking=locking, rdcc_nbytes=0)
        except OSError as error:
            if "lock" not in str(error):
                raise
    return h5py.File(path, "r", locking=last, rdcc_nbytes=0)


def check_structure(path: Path, form: Form = STORE) -> int:
    """Refuse a file that is not a store (or of another `form`), or not built like one. No data is read.

    Returns
    -------
    int
        Bytes of everything in it but activations.

    Raises
    ------
    UsageError
        If there is no such file.
    StoreDamagedError
        If it is not an activation store, or breaks a rule of the format.
    """
    size = check_outside(path, form)
    try:
        with open_for_reading(path) as file:
            minor = _check_schema(path, file, form)
            walk = _Walk(path, size, form, minor)
            walk.group(file.id, form.root, "/")
            return walk.metadata
    except StoreDamagedError:
        raise
    except HDF5_ERRORS as error:
        raise broken(path, "", f"HDF5 cannot read it ({describe(error)})", form) from error


def describe(error: BaseException) -> str:
    """Return the text of an HDF5 error on one line, without control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def check_outside(path: Path, form: Form = STORE) -> int:
    """Judge a file by what the operating system and its first bytes say, without HDF5; return its size.

    Raises
    ------
    UsageError
        If there is no such file.
    StoreDamagedError
        If it cannot be of the format.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(what=f"there is no {form.short} {path}", fix="Check the path.") from error
    except (OSError, ValueError) as error:
        raise UsageError(what=f"cannot open {str(path)!r}", why=str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise foreign(path, "it is not a regular file", form)
    if status.st_size == 0:
        raise foreign(path, "it is empty", form)
    try:
        with path.open("rb") as file:
            head = file.read(len(SIGNATURE) + 1)
    except OSError as error:
        raise UsageError(what=f"cannot open {path}", why=error.strerror or str(error)) from error
    if not head.startswith(SIGNATURE):
        raise foreign(path, f"it begins with {head[:8]!r}, which is not HDF5", form)
    if head[-1] != SUPERBLOCK_VERSION:
        raise foreign(path, f"it is HDF5 with superblock {head[-1]}, not {SUPERBLOCK_VERSION}", form)
    return status.st_size


def _check_schema(path: Path, file: h5py.File, form: Form) -> int:
    """Judge the file by what it calls itself; return its minor version."""
    try:
        name = schema_in(file)
        version = _read_attribute(file.id, "schema_version", "i8")
    except HDF5_ERRORS as error:
        raise foreign(path, "it is HDF5 without the attribute schema", form) from error
    if name != form.schema:
        kind = f": it is {KINDS[name]}" if name in KINDS else ""
        raise foreign(path, f"its schema is {name[:60]!a}, not {form.schema!r}{kind}", form)
    found = tuple(version.ravel().tolist())
    if len(found) != 2 or found[0] != form.version[0] or not 0 <= found[1] <= form.version[1]:
        raise StoreDamagedError(
            what=f"the {form.short} has another version",
            path=path,
            why=f"found format {'.'.join(map(str, found[:3]))}, this repstat reads "
            f"{form.version[0]}.0 to {'.'.join(map(str, form.version))}",
            fix="Use the version of repstat that wrote it, or a newer one.",
        )
    return int(found[1])


def schema_in(file: h5py.File) -> str:
    """Return what an open file calls itself; raises one of `HDF5_ERRORS` if it does not."""
    return _read_attribute(file.id, "schema", "S").tobytes().rstrip(b"\0").decode("utf-8", "replace")


def _read_attribute(owner: Any, name: str, kind: str) -> np.ndarray[Any, Any]:
    attribute = h5a.open(owner, name.encode())
    if _type_name(attribute.get_type()) != kind or attribute.get_storage_size() > 1024:
        msg = f"unexpected type of attribute {name}"
        raise TypeError(msg)
    values = np.empty(attribute.shape, attribute.dtype)
    attribute.read(values)
    return values


def _type_name(datatype: Any) -> str:
    """Return the format's name of an HDF5 type, or an empty string."""
    if datatype.get_class() == h5t.STRING:
        plain = not datatype.is_variable_str() and datatype.get_strpad() == h5t.STR_NULLPAD
        return "S" if plain and datatype.get_cset() == h5t.CSET_UTF8 else ""
    return next((name for name, standard in _NUMBERS.items() if datatype.equal(standard)), "")


class _Walk:
    """One pass over a file, object by object.

    Attributes
    ----------
    metadata
        Bytes met so far in attributes, and in datasets other than activations.
    """

    def __init__(self, path: Path, size: int, form: Form, minor: int) -> None:
        self._path = path
        self._size = size
        self._form = form
        self._minor = minor
        self._stored = 0
        self._lengths = {"1": 1}  # of the dimensions that are settled, by symbol
        self.metadata = 0

    def _refuse(self, place: str, why: str) -> StoreDamagedError:
        return broken(self._path, place.lstrip("/"), why, self._form)

    def group(self, group: Any, rule: Group, place: str) -> None:
        """Check a group and all below it."""
        for symbol in rule.own:
            self._lengths.pop(symbol, None)
        self._attributes(group, rule.attributes, place)
        children = {pattern: child for pattern, child in rule.children.items() if child.since <= self._minor}
        found: set[str] = set()
        for name in _link_names(group):
            pattern = _matching(name, children)
            below = f"{place.rstrip('/')}/{_printable(name)}"
            if pattern is None:
                raise self._refuse(below, "the format has nothing of this name")
            found.add(pattern)
            self._child(group, name, children[pattern], below)
        for pattern, child in children.items():
            if child.required and pattern not in found:
                raise self._refuse(place, f"{pattern} is missing")

    def _child(self, parent: Any, name: bytes, rule: Group | Data, place: str) -> None:
        if parent.links.get_info(name).type != h5l.TYPE_HARD:
            raise self._refuse(place, "it is a link to elsewhere, expected the object itself")
        child = h5o.open(parent, name)
        if h5o.get_info(child).rc != 1:
            raise self._refuse(place, "it is reached by more than one path")
        kind = h5i.get_type(child)
        if isinstance(rule, Group):
            if kind != h5i.GROUP:
                raise self._refuse(place, "expected a group")
            self.group(child, rule, place)
        else:
            if kind != h5i.DATASET:
                raise self._refuse(place, "expected a dataset")
            self._dataset(child, rule, place)

    def _dataset(self, dataset: Any, rule: Data, place: str) -> None:
        self._attributes(dataset, rule.attributes, place, also=SCALE_ATTRIBUTES)
        found = _type_name(dataset.get_type())
        if found not in rule.types:
            raise self._refuse(place, f"its type is none of {', '.join(rule.types)}")
        space = dataset.get_space()
        if space.get_simple_extent_type() != h5s.SIMPLE:
            raise self._refuse(place, "it is not an array")
        shape = space.get_simple_extent_dims()
        if shape != space.get_simple_extent_dims(maxdims=True):
            raise self._refuse(place, "it can be extended")
        stored = self._storage(dataset, shape, place)
        self.metadata += 0 if len(rule.dims) == 4 else stored
        self._settle(shape, rule.dims, place)

    def _settle(self, shape: tuple[int, ...], dims: tuple[str, ...], place: str) -> None:
        """Compare a shape with the lengths that are known by now."""
        if len(shape) != len(dims):
            raise self._refuse(place, f"its shape is {shape}, expected {len(dims)} dimensions")
        for symbol, length in zip(dims, shape, strict=True):
            known = self._lengths.setdefault(symbol, length)
            if length != known or length < 1:
                expected = f"{known} {SYMBOLS[symbol]}" if known else "at least 1 in each"
                raise self._refuse(place, f"its shape is {shape}, expected {expected}")

    def _storage(self, dataset: Any, shape: tuple[int, ...], place: str) -> int:
        """Insist on plain storage in this file, as large as declared; return the bytes."""
        plan = dataset.get_create_plist()
        layout, itemsize = plan.get_layout(), dataset.get_type().get_size()
        if layout == h5d.VIRTUAL:
            raise self._refuse(place, "it is virtual: its data are in other files")
        if plan.get_external_count():
            raise self._refuse(place, "its data are in another file")
        if plan.get_nfilters():
            raise self._refuse(place, "it is filtered (compressed), which the format excludes")
        if layout == h5d.CONTIGUOUS:
            declared = prod(shape) * itemsize
        elif layout == h5d.CHUNKED:
            chunks = plan.get_chunk()
            if prod(chunks) * itemsize > MAX_CHUNK_BYTES:
                raise self._refuse(place, f"its chunks {chunks} are larger than 64 MiB")
            declared = stored_bytes(shape, chunks, itemsize)
        else:
            raise self._refuse(place, "its storage is neither contiguous nor chunked")
        stored: int = dataset.get_storage_size()
        if stored != declared:
            raise self._refuse(place, f"it declares {declared} bytes and stores {stored}")
        self._stored += stored
        if self._stored > self._size:
            raise self._refuse(place, f"its data exceed the file, which has {self._size} bytes")
        return stored

    def _attributes(
        self,
        owner: Any,
        rules: Mapping[str, Attribute],
        place: str,
        also: frozenset[str] = frozenset(),
    ) -> None:
        names: list[bytes] = []
        h5a.iterate(owner, names.append, order=h5.ITER_NATIVE)
        for name in names:
            rule = rules.get(name.decode("utf-8", "replace"))
            if rule is not None:
                self._attribute(h5a.open(owner, name), rule, f"{place} @{_printable(name)}")
            elif name.decode("utf-8", "replace") not in also:
                raise self._refuse(place, f"the format has no attribute {_printable(name)}")
        for wanted, rule in rules.items():
            if rule.required and wanted.encode() not in names:
                raise self._refuse(place, f"the attribute {wanted} is missing")

    def _attribute(self, attribute: Any, rule: Attribute, place: str) -> None:
        if _type_name(attribute.get_type()) != rule.type:
            raise self._refuse(place, f"the attribute has another type than {rule.type}")
        shape = attribute.shape
        fits = len(shape) == len(rule.shape) and all(
            want in (None, length) for want, length in zip(rule.shape, shape, strict=True)
        )
        if not fits or attribute.get_space().get_simple_extent_type() == h5s.NULL:
            raise self._refuse(place, f"the attribute has the shape {shape}")
        size = prod(shape) * attribute.get_type().get_size()
        if size > min(MAX_ATTRIBUTE_BYTES, self._size):
            raise self._refuse(place, f"the attribute declares {size} bytes")
        self.metadata += size


def _link_names(group: Any) -> list[bytes]:
    """List the children of a group in the order they are stored in.

    Asked for any other order, HDF5 builds a table first, and crashes (seen with 1.14.6) where a group of more
    than eight children is damaged.
    """
    names: list[bytes] = []
    group.links.iterate(names.append, order=h5.ITER_NATIVE)
    return names


def _matching(name: bytes, patterns: Mapping[str, Any]) -> str | None:
    text = name.decode("latin-1")
    return next((pattern for pattern in patterns if re.fullmatch(pattern, text, re.ASCII)), None)


def _printable(name: bytes) -> str:
    return ascii(name.decode("utf-8", "replace"))[1:-1][:80]
