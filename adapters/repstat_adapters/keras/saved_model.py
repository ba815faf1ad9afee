"""SavedModel folders: one signature, its functions inlined and its weights as constants.

The graph that TensorFlow saved is read directly, rather than converted by tf2onnx and read as ONNX: no
converter has to know every op, activations keep their names and layout, zero biases are not dropped (which
makes two checkpoints of one network differ), and nothing beyond TensorFlow is needed.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import InputSpec
from repstat.errors import InputRefusedError, RepstatError, UsageError
from repstat_adapters.keras.framework import first_line, quiet, without_log_lines
from repstat_adapters.keras.inputs import Inputs
from repstat_adapters.keras.tf_ops import is_saver, touches_files, writes_files

_PREFERRED = ("serving_default", "serve")
_FILES = ("saved_model.pb", "saved_model.pbtxt", "variables/variables.index")
_FEEDABLE = "fiub"


@dataclass(frozen=True)
class Signature:
    """One signature of a SavedModel.

    Parameters
    ----------
    loaded
        The loaded object, which must live as long as the signature.
    function
        The concrete function.
    name
        Its name.
    """

    loaded: Any
    function: Any
    name: str


def open_signature(path: Path, tf: Any, *, trust: bool) -> Signature:
    """Load a folder and choose its signature.

    Raises
    ------
    InputRefusedError
        It is damaged, reads or writes files, or has no signature that takes numbers.
    UsageError
        It has several signatures and none is called as usual.
    """
    if not trust:
        _screen(path)
    try:
        with quiet(), without_log_lines(), tf.device("/CPU:0"):
            loaded = tf.saved_model.load(str(path))
    except RepstatError:
        raise
    except Exception as error:  # TensorFlow's loader raises errors of many kinds
        raise InputRefusedError(
            what="cannot read the SavedModel",
            path=path,
            why=f"{type(error).__name__}: {first_line(error)}",
            fix="Copy or export it again; models with custom ops need their library",
        ) from None
    signatures = dict(getattr(loaded, "signatures", {}))
    name = next((known for known in _PREFERRED if known in signatures), None)
    if name is None and len(signatures) == 1:
        name = next(iter(signatures))
    if name is None:
        raise UsageError(
            what="cannot tell which signature of the SavedModel to use",
            path=path,
            why=f"found {', '.join(signatures) or 'none'}, expected serving_default or exactly one",
            fix="Export the model with model.export(path), or save it as .keras",
        )
    return Signature(loaded, signatures[name], name)


def signature_inputs(signature: Signature, path: Path) -> Inputs:
    """Describe the inputs of a signature, by its argument names."""
    _, named = signature.function.structured_input_signature
    specs = []
    for name, spec in named.items():
        dtype = spec.dtype
        if not dtype.is_numpy_compatible or np.dtype(dtype.as_numpy_dtype).kind not in _FEEDABLE:
            raise InputRefusedError(
                what="an input is not a numeric tensor",
                path=path,
                place=f"input {name!r}",
                why=f"found {dtype.name}, expected a tensor of numbers",
                fix="Cut the model behind its preprocessing and export that",
            )
        if spec.shape.rank is None:
            raise InputRefusedError(
                what="an input has no declared shape",
                path=path,
                place=f"input {name!r}",
                why="its number of axes is unknown",
                fix="Export the model with input shapes (free axes may stay free)",
            )
        specs.append(InputSpec(name, np.dtype(dtype.as_numpy_dtype), tuple(spec.shape)))
    batches = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    return Inputs(tuple(specs), {}, min(batches, default=None), lambda values: (tuple(values), {}))


def files_of(path: Path) -> dict[str, Path]:
    """Return the files that make the model, by the name to report."""
    files = {name: path / name for name in _FILES if (path / name).is_file()}
    shards = sorted((path / "variables").glob("variables.data-*-of-*"))
    return files | {f"variables/{shard.name}": shard for shard in shards}


def _screen(path: Path) -> None:
    """Refuse, before anything of it runs, a model that could touch files.

    Raises
    ------
    InputRefusedError
        It could, or it is not a SavedModel.
    """
    proto = _read_proto(path)
    found = set[str]()
    for graph in proto.meta_graphs:
        objects = graph.object_graph_def
        if any(node.WhichOneof("kind") in {"resource", "asset"} for node in objects.nodes):
            found.add("lookup tables or files that it reads when it is loaded")
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        for name, function in functions.items():
            found |= {n.op for n in function.node_def if touches_files(n.op) and not is_saver(n.op)}
            if name in _run_at_load(objects, functions):
                found |= {n.op for n in function.node_def if writes_files(n.op)}
        found |= {n.op for n in graph.graph_def.node if touches_files(n.op) and not is_saver(n.op)}
    if found:
        raise InputRefusedError(
            what="the SavedModel may read or write files",
            path=path,
            why=f"it has {', '.join(sorted(found))}",
            fix="Pass --trust-model if it is yours, or save the model as .keras",
        )


def _read_proto(path: Path) -> Any:
    protos = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    proto = protos.SavedModel()
    binary = path / "saved_model.pb"
    try:
        if binary.is_file():
            proto.ParseFromString(binary.read_bytes())
        else:
            text_format = importlib.import_module("google.protobuf.text_format")
            text_format.Parse((path / "saved_model.pbtxt").read_text("utf-8"), proto)
    except Exception as error:  # protobuf's errors share no base class
        raise InputRefusedError(
            what="cannot read the SavedModel",
            path=path,
            why=f"its graph is truncated or not one ({first_line(error)})",
            fix="Copy or export it again",
        ) from None
    if not proto.meta_graphs:
        raise InputRefusedError(
            what="cannot read the SavedModel",
            path=path,
            why="it holds no graph; the file is truncated",
            fix="Copy or export it again",
        )
    return proto


def _run_at_load(objects: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """Names of the functions that run while variables are restored."""
    for node in objects.nodes:
        for saveable in node.saveable_objects.values():
            restoring = objects.nodes[saveable.restore_function]
            name = restoring.bare_concrete_function.concrete_function_name
            yield from [n for n in (name, *restoring.function.concrete_functions) if n in functions]
