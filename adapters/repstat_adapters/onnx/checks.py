"""Models that cannot be extracted honestly: random, in training mode, or made of ops nobody here knows."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from repstat.errors import InputRefusedError
from repstat_adapters.onnx.walk import all_graphs, all_nodes

KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
"""Domains whose ops onnxruntime brings along."""

_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"]
)
_BATCH_NORM_ATTRIBUTE_SINCE = 14
_LONGEST = 200


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set, 0 if the model does not import it."""
    return max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0)


def check_model(model: onnx.ModelProto, path: Path | None) -> None:
    """Refuse a model (its functions already inlined) whose activations would not be well defined.

    Raises
    ------
    InputRefusedError
        It contains a custom op, an op that draws random numbers, or Dropout or BatchNormalization in training
        mode.
    """
    foreign = (node for node in all_nodes(model.graph) if node.domain not in KNOWN_DOMAINS)
    unknown = sorted({f"{node.domain}::{node.op_type}" for node in foreign})
    if unknown:
        raise InputRefusedError(
            what="the model has custom ops",
            path=path,
            why=f"found {', '.join(unknown[:8])}; only ops of ONNX and onnxruntime itself can be run",
            fix="Export it without custom ops",
        )
    if twice := _made_twice(model.graph):
        raise InputRefusedError(
            what="the model is not valid",
            path=path,
            place=f"tensor {twice!r}"[:_LONGEST],
            why="it is made twice, and readers differ in which one they take",
            fix="Export it again",
        )
    constants = _constants(model.graph)
    opset = opset_of(model)
    for node in all_nodes(model.graph):
        if trouble := _randomness(node, constants, opset):
            raise InputRefusedError(
                what="the model is not deterministic",
                path=path,
                place=f"{node.op_type} {node.name!r}",
                why=trouble,
                fix="Export it in inference mode (for PyTorch: model.eval() before the export)",
            )


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {t.name: t for inner in all_graphs(graph) for t in inner.initializer}
    for node in all_nodes(graph):
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.HasField("t"))
    return found


def _made_twice(graph: onnx.GraphProto) -> str:
    """Return a tensor that two nodes, or a node and the stored weights, make; nothing if there is none."""
    for inner in all_graphs(graph):
        stored = [*(t.name for t in inner.initializer), *(s.values.name for s in inner.sparse_initializer)]
        made = Counter([*stored, *(name for node in inner.node for name in node.output if name)])
        if twice := [name for name, count in made.most_common(1) if count > 1]:
            return str(twice[0])
    return ""


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)


def _randomness(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], opset: int) -> str:
    """Why the values of this node are not a function of one sample, or nothing."""
    if node.op_type in _RANDOM:
        return "it draws random numbers that depend on the order of runs"
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        flag = constants.get(node.input[2])
        if flag is None:
            return "its training_mode is computed, so it may drop units at random"
        if np.any(numpy_helper.to_array(flag)):
            return "its training_mode is true, so it drops units at random"
    if node.op_type == "BatchNormalization":
        statistics = [name for name in node.output[1:] if name]
        older = opset < _BATCH_NORM_ATTRIBUTE_SINCE
        if _attribute(node, "training_mode") or (older and statistics):
            return "it is in training mode, so its values depend on the other samples of the batch"
    return ""
