"""Read an ONNX file without trusting it. Weights outside the file are located and checked, not loaded."""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.onnx.external import locate_weights
from repstat_adapters.onnx.walk import has_broken_text

PROTOBUF_LIMIT = 2**31 - 1
"""Largest message protobuf can read; larger models keep their weights in a file beside them."""

_NOT_ONNX = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive, as PyTorch and Keras write",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x1f\x8b": "gzip-compressed data",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"%PDF": "a PDF document",
    b"<": "an HTML or XML page",
    b"{": "a JSON text",
}


@dataclass(frozen=True)
class Source:
    """A model as read: never changed after this.

    Parameters
    ----------
    model
        Proto without the bytes of external weights, its functions as in the file.
    path
        The file, or None for a model in memory.
    folder
        Where onnxruntime is to look for external weights.
    files
        The model file and its weights files, by the name to report.
    """

    model: onnx.ModelProto
    path: Path | None
    folder: Path | None
    files: dict[str, Path]


def read_source(source: object) -> Source:
    """Read a file, or copy a model in memory.

    Raises
    ------
    UsageError
        There is no such file, or it is not a regular file.
    InputRefusedError
        It is not a sound ONNX model, or its weights are missing, truncated or outside its folder.
    """
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        path, name = None, "the model in memory"
    elif isinstance(source, str | PathLike):
        path = Path(fspath(source))
        copy, name = _parse(path), path.name
    else:
        raise UsageError(
            what="cannot open the model",
            why=f"found {type(source).__name__}, expected a path or an onnx.ModelProto",
            fix="Give the path of an ONNX file",
        )
    _require_graph(copy, path)
    if has_broken_text(copy):
        raise InputRefusedError(
            what="the model has names that are not text",
            path=path,
            why="a string in it is not UTF-8; the file is damaged",
            fix="Copy or export it again",
        )
    folder, weights = locate_weights(copy, path)
    files = {} if path is None else {name: path, **weights}
    return Source(copy, path, folder, files)


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise UsageError(
            what="model not found",
            path=path,
            why="there is no such file",
            fix="Check the spelling and the working directory",
        )
    if not path.is_file():
        raise UsageError(
            what="model is not a regular file",
            path=path,
            why="a folder, device, socket or pipe was found",
            fix="Name an ONNX file",
        )
    size = path.stat().st_size
    if size > PROTOBUF_LIMIT:
        raise InputRefusedError(
            what="the model file is too large",
            path=path,
            why=f"found {size} bytes; one protobuf message holds at most {PROTOBUF_LIMIT}",
            fix="Export it with external data (weights in a file beside it)",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            what="cannot read the model file",
            path=path,
            why=error.strerror or type(error).__name__,
            fix="Check the file's permissions and the disk",
        ) from None
    _recognise(data, path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputRefusedError(
            what="cannot read the model",
            path=path,
            why=f"its {size} bytes are not a complete ONNX protobuf; the file is truncated or not ONNX",
            fix="Copy or export it again",
        ) from None
    return model


def _recognise(data: bytes, path: Path) -> None:
    if not data:
        raise InputRefusedError(
            what="the model file is empty",
            path=path,
            why="found 0 bytes",
            fix="Export it again; the disk may have been full",
        )
    if data.startswith(b"version https://git-lfs"):
        raise InputRefusedError(
            what="not a model but a Git LFS pointer",
            path=path,
            why="the repository was cloned without its large files",
            fix="Run git lfs pull in that repository",
        )
    kind = next((kind for magic, kind in _NOT_ONNX.items() if data.startswith(magic)), "")
    kind = {b"ORTM": "an ORT-format model", b"TFL3": "a TensorFlow Lite model"}.get(data[4:8], kind)
    if kind:
        raise InputRefusedError(
            what="not an ONNX model",
            path=path,
            why=f"it looks like {kind}",
            fix="Give a model exported to ONNX",
        )


def _require_graph(model: onnx.ModelProto, path: Path | None) -> None:
    lacking = [
        part
        for part, there in (
            ("an IR version", model.ir_version > 0),
            ("a graph", model.HasField("graph") and len(model.graph.node) > 0),
            ("graph outputs", len(model.graph.output) > 0),
            ("an opset", len(model.opset_import) > 0),
        )
        if not there
    ]
    if lacking:
        raise InputRefusedError(
            what="not a complete ONNX model",
            path=path,
            why=f"it lacks {', '.join(lacking)}; the file is truncated or not ONNX",
            fix="Copy or export it again",
        )
