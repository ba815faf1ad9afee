"""Load models saved whole, ``.keras`` and ``.h5``, with code in them only if the user trusts it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from repstat.errors import InputRefusedError
from repstat_adapters.keras.framework import Framework, first_line, quiet
from repstat_adapters.keras.hdf5 import read_contents

SAFE_SINCE = (3, 12)
"""Before, files could run code in spite of `safe_mode`.

CVE-2025-9905 (any .h5, before 3.11.3), CVE-2025-9906 and CVE-2025-8747 (.keras, before 3.11.0),
CVE-2025-12058 (before 3.12).
"""

_SUFFIXES = {"keras": ".keras", "h5": ".h5", "weights": ".weights.h5"}
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown (?:layer|object)s?):? '?([\w.>]*)")
_UNSAFE = ("safe_mode", "unsafe deserialization", "lambda")


def load_whole(path: Path, kind: str, framework: Framework, *, trust: bool) -> Any:
    """Load architecture and weights; nothing is compiled.

    Raises
    ------
    InputRefusedError
        The file is damaged, would run code, or needs classes that are not known here; or Keras is too old.
    """
    check_release(path, framework, trust=trust)
    read_contents(path)
    try:
        with ExitStack() as stack:
            named = stack.enter_context(suffixed(path, kind))
            stack.enter_context(quiet())
            stack.enter_context(on_cpu(framework))
            return framework.keras.saving.load_model(str(named), compile=False, safe_mode=not trust)
    except Exception as error:  # Keras raises errors of many kinds, and so may a user's own classes
        raise _translated(error, path) from error


def check_release(path: Path, framework: Framework, *, trust: bool) -> None:
    """Refuse files that hold an architecture if this Keras would run code in them.

    Raises
    ------
    InputRefusedError
        It would.
    """
    if framework.release < SAFE_SINCE and not trust:
        since = ".".join(map(str, SAFE_SINCE))
        raise InputRefusedError(
            what="Keras is too old to load a whole model safely",
            path=path,
            why=f"found {framework.keras.__version__}; before {since} a file could run code in spite of its "
            "safe mode (CVE-2025-9905, CVE-2025-9906)",
            fix="Upgrade with pip install -U keras, or pass --trust-model if the file is yours",
        )


@contextmanager
def suffixed(path: Path, kind: str) -> Iterator[Path]:
    """Give a file the suffix by which Keras tells formats apart."""
    suffix = _SUFFIXES[kind]
    if path.name.endswith(suffix):
        yield path
        return
    with TemporaryDirectory() as folder:
        named = Path(folder) / f"model{suffix}"
        try:
            named.symlink_to(path.resolve())
        except OSError:  # not every system lets a user make links
            copyfile(path, named)
        yield named


@contextmanager
def on_cpu(framework: Framework) -> Iterator[None]:
    """Keep the model's own weights off the GPU, whatever device they are run on later."""
    # with a number, PyTorch copies every weight, and Keras can make no parameter of a copy of integers
    with framework.keras.device("cpu" if framework.backend == "torch" else "cpu:0"):
        yield


def _translated(error: Exception, path: Path) -> InputRefusedError:
    text = str(error)
    if unknown := _UNKNOWN.search(text):
        return InputRefusedError(
            what="the model has layers that Keras does not know",
            path=path,
            why=f"it knows no {unknown[1] or 'object of that name'}: nothing imported has registered it",
            fix="Name the function that builds the model with --model-factory; the weights are then taken "
            "from this file",
        )
    if any(phrase in text.lower() for phrase in _UNSAFE):
        return InputRefusedError(
            what="the model would run code from its file",
            path=path,
            why="it holds code, as layers of the kinds Lambda, TorchModuleWrapper and TFSMLayer do",
            fix="Pass --trust-model if the file is yours, or build the model with --model-factory",
        )
    return InputRefusedError(
        what="Keras cannot load the model",
        path=path,
        why=f"{type(error).__name__}: {first_line(error)}",
        fix="Check that keras.saving.load_model reads it; copy or save it again if it is damaged",
    )
