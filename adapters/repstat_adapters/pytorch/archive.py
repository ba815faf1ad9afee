"""Checks of a file before PyTorch reads it: whole, not compressed, and not larger inside than outside."""

import pickletools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from repstat.errors import InputRefusedError

_PUSHED = frozenset(["BINUNICODE", "UNICODE", "GLOBAL", "NONE", "BINGET", "LONG_BINGET", "GET"])
_CLASS_ENTRIES = 4
"""A module's class is named by four entries; a storage by five or six, so that no reader takes one for it."""
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_WHOLE_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
_MOST_CODE = 1 << 26
"""Bytes of the texts of TorchScript, the only records that PyTorch compresses."""
_ZIP = b"PK"
_PICKLE, _PROTOCOLS = 0x80, (b"\2", b"\3", b"\4", b"\5")
"""How a pickle begins, since protocol 2."""
_LEGACY_HEAD = 3
"""Pickles before the one of the checkpoint: a number, the protocol, and facts about the machine."""


def check_zip(path: Path) -> None:
    """Check an archive of PyTorch.

    Raises
    ------
    InputRefusedError
        It is none, or damaged, two records have one name, a record of numbers is compressed (PyTorch would
        map its bytes as they are), or a tensor is larger than the file.
    """
    _check_begin(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = [record.filename for record in records]
            if len(set(names)) != len(names):
                raise _refused(path, "two records have the same name")
            code = [r for r in records if "/code/" in r.filename]
            if sum(r.file_size for r in code) > _MOST_CODE:
                raise _refused(path, f"its programs are said to be larger than {_MOST_CODE:,} bytes")
            records = [r for r in records if r not in code]
            packed = [r.filename for r in records if r.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise _refused(path, f"the record {packed[0]!r} is compressed, which PyTorch never does")
            size = path.stat().st_size
            if sum(r.file_size for r in records) > size:
                raise _refused(path, "its records are said to be larger than the file")
            for name in names:
                if name.endswith("data.pkl"):
                    with archive.open(name) as pickle:
                        _check_sizes(pickle, size, path)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        if isinstance(error, InputRefusedError):
            raise
        raise _refused(path, str(error) or type(error).__name__) from None


def _check_begin(path: Path) -> None:
    """Refuse what was never an archive: it is not damaged, and nobody meant harm."""
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(_ZIP):
        return
    why = f"it is no file of torch.save: it begins with {head!r}, expected {_ZIP!r}"
    fix = "Save the weights with torch.save(model.state_dict(), FILE), or name another file"
    if not head:
        why, fix = "the file is empty", "Save it again with torch.save, or copy it again"
    elif head[0] == _PICKLE and head[1:2] in _PROTOCOLS:
        why = "it is no file of torch.save: it is a plain pickle, which may run code when it is loaded"
    raise InputRefusedError(what="cannot read the checkpoint", path=path, why=why, fix=fix)


def check_legacy(path: Path) -> None:
    """Check a checkpoint from before PyTorch 1.6, which is a row of pickles.

    Raises
    ------
    InputRefusedError
        It is damaged, or its tensors are larger than the file.
    """
    with path.open("rb") as file:
        for _ in range(_LEGACY_HEAD):
            for _ in _operations(file, path):
                pass
        _check_sizes(file, path.stat().st_size, path)


def _check_sizes(file: IO[bytes], limit: int, path: Path) -> None:
    """Add up the elements of all storages, each of one byte at least.

    A storage is named by a tuple that ends with its number of elements (and, of old, with None).
    """
    declared: dict[tuple[Any, ...], int] = {}
    recent: list[tuple[str, Any]] = []
    for name, argument in _operations(file, path):
        if name == "BINPERSID":
            if _names_a_class(recent):
                continue
            tail = [op for op in recent if op[0] != "NONE"]
            if len(tail) < 2 or tail[-1][0] != "TUPLE" or tail[-2][0] not in _WHOLE_NUMBERS:
                raise _refused(path, "a tensor does not say its size where PyTorch says it")
            count = int(tail[-2][1])
            declared[tuple(tail[-5:-2])] = count
            if count < 0 or sum(declared.values()) > limit:
                raise _refused(
                    path, f"its tensors are said to have {sum(declared.values()):,} elements or more"
                )
        elif name not in _MEMO:
            recent = [*recent[-7:], (name, argument)]


def _names_a_class(recent: Sequence[tuple[str, Any]]) -> bool:
    """Whether a tuple is ("module", class, file, source), which older PyTorch wrote for each class."""
    names = [name for name, _ in recent[-_CLASS_ENTRIES - 2 :]]
    framed = len(names) == _CLASS_ENTRIES + 2 and (names[0], names[-1]) == ("MARK", "TUPLE")
    return framed and _PUSHED.issuperset(names[1:-1])


def _operations(file: IO[bytes], path: Path) -> Iterator[tuple[str, Any]]:
    try:
        for operation, argument, _ in pickletools.genops(file):
            yield operation.name, argument
    except Exception as error:  # genops raises whatever the damage leads to
        if isinstance(error, InputRefusedError):
            raise
        raise _refused(path, f"its pickle is damaged: {error}") from None


def _refused(path: Path, why: str) -> InputRefusedError:
    return InputRefusedError(
        what="the file is damaged, or was made to do harm",
        path=path,
        why=why,
        fix="Save it again with torch.save, or copy it again",
    )
