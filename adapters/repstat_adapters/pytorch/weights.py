"""Find a model's weights in a checkpoint, and put all of them into the model or none."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repstat.errors import InputRefusedError

_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_DEPTH = 3
_LISTED = 5


def find_state_dict(content: Any, path: Path) -> tuple[dict[str, Any], str]:
    """Return the weights in a checkpoint, and where in it they were.

    Raises
    ------
    InputRefusedError
        There are none.
    """
    here, place = content, ""
    for _ in range(_DEPTH):
        if _is_state_dict(here):
            return dict(here), place
        key = next(
            (k for k in _NESTED if isinstance(here, Mapping) and isinstance(here.get(k), Mapping)), None
        )
        if key is None:
            break
        here, place = here[key], f"{place}[{key!r}]"
    raise InputRefusedError(
        what="there are no weights",
        path=path,
        place=place,
        why=f"found {_described(here)}, expected names with tensors, or such under {', '.join(_NESTED)}",
        fix="Save model.state_dict(), alone or under one of these names",
    )


def others_like(content: Any, place: str, state: Mapping[str, Any]) -> list[str]:
    """Where a checkpoint holds other weights of the same names, such as their moving averages.

    Parameters
    ----------
    content
        The checkpoint.
    place
        Where `state` was in it, as `find_state_dict` says.
    state
        The weights that were taken.
    """
    names, found = _bare(state), list[str]()
    for path, entry in _mappings(content, "", _DEPTH):
        if path != place and not place.startswith(f"{path}[") and _is_state_dict(entry):
            found += [path] if names & _bare(entry) else []
    return found


def _bare(state: Mapping[str, Any]) -> set[str]:
    """Names of tensors without what wrappers put before all of them."""
    names = {name for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES * 2:
        names = {name.removeprefix(prefix) for name in names}
    return names


def _mappings(value: Any, path: str, depth: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for key, entry in value.items() if depth and isinstance(value, Mapping) else ():
        if isinstance(entry, Mapping):
            yield f"{path}[{key!r}]", entry
            yield from _mappings(entry, f"{path}[{key!r}]", depth - 1)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and any(isinstance(entry, Tensor) for entry in value.values())
        and all(isinstance(key, str) for key in value)
        and not any(isinstance(value.get(key), Mapping) for key in _NESTED)
    )


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = [repr(key) for key in value]
        return f"the keys {_some(keys)}" if keys else "an empty mapping"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def load_weights(model: nn.Module, state: Mapping[str, Any], path: Path, factory: str) -> dict[str, Any]:
    """Put weights into a model, each of them.

    Returns
    -------
    state
        The weights under the model's names.

    Raises
    ------
    InputRefusedError
        Names or shapes are not the model's, or one weight is given twice and differently; those that differ
        are listed.
    """
    own = model.state_dict()
    state = fitted(state, own)
    if lost := _contradictions(state, own):
        raise InputRefusedError(
            what="the weights cannot be put into the model without loss",
            path=path,
            why=_some(lost),
            fix=f"Let {factory} build the very model that was saved",
        )
    try:
        model.load_state_dict(state, strict=True)
    except Exception as error:  # a model may load its weights in its own way
        raise InputRefusedError(
            what="the weights are not those of the model",
            path=path,
            why=_difference(state, own) or f"{type(error).__name__}: {error}",
            fix=f"Let {factory} build the very model that was saved",
        ) from None
    return dict(state)


def fitted(state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return weights under the model's names `own`: no prefixes, and every name of a tensor that has several.

    safetensors, for one, saves a tied tensor under one of its names.
    """
    state = _without_prefixes(state, own)
    missing = {
        name: state[other]
        for tied in _tied(own)
        if (other := next((n for n in tied if n in state), None)) is not None
        for name in tied
        if name not in state
    }
    return {**state, **missing} if missing else state


def _tied(own: Mapping[str, Any]) -> list[list[str]]:
    """Names of a model that are one tensor."""
    names: dict[Any, list[str]] = {}
    for name, value in own.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and value.numel():
            key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
            names.setdefault(key, []).append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def _contradictions(state: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Say which weights would be dropped: the second value of a tied one, and imaginary parts."""
    dropped = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor)
        and value.is_complex()
        and isinstance(own.get(name), Tensor)
        and not own[name].is_complex()
    ]
    lost = [f"numbers are complex in the file and real in the model: {_some(dropped)}"] if dropped else []
    for first, *others in _tied(own):
        values = [state.get(name) for name in (first, *others)]
        if all(isinstance(value, Tensor) for value in values):
            lost += [
                f"{first} and {other} are one tensor in the model, and two in the file"
                for other, value in zip(others, values[1:], strict=True)
                if not _same(values[0], value)
            ]
    return lost


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors hold the same numbers, NaN too."""
    return a is b or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))


def _without_prefixes(state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Strip what wrappers put before every name: ``module.``, ``_orig_mod.``, ``model.``.

    Only where every name has it, and only where the model's names do not.
    """
    while state and not state.keys() & own.keys():
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def signature(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that the checkpoints of one architecture share."""
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def rounded(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Say where weights were converted to the model's own type."""
    pairs = {
        f"{state[name].dtype} to {value.dtype}".replace("torch.", "")
        for name, value in own.items()
        if isinstance(state.get(name), Tensor)
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and state[name].dtype != value.dtype
    }
    return f"weights were converted from {', '.join(sorted(pairs))}" if pairs else ""


def _difference(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if isinstance(state.get(name), torch.Tensor)
        and isinstance(own[name], torch.Tensor)
        and state[name].shape != own[name].shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{word}: {_some(names)}" for word, names in parts.items() if names)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
