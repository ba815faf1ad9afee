"""Weights beside the model, whether they may be read, and their fingerprint."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repstat.errors import InputRefusedError
from tests.adapters.onnx_models import FLOAT, Net, mlp, normal, opened, saved, values_of


def externalised(
    model: onnx.ModelProto, location: str = "model.onnx.data", **entries: str
) -> tuple[onnx.ModelProto, bytes]:
    """Move all weights to one file; return the model and the file's bytes."""
    data = b""
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {
            "location": location,
            "offset": str(len(data)),
            "length": str(len(raw)),
            **entries,
        }.items():
            tensor.external_data.add(key=key, value=value)
        data += raw
    return model, data


def test_external_weights_are_read_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = externalised(mlp(), "weights/part.bin")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "part.bin").write_bytes(data)
    path = saved(model, tmp_path)
    monkeypatch.chdir("/")
    x = {"x": normal(3, 4)}
    inside, outside = values_of(mlp(), x), values_of(path, x)
    assert all(np.array_equal(inside[key], outside[key]) for key in inside)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(values_of("model.onnx", x)["L000"], inside["L000"])
    facts = opened(path).provenance()
    assert [f["name"] for f in facts["files"]] == ["model.onnx", "weights/part.bin"]
    assert facts["files"][1]["sha256"] == hashlib.sha256(data).hexdigest()
    assert facts["weights_sha256"] == opened(mlp()).provenance()["weights_sha256"]


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("../secret.bin", "not a relative path inside the model's folder"),
        ("sub/../../secret.bin", "not a relative path"),
        ("/etc/hostname", "not a relative path"),
        ("C:\\secret.bin", "not a relative path"),
        ("..\\secret.bin", "not a relative path"),
        ("", "not a relative path"),
        ("a\0b", "not a relative path"),
        ("*/_ORT_MEM_ADDR_/*", "is not a relative path"),
        ("missing.data", "weights file 'missing.data' is missing"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("link.data", "a link to .*outside the model's folder"),
        ("hard.data", "a hard link to a file that has 2 names"),
    ],
)
def test_unsafe_locations_are_refused(tmp_path: Path, location: str, text: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    model, data = externalised(mlp(), location)
    (tmp_path / "secret.bin").write_bytes(data)
    (folder / "link.data").symlink_to(tmp_path / "secret.bin")
    (folder / "hard.data").hardlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputRefusedError, match=text):
        opened(saved(model, folder))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"length": "100000"}, "has 204 bytes; the file is truncated"),
        ({"offset": "200"}, "the file is truncated"),
        ({"offset": "-4"}, "truncated"),
        ({"length": "many"}, "offset or length is not a number"),
    ],
)
def test_weights_files_that_are_too_short(tmp_path: Path, entries: dict[str, str], text: str) -> None:
    model, data = externalised(mlp(), **entries)
    (tmp_path / "model.onnx.data").write_bytes(data)
    with pytest.raises(InputRefusedError, match=text):
        opened(saved(model, tmp_path))


def test_external_tensors_hidden_in_attributes_and_functions_are_checked(tmp_path: Path) -> None:
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[4, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    net = Net()
    net.nodes.append(constant)
    in_graph = net.build(net.op("MatMul", "x", "w"))
    body = [constant, helper.make_node("MatMul", ["a", "w"], ["b"])]
    net = Net()
    in_function = net.build(net.op("Dense", "x", domain="my.nn"), domains={"my.nn": 1})
    in_function.functions.append(
        helper.make_function("my.nn", "Dense", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    for model in (in_graph, in_function):
        with pytest.raises(InputRefusedError, match="not a relative path inside"):
            opened(saved(model, tmp_path))


def hub_cache(folder: Path, *, data_in_blobs: bool) -> Path:
    """The layout of the Hugging Face hub: model and data are links into one folder of blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    model, data = externalised(mlp())
    (blobs / "aa").write_bytes(model.SerializeToString())
    ((blobs if data_in_blobs else folder) / "bb").write_bytes(data)
    (snapshot / "model.onnx").symlink_to("../../blobs/aa")
    (snapshot / "model.onnx.data").symlink_to(f"../../{'blobs/' if data_in_blobs else ''}bb")
    return snapshot / "model.onnx"


def test_the_cache_of_the_hugging_face_hub_works(tmp_path: Path) -> None:
    path = hub_cache(tmp_path, data_in_blobs=True)
    x = {"x": normal(3, 4)}
    assert np.array_equal(values_of(path, x)["L000"], values_of(mlp(), x)["L000"])
    assert [f["name"] for f in opened(path).provenance()["files"]] == ["model.onnx", "model.onnx.data"]


def test_links_out_of_the_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match="outside the model's folder"):
        opened(hub_cache(tmp_path, data_in_blobs=False))


def test_a_model_in_memory_cannot_refer_to_files() -> None:
    with pytest.raises(InputRefusedError, match=r"its folder|whose folder is not known"):
        opened(externalised(mlp())[0])


# ---------------------------------------------------------------- fingerprints


def fingerprint(model: onnx.ModelProto) -> str:
    return str(opened(model).provenance()["weights_sha256"])


def reordered(model: onnx.ModelProto) -> None:
    weights = list(reversed(model.graph.initializer))
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def as_float_data(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).ravel().tolist()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values)


def annotated(model: onnx.ModelProto) -> None:
    model.doc_string, model.producer_name = "exported at noon", "somebody"


@pytest.mark.parametrize("change", [reordered, as_float_data, annotated])
def test_equal_weights_have_equal_fingerprints(change: Callable[[onnx.ModelProto], None]) -> None:
    model = mlp()
    change(model)
    assert fingerprint(model) == fingerprint(mlp())
    assert opened(model).provenance()["sha256"] != opened(mlp()).provenance()["sha256"]


def one_bit(model: onnx.ModelProto) -> None:
    raw = bytearray(model.graph.initializer[0].raw_data)
    raw[0] ^= 1
    model.graph.initializer[0].raw_data = bytes(raw)


def other_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims.insert(0, 1)


@pytest.mark.parametrize("change", [one_bit, other_shape])
def test_other_weights_have_other_fingerprints(change: Callable[[onnx.ModelProto], None]) -> None:
    model = mlp()
    change(model)
    assert fingerprint(model) != fingerprint(mlp())


def test_weights_in_constant_nodes_count() -> None:
    def model(value: float) -> onnx.ModelProto:
        net = Net()
        tensor = onnx.numpy_helper.from_array(np.full((4, 2), value, np.float32), "same name")
        return net.build(net.op("MatMul", "x", net.op("Constant", out="w", value=tensor)))

    assert fingerprint(model(1.0)) != fingerprint(model(2.0))
