"""Where activations come from: the hash of the weights."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from repstat_adapters.pytorch.graph import plain_name


def weights_sha256(model: nn.Module) -> str:
    """Fingerprint of parameters and buffers: their names, types, shapes and bytes, in the order of names.

    It does not depend on the format of the file, nor on whether the model is compiled.
    """
    entries = sorted(
        f"{plain_name(name)}|{tensor.dtype}|{tuple(tensor.shape)}|{_sha256(tensor)}"
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    )
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _sha256(tensor: Tensor) -> str:
    if tensor.is_quantized or tensor.layout != torch.strided:
        tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    plain = tensor.detach().to("cpu").contiguous().reshape(-1)
    data: Any = plain.view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()
