"""PyTorch's operators in the vocabulary of ONNX, as tables, so that one rule finds the layers of both."""

from collections.abc import Mapping, Sequence
from typing import Any

_NAMES: Mapping[str, str] = {
    "linear": "Gemm",
    "addmm": "Gemm",
    "mm": "MatMul",
    "bmm": "MatMul",
    "mv": "MatMul",
    "matmul": "MatMul",
    "baddbmm": "MatMul",
    "einsum": "Einsum",
    "conv1d": "Conv",
    "conv2d": "Conv",
    "conv3d": "Conv",
    "convolution": "Conv",
    "_convolution": "Conv",
    "conv_transpose1d": "ConvTranspose",
    "conv_transpose2d": "ConvTranspose",
    "conv_transpose3d": "ConvTranspose",
    "lstm": "LSTM",
    "lstm_cell": "LSTM",
    "gru": "GRU",
    "gru_cell": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
    "rnn_tanh_cell": "RNN",
    "rnn_relu_cell": "RNN",
    "batch_norm": "BatchNormalization",
    "native_batch_norm": "BatchNormalization",
    "cudnn_batch_norm": "BatchNormalization",
    "_native_batch_norm_legit": "BatchNormalization",
    "_native_batch_norm_legit_no_training": "BatchNormalization",
    "_batch_norm_no_update": "BatchNormalization",
    "layer_norm": "LayerNormalization",
    "native_layer_norm": "LayerNormalization",
    "group_norm": "GroupNormalization",
    "native_group_norm": "GroupNormalization",
    "instance_norm": "InstanceNormalization",
    "rms_norm": "RMSNormalization",
    "_fused_rms_norm": "RMSNormalization",
    "relu": "Relu",
    "relu6": "Clip",
    "hardtanh": "Clip",
    "clamp": "Clip",
    "clamp_min": "Clip",
    "clamp_max": "Clip",
    "clip": "Clip",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "special_expit": "Sigmoid",
    "leaky_relu": "LeakyRelu",
    "rrelu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "celu": "Celu",
    "prelu": "PRelu",
    "_prelu_kernel": "PRelu",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "softplus": "Softplus",
    "threshold": "ThresholdedRelu",
    "gelu": "Gelu",
    "mish": "Mish",
    "silu": "Silu",
    "softmax": "Softmax",
    "_softmax": "Softmax",
    "special_softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "_log_softmax": "LogSoftmax",
    "log_sigmoid_forward": "LogSigmoid",
    "special_log_softmax": "LogSoftmax",
    "sin": "Sin",
    "hardshrink": "Shrink",
    "softshrink": "Shrink",
    "add": "Add",
    "sub": "Sub",
    "subtract": "Sub",
    "rsub": "Sub",
    "mul": "Mul",
    "multiply": "Mul",
    "div": "Div",
    "divide": "Div",
    "true_divide": "Div",
    "pow": "Pow",
    "square": "Pow",
    "exp": "Exp",
    "log": "Log",
    "neg": "Neg",
    "negative": "Neg",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "absolute": "Abs",
    "erf": "Erf",
    "special_erf": "Erf",
    "minimum": "Min",
    "maximum": "Max",
    "rsqrt": "Rsqrt",
    "reciprocal": "Reciprocal",
    "sign": "Sign",
    "sgn": "Sign",
    "where": "Where",
    "gt": "Greater",
    "greater": "Greater",
    "ge": "GreaterOrEqual",
    "greater_equal": "GreaterOrEqual",
    "lt": "Less",
    "less": "Less",
    "le": "LessOrEqual",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_not": "Not",
    "view": "Reshape",
    "_unsafe_view": "Reshape",
    "reshape": "Reshape",
    "_reshape_alias": "Reshape",
    "view_as": "Reshape",
    "reshape_as": "Reshape",
    "unflatten": "Reshape",
    "flatten": "Flatten",
    "transpose": "Transpose",
    "swapaxes": "Transpose",
    "swapdims": "Transpose",
    "permute": "Transpose",
    "movedim": "Transpose",
    "moveaxis": "Transpose",
    "t": "Transpose",
    "numpy_T": "Transpose",
    "matrix_H": "Transpose",
    "mT": "Transpose",
    "adjoint": "Transpose",
    "squeeze": "Squeeze",
    "unsqueeze": "Unsqueeze",
    "max_pool1d": "MaxPool",
    "max_pool2d": "MaxPool",
    "max_pool3d": "MaxPool",
    "max_pool1d_with_indices": "MaxPool",
    "max_pool2d_with_indices": "MaxPool",
    "max_pool3d_with_indices": "MaxPool",
    "avg_pool1d": "AveragePool",
    "avg_pool2d": "AveragePool",
    "avg_pool3d": "AveragePool",
    "adaptive_avg_pool1d": "GlobalAveragePool",
    "adaptive_avg_pool2d": "GlobalAveragePool",
    "_adaptive_avg_pool2d": "GlobalAveragePool",
    "adaptive_avg_pool3d": "GlobalAveragePool",
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "to": "Cast",
    "_to_copy": "Cast",
    "type_as": "Cast",
    "clone": "Identity",
    "alias": "Identity",
    "detach": "Identity",
    "contiguous": "Identity",
    "lift_fresh": "Identity",
    "dropout": "Dropout",
    "feature_dropout": "Dropout",
    "alpha_dropout": "Dropout",
    "feature_alpha_dropout": "Dropout",
    "native_dropout": "Dropout",
    "embedding": "Gather",
    "index_select": "Gather",
    "gather": "GatherElements",
    "select": "Gather",
    "slice": "Slice",
    "cat": "Concat",
    "concat": "Concat",
    "split": "Split",
    "split_with_sizes": "Split",
    "chunk": "Split",
    "unbind": "Split",
    "expand": "Expand",
    "repeat": "Tile",
    "pad": "Pad",
}

_ORDER: Mapping[str, Sequence[str]] = {
    "addmm": ("mat1", "mat2", "self"),
    "baddbmm": ("batch1", "batch2", "self"),
    "rsub": ("other", "self"),
    "lstm": ("input", "data", "params", "hx", "batch_sizes"),
    "gru": ("input", "data", "params", "hx", "batch_sizes"),
    "rnn_tanh": ("input", "data", "params", "hx", "batch_sizes"),
    "rnn_relu": ("input", "data", "params", "hx", "batch_sizes"),
    "lstm_cell": ("input", "w_ih", "w_hh", "b_ih", "b_hh", "hx"),
    "gru_cell": ("input", "w_ih", "w_hh", "b_ih", "b_hh", "hx"),
    "rnn_tanh_cell": ("input", "w_ih", "w_hh", "b_ih", "b_hh", "hx"),
    "rnn_relu_cell": ("input", "w_ih", "w_hh", "b_ih", "b_hh", "hx"),
}
"""Arguments in the order of ONNX where PyTorch's differs."""

PACKED = "Packed"
"""Begins the names of recurrent ops on packed sequences, which the layer rule does not know."""
_WITH_SCALARS = frozenset({"Add", "Sub", "Mul", "Div"})
_SHAPE_ONLY = frozenset(
    ["zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty"]
)
"""Take a shape from their input, and no values."""


def base_name(func: Any) -> str:
    """Return an operator's name without its overload and the underscore of working in place."""
    name: str = func._schema.name.partition("::")[2]
    return name if name.startswith("_") or name.endswith("__") else name.removesuffix("_")


def op_type(func: Any, arguments: Mapping[str, Any]) -> str:
    """Return what ONNX calls an operator; its own name in CamelCase where ONNX has no such one."""
    name = base_name(func)
    if "batch_sizes" in arguments:
        return PACKED + _NAMES.get(name, name)
    if name in {"convolution", "_convolution"} and arguments.get("transposed"):
        return "ConvTranspose"
    if name in {"div", "divide"} and arguments.get("rounding_mode"):
        return "DivRounded"
    if name in {"max", "min"}:
        return name.capitalize() if "other" in arguments else f"Reduce{name.capitalize()}"
    return _NAMES.get(name) or "".join(part.capitalize() for part in name.split("_") if part)


def operands(func: Any, arguments: Mapping[str, Any]) -> list[Any]:
    """Return the arguments that count as inputs, in the order of ONNX: values and lists of values."""
    name = base_name(func)
    if name in _SHAPE_ONLY:
        return []
    if name in _ORDER:
        return [arguments[key] for key in _ORDER[name] if key in arguments]
    if _NAMES.get(name) in _WITH_SCALARS:
        return [arguments[key] for key in ("self", "other") if key in arguments]
    return list(arguments.values())


def named_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were given, by name."""
    return dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs)
