"""What to call a layer: the exporter's own name for it where one survived. Decoration, never an identity."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from repstat_adapters.onnx.graph import Graph
from repstat_adapters.shared.scopes import without_model, without_op

_PARAMETER = re.compile(r"(?P<scope>.+)[._](weights?|kernel|w|W)([._]\w+)?(:0)?")
_ANONYMOUS = re.compile(r"(onnx::|(val|const|constant|parameter|tensor|_v)_?\d)|\d+$", re.IGNORECASE)
_CONSTANT_CHAIN_LIMIT = 8
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class OnnxNames:
    """Names of the layers of a graph (`repstat_adapters.shared.layers.Names`)."""

    graph: Graph

    def layer(self, index: int, weight: str) -> str:
        """Name of the layer made by node `index` with `weight`."""
        return _from_weights(self.graph, weight) or self.join(index)

    def join(self, index: int) -> str:
        """Name of a residual join."""
        node = self.graph.nodes[index]
        return _from_metadata(node) or _from_scope(node) or f"{node.op_type.lower()}_{index}"


def _from_weights(graph: Graph, weight: str) -> str:
    """Try the weight's name, then those of the tensors it is computed from (transposed, dequantised)."""
    for _ in range(_CONSTANT_CHAIN_LIMIT):
        if name := _from_weight(weight):
            return name
        node = graph.made_by(weight)
        if node is None or not node.input:
            return ""
        weight = node.input[0]
    return ""


def _from_weight(weight: str) -> str:
    if _ANONYMOUS.match(weight):
        return ""
    plain = weight.removesuffix(":0")
    if "/" in plain and (cut := without_op(plain)) != plain:
        return without_model(cut)
    match = _PARAMETER.fullmatch(plain)
    return match["scope"] if match else ""


def _from_metadata(node: onnx.NodeProto) -> str:
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    scopes: Sequence[str] = re.findall(r"'([^']*)'", text)
    return scopes[-2] if len(scopes) > 1 else ""


def _from_scope(node: onnx.NodeProto) -> str:
    scope, slash, _ = node.name.rpartition("/")
    if not slash or not scope.strip("/"):
        return ""
    return scope.rpartition("/")[2] if scope.startswith("/") else without_model(scope)
