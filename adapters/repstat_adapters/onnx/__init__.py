"""ONNX models: the light entry point. onnx and onnxruntime are imported by `open_model`, not before."""

import sys
from os import PathLike, fspath
from pathlib import Path

from repstat.adapter import Adapter, AdapterOptions

_OLDEST_IR, _NEWEST_PLAUSIBLE_IR = 3, 100
_TAGS = frozenset({0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72})
"""First bytes of the fields that may follow ``ir_version`` in a ModelProto."""


def accepts(source: object) -> bool:
    """Whether `source` is an ONNX model: a file by content, or an ``onnx.ModelProto`` in memory.

    A file called ``*.onnx`` is accepted whatever it holds, so that a damaged one is refused with its reason.
    """
    if isinstance(source, str | PathLike):
        path = Path(fspath(source))
        return path.is_file() and (path.suffix.lower() == ".onnx" or _looks_like_onnx(path))
    onnx = sys.modules.get("onnx")
    return onnx is not None and isinstance(source, onnx.ModelProto)


def open_model(source: object, options: AdapterOptions) -> Adapter:
    """Open an ONNX file, or a copy of a model in memory.

    Raises
    ------
    UsageError
        The file does not exist, or an option has no meaning for ONNX.
    InputRefusedError
        The model is damaged, unsafe, random, or not supported by the installed onnxruntime.
    DeviceUnavailableError
        The execution provider cannot be used here.
    """
    from repstat_adapters.onnx.adapter import OnnxAdapter

    return OnnxAdapter(source, options)


def describe() -> str:
    """Return the versions of onnx and onnxruntime and the providers compiled in, for ``repstat info``."""
    from importlib.metadata import packages_distributions

    import onnx
    import onnxruntime

    providers = ", ".join(onnxruntime.get_available_providers())
    text = f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__} with {providers}"
    wheels = sorted(set(packages_distributions().get("onnxruntime", [])))
    clash = f"; {' and '.join(wheels)} overwrite each other: remove one" if len(wheels) > 1 else ""
    return text + clash


def _looks_like_onnx(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(3)
    except OSError:
        return False
    # A TensorFlow SavedModel begins alike, with a 1 where an ONNX model has its IR version of 3 or more.
    return (
        len(head) == 3
        and head[0] == 0x08
        and _OLDEST_IR <= head[1] < _NEWEST_PLAUSIBLE_IR
        and head[2] in _TAGS
    )
