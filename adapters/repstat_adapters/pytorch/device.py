"""Where a model runs: the device asked for, or an error."""

from pathlib import Path

import torch
from torch import nn

from repstat.errors import DeviceUnavailableError


def choose_device(wanted: str) -> torch.device:
    """Return the device for a model from a file; ``auto`` takes a GPU if there is one.

    Raises
    ------
    DeviceUnavailableError
        There is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, _, index = wanted.lower().partition(":")
    if name not in {"cpu", "cuda", "mps"} or (index and not index.isdigit()):
        raise DeviceUnavailableError(
            what=f"no device {wanted!r}",
            why=f"PyTorch {torch.__version__} runs models on cpu, cuda, cuda:1, ... or mps",
            fix="Use auto or one of these",
        )
    there = name == "cpu" or (torch.cuda if name == "cuda" else torch.backends.mps).is_available()
    count = torch.cuda.device_count() if name == "cuda" else 1
    if not there or int(index or 0) >= count:
        raise DeviceUnavailableError(
            what=f"no device {wanted!r}",
            why=f"PyTorch {torch.__version__} sees {count if there else 'none'} of them here"
            if name != "cpu"
            else "there is one CPU",
            fix="Use --provider cpu, or install a PyTorch for this device",
        )
    return torch.device(name, int(index or 0)) if name == "cuda" else torch.device(name)


def device_of(model: nn.Module, wanted: str, path: Path | None) -> torch.device:
    """Return the device of a live model, which stays where it is.

    Raises
    ------
    DeviceUnavailableError
        Another device is asked for.
    """
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    if wanted == "auto":
        return device
    asked = choose_device(wanted)
    if asked.type != device.type or (":" in wanted and asked != device):
        raise DeviceUnavailableError(
            what=f"the model is on {device}, not on {wanted}",
            path=path,
            why="a live model stays where it is",
            fix=f"Move it with model.to({wanted!r}), or leave the provider out",
        )
    return device
