"""Rebuild a model so that it computes the wanted tensors and nothing else.

onnxruntime always runs the whole graph, so nodes that are not needed are left out. Outputs are declared
without a type, which onnxruntime infers itself, also behind ops that onnx cannot infer. Weights stay where
they are: initialisers are copied, external ones only referred to.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from repstat.errors import InputRefusedError
from repstat_adapters.onnx.graph import Graph
from repstat_adapters.onnx.ports import NoisyTensor, Port, add_ports, names_in
from repstat_adapters.onnx.walk import all_graphs, all_nodes, captured, needed, subgraphs
from repstat_adapters.shared.ops import QUANTISED_OUTPUT

NATIVE = frozenset({"tensor(float)", "tensor(double)", "tensor(float16)"})
"""Types of activations that are recorded as they are."""

_WIDE_INTEGERS = frozenset({"tensor(int32)", "tensor(uint32)", "tensor(int64)", "tensor(uint64)"})
_DEQUANTIZE_SINCE_OPSET = 10
_MOST_NODES = 1_000_000


@dataclass(frozen=True)
class Exposed:
    """A rebuilt model, the output that carries each wanted tensor, and the ports of the noisy ones."""

    model: onnx.ModelProto
    output_of: Mapping[str, str]
    ports: Mapping[str, Port] = field(default_factory=dict)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its local functions expanded, so that every tensor can be reached.

    Raises
    ------
    InputRefusedError
        The functions call each other in a circle, or expand to absurdly many nodes.
    """
    if not model.functions:
        return model
    from onnx import inliner

    if (size := _expanded_size(model)) > _MOST_NODES:
        raise InputRefusedError(
            what="the model's functions are too deeply nested",
            why=f"expanded they have {size} nodes; at most {_MOST_NODES} are accepted",
            fix="Export the model without functions",
        )
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner's errors share no base class
        raise InputRefusedError(
            what="cannot expand the model's functions",
            why=" ".join(str(error).split()),
            fix="Export the model without functions",
        ) from None


def _expanded_size(model: onnx.ModelProto) -> int:
    """Count the nodes after expansion, capped above the limit: each round expands one level more."""
    calls = {
        (f.domain, f.name): [(n.domain, n.op_type) for top in f.node for n in (top, *_inside(top))]
        for f in model.functions
    }
    size = dict.fromkeys(calls, 1)
    for _ in calls:
        before = size
        size = {name: min(sum(size.get(c, 1) for c in body), _MOST_NODES + 1) for name, body in calls.items()}
        if size == before:
            break
    return sum(size.get((node.domain, node.op_type), 1) for node in all_nodes(model.graph))


def _inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for body in subgraphs(node):
        yield from all_nodes(body)


def expose(
    model: onnx.ModelProto,
    graph: Graph,
    targets: Sequence[str],
    types: Mapping[str, str] | None = None,
    noisy: Mapping[str, NoisyTensor] | None = None,
) -> Exposed:
    """Return a model whose outputs are `targets`, widened where NumPy has no such type.

    Of a tensor with noise the output is what it is before its own noise.

    Parameters
    ----------
    model
        The model, functions inlined. It is not changed.
    graph
        Its index.
    targets
        Names of the wanted tensors.
    types
        onnxruntime's type of each target (``tensor(bfloat16)``), where known already. Those that are not
        floating point of NumPy's are dequantised if they are quantised, and otherwise cast.
    noisy
        Tensors to which noise is added, where anything that leads to the targets uses them.
    """
    built = onnx.ModelProto(ir_version=model.ir_version)
    built.opset_import.extend(model.opset_import)
    built.graph.name = model.graph.name
    keep = _needed_for(graph, targets)
    built.graph.node.extend(graph.nodes[i] for i in keep)
    used = {name for node in built.graph.node for name in needed(node)} | set(targets)
    _copy_values(model.graph, built.graph, used)
    ports = add_ports(built.graph, noisy or {})
    widened = _Widening(built, graph, names_in(built.graph))
    output_of = {
        t: widened.add(ports[t].clean if t in ports else t, (types or {}).get(t, "tensor(float)"))
        for t in dict.fromkeys(targets)
    }
    built.graph.output.extend(onnx.ValueInfoProto(name=name) for name in output_of.values())
    _accept_as_float(built.graph)
    for inner in all_graphs(built.graph):
        _make_node_names_unique(inner)
    return Exposed(built, output_of, ports)


def _needed_for(graph: Graph, targets: Sequence[str]) -> list[int]:
    keep: set[int] = set()
    todo = list(targets)
    while todo:
        index = graph.producer.get(todo.pop())
        if index is not None and index not in keep:
            keep.add(index)
            todo.extend(graph.nodes[index].input)
            todo.extend(captured(graph.nodes[index]))
    return sorted(keep)


def _copy_values(source: onnx.GraphProto, built: onnx.GraphProto, used: set[str]) -> None:
    """Copy used initialisers and the real inputs; stale shape information stays behind."""
    built.initializer.extend(tensor for tensor in source.initializer if tensor.name in used)
    built.sparse_initializer.extend(s for s in source.sparse_initializer if s.values.name in used)
    stored = {t.name for t in source.initializer} | {s.values.name for s in source.sparse_initializer}
    built.input.extend(v for v in source.input if v.name in used and v.name not in stored)


def _accept_as_float(graph: onnx.GraphProto) -> None:
    """Let bfloat16 inputs be fed as float32, since NumPy has no bfloat16."""
    for value in graph.input:
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.BFLOAT16:
            kind.elem_type = TensorProto.FLOAT
            original, value.name = value.name, fed_as(value.name, "tensor(bfloat16)")
            graph.node.insert(0, helper.make_node("Cast", [value.name], [original], to=TensorProto.BFLOAT16))


def fed_as(name: str, type_name: str) -> str:
    """Name under which an input is fed to a rebuilt model."""
    return f"{name}__float32" if type_name == "tensor(bfloat16)" else name


class _Widening:
    """Appends to a graph the nodes that turn tensors into floating point of NumPy's."""

    def __init__(self, built: onnx.ModelProto, graph: Graph, taken: set[str]) -> None:
        self._built, self._graph, self._taken = built, graph, taken
        versions = [o.version for o in built.opset_import if o.domain in {"", "ai.onnx"}]
        self._can_dequantise = max(versions, default=0) >= _DEQUANTIZE_SINCE_OPSET

    def add(self, target: str, type_name: str) -> str:
        """Return the output that carries `target`."""
        if type_name in NATIVE:
            return target
        output = target + "__float"
        while output in self._taken:
            output += "_"
        self._taken.add(output)
        scale = self._scale_of(target) if type_name in {"tensor(int8)", "tensor(uint8)"} else None
        if scale is not None:
            node = helper.make_node("DequantizeLinear", [target, *scale], [output])
        else:
            wide = TensorProto.DOUBLE if type_name in _WIDE_INTEGERS else TensorProto.FLOAT
            node = helper.make_node("Cast", [target], [output], to=wide)
        self._built.graph.node.append(node)
        return output

    def _scale_of(self, target: str) -> list[str] | None:
        node = self._graph.made_by(target)
        where = QUANTISED_OUTPUT.get(node.op_type) if node is not None else None
        if node is None or where is None or not self._can_dequantise or len(node.input) <= where[0]:
            return None
        names = [node.input[i] for i in where if i < len(node.input)]
        return [name for name in names if name]


def _make_node_names_unique(graph: onnx.GraphProto) -> None:
    """Rename the second of two nodes of one name, which onnxruntime refuses."""
    count = Counter(node.name for node in graph.node if node.name)
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if count[node.name] > 1 and node.name in seen:
            node.name = f"{node.name}__{number}"
        seen.add(node.name)
