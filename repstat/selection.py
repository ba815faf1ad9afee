"""Which layers to record or analyse: the selectors of ``--layers``.

A selector is ``auto`` (every hidden layer), ``blocks`` (hidden layers and residual joins), ``all`` (also the
output), a key (``L003``), a name, a glob (``block.*``), ``re:PATTERN``, ``type:OP``, or any of these after
``-`` to leave out. Several are joined; if all of them leave out, they start from ``auto``.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from repstat.errors import InputRefusedError, UsageError


class Selectable(Protocol):
    """What a selector looks at."""

    @property
    def key(self) -> str:
        """Layer key."""

    @property
    def name(self) -> str:
        """Name as the framework spells it."""

    @property
    def op(self) -> str:
        """Ops that produce the activation, as ``Gemm+Tanh``."""

    @property
    def kind(self) -> str:
        """``hidden``, ``residual`` or ``output``."""


S = TypeVar("S", bound=Selectable)
_KINDS = {
    "auto": frozenset({"hidden"}),
    "blocks": frozenset({"hidden", "residual"}),
    "all": frozenset({"hidden", "residual", "output"}),
}


def select_layers(layers: Sequence[S], selectors: Sequence[str] = ()) -> tuple[S, ...]:
    """Return the layers that `selectors` pick, in forward order.

    Raises
    ------
    InputRefusedError
        The model has no hidden layer and none was asked for by name.
    UsageError
        A selector matches nothing (with close matches), or everything was left out.
    """
    wanted = [s for s in selectors if not s.startswith("-")] or ["auto"]
    unwanted = [s[1:] for s in selectors if s.startswith("-")]
    if wanted == ["auto"] and not any(layer.kind in _KINDS["auto"] for layer in layers):
        listed = ", ".join(f"{layer.key} ({layer.name}, {layer.kind})" for layer in layers) or "none"
        raise InputRefusedError(
            what="the model has no hidden layer",
            why=f"layers found: {listed}",
            fix="Give a model with at least two parameterised layers, or name one with --layers",
        )
    keys = {layer.key for selector in wanted for layer in _matching(layers, selector)}
    keys -= {layer.key for selector in unwanted for layer in _matching(layers, selector)}
    if not keys:
        raise UsageError(
            what="no layer is left",
            why=f"--layers {' --layers '.join(selectors)} leaves out every layer",
            fix="Remove one of the selectors; `repstat layers MODEL` lists the layers",
        )
    return tuple(layer for layer in layers if layer.key in keys)


def _matching(layers: Sequence[S], selector: str) -> list[S]:
    if selector in _KINDS:
        return [layer for layer in layers if layer.kind in _KINDS[selector]]
    if selector in {"output", "hidden", "residual"}:
        found = [layer for layer in layers if layer.kind == selector]
    elif selector.startswith("re:"):
        found = [layer for layer in layers if _compile(selector[3:]).search(layer.name)]
    elif selector.startswith("type:"):
        op = selector[5:].lower()
        found = [layer for layer in layers if op in layer.op.lower().split("+")]
    else:
        found = [layer for layer in layers if selector in {layer.key, layer.name}]
        found = found or [layer for layer in layers if fnmatchcase(layer.name, selector)]
    if not found:
        raise _unknown(layers, selector)
    return found


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            what=f"the pattern re:{pattern} is not a regular expression",
            why=str(error),
            fix="Correct it, or use a glob such as 'block.*'",
        ) from None


def _unknown(layers: Sequence[S], selector: str) -> UsageError:
    known = [word for layer in layers for word in (layer.key, layer.name)]
    close = get_close_matches(selector, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}" if close else "`repstat layers MODEL` lists them"
    listed = ", ".join(f"{layer.key} ({layer.name})" for layer in layers[:12])
    more = f" and {len(layers) - 12} more" if len(layers) > 12 else ""
    return UsageError(
        what=f"no layer is called {selector!r}",
        why=f"the layers are {listed}{more}",
        fix=f"{hint}?" if close else hint,
    )
