"""What runs inside a `repstat.child.Child`: a loop that answers questions, and limits on this process."""

import json
import os
import resource
import select
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from repstat.child import IDLE_SECONDS
from repstat.errors import RepstatError


def serve(answer: Callable[[Mapping[str, str]], Mapping[str, Any]]) -> None:
    """Answer questions until there are no more. No file can be written meanwhile."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a C library that prints must not answer
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    while select.select([0], [], [], IDLE_SECONDS)[0]:
        line = _line()
        if not line:
            return
        answers.write(json.dumps(answer(json.loads(line))).encode() + b"\n")


def _line() -> bytes:
    """Read a question without reading ahead, so that `select` sees the next one."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 2**16)
        if not part:
            return b""
        line += part
    return line


def refusal(error: RepstatError) -> dict[str, Any]:
    """Return an error as an answer, for `raised` in the process that asked."""
    facts = {name: getattr(error, name) for name in ("what", "why", "fix", "place")}
    return {
        "kind": type(error).__name__,
        "facts": facts | {"path": None if error.path is None else os.fspath(error.path)},
    }


def limit(what: int, soft: int) -> None:
    """Lower (or raise again) a limit of this process as far as the system lets it."""
    _, hard = resource.getrlimit(what)
    with suppress(OSError, ValueError):
        resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def address_space() -> int:
    """Return the address space in use, in bytes; 2 GiB where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as pages:  # noqa: PTH123
            return int(pages.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 2**31
