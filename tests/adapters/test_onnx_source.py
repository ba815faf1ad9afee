"""Files and graphs: what is accepted, what is refused, and why."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from repstat.adapter import AdapterOptions
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters import onnx as entry
from tests.adapters.onnx_models import FLOAT, Net, layers_of, mlp, opened, saved


def test_the_entry_point_is_light() -> None:
    code = (
        "import sys, repstat_adapters.onnx as entry; entry.accepts('x.bin');"
        "print({'onnx', 'onnxruntime'} & {*sys.modules})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "content", "accepted"),
    [
        ("model.onnx", b"", True),
        ("model.ONNX", b"anything", True),
        ("model", mlp().SerializeToString(), True),
        ("model.bin", mlp().SerializeToString(), True),
        ("saved_model.pb", b"\x08\x01\x12\x90\x10", False),
        ("frozen.pb", b"\n\x10\n\x01x\x12", False),
        ("model.pt", b"PK\x03\x04abc", False),
        ("model.pkl", b"\x80\x04\x95", False),
        ("model.h5", b"\x89HDF\r\n\x1a\n", False),
        ("notes.txt", b"hello", False),
        ("empty", b"", False),
    ],
)
def test_accepts_by_content(tmp_path: Path, name: str, content: bytes, accepted: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert entry.accepts(path) is accepted
    assert entry.accepts(str(path)) is accepted


def test_accepts_models_in_memory_and_nothing_else() -> None:
    assert entry.accepts(mlp())
    assert not entry.accepts(42)
    assert not entry.accepts(Path("/"))
    assert not entry.accepts(Path("no-such-file"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the model file is empty.*found 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "not an ONNX model.*a PNG image"),
        (b"PK\x03\x04" + bytes(20), "a zip archive, as PyTorch and Keras write"),
        (b"\x80\x04\x95" + bytes(20), "a pickle"),
        (b"<!DOCTYPE html>", "an HTML or XML page"),
        (b"\x18\x00\x00\x00ORTM" + bytes(20), "an ORT-format model"),
        (b"just some text\n" * 20, "truncated or not ONNX"),
        (bytes(100), "truncated or not ONNX"),
        (b"\x08\x0a", "lacks a graph, graph outputs, an opset"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputRefusedError, match=f"(?s){text}") as caught:
        entry.open_model(path, AdapterOptions())
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = mlp().SerializeToString()
    for length in range(1, len(whole), 7):
        path = tmp_path / "model.onnx"
        path.write_bytes(whole[:length])
        with pytest.raises(InputRefusedError, match="truncated or not ONNX"):
            entry.open_model(path, AdapterOptions())


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.onnx"
    os.mkfifo(fifo)
    for source, text in ((tmp_path / "no.onnx", "no such file"), (tmp_path, "a folder"), (fifo, "pipe")):
        with pytest.raises(UsageError, match=text):
            entry.open_model(source, AdapterOptions())
    with pytest.raises(UsageError, match=r"found int, expected a path or an onnx\.ModelProto"):
        entry.open_model(7, AdapterOptions())


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(mlp(), tmp_path, "model")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"cannot read the model file in .*: Permission denied"):
        opened(path)
    monkeypatch.setattr(Path, "open", refuse)
    assert not entry.accepts(path)


def test_a_file_above_the_limit_of_protobuf_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # a hole: takes no space
    with pytest.raises(InputRefusedError, match=r"too large.*external data"):
        opened(path)


# ---------------------------------------------------------------- graphs that tools write


def test_initialisers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = mlp()
    model.ir_version = 3
    listed = [helper.make_tensor_value_info(t.name, FLOAT, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(listed)
    path = saved(model, tmp_path)
    assert [spec.name for spec in opened(path).inputs()] == ["x"]
    assert layers_of(path) == layers_of(mlp())


def test_unnamed_and_duplicate_node_names_do_not_matter() -> None:
    model = mlp()
    for node in model.graph.node:
        node.name = "same"
    assert layers_of(model) == layers_of(mlp())


def test_unsorted_nodes_and_stale_shapes_do_not_matter() -> None:
    model = mlp()
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.value_info.append(helper.make_tensor_value_info("t1", FLOAT, [1, 99]))
    assert layers_of(model) == layers_of(mlp())


def test_a_cycle_is_refused() -> None:
    net = Net()
    net.op("Add", "x", "b", out="a")
    net.op("Tanh", "a", out="b")
    with pytest.raises(InputRefusedError, match="cycle"):
        opened(net.build("b"))


def test_duplicate_tensor_names_are_refused() -> None:
    net = Net()
    net.op("MatMul", "x", net.weight("a.weight", 4, 4), out="t")
    net.op("MatMul", "t", net.weight("b.weight", 4, 4), out="t")
    with pytest.raises(InputRefusedError):
        layers_of(net.build("t"))


def test_a_graph_that_is_invalid_is_refused_by_the_runtime_with_its_reason() -> None:
    net = Net()
    here = net.op("Add", net.bare("x", 4, 2, "fc1"), "nowhere")
    with pytest.raises(InputRefusedError, match=r"refuses the model: Invalid model.*'nowhere' is not"):
        layers_of(net.build(net.bare(here, 2, 2, "out")))
    net = Net()
    here = net.op("NoSuchOp", net.bare("x", 4, 2, "fc1"))
    with pytest.raises(InputRefusedError, match=r"refuses the model: .*NoSuchOp"):
        layers_of(net.build(net.bare(here, 2, 2, "out")))


def test_functions_that_call_themselves_or_explode_are_refused() -> None:
    def model(calls: int, depth: int) -> onnx.ModelProto:
        net = Net()
        built = net.build(net.bare(net.op("F0", "x", domain="my"), 4, 2, "out"), domains={"my": 1})
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        for level in range(depth):
            inner = f"F{(level + 1) % depth}" if calls == 1 or level < depth - 1 else ""
            names = ["a", *(f"t{i}" for i in range(calls - 1)), "b"]
            kind, domain = (inner, "my") if inner else ("Tanh", "")
            body = [helper.make_node(kind, [a], [b], domain=domain) for a, b in pairwise(names)]
            built.functions.append(helper.make_function("my", f"F{level}", ["a"], ["b"], body, imports))
        return built

    assert list(layers_of(model(2, 4))) == ["L000"]
    with pytest.raises(InputRefusedError, match=r"cannot expand the model's functions: Cycle"):
        opened(model(1, 2))
    with pytest.raises(InputRefusedError, match=r"at most 1000000 are accepted"):
        opened(model(2, 30))


def test_damaged_files_never_give_another_error() -> None:
    """1 to 4 random edits of a sound file, n = 150, seed 5: the model still works or is refused as ours."""
    rng = np.random.default_rng(5)
    whole = mlp().SerializeToString()
    outcomes = {"works": 0, "refused": 0}
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            opened(onnx.ModelProto.FromString(bytes(data))).layers()
            outcomes["works"] += 1
        except (InputRefusedError, DecodeError):  # what does not even parse has its own test
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


def test_names_that_are_not_text_are_refused() -> None:
    data = mlp().SerializeToString().replace(b"fc1.weight", b"fc1\xffweight")
    with pytest.raises(InputRefusedError, match=r"names that are not text"):
        opened(onnx.ModelProto.FromString(data))
