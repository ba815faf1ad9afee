"""ONNX files that are broken, and models that are odd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, helper

from tests.hostile.onnx_making import LITTLE, SECONDS, S, added, case, ints, model, node, weight, write


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.onnx").write_bytes(data) and None


case("empty file", text="empty")(raw(b""))
case("text", text="not")(raw(b"hello, world\n"))
case("web page", text="")(raw(b"<!DOCTYPE html><html><body>404</body></html>"))
case("git pointer", text="Git LFS")(
    raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
)
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
case("an input of unknown type", 3)(
    odd(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99))
)
case("an input of negative size", 0, 3)(
    odd(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3))
)
case("a cycle", 3)(odd(lambda m: m.graph.node[0].input.__setitem__(0, "b")))


def _red(made: ModelProto) -> None:
    name = "\x1b[31mred\x1b]0;title\x07.weight"
    made.graph.initializer[0].name = name
    for at in (1, 3):
        made.graph.node[at].input[1] = name


case("names that act on a terminal", 0)(odd(_red))
case("an error that acts on a terminal", 3)(
    added(
        node("Reshape", ["x", "shape"], ["h"], name="\x1b[31m\x1b]0;title\x07"),
        initializers=[ints("shape", 7, 11)],
    )
)
case("a name of a megabyte", 0, 3)(odd(lambda m: setattr(m.graph.node[0], "name", "n" * 10**6)))
case("a graph attribute on a plain op", 0, 3)(
    odd(lambda m: m.graph.node[0].attribute.append(
        AttributeProto(name="body", type=AttributeProto.GRAPH, g=m.graph.__deepcopy__())))
)  # fmt: skip


@case("ten thousand ops in a row", 0, 3, 6, options=SECONDS)
def _long(folder: Path) -> None:
    nodes = [node("Tanh", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(10_000)]
    write(folder, model([*nodes, node("Identity", ["t10000"], ["h"])]))
