"""Programs of ``torch.export``: what they declare, and running them node by node."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repstat.adapter import InputSpec
from repstat.errors import InputRefusedError
from repstat_adapters.pytorch.archive import check_zip
from repstat_adapters.pytorch.exported_checks import first_danger


class ExportedModule(nn.Module):
    """An exported program as a module, which tells in which module of the original a node was.

    Parameters
    ----------
    program
        The ``torch.export.ExportedProgram``.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = _module_of(program)
        self.names = _names_of(program)
        self.scope: list[str] | None = None

    def forward(self, *args: Tensor) -> Any:
        """Run the nodes one by one."""
        return _Scoped(self.program, self.scope).run(*args)


def _module_of(program: Any) -> Any:
    # Guards refuse what the program computes as rightly, such as other lengths. Older versions have none.
    options = {"check_guards": False} if "check_guards" in signature(program.module).parameters else {}
    return program.module(**options)


class _Scoped(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, scope: list[str] | None) -> None:
        super().__init__(module)
        self._scope = scope

    def run_node(self, n: torch.fx.Node) -> Any:
        """Note the module that `n` came from, and run it."""
        if self._scope is not None:
            stack = n.meta.get("nn_module_stack") or {}
            self._scope[-1] = next((path for path, _ in reversed(list(stack.values()))), "")
        return super().run_node(n)


def load_program(path: Path, *, trust: bool) -> tuple[Any, bool]:
    """Return an ``ExportedProgram``, and whether it was let do what else would be refused.

    Raises
    ------
    InputRefusedError
        It is damaged, or loading it would run code.
    """
    check_zip(path)
    danger = first_danger(path)
    if danger and not trust:
        raise InputRefusedError(
            what="loading the exported program could run code",
            path=path,
            why=danger,
            fix="Export it again without, or, if you made the file yourself, give --trust-model",
        )
    try:
        with _only_errors_logged():
            return torch.export.load(os.fspath(path)), bool(danger)
    except Exception as error:  # a damaged file may raise anything
        raise InputRefusedError(
            what="PyTorch cannot read the exported program",
            path=path,
            why=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            fix=f"Export it again with the installed PyTorch {torch.__version__}",
        ) from None


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    # Of a file that PyTorch before 2.8 wrote, it logs a traceback, and reads it all the same.
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def declared_inputs(program: Any, path: Path | None) -> tuple[InputSpec, ...]:
    """Return what an exported program takes.

    Raises
    ------
    InputRefusedError
        An input is not a tensor of numbers.
    """
    for value in program.graph_signature.user_inputs:
        if not isinstance(value, str):
            found = f"the constant {value!r}"
            raise _not_a_tensor(found, path)
    return tuple(_spec(node, path) for node in _placeholders(program))


def _placeholders(program: Any) -> Sequence[Any]:
    users = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in users]


def _names_of(program: Any) -> list[str]:
    return [node.name for node in _placeholders(program)]


def _spec(node: Any, path: Path | None) -> InputSpec:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise _not_a_tensor(type(value).__name__, path, f"input {node.name!r}")
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    free = [axis for axis, n in enumerate(shape) if n is None]
    axis = 0 if 0 in free or not free else free[0]
    dtype = np.float32 if value.dtype == torch.bfloat16 else str(value.dtype).removeprefix("torch.")
    return InputSpec(node.name, np.dtype(dtype), shape, axis)


def _not_a_tensor(found: str, path: Path | None, place: str = "") -> InputRefusedError:
    return InputRefusedError(
        what="an input is not a numeric tensor",
        path=path,
        place=place,
        why=f"found {found}",
        fix="Export a module whose forward takes tensors only",
    )
