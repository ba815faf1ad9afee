"""ONNX files from somebody who means harm, or whose disk does: each a function that writes one.

A name says what is wrong. `CASES` has the allowed exit codes, a text that the message must hold, and options.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    FunctionProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

F, I, B, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING  # noqa: E741
node, value, tensor = helper.make_node, helper.make_tensor_value_info, helper.make_tensor
WIDTH = 3
SECONDS = ("--timeout", "4")
LITTLE = ("--max-memory", "1GB")
ONE = tensor("one", F, [1], [1.0])


@dataclass(frozen=True)
class Case:
    """One file, what is typed at it, and what may come of it."""

    make: Callable[[Path], None]
    codes: tuple[int, ...] = (3,)
    text: str = ""
    options: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def case(
    name: str, *codes: int, text: str = "", options: Sequence[str] = ()
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register what writes the file of a case."""

    def register(make: Callable[[Path], None]) -> Callable[[Path], None]:
        assert name not in CASES
        CASES[name] = Case(make, codes or (3,), text, tuple(options))
        return make

    return register


def ints(name: str, *numbers: int) -> TensorProto:
    return tensor(name, I, [len(numbers)], numbers)


def weight(name: str = "fc.weight") -> TensorProto:
    return tensor(name, F, [WIDTH, WIDTH], np.eye(WIDTH, dtype=np.float32).ravel().tolist())


def model(
    nodes: Sequence[NodeProto] = (),
    initializers: Sequence[TensorProto] = (),
    *,
    inputs: Sequence[ValueInfoProto] | None = None,
    opset: int = 17,
    imports: Sequence[str] = (),
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    """Return a network of two layers, with `nodes` between its input x and the first layer's input h."""
    made = {name for one in nodes for name in one.output}
    first = [] if "h" in made else [node("Identity", ["x"], ["h"])]
    rest = [
        node("MatMul", ["h", "fc.weight"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "fc.weight"], ["y"]),
    ]
    graph = helper.make_graph(
        [*nodes, *first, *rest],
        "hostile",
        list(inputs) if inputs is not None else [value("x", F, ["N", WIDTH])],
        [ValueInfoProto(name="y")],
        [weight(), *initializers],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in imports)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets, functions=list(functions))


def write(folder: Path, made: ModelProto) -> None:
    (folder / "model.onnx").write_bytes(made.SerializeToString())


def added(*nodes: NodeProto, initializers: Sequence[TensorProto] = (), **more: Any) -> Callable[[Path], None]:
    """Return what writes a model in which `nodes` make h."""
    return lambda folder: write(folder, model(nodes, initializers, **more))


def plus(name: str) -> list[NodeProto]:
    """Add the sum of a tensor to x, which makes h."""
    return [node("ReduceSum", [name], ["total"], keepdims=0), node("Add", ["x", "total"], ["h"])]
