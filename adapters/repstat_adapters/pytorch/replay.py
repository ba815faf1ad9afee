"""Run a recorded model again: return some of its tensors, and add noise to some."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repstat.adapter import Array
from repstat_adapters.pytorch.tracing import UNCOUNTED, UNSEEN, StopForwardError, Trace, tensors_of
from repstat_adapters.shared.base import MisfitError

_TYPES = {
    torch.float16: np.float16,
    torch.float64: np.float64,
    torch.int32: np.float64,
    torch.int64: np.float64,
}
"""Types of arrays where they are not float32."""


@dataclass(frozen=True)
class Mark:
    """A tensor of a recorded pass: the op that makes it, and its position among those the op returns."""

    target: str
    ordinal: int
    position: int

    @classmethod
    def of(cls, target: str) -> "Mark":
        """Read the name that `Tracer` gave: ``17.0``, or ``17.0'1`` for another view of the whole."""
        ordinal, _, position = target.partition("'")[0].partition(".")
        return cls(target, int(ordinal), int(position))


class Replay(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Captures tensors by the order of ops, which must be the recorded one, and leaves behind the last one.

    Parameters
    ----------
    trace
        The recorded pass.
    wanted
        Tensors to capture.
    noise
        Noise by target, in the shape of its tensor; the model computes on with the sum.
    device
        Where the model runs.

    Attributes
    ----------
    captured
        Tensors by target, without their own noise, copied at once: the model may write to their memory.
    failure
        Why the pass was left: noise that does not fit.
    strayed
        Number of the op at which the model took another path than the recorded one, if it did.
    stopped
        Whether the pass was left before its end.
    """

    def __init__(
        self,
        trace: Trace,
        wanted: Sequence[Mark],
        noise: Mapping[str, Array],
        device: torch.device,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.captured: dict[str, Array] = {}
        self.failure: MisfitError | None = None
        self.strayed: int | None = None
        self.stopped = False
        self._path = trace.path
        self._noise, self._device = noise, device
        self._marks: dict[int, list[Mark]] = {}
        for mark in {mark.target: mark for mark in [*wanted, *map(Mark.of, noise)]}.values():
            self._marks.setdefault(mark.ordinal, []).append(mark)
        self._wanted = {mark.target for mark in wanted}
        self._last = max((mark.ordinal for mark in wanted), default=-1)
        self._next = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Have no wrapper around each op that imports the compiler, in a second: nothing is compiled here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one op, and capture or change what it returns."""
        if func.namespace in UNSEEN or func in UNCOUNTED:
            return func(*args, **(kwargs or {}))
        number, self._next = self._next, self._next + 1
        if number > self._last:
            return func(*args, **(kwargs or {}))
        if number >= len(self._path) or func is not self._path[number]:
            self.strayed = number
            self._leave()
        result = func(*args, **(kwargs or {}))
        for mark in self._marks.get(number, ()):
            result = self._at(mark, result, args)
        if number == self._last:
            self._leave()
        return result

    def _leave(self) -> None:
        self.stopped = True
        raise StopForwardError

    @property
    def complete(self) -> bool:
        """Whether every tensor was captured."""
        return self._wanted == self.captured.keys()

    def _at(self, mark: Mark, result: Any, args: Sequence[Any]) -> Any:
        value = list(tensors_of(result))[mark.position]
        noise = self._noise.get(mark.target)
        in_place = any(value is other for other in tensors_of(args))
        if mark.target in self._wanted:
            self.captured[mark.target] = as_numpy(value)
        if noise is None:
            return result
        if tuple(value.shape) != noise.shape:
            self.failure = MisfitError(mark.target, tuple(value.shape), noise.shape)
            self._leave()
        noisy = _sum(value, torch.from_numpy(noise).to(self._device))
        if in_place:
            value.copy_(noisy)
            return result
        return _replaced(result, value, noisy)


def as_numpy(value: Tensor) -> Array:
    """Copy an activation into an array of its own, of a type that NumPy has."""
    value = value.detach()
    if value.is_quantized or value.layout != torch.strided:
        value = value.dequantize() if value.is_quantized else value.to_dense()
    array: Array = np.empty(tuple(value.shape), _TYPES.get(value.dtype, np.float32))
    torch.from_numpy(array).copy_(value)
    return array


def _sum(value: Tensor, noise: Tensor) -> Tensor:
    """Add in the type of the tensor; to bfloat16 in float32, since only the sum is rounded."""
    if value.dtype == torch.bfloat16:
        return (value.float() + noise).to(value.dtype)
    return value + noise.to(value.dtype)


def _replaced(result: Any, old: Tensor, new: Tensor) -> Any:
    """Return what an op returned, with one tensor exchanged."""
    if result is old:
        return new
    if isinstance(result, list | tuple):
        return type(result)(_replaced(inner, old, new) for inner in result)
    return result
