"""ONNX files that never end, or ask for all memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

from onnx import GraphProto, NodeProto, TensorProto, helper

from tests.hostile.onnx_making import (
    LITTLE,
    ONE,
    SECONDS,
    WIDTH,
    B,
    F,
    I,
    added,
    case,
    ints,
    model,
    node,
    plus,
    tensor,
    value,
    write,
)

PICTURE = tensor("picture", F, [1, 1, 2, 2], [1.0] * 4)


def loop(body: GraphProto, trips: str = "", condition: str = "yes", made: str = "h") -> list[NodeProto]:
    yes = node("Constant", [], ["yes"], value=tensor("t", B, [], [True]))
    return [yes, node("Loop", [trips, condition, "x"], [made], body=body)]


def body(
    *nodes: NodeProto, scans: Sequence[str] = (), initializers: Sequence[TensorProto] = ()
) -> GraphProto:
    """Return a loop's body that hands v on as w, and its condition as it is."""
    return helper.make_graph(
        [node("Identity", ["go"], ["on"]), *(nodes or (node("Identity", ["v"], ["w"]),))],
        "body",
        [value("i", I, []), value("go", B, []), value("v", F, None)],
        [value("on", B, []), value("w", F, None), *(value(name, F, None) for name in scans)],
        list(initializers),
    )


case("endless loop", 6, text="time ran out", options=SECONDS)(added(*loop(body())))
case("long loop", 6, text="time ran out", options=SECONDS)(
    added(*loop(body(), "trips"), initializers=[tensor("trips", I, [], [2**62])])
)
case("endless loop of work", 6, text="time ran out", options=SECONDS)(
    added(*loop(body(node("Tanh", ["v"], ["w"]))))
)
case("one op that takes for ever", 6, text="time ran out", options=SECONDS)(
    added(
        node("Expand", ["one", "shape"], ["big"]),
        node("MatMul", ["big", "big"], ["square"]),
        *plus("square"),
        initializers=[ints("shape", 20_000, 20_000), tensor("one", F, [1], [1.0])],
    )
)


@case("loops in loops", 6, text="time ran out", options=SECONDS)
def _nested_loops(folder: Path) -> None:
    inner = body()
    for depth in range(5):
        yes = node("Constant", [], [f"yes{depth}"], value=tensor("t", B, [], [True]))
        trips = node("Constant", [], [f"n{depth}"], value=tensor("t", I, [], [10_000]))
        names = {name: f"{name}{depth}" for name in ("go", "on", "i", "v", "w")}
        again = node("Loop", [f"n{depth}", f"yes{depth}", f"v{depth}"], [f"w{depth}"], body=inner)
        inner = helper.make_graph(
            [node("Identity", [names["go"]], [names["on"]]), yes, trips, again],
            "body",
            [value(names["i"], I, []), value(names["go"], B, []), value(names["v"], F, None)],
            [value(names["on"], B, []), value(names["w"], F, None)],
        )
    write(folder, model(loop(inner)))


@case("functions that call twice", text="too deeply nested")
def _laughs(folder: Path) -> None:
    made = []
    for depth in range(40):
        calls = [
            node(f"f{depth + 1}", ["u"], ["t"], domain="mine"),
            node(f"f{depth + 1}", ["t"], ["v"], domain="mine"),
        ]
        made.append((depth, calls))
    last = [node("Identity", ["u"], ["v"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [
        helper.make_function("mine", f"f{depth}", ["u"], ["v"], calls, opsets)
        for depth, calls in [*made, (40, last)]
    ]  # fmt: skip
    write(folder, model([node("f0", ["x"], ["h"], domain="mine")], imports=["mine"], functions=functions))


@case("a function that calls itself", text="")
def _recursion(folder: Path) -> None:
    made = helper.make_function(
        "mine", "f", ["u"], ["v"], [node("f", ["u"], ["v"], domain="mine")],
        [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    write(folder, model([node("f", ["x"], ["h"], domain="mine")], imports=["mine"], functions=[made]))


@case("functions in a circle", text="")
def _circle_of_functions(folder: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    made = [
        helper.make_function("mine", "f", ["u"], ["v"], [node("g", ["u"], ["v"], domain="mine")], opsets),
        helper.make_function("mine", "g", ["u"], ["v"], [node("f", ["u"], ["v"], domain="mine")], opsets),
    ]
    write(folder, model([node("f", ["x"], ["h"], domain="mine")], imports=["mine"], functions=made))


def nested_branches(depth: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        inner = node("Identity", ["x"], ["r0"])
        for level in range(depth):
            made = [value(f"r{level}", F, None)]
            then = helper.make_graph([inner], f"then{level}", [], made)
            other = helper.make_graph([node("Identity", ["x"], [f"r{level}"])], f"else{level}", [], made)
            inner = node("If", ["yes"], [f"r{level + 1}"], then_branch=then, else_branch=other)
        inner.output[0] = "h"
        yes = node("Constant", [], ["yes"], value=tensor("t", B, [], [True]))
        write(folder, model([yes, inner]))

    return make


case("branches 10 deep", 0, 3)(nested_branches(10))
case("branches 28 deep", 0, 3)(nested_branches(28))


@case("branches 300 deep", text="not a complete ONNX protobuf")
def _deep_branches(folder: Path) -> None:
    """Deeper than any library of protobuf builds or reads: each level is a node with a graph with a node."""
    data = node("Identity", ["x"], ["h"]).SerializeToString()
    for _ in range(300):
        graph = _field(1, data)  # GraphProto.node
        data = _field(5, _field(1, b"then_branch") + _field(6, graph))  # NodeProto.attribute, .name, .g
    write(folder, model())
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole + _field(7, _field(1, data)))


def _field(number: int, data: bytes) -> bytes:
    """Return one field of protobuf with its length."""
    length, size = b"", len(data)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


NEEDS = "needs more memory than allowed"

case("fill", 6, text=NEEDS, options=LITTLE)(
    added(node("ConstantOfShape", ["n"], ["c"]), *plus("c"), initializers=[ints("n", 10**6, 10**6)])
)
case("fill beyond 64 bits", 3, 6, options=LITTLE)(
    added(node("ConstantOfShape", ["n"], ["c"]), *plus("c"), initializers=[ints("n", 2**40, 2**40)])
)
case("expand", 6, text=NEEDS, options=LITTLE)(
    added(node("Expand", ["one", "n"], ["c"]), *plus("c"), initializers=[ONE, ints("n", 10**5, 10**5)])
)
case("tile", 6, text=NEEDS, options=LITTLE)(
    added(node("Tile", ["one", "n"], ["c"]), *plus("c"), initializers=[ONE, ints("n", 10**10)])
)
case("tile the batch", 6, text=NEEDS, options=LITTLE)(
    added(
        node("Tile", ["x", "n"], ["c"]), node("ReduceMean", ["c"], ["m"], axes=[1]),
        node("Add", ["x", "m"], ["h"]), initializers=[ints("n", 1, 10**8)],
    )
)  # fmt: skip
case("range", 6, text=NEEDS, options=LITTLE)(
    added(
        node("Range", ["from", "to", "by"], ["c"]), node("Cast", ["c"], ["d"], to=F), *plus("d"),
        initializers=[tensor("from", I, [], [0]), tensor("to", I, [], [10**10]), tensor("by", I, [], [1])],
    )
)  # fmt: skip
case("pad", 6, text=NEEDS, options=LITTLE)(
    added(node("Pad", ["one", "n"], ["c"]), *plus("c"), initializers=[ONE, ints("n", 10**10, 0)])
)
case("outer product", 6, text=NEEDS, options=LITTLE)(
    added(
        node("ConstantOfShape", ["n"], ["c"]), node("ConstantOfShape", ["k"], ["d"]),
        node("MatMul", ["c", "d"], ["e"]), *plus("e"),
        initializers=[ints("n", 10**5, 1), ints("k", 1, 10**5)],
    )
)  # fmt: skip
case("resize", 6, text=NEEDS, options=LITTLE)(
    added(
        node("Resize", ["picture", "", "scales"], ["c"]), *plus("c"),
        initializers=[PICTURE, tensor("scales", F, [4], [1, 1, 1e5, 1e5])],
    )
)  # fmt: skip
case("a computed shape", 6, text=NEEDS, options=LITTLE)(
    added(
        node("Shape", ["fc.weight"], ["s"]), node("Mul", ["s", "many"], ["n"]),
        node("ConstantOfShape", ["n"], ["c"]), *plus("c"), initializers=[ints("many", 10**5)],
    )
)  # fmt: skip
case("a shape that nobody can predict", 6, text="took more memory than allowed", options=LITTLE)(
    added(
        node("ReduceSum", ["x"], ["s"], keepdims=0), node("Mul", ["s", "zero"], ["z"]),
        node("Add", ["z", "many"], ["f"]), node("Cast", ["f"], ["n"], to=I),
        node("ConstantOfShape", ["n"], ["c"], value=tensor("v", F, [1], [1.0])), *plus("c"),
        initializers=[tensor("zero", F, [], [0.0]), tensor("many", F, [1], [1e9])],
    )
)  # fmt: skip
case("a shape that is larger than the machine", 6, options=LITTLE)(
    added(
        node("ReduceSum", ["x"], ["s"], keepdims=0), node("Mul", ["s", "zero"], ["z"]),
        node("Add", ["z", "many"], ["f"]), node("Cast", ["f"], ["n"], to=I),
        node("ConstantOfShape", ["n"], ["c"]), *plus("c"),
        initializers=[tensor("zero", F, [], [0.0]), tensor("many", F, [1], [1e15])],
    )
)  # fmt: skip
case("one hot", 6, options=LITTLE)(
    added(
        node("Cast", ["x"], ["i"], to=I), node("OneHot", ["i", "depth", "off_on"], ["c"]), *plus("c"),
        initializers=[tensor("depth", I, [], [10**9]), tensor("off_on", F, [2], [0.0, 1.0])],
    )
)  # fmt: skip
case("an identity matrix", 6, text=NEEDS, options=LITTLE)(
    added(
        node("ConstantOfShape", ["n"], ["c"]), node("EyeLike", ["c"], ["e"]), *plus("e"),
        initializers=[ints("n", 10**5, 10**5)],
    )
)  # fmt: skip
case("a window", 6, options=LITTLE)(
    added(node("HannWindow", ["n"], ["c"]), *plus("c"), initializers=[tensor("n", I, [], [10**10])])
)


@case("tensors that double", 6, text=NEEDS, options=LITTLE)
def _double(folder: Path) -> None:
    nodes = [node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)]
    write(folder, model([node("Identity", ["one"], ["d0"]), *nodes, *plus("d40")], [ONE]))


case("a loop that doubles", 6, text="", options=LITTLE)(
    added(*loop(body(node("Concat", ["v", "v"], ["w"], axis=0)), made="big"), *plus("big"))
)
case("a loop that collects", 6, options=(*LITTLE, "--timeout", "40"))(
    added(
        node("Constant", [], ["yes"], value=tensor("t", B, [], [True])),
        node(
            "Loop", ["trips", "yes", "x"], ["h", "all"],
            body=body(node("Expand", ["v", "wide"], ["e"]), node("Identity", ["v"], ["w"]), scans=["e"]),
        ),
        initializers=[tensor("trips", I, [], [10**9]), ints("wide", 10**4, 1, WIDTH)],
    )
)  # fmt: skip


@case("a sparse tensor of a terabyte", 6, text=NEEDS, options=LITTLE)
def _sparse(folder: Path) -> None:
    made = model(plus("sparse"))
    stored = tensor("sparse", F, [1], [1.0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(stored, ints("i", 0), [10**6, 10**6]))
    write(folder, made)


@case("a sparse constant of a terabyte", 3, 6, options=LITTLE)
def _sparse_constant(folder: Path) -> None:
    stored = helper.make_sparse_tensor(tensor("", F, [1], [1.0]), ints("", 0), [10**6, 10**6])
    write(folder, model([node("Constant", [], ["c"], sparse_value=stored), *plus("c")]))


case("an input of a terabyte", 6, options=LITTLE)(
    lambda folder: write(
        folder,
        model([node("ReduceMean", ["x"], ["h"], axes=[1])], inputs=[value("x", F, ["N", 10**12, WIDTH])]),
    )
)
case("a batch of a terabyte", 6, options=LITTLE)(
    lambda folder: write(folder, model(inputs=[value("x", F, [10**12, WIDTH])]))
)
case("a convolution of the sky", 3, 6, options=LITTLE)(
    added(
        node("Conv", ["picture", "kernel"], ["c"], pads=[10**5] * 4), *plus("c"),
        initializers=[PICTURE, tensor("kernel", F, [1, 1, 1, 1], [1.0])],
    )
)  # fmt: skip
case("a recurrent layer that is wide", 3, 6, options=LITTLE)(
    added(
        node("Unsqueeze", ["x", "zero"], ["t"]),
        node("LSTM", ["t", "w", "w"], ["l"], hidden_size=2**31), *plus("l"),
        initializers=[ints("zero", 0), tensor("w", F, [1, 4, 3], [1.0] * 12)],
    )
)  # fmt: skip
