"""What the ops of ONNX and onnxruntime mean for the layer rule, as tables."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameterised:
    """An op with weights: which inputs may be weight and data (in either order where two), and its word."""

    word: str
    weight_or_data: tuple[tuple[int, int], ...]


def _either(word: str, a: int, b: int) -> Parameterised:
    return Parameterised(word, ((b, a), (a, b)))


def _weight(word: str, weight: int, data: int = 0) -> Parameterised:
    return Parameterised(word, ((weight, data),))


PARAMETERISED: Mapping[str, Parameterised] = {
    "Gemm": _either("linear", 0, 1),
    "MatMul": _either("linear", 0, 1),
    "FusedMatMul": _either("linear", 0, 1),
    "FusedGemm": _either("linear", 0, 1),
    "Einsum": _either("linear", 0, 1),
    "MatMulInteger": _either("linear", 0, 1),
    "MatMulIntegerToFloat": _either("linear", 0, 1),
    "DynamicQuantizeMatMul": _either("linear", 0, 1),
    "MatMulNBits": _weight("linear", 1),
    "QLinearMatMul": _either("linear", 0, 3),
    "QGemm": _either("linear", 0, 3),
    "Conv": _weight("conv", 1),
    "FusedConv": _weight("conv", 1),
    "NhwcConv": _weight("conv", 1),
    "ConvInteger": _weight("conv", 1),
    "QLinearConv": _weight("conv", 3),
    "DeformConv": _weight("deformconv", 1),
    "ConvTranspose": _weight("convtranspose", 1),
    "RNN": _weight("rnn", 1),
    "GRU": _weight("gru", 1),
    "LSTM": _weight("lstm", 1),
    "Attention": _weight("attention", 1),
}

AFFINE = frozenset({"Add", "Sub", "Mul", "Div", "Sum"})
"""Transparent where every other operand is constant."""

NO_OPS = frozenset(
    {
        "BatchNormalization",
        "Cast",
        "CastLike",
        "Identity",
        "Dropout",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)
"""Transparent, and not part of a signature: exporters fold, drop or add them."""

NORMS = frozenset(
    {
        "InstanceNormalization",
        "GroupNormalization",
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "RMSNormalization",
        "LRN",
    }
)
"""Transparent, and part of the signature."""

LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
"""Followed only to reach a bias or an activation that an exporter put behind them."""

POOLS = frozenset({"MaxPool", "AveragePool"})
"""Followed only to reach an activation behind them: relu(pool(conv(x)))."""

ACTIVATIONS = frozenset(
    [
        "Relu",
        "Tanh",
        "Tanhshrink",
        "Sigmoid",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "PRelu",
        "HardSigmoid",
        "HardSwish",
        "Softplus",
        "Softsign",
        "ThresholdedRelu",
        "Gelu",
        "FastGelu",
        "BiasGelu",
        "QuickGelu",
        "Mish",
        "Swish",
        "Silu",
        "Clip",
        "Softmax",
        "LogSigmoid",
        "LogSoftmax",
        "Hardmax",
        "Sin",
        "Shrink",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearSoftmax",
    ]
)

SYNONYMS: Mapping[str, str] = {
    "FastGelu": "gelu",
    "BiasGelu": "gelu",
    "QuickGelu": "silu",
    "Swish": "silu",
    "QLinearSigmoid": "sigmoid",
    "QLinearLeakyRelu": "leakyrelu",
    "QLinearSoftmax": "softmax",
    "SimplifiedLayerNormalization": "rmsnormalization",
}

COMPARISONS = frozenset(
    ["And", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Sign", "Where"]
)
"""Of functions that are put together from pieces."""

MOMENTS = frozenset({"ReduceMean", "Reciprocal", "Rsqrt", "SquaredDifference"})
"""Beside elementwise ops, in the spellings of normalisations."""

ELEMENTWISE = COMPARISONS | frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sigmoid",
        "HardSigmoid",
        "Tanh",
        "Erf",
        "Softplus",
        "Clip",
        "Relu",
        "Exp",
        "Expm1",
        "Log",
        "Neg",
        "Min",
        "Max",
        "Sqrt",
        "Abs",
        "Cast",
        "Identity",
    ]
)

QUANTISED_OUTPUT: Mapping[str, tuple[int, int]] = {
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QGemm": (7, 8),
    "QLinearAdd": (6, 7),
    "QLinearSigmoid": (3, 4),
    "QLinearLeakyRelu": (3, 4),
    "QuantizeLinear": (1, 2),
}
"""Which inputs are scale and zero point of an op's quantised output."""

BATCH_SCALED = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Ops whose scale is taken over the whole batch, so that a sample's values depend on its neighbours."""


def word_of(op_type: str) -> str:
    """Return the word for an op in a signature."""
    return SYNONYMS.get(op_type, op_type.lower())
