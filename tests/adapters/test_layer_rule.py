"""The rule that says which tensors are layers knows no framework: it reads plain calls."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from repstat.adapter import Array, InputSpec
from repstat_adapters.shared.graph import Call, index
from repstat_adapters.shared.layers import find_layers
from repstat_adapters.shared.probing import Found, Prober, Tensors


class Named:
    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls

    def layer(self, index: int, weight: str) -> str:
        return weight.removesuffix(".weight")

    def join(self, index: int) -> str:
        return self.calls[index].name


def found(
    calls: Sequence[Call], output: str, fused: Mapping[int, Sequence[str]] | None = None
) -> dict[str, tuple[str, str, str, str]]:
    graph = index(calls, ["x"], [output], fused=fused)
    return {f.key: (f.name, f.kind, f.signature, f.target) for f in find_layers(graph, Named(calls))}


def test_a_layer_reaches_to_its_activation_past_what_exporters_drop() -> None:
    calls = [
        Call("Gemm", ["x", "fc1.weight"], ["a"]),
        Call("BatchNormalization", ["a", "scale"], ["b"]),
        Call("Dropout", ["b"], ["c"]),
        Call("Tanh", ["c"], ["d"]),
        Call("Gemm", ["d", "fc2.weight"], ["e"]),
    ]
    assert found(calls, "e") == {
        "L000": ("fc1", "hidden", "linear>tanh", "d"),
        "L001": ("fc2", "output", "linear", "e"),
    }


def test_an_activation_inside_an_op_ends_the_layer() -> None:
    calls = [
        Call("Gemm", ["x", "dense.weight"], ["a"]),
        Call("Relu", ["a"], ["b"]),
        Call("Gemm", ["b", "out.weight"], ["c"]),
    ]
    layers = found(calls, "c", {0: ["tanh"]})
    assert layers["L000"] == ("dense", "hidden", "linear>tanh", "a")


def test_weights_used_twice_are_two_layers_and_products_of_activations_none() -> None:
    calls = [
        Call("Gemm", ["x", "q.weight"], ["q"]),
        Call("Gemm", ["x", "k.weight"], ["k"]),
        Call("MatMul", ["q", "k"], ["scores"]),
        Call("Softmax", ["scores"], ["p"]),
        Call("Gemm", ["p", "q.weight"], ["again"]),
    ]
    layers = found(calls, "again")
    assert {key: layer[3] for key, layer in layers.items()} == {"L000": "q", "L001": "k", "L002": "again"}


def test_a_join_of_a_block_and_its_input() -> None:
    calls = [
        Call("Gemm", ["x", "stem.weight"], ["s"]),
        Call("Gemm", ["s", "block.weight"], ["b"]),
        Call("Add", ["b", "s"], ["j"], "join"),
        Call("Relu", ["j"], ["r"]),
        Call("Gemm", ["r", "head.weight"], ["y"]),
    ]
    assert found(calls, "y")["R000"] == ("join", "residual", "add>relu", "r")


def plan_of(run: Tensors) -> tuple[int | None, str]:
    layer = Found("L000", "fc", "Gemm", "hidden", "linear", "t")
    specs = [InputSpec("x", np.dtype(np.float32), (None, 3))]
    plan = Prober(run=run, found=[layer], dtypes={"t": "float32"}, specs=specs).plan(None)
    return plan.batch, plan.note


@pytest.mark.parametrize("mixed", [False, True])
def test_samples_that_see_the_ones_before_them_are_run_alone(mixed: bool) -> None:
    """A recurrent layer fed batch first where it wants time first: a third sample does not move the first."""

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"t": np.cumsum(feeds["x"], axis=0) if mixed else 2 * feeds["x"]}

    batch, note = plan_of(run)
    assert batch == (1 if mixed else None)
    assert ("depend on the other samples" in note) is mixed


def test_a_shape_that_is_computed_from_the_data_does_not_end_a_layer() -> None:
    """As tf2onnx spells a linear layer on sequences: all places in one axis, and apart again behind it."""
    calls = [
        Call("MatMul", ["x", "fc.weight"], ["a"]),
        Call("Shape", ["x"], ["s"]),
        Call("Reshape", ["a", "s"], ["b"]),
        Call("Add", ["b", "fc.bias"], ["c"]),
        Call("Tanh", ["c"], ["d"]),
        Call("MatMul", ["d", "out.weight"], ["e"]),
    ]
    assert found(calls, "e")["L000"] == ("fc", "hidden", "linear>tanh", "d")
