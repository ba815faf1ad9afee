"""Where activations come from: hashes of files and weights, streamed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from repstat.errors import InputRefusedError
from repstat_adapters.onnx.source import Source
from repstat_adapters.onnx.walk import all_tensors
from repstat_adapters.shared.provenance import file_facts

_BLOCK = 1 << 20


def source_facts(source: Source) -> dict[str, Any]:
    """Return facts of the model file and its weights files; of a model in memory the hash of its bytes."""
    facts = file_facts(source.files)
    if not source.files:
        facts["sha256"] = hashlib.sha256(source.model.SerializeToString(deterministic=True)).hexdigest()
    return facts


def _hash_part(path: Path, start: int, length: int | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = length
        while block := file.read(_BLOCK if left is None else min(_BLOCK, left)):
            digest.update(block)
            left = None if left is None else left - len(block)
    return digest.hexdigest()


def weights_sha256(source: Source) -> str:
    """Fingerprint of all weights: their names, shapes, types and bytes, in the order of names.

    Exports whose files differ in other bytes (paths, time, order) agree if names and weights do.
    """
    entries = sorted(
        f"{name}|{t.data_type}|{tuple(t.dims)}|{_hash_tensor(t, source)}"
        for name, t in all_tensors(source.model)
    )
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _hash_tensor(tensor: TensorProto, source: Source) -> str:
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert source.folder is not None  # `locate_weights` refuses external data without a folder
        length = int(entries["length"]) if entries.get("length") else None
        file = source.folder / entries["location"]
        return _hash_part(file, int(entries.get("offset") or 0), length)
    if tensor.HasField("raw_data"):
        return hashlib.sha256(tensor.raw_data).hexdigest()
    if tensor.data_type == TensorProto.STRING:
        return hashlib.sha256(b"\0".join(tensor.string_data)).hexdigest()
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputRefusedError(
            what="a stored tensor is damaged", path=source.path, place=f"tensor {tensor.name!r}"[:200],
            why=why, fix="Export the model again",
        ) from None  # fmt: skip
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.isbuiltin == 1 else array
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def model_facts(model: onnx.ModelProto) -> Mapping[str, Any]:
    """Return what the model says of itself."""
    return {
        "ir_version": model.ir_version,
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "producer": " ".join(filter(None, [model.producer_name, model.producer_version])),
    }
