"""PyTorch models: the light entry point. torch is imported by `open_model`, not before."""

import sys
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from repstat.adapter import Adapter, AdapterOptions
from repstat.errors import AdapterUnavailableError
from repstat_adapters.pytorch.sniff import is_in_pieces, kind_of

_SUFFIXES = frozenset({".pt", ".pth", ".pt2", ".safetensors"})
_INSTALL = "pip install 'repstat[torch]'"


def accepts(source: object) -> bool:
    """Whether `source` is a PyTorch model: a file by content, a live ``nn.Module`` or ``ExportedProgram``.

    A file with a suffix of PyTorch is accepted whatever it holds, so that a damaged one is refused with its
    reason; so is a folder of ``torch.distributed.checkpoint``. Of a ``.safetensors`` file only its model's
    author knows whether it holds weights.
    """
    if isinstance(source, str | PathLike):
        path = Path(fspath(source))
        known = path.is_file() and (path.suffix.lower() in _SUFFIXES or bool(kind_of(path)))
        return known or is_in_pieces(path)
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    if torch is None or (keras is not None and isinstance(source, keras.Model)):
        return False  # Keras' own models are nn.Modules, too, on its torch backend
    export = sys.modules.get("torch.export")
    return isinstance(source, torch.nn.Module) or (
        export is not None and isinstance(source, export.ExportedProgram)
    )


def open_model(source: object, options: AdapterOptions) -> Adapter:
    """Open a file, a live ``nn.Module`` (which stays where and as it is), or a live ``ExportedProgram``.

    Raises
    ------
    UsageError
        The file does not exist, weights come without `AdapterOptions.model_factory`, or an option has no
        meaning for PyTorch.
    InputRefusedError
        The file is damaged or would run code, the weights are not those of the model, or the model is random.
    DeviceUnavailableError
        The device cannot be used here.
    AdapterUnavailableError
        PyTorch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise AdapterUnavailableError(
            what="PyTorch is not installed, which this model needs",
            path=source if isinstance(source, str | PathLike) else None,
            why=str(error),
            fix=f"Install it with {_INSTALL}",
        ) from None
    from repstat_adapters.pytorch.adapter import TorchAdapter

    return TorchAdapter(source, options)


def describe() -> str:
    """Return the version of PyTorch and the devices it can use, for ``repstat info``."""
    try:
        import torch
    except ImportError:
        return f"PyTorch is not installed: {_INSTALL}"
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return f"torch {torch.__version__} with {', '.join(devices)}"


def __getattr__(name: str) -> Any:
    """Import what needs torch, or the core's store, when it is asked for."""
    if name == "ActivationNoise":
        from repstat_adapters.pytorch.noise import ActivationNoise

        return ActivationNoise
    if name == "Recorder":
        from repstat.recording import Recorder

        return Recorder
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
