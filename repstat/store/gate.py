"""Judge a file in a process of its own, before this one lets HDF5 near it.

A crafted file can crash HDF5, or keep it busy for ever. The process does all that a reader does on opening
(`repstat.store.gate_child`), under limits on time, memory and what it may write; if it dies, the file is
refused. It is kept for some seconds, so a folder of a thousand files costs one start.
"""

import os
from pathlib import Path

from repstat.child import STORE_GATE, ChildDiedError
from repstat.errors import RepstatError, ResourceError, StoreDamagedError, UsageError
from repstat.store.rules import STORE, Form
from repstat.store.structure import broken, check_outside

_KINDS = {kind.__name__: kind for kind in (UsageError, StoreDamagedError, ResourceError)}


def judge(path: Path, form: Form = STORE) -> None:
    """Refuse a file that is not of the form, or not a sound one. Its activations are not read.

    Raises
    ------
    UsageError
        If there is no such file.
    StoreDamagedError
        If it is something else, breaks a rule of the format, or reading it crashes HDF5 or takes for ever.
    ResourceError
        If no process can be started.
    """
    check_outside(path, form)
    _ask(path, form, "judge")


def schema_of(path: Path) -> str:
    """Return what an HDF5 file calls itself; empty if it says nothing or cannot be read."""
    try:
        check_outside(path)
        return str(_ask(path, STORE, "schema"))
    except (StoreDamagedError, UsageError):
        return ""


def _ask(path: Path, form: Form, verb: str) -> object:
    try:
        answer = STORE_GATE.ask(
            {"verb": verb, "path": os.fspath(path), "folder": _folder(path), "schema": form.schema}
        )
    except ChildDiedError as error:
        raise broken(path, "", f"reading it was tried in a process of its own, and {error}", form) from error
    if "kind" in answer:
        refusal: RepstatError = _KINDS[answer["kind"]](**answer["facts"])
        raise refusal
    return answer.get("found", "")


def _folder(path: Path) -> str:
    """Return what a relative path starts from: the process may have been started elsewhere."""
    return "" if path.is_absolute() else str(Path.cwd())
