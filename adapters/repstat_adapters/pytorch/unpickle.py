"""Load what ``torch.save`` wrote without running code that comes with it."""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repstat.errors import InputRefusedError, ResourceError
from repstat_adapters.pytorch.archive import check_legacy, check_zip

_LISTED = 6
_LONGEST = 300
_ADVICE = re.compile(
    r"^Weights only load failed\..*(trusted source\.|WeightsUnpickler error:) "
    r"|Check the documentation of torch\.load.*$"
)
"""What PyTorch tells people to do, some of which we do not want them to."""
_NOT_ALLOWED = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
_KINDS = "biuf"


class _Ignored:
    """Stands for an object whose class is known to do nothing, and which no model needs."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""

    def __setstate__(self, _: Any) -> None:
        """Keep nothing."""


class _Dtype:
    """Stands for ``numpy.dtype``, of plain numbers only; NumPy's own believes what a pickle says of it."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        """Take the byte order."""
        self.order = ">" if len(state) > 1 and state[1] == ">" else "<"


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """Stand for ``numpy.core.multiarray.scalar``."""
    code = dtype.code if isinstance(dtype, _Dtype) else ""
    if code[:1] not in _KINDS or not isinstance(data, bytes):
        message = "only numbers are read from NumPy scalars"
        raise pickle.UnpicklingError(message)
    return np.frombuffer(data, np.dtype(code).newbyteorder(dtype.order))[0]


_HARMLESS: list[Any] = [
    (_Ignored, "argparse.Namespace"),
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
_OURS = frozenset(name for _, name in _HARMLESS)


def load_checkpoint(path: Path, *, legacy: bool, trust: bool) -> tuple[Any, bool]:
    """Return what a checkpoint holds, on the CPU.

    Parameters
    ----------
    path
        The file.
    legacy
        Whether it is of the format from before PyTorch 1.6.
    trust
        Whether its code may run, should it be refused otherwise.

    Returns
    -------
    content, trusted
        And whether it was read with the power to run code.

    Raises
    ------
    InputRefusedError
        It is damaged, or holds objects whose loading runs code; these are listed.
    """
    (check_legacy if legacy else check_zip)(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return _load(path, mmap=not legacy, weights_only=True), False
    except pickle.UnpicklingError as error:
        if not trust:
            raise _unsafe(path, error, legacy=legacy) from None
    except MemoryError as error:
        raise ResourceError(
            what="memory ran out", path=path, why=str(error), fix="Use a larger machine"
        ) from None
    except Exception as error:  # a damaged file may raise anything
        raise _damaged(path, error) from None
    try:
        return _load(path, mmap=not legacy, weights_only=False), True
    except Exception as error:  # the user's own code may raise anything
        raise InputRefusedError(
            what="the pickled objects cannot be loaded",
            path=path,
            why=f"{type(error).__name__}: {error}",
            fix="Their modules must be importable: run where they are, or save a state_dict",
        ) from error


def _load(path: Path, *, mmap: bool, weights_only: bool) -> Any:
    return torch.load(os.fspath(path), map_location="cpu", weights_only=weights_only, mmap=mmap)


def _unsafe(path: Path, error: Exception, *, legacy: bool) -> InputRefusedError:
    culprits = _NOT_ALLOWED.findall(str(error)) if legacy else _culprits(path)
    listed = ", ".join(culprits[:_LISTED]) + (
        f" and {len(culprits) - _LISTED} more" if len(culprits) > _LISTED else ""
    )
    return InputRefusedError(
        what="loading would run code that is",
        path=path,
        why=f"it holds {listed}" if culprits else _short(error),
        fix="Save the state_dict alone; or, if you made the file yourself, give --trust-model",
    )


def _culprits(path: Path) -> list[str]:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(path))
    except Exception:  # what is not listed is in the message of the refusal
        return []
    return sorted(name for name in found if name not in _OURS)


def _damaged(path: Path, error: Exception) -> InputRefusedError:
    return InputRefusedError(
        what="PyTorch cannot read the checkpoint",
        path=path,
        why=_short(error),
        fix="Save it again with torch.save, or copy it again",
    )


def _short(error: Exception) -> str:
    text = _ADVICE.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:_LONGEST]


def read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a safetensors file.

    Raises
    ------
    InputRefusedError
        It is damaged.
    AdapterUnavailableError
        safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        from repstat.errors import AdapterUnavailableError

        raise AdapterUnavailableError(
            what="safetensors is not installed, which this file needs",
            path=path,
            why=str(error),
            fix="Install it with pip install 'repstat[torch]'",
        ) from None
    try:
        tensors: Mapping[str, torch.Tensor] = load_file(os.fspath(path), device="cpu")
    except Exception as error:  # safetensors' errors share no base class
        raise InputRefusedError(
            what="safetensors cannot read the file",
            path=path,
            why=_short(error),
            fix="Save it again, or copy it again",
        ) from None
    return tensors
