"""A recorded pass as the layer rule wants it, and what its layers are called."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from repstat_adapters.pytorch.tracing import Trace
from repstat_adapters.shared import graph as shared
from repstat_adapters.shared.graph import Call
from repstat_adapters.shared.layers import find_layers
from repstat_adapters.shared.probing import Found

_PARAMETER = re.compile(r"(?P<scope>.+)[._](weights?|kernel|w|W)([._]\w+)?")
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\..+")
"""A parameter that others are computed from: ``fc.parametrizations.weight.0.base`` is of ``fc.weight``."""
_WRAPPED = re.compile(r"(^|\.)_orig_mod(?=\.|$)")


def build_graph(trace: Trace, inputs: Sequence[str], moving: Collection[str]) -> shared.Graph[Call]:
    """Index the calls that contribute to an output.

    Parameters
    ----------
    trace
        The pass.
    inputs
        Names of the model's inputs.
    moving
        Tensors from outside whose values depend on the inputs.
    """
    needed, live = set(trace.outputs), list[Call]()
    for call in reversed(trace.calls):
        if needed & set(call.output):
            needed.update(call.input)
            live.append(call)
    live.reverse()
    orders = {
        i: trace.orders[call.output[0]] for i, call in enumerate(live) if call.output[0] in trace.orders
    }
    axes = shared.Axes(orders=orders)
    return shared.index(live, [*inputs, *moving], trace.outputs, shapes=trace.shapes, axes=axes)


def layers_of(graph: shared.Graph[Call], parameters: Mapping[str, object]) -> tuple[Found, ...]:
    """Layers and joins, those of a module that was called several times numbered by its calls."""
    found = find_layers(graph, _Names(graph, parameters))
    uses = Counter(layer.name for layer in found if layer.key.startswith("L"))
    seen = Counter[str]()
    named = []
    for layer in found:
        if uses[layer.name] > 1 and layer.key.startswith("L"):
            named.append(replace(layer, name=f"{layer.name}#{seen[layer.name]}"))
            seen[layer.name] += 1
        else:
            named.append(layer)
    return tuple(named)


def plain_name(name: str) -> str:
    """Return a module's or parameter's name without the wrapper of ``torch.compile``."""
    return _WRAPPED.sub("", name).lstrip(".")


@dataclass(frozen=True)
class _Names:
    """Names of layers by their parameters, of joins by their modules (`shared.layers.Names`)."""

    graph: shared.Graph[Call]
    parameters: Mapping[str, object]

    def layer(self, index: int, weight: str) -> str:
        name = _PARAMETRIZED.sub(r"\1\2", self._parameter(weight))
        match = _PARAMETER.fullmatch(name)
        scope = match["scope"] if match else name
        if scope.startswith("weight"):  # of the model itself
            scope = ""
        return plain_name(scope) or self.join(index)

    def join(self, index: int) -> str:
        call = self.graph.nodes[index]
        return plain_name(call.name) or f"{call.op_type.lower()}_{index}"

    def _parameter(self, weight: str) -> str:
        """Return the parameter that a weight is, or is computed from (transposed, normalised)."""
        seen = {weight}
        todo = [weight]
        while todo:
            name = todo.pop(0)
            if name in self.parameters:
                return name
            made = self.graph.made_by(name)
            fresh = [source for source in (made.input if made else ()) if source not in seen]
            seen.update(fresh)
            todo += fresh
        return ""
