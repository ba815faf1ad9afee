"""TorchScript files: programs of a small language, read only if they keep to computing."""

import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repstat.errors import InputRefusedError
from repstat_adapters.pytorch.archive import check_zip

_REACHES_OUT = re.compile(
    rb"\b(?:torch|ops(?:\.\w+)?)\.(?P<op>save|from_file|load_tensor|_load\w*)\s*\(|(?P<cls>\btorch\.classes\.[\w.]+)"
)
"""Ops that read or write files, and classes of extensions."""


def load_script(path: Path, *, trust: bool) -> tuple[nn.Module, bool]:
    """Return the program, and whether it was let do what else would be refused.

    Raises
    ------
    InputRefusedError
        It is damaged, or reads or writes files.
    """
    check_zip(path)
    found = _reaching_out(path)
    if found and not trust:
        raise InputRefusedError(
            what="the TorchScript program reaches outside itself",
            path=path,
            why=f"it uses {found}",
            fix="Export it without, or, if you made the file yourself, give --trust-model",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit, of itself
            load: Any = torch.jit.load
            model: nn.Module = load(os.fspath(path), map_location="cpu")
    except Exception as error:  # a damaged file may raise anything
        raise InputRefusedError(
            what="PyTorch cannot read the TorchScript program",
            path=path,
            why=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            fix="Save it again with torch.jit.save, or copy it again",
        ) from None
    return model, bool(found)


def _reaching_out(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/code/" in name and name.endswith(".py"):
                match = _REACHES_OUT.search(archive.read(name))
                if match:
                    return (match["op"] or match["cls"]).decode("ascii", "replace")
    return ""
