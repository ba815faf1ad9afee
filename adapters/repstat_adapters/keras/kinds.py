"""What the layers of Keras are in ONNX's words, and which activation is inside them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repstat_adapters.shared.ops import ACTIVATIONS, word_of

WEIGHTED: Mapping[str, str] = {
    "Dense": "Gemm",
    "EinsumDense": "Einsum",
    "Conv1D": "Conv",
    "Conv2D": "Conv",
    "Conv3D": "Conv",
    "DepthwiseConv1D": "Conv",
    "DepthwiseConv2D": "Conv",
    "Conv1DTranspose": "ConvTranspose",
    "Conv2DTranspose": "ConvTranspose",
    "Conv3DTranspose": "ConvTranspose",
    "ConvLSTM1D": "LSTM",
    "ConvLSTM2D": "LSTM",
    "ConvLSTM3D": "LSTM",
    "LSTM": "LSTM",
    "GRU": "GRU",
    "SimpleRNN": "RNN",
    "RNN": "RNN",
    "PReLU": "PRelu",
}
"""One op with weights each. Separable convolutions are two ops, as in every exporter, and not here."""

WRAPPERS: Mapping[str, str] = {"Bidirectional": "forward_layer", "TimeDistributed": "layer"}
"""Layers that make one layer of the layer they hold, and where they hold it."""

PLAIN: Mapping[str, str] = {
    "BatchNormalization": "BatchNormalization",
    "LayerNormalization": "LayerNormalization",
    "RMSNormalization": "RMSNormalization",
    "GroupNormalization": "GroupNormalization",
    "LeakyReLU": "LeakyRelu",
    "ELU": "Elu",
    "Softmax": "Softmax",
    "Flatten": "Flatten",
    "Reshape": "Reshape",
    "MaxPooling1D": "MaxPool",
    "MaxPooling2D": "MaxPool",
    "MaxPooling3D": "MaxPool",
    "AveragePooling1D": "AveragePool",
    "AveragePooling2D": "AveragePool",
    "AveragePooling3D": "AveragePool",
}
"""One op without weights that the layer rule asks for."""

_ACTIVATIONS: Mapping[str, str] = {
    "celu": "Celu",
    "elu": "Elu",
    "gelu": "Gelu",
    "hard_sigmoid": "HardSigmoid",
    "hard_silu": "HardSwish",
    "hard_swish": "HardSwish",
    "hard_tanh": "Clip",
    "hard_shrink": "Shrink",
    "leaky_relu": "LeakyRelu",
    "log_sigmoid": "LogSigmoid",
    "log_softmax": "LogSoftmax",
    "mish": "Mish",
    "relu": "Relu",
    "relu6": "Clip",
    "selu": "Selu",
    "sigmoid": "Sigmoid",
    "silu": "Silu",
    "soft_shrink": "Shrink",
    "softmax": "Softmax",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "swish": "Silu",
    "tanh": "Tanh",
    "tanh_shrink": "Tanhshrink",
    "threshold": "ThresholdedRelu",
}


@dataclass(frozen=True)
class Kind:
    """How a layer enters the graph: as one op, with the words of the activations inside it.

    Parameters
    ----------
    op_type
        In ONNX's vocabulary.
    weighted
        Whether it has a weight that makes it a layer.
    fused
        Words for the signature.
    spatial
        Spatial axes before the channels of what it makes, where those are the last axis; 0 elsewhere.
    order
        How it reorders axes, if that is what it does.
    """

    op_type: str
    weighted: bool = False
    fused: Sequence[str] = ()
    spatial: int = 0
    order: tuple[int, ...] = ()


def kind_of(layer: Any, layers: Any) -> Kind | None:
    """Return how a layer enters the graph, or None if what happens inside it does.

    Parameters
    ----------
    layer
        The layer.
    layers
        The module ``keras.layers``.
    """
    name = _stock_class(layer, layers)
    if name in WEIGHTED:
        fused = _fused(layer, WEIGHTED[name], layers)
        return Kind(WEIGHTED[name], weighted=True, fused=fused, spatial=_spatial(layer, name))
    if name in WRAPPERS:
        inner = kind_of(getattr(layer, WRAPPERS[name], None), layers)
        return inner if inner is not None and inner.weighted else None
    if name == "ReLU":
        return Kind(_relu(layer))
    if name == "Activation":
        op_type = _ACTIVATIONS.get(_name_of(layer.activation), "")
        return Kind(op_type) if op_type else None
    if name == "Permute":
        return Kind("Transpose", order=(0, *layer.dims))
    return Kind(PLAIN[name]) if name in PLAIN else None


def _spatial(layer: Any, name: str) -> int:
    """Spatial axes of a convolution's result if its channels are last."""
    dimensions = re.search(r"(\d)D", name)
    last = getattr(getattr(layer, "cell", layer), "data_format", None) == "channels_last"
    return int(dimensions[1]) if dimensions and last else 0


def _stock_class(layer: Any, layers: Any) -> str:
    """Return the class of Keras that says what the layer computes; nothing for a user's own `call`."""
    for cls in type(layer).__mro__:
        if getattr(layers, cls.__name__, None) is cls:
            return cls.__name__ if type(layer).call is cls.call else ""
    return ""


def _fused(layer: Any, op_type: str, layers: Any) -> Sequence[str]:
    """Return the activation after the op; that inside a recurrent cell belongs to the op."""
    if op_type not in {"Gemm", "Einsum", "Conv", "ConvTranspose"}:
        return ()
    activation = getattr(layer, "activation", None)
    name = _name_of(activation)
    if name == "linear":
        return ()
    as_layer = kind_of(activation, layers) if isinstance(activation, layers.Layer) else None
    known = as_layer.op_type if as_layer is not None else _ACTIVATIONS.get(name, "")
    return (word_of(known) if known in ACTIVATIONS else name.lower(),)


def _name_of(activation: Any) -> str:
    """Name of an activation function, or of the layer that is used as one."""
    if activation is None:
        return "linear"
    name = getattr(activation, "__name__", None) or type(activation).__name__
    return str(name)


def _relu(layer: Any) -> str:
    if layer.max_value is not None:
        return "Clip"
    return "ThresholdedRelu" if layer.threshold else ("LeakyRelu" if layer.negative_slope else "Relu")
