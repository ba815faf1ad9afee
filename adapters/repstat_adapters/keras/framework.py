"""Keras and the backend it runs on: imported late and quietly, described, its devices found."""

import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from repstat.errors import AdapterUnavailableError

_INSTALL = "Install it with pip install 'repstat[tensorflow]'"
LONGEST_MESSAGE = 400
_COLOURS = re.compile(r"\x1b\[\d*m")
_WRAPPING = ("Exception encountered when calling", "Graph execution error", "Detected at node")
"""What Keras and TensorFlow put before the message itself."""
_LOG_LINE = re.compile(
    rb"WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d [\d:.]+: [IWE] "
    rb"|To enable the following instructions|\s*\[\[\{\{node"
)
BACKENDS = ("tensorflow", "torch")


@dataclass(frozen=True)
class Framework:
    """Keras, imported.

    Parameters
    ----------
    keras
        The package.
    backend
        Name of the backend that it runs on; ``KERAS_BACKEND`` is the user's to set before the import.
    runner
        The backend's package: tensorflow or torch.
    """

    keras: Any
    backend: str
    runner: Any

    @property
    def versions(self) -> dict[str, str]:
        """Versions for provenance."""
        return {
            "keras": self.keras.__version__,
            self.backend: self.runner.__version__,
            "numpy": np.__version__,
        }

    @property
    def release(self) -> tuple[int, ...]:
        """Version of Keras as numbers."""
        return tuple(int(part) for part in self.keras.__version__.split(".")[:2])

    def described(self) -> str:
        """Return one line for ``repstat info``."""
        text = f"keras {self.keras.__version__} on {self.backend} {self.runner.__version__}"
        if self.backend == "torch":
            return f"{text}, with {'cuda, cpu' if self.runner.cuda.is_available() else 'cpu'}"
        found = self.runner.config.list_physical_devices("GPU")
        return f"{text}, with {'cuda, cpu' if found else 'cpu'}"


@lru_cache(maxsize=1)
def import_keras() -> Framework:
    """Import Keras and its backend.

    Raises
    ------
    AdapterUnavailableError
        One of them is not installed or fails to import, Keras is older than 3, or the backend is another.
    """
    with quiet(), without_log_lines():
        try:
            keras = importlib.import_module("keras")
            backend = keras.backend.backend() if hasattr(keras, "config") else ""
            if backend in BACKENDS:
                importlib.import_module(backend)
        except (ImportError, ValueError) as error:  # a backend that Keras has never heard of is a ValueError
            if (wanted := _wanted_backend()) not in BACKENDS:
                raise _strange_backend(wanted) from None
            raise _unavailable(error) from None
        if not hasattr(keras, "config") or int(keras.__version__.split(".")[0]) < 3:
            raise AdapterUnavailableError(
                what="Keras is too old",
                why=f"found {keras.__version__}, expected 3 or later",
                fix="Upgrade with pip install -U keras, or export the model to ONNX with tf2onnx",
            )
        if backend not in BACKENDS:
            raise _strange_backend(backend)
        return Framework(keras, backend, importlib.import_module(backend))


def import_tensorflow() -> Any:
    """Import TensorFlow.

    Raises
    ------
    AdapterUnavailableError
        It is not installed.
    """
    with quiet(), without_log_lines():
        try:
            return importlib.import_module("tensorflow")
        except ImportError as error:
            raise _unavailable(error) from None


def _wanted_backend() -> str:
    """Return the backend that Keras failed to import, told by the environment or by its own file."""
    config = sys.modules.get("keras.src.backend.config")
    asked = getattr(config, "backend", None)
    return str(asked()) if callable(asked) else os.environ.get("KERAS_BACKEND", BACKENDS[0])


def _strange_backend(backend: str) -> AdapterUnavailableError:
    return AdapterUnavailableError(
        what=f"Keras runs on the backend {backend!r}",
        why=f"repstat reads models on {' and '.join(BACKENDS)}",
        fix="Set KERAS_BACKEND=tensorflow (or torch) before Python starts, or export the model to ONNX",
    )


def _unavailable(error: ImportError | ValueError) -> AdapterUnavailableError:
    missing = (getattr(error, "name", "") or "").split(".")[0]
    if missing in {"keras", "tensorflow", "torch"}:
        why = f"{missing} is not installed"
    else:
        why = f"{type(error).__name__}: {error}"
    torch = missing == "tensorflow" and importlib.util.find_spec("torch") is not None
    also = ", or set KERAS_BACKEND=torch before Python starts" if torch else ""
    return AdapterUnavailableError(what="cannot read Keras models", why=why, fix=f"{_INSTALL}{also}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep TensorFlow's log and Keras' warnings about themselves from the user while something loads.

    Environment variables that are set keep their values, and all are as before afterwards.
    """
    name = "TF_CPP_MIN_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "3")
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        if before is None:
            os.environ.pop(name, None)


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Drop from stderr what TensorFlow logs about itself, whatever the log level.

    What is not a line of its log comes out afterwards.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with TemporaryFile() as log:
        try:
            os.dup2(log.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            rest = b"".join(line for line in log if not _LOG_LINE.match(line))
            if rest:
                os.write(2, rest)


def first_line(error: BaseException) -> str:
    """Return what an error of a framework says, in one line of readable length."""
    text = _COLOURS.sub("", getattr(error, "message", None) or str(error))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_WRAPPING)]
    node = next((i for i, line in enumerate(lines) if line.startswith("[[{{node")), 0)
    line = lines[max(node - 1, 0)] if lines else type(error).__name__
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]} ..."
