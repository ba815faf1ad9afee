"""TensorFlow's ops in ONNX's vocabulary."""

import re
from collections.abc import Mapping
from typing import Any

OPS: Mapping[str, str] = {
    "Add": "Add",
    "AddN": "Sum",
    "AddV2": "Add",
    "AvgPool": "AveragePool",
    "AvgPool3D": "AveragePool",
    "BatchMatMul": "MatMul",
    "BatchMatMulV2": "MatMul",
    "BatchMatMulV3": "MatMul",
    "BiasAdd": "Add",
    "BiasAddV1": "Add",
    "CheckNumerics": "Identity",
    "ClipByValue": "Clip",
    "ConcatV2": "Concat",
    "Conv": "Conv",
    "Conv2D": "Conv",
    "Conv2DBackpropInput": "ConvTranspose",
    "Conv2DBackpropInputV2": "ConvTranspose",
    "Conv3D": "Conv",
    "Conv3DBackpropInputV2": "ConvTranspose",
    "DepthwiseConv2dNative": "Conv",
    "EnsureShape": "Identity",
    "Erfc": "Erf",
    "ExpandDims": "Unsqueeze",
    "FusedBatchNorm": "BatchNormalization",
    "FusedBatchNormV2": "BatchNormalization",
    "FusedBatchNormV3": "BatchNormalization",
    "GatherV2": "Gather",
    "GreaterEqual": "GreaterOrEqual",
    "IdentityN": "Identity",
    "Max": "ReduceMax",
    "Maximum": "Max",
    "MaxPool": "MaxPool",
    "MaxPool3D": "MaxPool",
    "MaxPoolV2": "MaxPool",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalNot": "Not",
    "LogicalOr": "Or",
    "Mean": "ReduceMean",
    "Min": "ReduceMin",
    "Minimum": "Min",
    "PreventGradient": "Identity",
    "RealDiv": "Div",
    "Relu6": "Clip",
    "ResourceGather": "Gather",
    "Select": "Where",
    "SelectV2": "Where",
    "Snapshot": "Identity",
    "Square": "Pow",
    "StopGradient": "Identity",
    "Sum": "ReduceSum",
    "Where": "NonZero",
    "While": "Loop",
    "StatelessWhile": "Loop",
}
"""Where the names differ. Gelu through Erfc is spelled as with Erf."""

DATA_THIRD = frozenset({"Conv2DBackpropInput", "Conv2DBackpropInputV2", "Conv3DBackpropInputV2"})
"""Transposed convolutions take the shape of the result first and the data last."""

SHAPE_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
"""Their results depend on how many samples there are, not on the samples."""

_CONVOLUTIONS = frozenset(kind for kind, known in OPS.items() if known in {"Conv", "ConvTranspose"})

_RANDOM = re.compile(
    r"(Stateless|Stateful)?(Random|Multinomial|ParameterizedTruncatedNormal|TruncatedNormal|StandardNormal"
    r"|Uniform|Binomial|Poisson)\w*|RngReadAndSkip|NonDeterministicInts"
)
_NOT_RANDOM = frozenset(
    {"UniformQuantize", "UniformDequantize", "UniformQuantizedAdd", "RandomShuffleQueueV2"}
)
_SAVER = frozenset(
    {
        "MergeV2Checkpoints",
        "RestoreV2",
        "SaveV2",
        "ShardedFilename",
    }
)
_FILES = re.compile(
    r"(Read|Write)File|MatchingFiles|\w*ReaderV?\d?|\w*RecordDataset\w*|\w*LineDataset\w*|CSVDataset\w*"
    r"|Save\w*|Restore\w*|MergeV2Checkpoints|ShardedFilename|\w*PyFunc\w*|PrintV?2?|\w*Summary\w*"
    r"|InitializeTableFromTextFile\w*|LoadAndRemapMatrix|LoadDataset|SnapshotDataset\w*|CacheDataset\w*"
    r"|DataService\w*|RemoteCall|Rpc\w*|TryRpc|_?(Host)?(Send|Recv)|\w*DebugIdentity\w*|\w*Sql\w*"
)
_WRITES = re.compile(
    r"Assign\w*|Resource(Scatter|Apply|SparseApply)\w*|ScatterUpdate\w*|Variable(V2)?Assign\w*"
)


def spatial_of(op: Any) -> int:
    """Spatial axes before the channels of what a convolution makes, 0 if those are first or it is none."""
    if op.type not in _CONVOLUTIONS:
        return 0
    layout = op.get_attr(
        "data_format"
    ).decode()  # NHWC, NCDHW; CHANNELS_LAST of the op for any number of axes
    if layout == "CHANNELS_LAST":
        return (op.inputs[0].shape.rank or 2) - 2
    return len(layout) - 2 if layout.endswith("C") else 0


def onnx_name(op_type: str) -> str:
    """Return what ONNX calls an op, or its own name."""
    return OPS.get(op_type, op_type)


def is_random(op_type: str) -> bool:
    """Whether an op draws random numbers."""
    return op_type not in _NOT_RANDOM and _RANDOM.fullmatch(op_type) is not None


def touches_files(op_type: str) -> bool:
    """Whether an op reads or writes files, runs Python, or talks to other machines."""
    return _FILES.fullmatch(op_type) is not None


def is_saver(op_type: str) -> bool:
    """Whether an op is of those that TensorFlow itself saves and restores variables with."""
    return op_type in _SAVER


def writes_files(op_type: str) -> bool:
    """Whether an op of those writes."""
    return op_type in _SAVER - {"RestoreV2"}


def writes_variables(op_type: str) -> bool:
    """Whether an op changes the state of a model."""
    return _WRITES.fullmatch(op_type) is not None
