"""What a model takes: names from its ``forward``, and a guess of type and shape from its first weights."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from repstat.adapter import Array, InputSpec
from repstat.errors import InputRefusedError
from repstat_adapters.pytorch.guard import evaluating
from repstat_adapters.shared.feeds import draw_probes

Shape = tuple[int | None, ...]
_Guess = tuple[np.dtype[Any], Shape]

_IMAGE_LENGTHS = (8, 32, 28, 224, 64, 96, 128, 16, 299, *range(4, 49))
"""Sides of images that are tried: a linear layer behind convolutions fits one of them only."""
_MOST_TRIALS = 120
_IDS = np.dtype(np.int64)
_CONVS = {
    "Conv1d": 1,
    "Conv2d": 2,
    "Conv3d": 3,
    "ConvTranspose1d": 1,
    "ConvTranspose2d": 2,
    "ConvTranspose3d": 3,
}
_NORMS = {"BatchNorm1d": 0, "BatchNorm2d": 2, "BatchNorm3d": 3, "InstanceNorm1d": 1, "InstanceNorm2d": 2}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_CELLS = frozenset({"LSTMCell", "GRUCell", "RNNCell"})
_ATTENTION = frozenset({"MultiheadAttention"})


def input_names(model: nn.Module, path: Path | None) -> list[str]:
    """Names of the arguments that ``forward`` cannot do without; its first one if it can do without all.

    Raises
    ------
    InputRefusedError
        It takes no argument.
    """
    if isinstance(model, torch.jit.ScriptModule):
        forward: Any = model.forward
        arguments = [(a.name, a.has_default_value()) for a in forward.schema.arguments[1:]]
    else:
        kinds = inspect.Parameter
        arguments = [
            (p.name, p.default is not kinds.empty or p.kind is kinds.VAR_POSITIONAL)
            for p in inspect.signature(model.forward).parameters.values()
            if p.kind is not kinds.VAR_KEYWORD
        ]
    needed = [name for name, optional in arguments if not optional]
    if not arguments:
        raise InputRefusedError(
            what="the model takes no input",
            path=path,
            why=f"forward() of {type(model).__name__} names no arguments",
            fix="Wrap it in a module whose forward takes the samples",
        )
    return needed or [arguments[0][0]]


def keyword_names(model: nn.Module) -> frozenset[str]:
    """Names of the arguments of ``forward`` that can only be given by name."""
    if isinstance(model, torch.jit.ScriptModule):
        forward: Any = model.forward
        return frozenset(a.name for a in forward.schema.arguments if a.kwarg_only)
    parameters = inspect.signature(model.forward).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def guess_inputs(
    model: nn.Module,
    names: Sequence[str],
    runs: Callable[[Sequence[InputSpec], Mapping[str, Array]], bool],
) -> tuple[InputSpec, ...]:
    """Guess types and shapes so that the model runs on a small random batch.

    Parameters
    ----------
    model
        The model.
    names
        Its inputs.
    runs
        Whether the model runs on a batch.

    Returns
    -------
    specs
        Inputs of undeclared type and shape; the most likely ones where the model runs on none.
    """
    first: tuple[InputSpec, ...] | None = None
    for number, guesses in enumerate(_candidates(model, len(names))):
        specs = tuple(
            InputSpec(name, dtype, shape, declared=False)
            for name, (dtype, shape) in zip(names, guesses, strict=True)
        )
        first = first or specs
        if number >= _MOST_TRIALS:
            break
        if any(runs(specs, feeds) for feeds in draw_probes(specs, 2)):
            return specs
    assert first is not None  # there is always one candidate
    return first


def _candidates(model: nn.Module, n_inputs: int) -> Iterator[tuple[_Guess, ...]]:
    """Combine what single modules take: in the order of the modules, then in any."""
    # To look at a spectral norm in training moves it.
    with evaluating(list(model.modules())), torch.no_grad():
        taken = list(dict.fromkeys(_takes(model))) or [(_float(model), (None, None))]
    in_order = [taken[min(i, len(taken) - 1)] for i in range(n_inputs)]
    combinations = [in_order, *([guess] * n_inputs for guess in taken)]
    if n_inputs > 1:
        combinations += [list(one) for one in product(taken[:4], repeat=n_inputs)]
    for guesses in combinations:
        if any(len(shape) > 3 and None in shape[1:] for _, shape in guesses):
            for length in _IMAGE_LENGTHS:
                yield tuple((dtype, _sized(shape, length)) for dtype, shape in guesses)
        else:
            yield tuple(guesses)


def _sized(shape: Shape, length: int) -> Shape:
    if len(shape) < 4:
        return shape
    return (None, *(length if n is None else n for n in shape[1:]))


def _takes(model: nn.Module) -> Iterator[_Guess]:
    """Return what modules with parameters take, in the order of their registration."""
    default = _float(model)
    for module in model.modules():
        own = next(module.parameters(recurse=False), None)
        if own is None:
            continue
        dtype = _numpy(own.dtype) if own.is_floating_point() else default
        kind = getattr(module, "original_name", type(module).__name__)
        yield from _takes_of(module, kind, dtype)


def _takes_of(module: Any, kind: str, dtype: np.dtype[Any]) -> Iterator[_Guess]:
    """Return what one module may take. TorchScript keeps only the shapes of its parameters."""
    weight = getattr(module, "weight", None)
    shape: Sequence[int] = getattr(weight, "shape", ())
    if kind in {"Embedding", "EmbeddingBag"}:
        yield _IDS, (None, None)
    elif kind in _RECURRENT:
        yield dtype, (None, None, module.weight_ih_l0.shape[1])
    elif kind in _CELLS:
        yield dtype, (None, module.weight_ih.shape[1])
        yield dtype, (None, None, module.weight_ih.shape[1])
    elif kind == "Bilinear":
        yield from ((dtype, (None, n)) for n in shape[1:])
    elif kind in _ATTENTION:
        yield dtype, (None, None, module.out_proj.weight.shape[0])
    elif kind.startswith("ConvTranspose") and kind in _CONVS:
        yield dtype, (None, shape[0], *(None,) * _CONVS[kind])
    elif kind in _CONVS:
        yield dtype, (None, shape[1] * getattr(module, "groups", 1), *(None,) * _CONVS[kind])
    elif kind in _NORMS:
        yield dtype, (None, shape[0], *(None,) * _NORMS[kind])
    elif kind == "LayerNorm":
        yield dtype, (None, *shape)
        yield dtype, (None, None, *shape)
    elif len(shape) == 2:
        yield dtype, (None, shape[1])
        yield dtype, (None, None, shape[1])
    else:
        own = [tuple(p.shape) for p in module.parameters(recurse=False)]
        yield from ((dtype, (None, n)) for s in own if len(s) == 2 for n in reversed(s))


def _float(model: nn.Module) -> np.dtype[Any]:
    kinds = (p.dtype for p in model.parameters() if p.is_floating_point())
    return _numpy(next(kinds, torch.get_default_dtype()))


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    """Type in which NumPy holds a tensor; float32 where it has none."""
    return np.dtype({torch.float64: np.float64, torch.float16: np.float16}.get(dtype, np.float32))
