"""What a Keras model takes: its inputs by name, and how it wants them handed over."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from repstat.adapter import InputSpec
from repstat.errors import InputRefusedError

Packed = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of the model."""

_AUTOMATIC = re.compile(r"(input_layer|keras_tensor|input)(_\d+)?")
_WIDENED = {"bfloat16": "float32"}
_FEEDABLE = "fiub"
_CONTEXT_ARGUMENTS = frozenset({"training", "mask"})


@dataclass(frozen=True)
class Inputs:
    """Inputs of a model.

    Parameters
    ----------
    specs
        What a user gives.
    dtypes
        By input, the dtype that the model takes, where it is not the user's.
    batch
        Samples per call if that is fixed.
    pack
        Turns tensors in the order of `specs` into the model's arguments.
    """

    specs: tuple[InputSpec, ...]
    dtypes: Mapping[str, str]
    batch: int | None
    pack: Callable[[Sequence[Any]], Packed]


def read_inputs(model: Any, keras: Any, path: Path | None) -> Inputs:
    """Describe the inputs of a model.

    A functional or sequential model declares them. Of a subclassed one only the shape at its first call is
    known, if that; then dtype and batch are guessed.

    Raises
    ------
    InputRefusedError
        An input is not a tensor of numbers.
    """
    tensors = getattr(model, "inputs", None)
    if not tensors:
        return _guessed(model, keras)
    structure = model.input if hasattr(model, "input") else tensors
    names = _names([getattr(t, "name", "") for t in tensors])
    dtypes = [str(t.dtype) for t in tensors]
    for name, dtype in zip(names, dtypes, strict=True):
        if np.dtype(_WIDENED.get(dtype, "U" if dtype == "string" else dtype)).kind not in _FEEDABLE:
            raise InputRefusedError(
                what="an input is not a numeric tensor",
                path=path,
                place=f"input {name!r}",
                why=f"found {dtype}, expected a tensor of numbers",
                fix="Cut the model behind its preprocessing and save that",
            )
    specs = tuple(
        InputSpec(name, np.dtype(_WIDENED.get(dtype, dtype)), tuple(t.shape))
        for name, dtype, t in zip(names, dtypes, tensors, strict=True)
    )
    if _is_of_first_call(model, tensors, keras):
        dtypes = ["int32"] if _starts_with_ids(model, keras) else dtypes
        kind = np.dtype(_WIDENED.get(dtypes[0], dtypes[0]))
        specs = (InputSpec(names[0], kind, (None, *tensors[0].shape[1:]), declared=False),)
        tensors = ()  # so that its batch counts for nothing
    batches = [t.shape[0] for t in tensors if len(t.shape) and t.shape[0] is not None]

    def pack(values: Sequence[Any]) -> Packed:
        return (keras.tree.pack_sequence_as(structure, list(values)),), {}

    widened = {name: dtype for name, dtype in zip(names, dtypes, strict=True) if dtype in _WIDENED}
    return Inputs(specs, widened, min(batches, default=None), pack)


def _is_of_first_call(model: Any, tensors: Sequence[Any], keras: Any) -> bool:
    """Whether a Sequential has taken its input's shape from its first call, which need not be meant.

    Keras notes that batch as if it were declared, and yet takes any other, except for recurrent layers that
    keep their state.
    """
    if not isinstance(model, keras.Sequential) or len(tensors) > 1 or not tensors[0].shape:
        return False
    stateful = any(getattr(layer, "stateful", False) for layer in model._flatten_layers())
    return tensors[0].shape[0] is not None and bool(_AUTOMATIC.fullmatch(tensors[0].name)) and not stateful


def _names(names: Sequence[str]) -> list[str]:
    """Return the user's names; those that Keras counts up are replaced, since they differ between copies."""
    if len(names) == 1:
        return ["input" if _AUTOMATIC.fullmatch(names[0]) else names[0]]
    if all(_AUTOMATIC.fullmatch(name) for name in names) or len(set(names)) < len(names):
        return [f"input_{i}" for i in range(len(names))]
    return list(names)


def _guessed(model: Any, keras: Any) -> Inputs:
    dtype = np.dtype(np.int32) if _starts_with_ids(model, keras) else np.dtype(_compute_dtype(model))
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"": config.get("input_shape")}
    arguments = _arguments(model)
    if len(arguments) == 1:
        structure = next(iter(shapes.values()))
        if structure and not _is_shape(structure):
            return _nested(structure, dtype, arguments[0])
        shape = (None, *structure[1:]) if _is_shape(structure) else (None, None)
        spec = InputSpec(arguments[0], dtype, shape, declared=False)
        return Inputs((spec,), {}, None, lambda values: ((values[0],), {}))
    known = {name: shapes.get(f"{name}_shape") for name in arguments}
    specs = tuple(
        InputSpec(name, dtype, (None, *shape[1:]) if _is_shape(shape) else (None, None), declared=False)
        for name, shape in known.items()
    )
    return Inputs(specs, {}, None, lambda values: ((), dict(zip(arguments, values, strict=True))))


def _nested(structure: Any, dtype: np.dtype[Any], argument: str) -> Inputs:
    """Describe the inputs of a model that takes one list or dictionary of tensors."""
    if isinstance(structure, Mapping):
        names = sorted(structure)
        shapes = [structure[name] for name in names]
    else:
        names, shapes = [f"{argument}_{i}" for i in range(len(structure))], list(structure)
    specs = tuple(
        InputSpec(name, dtype, (None, *shape[1:]), declared=False)
        for name, shape in zip(names, shapes, strict=True)
    )
    if isinstance(structure, Mapping):
        return Inputs(specs, {}, None, lambda values: ((dict(zip(names, values, strict=True)),), {}))
    return Inputs(specs, {}, None, lambda values: ((list(values),), {}))


def _is_shape(value: Any) -> TypeGuard[Sequence[int | None]]:
    return isinstance(value, list | tuple) and all(n is None or isinstance(n, int) for n in value)


def _arguments(model: Any) -> list[str]:
    """Names of the tensors that `call` takes."""
    parameters = inspect.signature(model.call).parameters.values()
    names = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and p.name not in _CONTEXT_ARGUMENTS
    ]
    return names or ["inputs"]


def _compute_dtype(model: Any) -> str:
    dtype = str(getattr(model, "variable_dtype", "float32"))
    return _WIDENED.get(dtype, dtype if dtype.startswith("float") else "float32")


def _starts_with_ids(model: Any, keras: Any) -> bool:
    """Whether the first layer with weights looks vectors up by integers."""
    layers = (x for x in model._flatten_layers(include_self=False) if x.weights)
    plain = (x for x in layers if not list(x._flatten_layers(include_self=False)))
    return isinstance(next(plain, None), keras.layers.Embedding)
