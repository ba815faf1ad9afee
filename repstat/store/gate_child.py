"""What the process of `repstat.store.gate` runs: read a file as its parent will, under limits.

All that the parent calls of HDF5 on opening is called here first, and one value is read of each table of
activations, which takes HDF5 through its index of chunks.
"""

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py

from repstat.errors import RepstatError, ResourceError, StoreDamagedError
from repstat.serving import address_space, limit, refusal, serve
from repstat.store.results_file import RESULTS, decode
from repstat.store.rules import STORE
from repstat.store.storefile import load, reading
from repstat.store.structure import HDF5_ERRORS, check_structure, open_for_reading, schema_in
from repstat.units import format_bytes

CPU_SECONDS = 30
MEMORY_BYTES = 2**30
"""What judging may take beyond the memory of the interpreter; more for a file with large metadata."""
_METADATA_COPIES = 6


def main() -> None:
    """Answer questions until there are no more."""
    serve(_answer)


def _answer(question: Mapping[str, str]) -> dict[str, Any]:
    form = {form.schema: form for form in (STORE, RESULTS)}[question["schema"]]
    path = Path(question["path"])
    limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)
    allowed = MEMORY_BYTES
    try:
        if question["folder"]:
            os.chdir(question["folder"])
        limit(resource.RLIMIT_AS, address_space() + allowed)
        if question["verb"] == "schema":
            return {"found": _schema(path)}
        metadata = check_structure(path, form)
        allowed += _METADATA_COPIES * metadata
        limit(resource.RLIMIT_AS, address_space() + allowed)
        _JUDGES[form.schema](path)
    except RepstatError as error:
        return refusal(error)
    except (MemoryError, RecursionError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY and hard < address_space() + allowed:
            return refusal(ResourceError(what="too little memory to check the file", path=path))
        why = f"reading its metadata takes more than {format_bytes(allowed)} of memory"
        return refusal(StoreDamagedError(what=f"the {form.short} cannot be checked", path=path, why=why))
    return {}


def _schema(path: Path) -> str:
    try:
        with open_for_reading(path) as file:
            return schema_in(file)
    except HDF5_ERRORS:
        return ""


def _judge_store(path: Path) -> None:
    file = load(path, lambda _: None)
    with reading(path), open_for_reading(path) as handle:
        for key in file.header.tables:
            values: h5py.Dataset = handle["layers"][key]["value"]
            for corner in ((0, 0, 0, 0), tuple(length - 1 for length in values.shape)):
                values[corner]


def _judge_results(path: Path) -> None:
    decode(path)


_JUDGES: Mapping[str, Callable[[Path], None]] = {
    STORE.schema: _judge_store,
    RESULTS.schema: _judge_results,
}


if __name__ == "__main__":
    sys.exit("run by repstat.store.gate")
