"""ONNX files whose weights or ops lead elsewhere."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.hostile.onnx_making import WIDTH, B, F, added, case, ints, model, node, tensor, value, write


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
    then = helper.make_graph([node("Run", ["x"], ["t"], domain="evil")], "then", [], [value("t", F, None)])
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], [value("e", F, None)])
    no = node("Constant", [], ["no"], value=tensor("t", B, [], [False]))
    branch = node("If", ["no"], ["h"], then_branch=then, else_branch=other)
    write(folder, model([no, branch], imports=["evil"]))
