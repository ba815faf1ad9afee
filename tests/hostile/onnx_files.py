"""ONNX files from somebody who means harm, or whose disk does: each a function that writes one, and its refusal.

A name says what is wrong. `CASES` has the allowed exit codes, a text that the message must hold, and options.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

F, I, B, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
node, value, tensor = helper.make_node, helper.make_tensor_value_info, helper.make_tensor
WIDTH = 3


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


# ------------------------------------------------------------ weights in other files


def external(
    location: str, *, offset: str = "0", length: str = "36", more: Sequence[tuple[str, str]] = ()
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made = model()
        stored = made.graph.initializer[0]
        del stored.float_data[:]
        stored.ClearField("raw_data")
        stored.data_location = TensorProto.EXTERNAL
        for key, text in (("location", location), ("offset", offset), ("length", length), *more):
            stored.external_data.add(key=key, value=text)
        (folder / "weights.bin").write_bytes(np.eye(WIDTH, dtype=np.float32).tobytes())
        write(folder, made)

    return make


OUTSIDE = "is not a relative path inside the model's folder"
case("external parent", text=OUTSIDE)(external("../secret.bin"))
case("external hidden parent", text=OUTSIDE)(external("a/../../secret.bin"))
case("external absolute", text=OUTSIDE)(external("/etc/passwd"))
case("external device", text=OUTSIDE)(external("/dev/zero"))
case("external windows", text=OUTSIDE)(external("C:\\secret.bin"))
case("external windows parent", text=OUTSIDE)(external("..\\secret.bin"))
case("external share", text=OUTSIDE)(external("\\\\host\\share"))
case("external url", text="is missing")(external("file:///etc/passwd"))
case("external nothing", text=OUTSIDE)(external(""))
case("external nul", text=OUTSIDE)(external("weights.bin\0.txt"))
case("external missing", text="is missing")(external("nothing.bin"))
case("external folder", text="regular file")(external("."))
case("external long name", text="weights file")(external("x" * 5000))
case("external offset behind the end", text="truncated")(external("weights.bin", offset="4"))
case("external negative offset", text="weights")(external("weights.bin", offset="-36"))
case("external huge offset", text="truncated")(external("weights.bin", offset=str(2**63)))
case("external huge length", text="truncated")(external("weights.bin", length=str(2**62)))
case("external length is text", text="not a number")(external("weights.bin", length="many"))
case("external offset is digits of another script", text="")(external("weights.bin", offset="٣"))
case("external length lies", text="")(external("weights.bin", length="8"))
case("external twice", text="twice")(external("weights.bin", more=[("location", "../secret.bin")]))
case("external offset twice", text="twice")(external("weights.bin", more=[("offset", "999999")]))
case("external itself", 0, 3)(external("model.onnx"))


@case("external memory address", text=OUTSIDE)
def _address(folder: Path) -> None:
    """The runtime's own mark for weights that are in memory: offset is an address in this process."""
    place = folder / "*" / "_ORT_MEM_ADDR_"
    place.mkdir(parents=True)
    (place / "*").write_bytes(bytes(4096))
    external("*/_ORT_MEM_ADDR_/*", offset="64")(folder)


@case("external memory address with an unusual slash", text=OUTSIDE)
def _address_again(folder: Path) -> None:
    place = folder / "*" / "_ORT_MEM_ADDR_"
    place.mkdir(parents=True)
    (place / "*").write_bytes(bytes(4096))
    external("*//_ORT_MEM_ADDR_/*", offset="64")(folder)


@case("external link", text="is a link to")
def _link(folder: Path) -> None:
    (folder / "link.bin").symlink_to("/etc/passwd")
    external("link.bin")(folder)


@case("external link to a folder", text="outside the model's folder")
def _link_folder(folder: Path) -> None:
    (folder / "etc").symlink_to("/etc")
    external("etc/passwd")(folder)


@case("external link in a circle", text="weights file")
def _circle(folder: Path) -> None:
    (folder / "link.bin").symlink_to("link.bin")
    external("link.bin")(folder)


@case("external hard link", text="hard link")
def _hard_link(folder: Path) -> None:
    secret = folder / "elsewhere"
    secret.mkdir()
    (secret / "secret.bin").write_bytes(bytes(36))
    os.link(secret / "secret.bin", folder / "hard.bin")
    external("hard.bin")(folder)


@case("external pipe", text="regular file")
def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    external("pipe")(folder)


def outside_tensor() -> TensorProto:
    stored = TensorProto(name="c", data_type=F, dims=[WIDTH], data_location=TensorProto.EXTERNAL)
    stored.external_data.add(key="location", value="../secret.bin")
    return stored


case("external in a constant", text=OUTSIDE)(
    added(node("Constant", [], ["c"], value=outside_tensor()), node("Add", ["x", "c"], ["h"]))
)


@case("external in a branch", text=OUTSIDE)
def _in_branch(folder: Path) -> None:
    then = helper.make_graph(
        [node("Constant", [], ["t"], value=outside_tensor())], "then", [], [value("t", F, None)]
    )
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], [value("e", F, None)])
    yes = node("Constant", [], ["yes"], value=tensor("t", B, [], [True]))
    write(folder, model([yes, node("If", ["yes"], ["h"], then_branch=then, else_branch=other)]))


@case("external in a function", text=OUTSIDE)
def _in_function(folder: Path) -> None:
    body = [node("Constant", [], ["c"], value=outside_tensor()), node("Add", ["u", "c"], ["v"])]
    made = helper.make_function("mine", "f", ["u"], ["v"], body, [helper.make_opsetid("", 17)])
    write(folder, model([node("f", ["x"], ["h"], domain="mine")], imports=["mine"], functions=[made]))


@case("external in a sparse tensor", text=OUTSIDE)
def _in_sparse(folder: Path) -> None:
    made = model([node("Add", ["x", "sparse"], ["h"])])
    stored = outside_tensor()
    stored.name = "sparse"
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(stored, ints("i", 0, 1, 2), [WIDTH]))
    write(folder, made)


# ------------------------------------------------------------ ops of others

case("custom op", text="evil::Run")(added(node("Run", ["x"], ["h"], domain="evil"), imports=["evil"]))
case("custom op in extensions", text="custom ops")(
    added(node("PyOp", ["x"], ["h"], domain="ai.onnx.contrib"), imports=["ai.onnx.contrib"])
)
case("unknown op", text="")(added(node("ReadFile", ["x"], ["h"])))
case("unknown op of the runtime", text="")(
    added(node("PyOp", ["x"], ["h"], domain="com.microsoft"), imports=["com.microsoft"])
)
case("compiled engine", text="")(
    added(
        node(
            "EPContext", ["x"], ["h"], domain="com.microsoft",
            ep_cache_context="../engine.so", embed_mode=0, main_context=1,
        ),
        imports=["com.microsoft"],
    )
)  # fmt: skip
case("op without a name", text="")(added(node("", ["x"], ["h"])))


@case("custom op in a branch", text="evil::Run")
def _foreign_branch(folder: Path) -> None:
    then = helper.make_graph(
        [node("Run", ["x"], ["t"], domain="evil")], "then", [], [value("t", F, None)]
    )
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], [value("e", F, None)])
    no = node("Constant", [], ["no"], value=tensor("t", B, [], [False]))
    branch = node("If", ["no"], ["h"], then_branch=then, else_branch=other)
    write(folder, model([no, branch], imports=["evil"]))


# ------------------------------------------------------------ time

SECONDS = ("--timeout", "4")


def loop(
    body: GraphProto, trips: str = "", condition: str = "yes", made: str = "h"
) -> list[NodeProto]:
    yes = node("Constant", [], ["yes"], value=tensor("t", B, [], [True]))
    return [yes, node("Loop", [trips, condition, "x"], [made], body=body)]


def body(*nodes: NodeProto, scans: Sequence[str] = (), initializers: Sequence[TensorProto] = ()) -> GraphProto:
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
        calls = [node(f"f{depth + 1}", ["u"], ["t"], domain="mine"), node(f"f{depth + 1}", ["t"], ["v"], domain="mine")]
        made.append((depth, calls))
    last = [node("Identity", ["u"], ["v"])]
    functions = [
        helper.make_function("mine", f"f{depth}", ["u"], ["v"], calls, [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)])
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


# ------------------------------------------------------------ memory

LITTLE = ("--max-memory", "1GB")
NEEDS = "needs more memory than allowed"
ONE = tensor("one", F, [1], [1.0])

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
        initializers=[tensor("picture", F, [1, 1, 2, 2], [1.0] * 4), tensor("scales", F, [4], [1, 1, 1e5, 1e5])],
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
        folder, model([node("ReduceMean", ["x"], ["h"], axes=[1])], inputs=[value("x", F, ["N", 10**12, WIDTH])])
    )
)
case("a batch of a terabyte", 6, options=LITTLE)(
    lambda folder: write(folder, model(inputs=[value("x", F, [10**12, WIDTH])]))
)
case("a convolution of the sky", 3, 6, options=LITTLE)(
    added(
        node("Conv", ["picture", "kernel"], ["c"], pads=[10**5] * 4), *plus("c"),
        initializers=[tensor("picture", F, [1, 1, 2, 2], [1.0] * 4), tensor("kernel", F, [1, 1, 1, 1], [1.0])],
    )
)  # fmt: skip
case("a recurrent layer that is wide", 3, 6, options=LITTLE)(
    added(
        node("Unsqueeze", ["x", "zero"], ["t"]),
        node("LSTM", ["t", "w", "w"], ["l"], hidden_size=2**31), *plus("l"),
        initializers=[ints("zero", 0), tensor("w", F, [1, 4, 3], [1.0] * 12)],
    )
)  # fmt: skip

# ------------------------------------------------------------ arithmetic that stops a processor

for _op in ("Div", "Mod"):
    case(f"{_op} by zero", 0, 3)(
        added(
            node("Cast", ["x"], ["i"], to=I), node("Sub", ["i", "i"], ["z"]), node(_op, ["i", "z"], ["d"]),
            node("Cast", ["d"], ["h"], to=F),
        )
    )  # fmt: skip
    case(f"{_op} of the smallest integer by -1", 0, 3)(
        added(
            node("Cast", ["x"], ["i"], to=I), node("Mul", ["i", "zero"], ["z"]), node("Add", ["z", "low"], ["l"]),
            node("Add", ["z", "minus"], ["m"]), node(_op, ["l", "m"], ["d"]), node("Cast", ["d"], ["h"], to=F),
            initializers=[ints("zero", 0), ints("low", -(2**63)), ints("minus", -1)],
        )
    )  # fmt: skip

PICTURE = tensor("picture", F, [1, 1, 4, 4], [1.0] * 16)
KERNEL = tensor("kernel", F, [1, 1, 2, 2], [1.0] * 4)
for _name, _node in {
    "conv group 0": node("Conv", ["picture", "kernel"], ["c"], group=0),
    "conv group -1": node("Conv", ["picture", "kernel"], ["c"], group=-1),
    "conv stride 0": node("Conv", ["picture", "kernel"], ["c"], strides=[0, 0]),
    "conv dilation 0": node("Conv", ["picture", "kernel"], ["c"], dilations=[0, 0]),
    "conv negative pads": node("Conv", ["picture", "kernel"], ["c"], pads=[-9] * 4),
    "conv kernel shape lies": node("Conv", ["picture", "kernel"], ["c"], kernel_shape=[9, 9]),
    "pool stride 0": node("MaxPool", ["picture"], ["c"], kernel_shape=[2, 2], strides=[0, 0]),
    "pool of nothing": node("MaxPool", ["picture"], ["c"], kernel_shape=[0, 0]),
    "pool larger than the world": node("AveragePool", ["picture"], ["c"], kernel_shape=[2**40, 2**40]),
    "pool negative": node("AveragePool", ["picture"], ["c"], kernel_shape=[-1, -1]),
    "lrn size 0": node("LRN", ["picture"], ["c"], size=0),
    "depth by block 0": node("DepthToSpace", ["picture"], ["c"], blocksize=0),
    "space by block 0": node("SpaceToDepth", ["picture"], ["c"], blocksize=0),
    "transpose out of range": node("Transpose", ["picture"], ["c"], perm=[9, 9, 9, 9]),
    "transpose twice the same": node("Transpose", ["picture"], ["c"], perm=[0, 0, 0, 0]),
    "softmax axis": node("Softmax", ["picture"], ["c"], axis=99),
    "flatten axis": node("Flatten", ["picture"], ["c"], axis=-99),
    "concat axis": node("Concat", ["picture", "kernel"], ["c"], axis=2**40),
    "gather behind the end": node("Gather", ["picture", "far"], ["c"], axis=3),
    "gather elements behind the end": node("GatherElements", ["picture", "far4"], ["c"], axis=0),
    "gather nd behind the end": node("GatherND", ["picture", "far4"], ["c"]),
    "scatter behind the end": node("ScatterND", ["picture", "far4", "one"], ["c"]),
    "slice step 0": node("Slice", ["picture", "far", "far", "far", "nil"], ["c"]),
    "top of more than there is": node("TopK", ["picture", "far"], ["c", "t"]),
    "one hot axis": node("OneHot", ["far", "far", "picture"], ["c"], axis=99),
    "reshape to minus two": node("Reshape", ["picture", "minus"], ["c"]),
    "einsum of nonsense": node("Einsum", ["picture"], ["c"], equation="ab->->..."),
    "einsum of repeated letters": node("Einsum", ["picture"], ["c"], equation="aaaa->aaaaaaaa"),
    "max unpool": node("MaxUnpool", ["picture", "far4"], ["c"], kernel_shape=[2, 2]),
    "roi align": node("RoiAlign", ["picture", "kernel", "far"], ["c"], sampling_ratio=-5),
    "grid sample": node("GridSample", ["picture", "kernel"], ["c"]),
    "batch norm of another shape": node("BatchNormalization", ["picture", "one", "one", "far", "one"], ["c"]),
    "dequantize by nothing": node("DequantizeLinear", ["picture", "one", "one"], ["c"], axis=77),
    "split into nothing": node("Split", ["picture"], ["c"], axis=99),
    "cumulative sum axis": node("CumSum", ["picture", "far"], ["c"]),
    "compress": node("Compress", ["picture", "far"], ["c"], axis=9),
    "reverse": node("ReverseSequence", ["picture", "far"], ["c"], batch_axis=9, time_axis=9),
    "boxes": node("NonMaxSuppression", ["picture", "picture", "far"], ["c"]),
    "attribute of another type": node("Softmax", ["picture"], ["c"], axis="one"),
    "an input too many": node("Relu", ["picture", "picture", "picture"], ["c"]),
    "an input too few": node("Conv", [], ["c"]),
    "a missing tensor": node("Relu", ["nowhere"], ["c"]),
    "its own input": node("Relu", ["c"], ["c"]),
}.items():
    case(f"op: {_name}", 0, 3, 6, options=LITTLE)(
        added(
            _node, node("Cast", ["c"], ["cf"], to=F), *plus("cf"),
            initializers=[
                PICTURE, KERNEL, ONE, ints("far", 10**9), tensor("far4", I, [1, 1, 1, 4], [10**9] * 4),
                ints("nil", 0), ints("minus", -2, -2),
            ],
        )
    )  # fmt: skip


def trees(**changed: Any) -> NodeProto:
    """Return a decision tree of three nodes, with some of its tables changed."""
    tables: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    } | changed
    return node("TreeEnsembleRegressor", ["x"], ["t"], domain="ai.onnx.ml", **tables)


BRANCHES = ["BRANCH_LEQ"] * 3
for _name, _tables in {
    "in a circle": {"nodes_modes": BRANCHES, "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0]},
    "of a feature far away": {"nodes_featureids": [10**12, 0, 0]},
    "of a negative feature": {"nodes_featureids": [-(10**12), 0, 0]},
    "without some nodes": {"nodes_truenodeids": [99, 0, 0]},
    "with short tables": {"nodes_values": [0.5]},
    "with a target far away": {"target_ids": [10**12, 10**12]},
    "with targets without weights": {"target_weights": [1.0]},
    "with many targets": {"n_targets": 2**62},
}.items():
    case(f"tree {_name}", 0, 3, 6, options=(*LITTLE, *SECONDS))(
        added(trees(**_tables), node("Add", ["x", "t"], ["h"]), imports=["ai.onnx.ml"])
    )

for _name, _node in {
    "vector machine": node(
        "SVMRegressor", ["x"], ["c"], domain="ai.onnx.ml", n_supports=10**9, coefficients=[1.0],
        support_vectors=[1.0], rho=[1.0], kernel_type="RBF", kernel_params=[1.0],
    ),
    "linear": node(
        "LinearRegressor", ["x"], ["c"], domain="ai.onnx.ml", coefficients=[1.0], intercepts=[1.0], targets=10**9
    ),
    "scaler": node("Scaler", ["x"], ["c"], domain="ai.onnx.ml", offset=[1.0] * 99, scale=[1.0]),
    "imputer": node("Imputer", ["x"], ["c"], domain="ai.onnx.ml", imputed_value_floats=[1.0] * 99),
    "extractor": node("ArrayFeatureExtractor", ["x", "far"], ["c"], domain="ai.onnx.ml"),
    "normalizer": node("Normalizer", ["x"], ["c"], domain="ai.onnx.ml", norm="L99"),
}.items():  # fmt: skip
    case(f"classical {_name}", 0, 3, 6, options=(*LITTLE, *SECONDS))(
        added(_node, *plus("c"), initializers=[ints("far", 10**12)], imports=["ai.onnx.ml"])
    )

# ------------------------------------------------------------ files that are broken, and models that are odd


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.onnx").write_bytes(data) and None


case("empty file", text="empty")(raw(b""))
case("text", text="not")(raw(b"hello, world\n"))
case("web page", text="")(raw(b"<!DOCTYPE html><html><body>404</body></html>"))
case("git pointer", text="Git LFS")(raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"))
case("zip", text="")(raw(b"PK\x03\x04" + bytes(99)))
case("gzip", text="")(raw(b"\x1f\x8b\x08" + bytes(99)))
case("pickle", text="")(raw(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR."))
case("zeros", text="")(raw(bytes(4096)))
case("noise", text="")(raw(np.random.default_rng(1).bytes(4096)))
case("deep message", text="")(raw(b"\x3a\x7e" * 2000))
case("length without end", text="")(raw(b"\x08\x0a\x3a\xff\xff\xff\xff\x0f"))
for _share in (1, 25, 50, 75, 90, 99):
    _data = model().SerializeToString()
    case(f"cut at {_share} %", 0, 3)(raw(_data[: len(_data) * _share // 100]))
for _seed in range(12):
    _bytes = bytearray(model().SerializeToString())
    _rng = np.random.default_rng(_seed)
    for _at in _rng.integers(0, len(_bytes), 1 + _seed % 4):
        _bytes[_at] ^= 1 << int(_rng.integers(8))
    case(f"bits flipped {_seed}", 0, 2, 3, 6, options=(*LITTLE, *SECONDS))(raw(bytes(_bytes)))


def odd(change: Callable[[ModelProto], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made = model()
        change(made)
        write(folder, made)

    return make


def _set(**facts: Any) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        for name, what in facts.items():
            setattr(made, name, what)

    return change


case("version from the future", text="newer")(odd(_set(ir_version=2**31)))
case("negative version", text="")(odd(_set(ir_version=-1)))
case("opset from the future", text="newer")(odd(lambda m: setattr(m.opset_import[0], "version", 2**62)))
case("negative opset", text="")(odd(lambda m: setattr(m.opset_import[0], "version", -5)))
case("two opsets", 0, 3)(odd(lambda m: m.opset_import.append(helper.make_opsetid("", 9))))
case("no nodes", text="lacks")(odd(lambda m: m.graph.ClearField("node")))
case("no outputs", text="lacks")(odd(lambda m: m.graph.ClearField("output")))
case("no inputs", 3)(odd(lambda m: m.graph.ClearField("input")))
case("an output that nobody makes", 3)(odd(lambda m: setattr(m.graph.output[0], "name", "nothing")))
case("weights of another length", 3)(odd(lambda m: m.graph.initializer[0].float_data.append(1.0)))
case("weights without data", 3)(odd(lambda m: m.graph.initializer[0].ClearField("float_data")))
case("weights of 2^62", 3, 6)(odd(lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**62)))
case("weights of -1", 3)(odd(lambda m: m.graph.initializer[0].dims.__setitem__(0, -1)))
case("weights of unknown type", 3)(odd(lambda m: setattr(m.graph.initializer[0], "data_type", 999)))
case("weights of text", 3)(odd(lambda m: setattr(m.graph.initializer[0], "data_type", S)))
case("weights in segments", 0, 3)(odd(lambda m: setattr(m.graph.initializer[0].segment, "end", 2**62)))
case("weights twice", 0, 3)(odd(lambda m: m.graph.initializer.append(weight())))
case("the same output twice", 3)(odd(lambda m: m.graph.node.append(node("Relu", ["a"], ["b"]))))
case("an input of text", 3)(odd(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", S)))
case("an input of unknown type", 3)(odd(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)))
case("an input of negative size", 0, 3)(
    odd(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3))
)
case("a cycle", 3)(odd(lambda m: m.graph.node[0].input.__setitem__(0, "b")))
case("names that act on a terminal", 0)(
    odd(lambda m: (setattr(m.graph.initializer[0], "name", "\x1b[31mred\x1b]0;title\x07.weight"),
                   m.graph.node[1].input.__setitem__(1, "\x1b[31mred\x1b]0;title\x07.weight"),
                   m.graph.node[3].input.__setitem__(1, "\x1b[31mred\x1b]0;title\x07.weight")) and None)
)  # fmt: skip
case("an error that acts on a terminal", 3)(
    added(node("Reshape", ["x", "shape"], ["h"], name="\x1b[31m\x1b]0;title\x07"), initializers=[ints("shape", 7, 11)])
)
case("a name of a megabyte", 0, 3)(odd(lambda m: setattr(m.graph.node[0], "name", "n" * 10**6)))
case("a graph attribute on a plain op", 0, 3)(
    odd(lambda m: m.graph.node[0].attribute.append(
        AttributeProto(name="body", type=AttributeProto.GRAPH, g=m.graph.__deepcopy__())))
)  # fmt: skip


@case("ten thousand ops in a row", 0, 3, options=SECONDS)
def _long(folder: Path) -> None:
    nodes = [node("Tanh", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(10_000)]
    write(folder, model([*nodes, node("Identity", ["t10000"], ["h"])]))
