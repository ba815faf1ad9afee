"""Where the dense arithmetic runs: numpy, or torch and cupy through the Python array API standard.

The kernel is written once, in operators and functions of the standard; this module makes arrays, moves them,
and holds the few operations that are worth doing in place.

References
----------
Python array API standard, https://data-apis.org/array-api/latest/.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.errors import UsageError

_NO_CUDA = "Install a CUDA build of torch, or cupy, or leave the device at cpu"


@dataclass(frozen=True, slots=True)
class Backend:
    """An array library and a device.

    Parameters
    ----------
    name
        ``numpy``, or what `Backend.open` was given.
    xp
        Namespace of the array API.
    device
        As the library names it; None for numpy.
    """

    name: str
    xp: Any
    device: Any

    @classmethod
    def numpy(cls) -> Self:
        """Return the reference."""
        return cls("numpy", np, None)

    @classmethod
    def open(cls, device: str) -> Self:
        """Return the backend of a device: ``cpu`` (numpy), ``cuda``, ``torch:cpu``, ``torch:cuda``, ``cupy``.

        There is no silent fallback.

        Raises
        ------
        UsageError
            If the device is unknown or not there.
        """
        if device == "cpu":
            return cls.numpy()
        if device not in ("cuda", "torch:cpu", "torch:cuda", "cupy"):
            raise UsageError(
                what=f"device {device!r} is not understood",
                why="expected cpu or cuda (in Python also torch:cpu, torch:cuda, cupy)",
                fix="Leave it out to compute with numpy",
            )
        reasons = []
        for library in ("torch", "cupy") if device == "cuda" else (device.partition(":")[0],):
            found = cls._torch(device) if library == "torch" else cls._cupy(device)
            if isinstance(found, cls):
                return found
            reasons.append(str(found))
        raise UsageError(what=f"device {device!r} is not there", why="; ".join(reasons), fix=_NO_CUDA)

    @classmethod
    def _torch(cls, device: str) -> Self | str:
        try:
            xp = import_module("array_api_compat.torch")
        except ImportError:
            return "torch is not installed"
        if device == "torch:cpu":
            return cls(device, xp, xp.device("cpu"))
        if not xp.cuda.is_available():
            return "torch sees no CUDA device"
        return cls(device, xp, xp.device("cuda"))

    @classmethod
    def _cupy(cls, device: str) -> Self | str:
        try:
            xp = import_module("array_api_compat.cupy")
        except ImportError:
            return "cupy is not installed"
        try:
            count = xp.cuda.runtime.getDeviceCount()
        except xp.cuda.runtime.CUDARuntimeError as error:
            return f"cupy finds no CUDA device ({error})"
        return cls(device, xp, xp.cuda.Device(0)) if count else "cupy finds no CUDA device"

    @property
    def _is_numpy(self) -> bool:
        return self.xp is np

    def array(self, values: Floats, dtype: str) -> Any:
        """Return values on the device in ``float64`` or ``float32``."""
        if self._is_numpy:
            return np.ascontiguousarray(values, dtype)
        return self.xp.asarray(np.ascontiguousarray(values, dtype), device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros on the device."""
        return self.xp.zeros(shape, dtype=getattr(self.xp, dtype), device=self.device)

    def to_numpy(self, array: Any) -> Floats:
        """Return an array of the device as float64 of numpy."""
        if hasattr(array, "get"):
            array = array.get()
        elif not self._is_numpy:
            array = array.cpu()
        return np.asarray(array, dtype=np.float64)

    def scaled(self, array: Any, scale: Any, *, overwrite: bool) -> Any:
        """Return array * scale, in place if `overwrite`."""
        if not overwrite:
            return array * scale
        array *= scale
        return array

    def largest(self, array: Any) -> float:
        """Return the largest magnitude in an array."""
        return max(float(self.xp.max(array)), -float(self.xp.min(array)))

    def exp(self, array: Any, floor: float | None) -> None:
        """Replace an array by its exponentials; below `floor` the value is that of the floor."""
        if floor is not None:
            self.xp.clip(array, floor, None, out=array)
        self.xp.exp(array, out=array)

    def cut(self, array: Any, least: float) -> None:
        """Set to zero what is not above `least`; what is far above it does not change."""
        array -= least * (1.0 + 1e-9)
        self.xp.clip(array, 0.0, None, out=array)

    def put(self, array: Any, rows: Integers, columns: Integers, values: Floats) -> None:
        """Set single elements."""
        if len(rows) == 0:
            return
        if self._is_numpy:
            array[rows, columns] = values
            return
        index = [self.xp.asarray(at, device=self.device) for at in (rows, columns)]
        array[index[0], index[1]] = self.xp.astype(self.xp.asarray(values, device=self.device), array.dtype)
