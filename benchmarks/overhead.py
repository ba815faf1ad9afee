"""What an extraction costs beside a plain forward pass of the framework, and where the time goes."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

import repstat
from benchmarks.cases import STORE
from benchmarks.measure import Settings, one_thread, peak_bytes, reset_peak
from benchmarks.report import Table, megabytes, ratio, seconds
from benchmarks.small_cnn import NETWORKS, images
from benchmarks.trajectory import run_apart
from repstat.discovery import open_model
from repstat.store import builder, disk
from repstat.store.values import ValueTally
from repstat_adapters.shared.base import BatchedAdapter

PLACE = STORE.parent / "overhead"
BATCH = 64
N_FULL, N_QUICK = 1024, 256
TURNS = 6
"""Of the full run: wall time, since fsync takes no CPU, wants more turns than CPU time does."""
GOAL = 1.3
PARTS: Mapping[str, tuple[Any, str]] = {
    "the model": (BatchedAdapter, "run"),
    "hash": (ValueTally, "add"),
    "write": (builder, "put_rows"),
    "fsync": (disk, "sync"),
    "read back": (builder.StoreFileBuilder, "_read_back"),
}
"""Of an extraction. What is hashed while the file is read back counts as hashed."""


class Clock:
    """Seconds of each part, without those of parts inside of it."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self._inner = [0.0]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure all parts in this context."""
        with ExitStack() as stack:
            for part, (owner, name) in PARTS.items():
                timed = self._timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                whole = time.perf_counter() - start
                self.spent[part] += whole - self._inner.pop()
                self._inner[-1] += whole

        return timed


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Return seconds, bytes and memory of one framework; it wants a process of its own."""
    network = NETWORKS[name]()
    inputs = images(N_QUICK if quick else N_FULL)
    if network.channels_last:
        inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    options = repstat.AdapterOptions(threads=1)
    adapter = open_model(network.model, options)
    feed = adapter.inputs()[0].name
    layers = [layer for layer in adapter.layers({feed: inputs[:3]}) if layer.kind == "hidden"]
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]

    def run(batch: Any) -> dict[str, Any]:
        return adapter.run({feed: batch}, layers, samples=np.arange(len(batch)))

    def extract() -> None:
        repstat.extract(
            network.model, inputs, store=PLACE / "acts", folder=True, batch_size=BATCH, options=options
        )

    def forward() -> None:
        for batch in batches:
            network.forward(batch)

    memory = {"forward": memory_of(forward), "extract": memory_of(extract)}
    activations = [array for batch in batches for array in run(batch).values()]
    jobs: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "run": lambda: [bool(run(batch)) for batch in batches],
        "extract": extract,
        "hash": lambda: hash_once(activations),
        "write": lambda: write_once(activations),
    }
    if network.as_adapter is not None:
        as_adapter = network.as_adapter
        jobs["as adapter"] = lambda: [bool(as_adapter(batch).size) for batch in batches]
    if network.channels_last:
        maps = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in activations if a.ndim == 4]
        jobs["turn"] = lambda: [bool(np.ascontiguousarray(np.moveaxis(a, -1, 1)).size) for a in maps]
    best, parts = in_turns(jobs, 1 if quick else TURNS)
    return {"best": best, "parts": parts, "bytes": sum(a.nbytes for a in activations), "memory": memory}


def in_turns(jobs: Mapping[str, Callable[[], Any]], turns: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the best wall seconds of each job, and the parts of the best extraction.

    A first turn, to warm up, does not count.
    """
    best, parts = dict.fromkeys(jobs, float("inf")), dict[str, float]()
    for turn in range(turns + 1):
        for name, job in jobs.items():
            clock = Clock()
            with place(), clock.running():
                start = time.perf_counter()
                job()
                wall = time.perf_counter() - start
            if turn and wall < best[name]:
                best[name] = wall
                parts = clock.spent if name == "extract" else parts
    return best, parts


@contextmanager
def place() -> Iterator[None]:
    """Make an empty folder on the disk, and remove it."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(PLACE)


def memory_of(job: Callable[[], Any]) -> int:
    """Return the peak of the job's second run above what the process holds, in bytes."""
    with place():
        job()
    with place():
        before = reset_peak()
        job()
        return peak_bytes() - before


def hash_once(arrays: Sequence[Any]) -> None:
    """Hash all bytes: what no store with checksums can do without."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)


def write_once(arrays: Sequence[Any]) -> None:
    """Write all bytes to one file and see them on the disk: what no store can do without."""
    with (PLACE / "bare").open("wb", buffering=0) as file:
        for array in arrays:
            file.write(array.data)
        os.fsync(file.fileno())


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    best = found["best"]
    base = best["forward"]
    bare = base + best["hash"] + best["write"]
    return [
        name,
        seconds(base),
        f"{found['bytes'] / base / 1e6:,.0f} kB",
        ratio(best["run"] / base),
        ratio(bare / base),
        ratio(best["extract"] / base),
        *(megabytes(found["memory"][job]) for job in ("forward", "extract")),
    ]


def _parts_row(name: str, found: Mapping[str, Any]) -> list[str]:
    best, parts = found["best"], found["parts"]
    whole = best["extract"]
    rest = whole - sum(parts.values())
    return [name, seconds(whole), *(f"{part / whole:.0%}" for part in (*parts.values(), rest))]


def table(settings: Settings) -> Table:
    """Measure each framework in a process of its own."""
    found = {}
    for name in NETWORKS:
        words = [name, *(["quick"] if settings.quick else [])]
        found[name], _ = run_apart("benchmarks.overhead", *words)
    some = next(iter(found.values()))
    n = N_QUICK if settings.quick else N_FULL
    size, turns = some["bytes"] / 1e6, 1 if settings.quick else TURNS
    before = f"""A small CNN, the same in three frameworks: images of 32 × 32 × 3, convolutions of 32, 64 and
64 channels, a hidden layer of 64 units; {n:,} images in batches of {BATCH}, and {size:.0f} MB of hidden
activations. *Forward* is what a user of the framework would write, and the unit of the ratios:
`InferenceSession.run` with onnxruntime's own optimisation, `inference_mode`, `tf.function`. *Adapter* is
`Adapter.run` of all hidden layers, whose arrays are thrown away. *Bare* is the forward pass, SHA-256 of the
same bytes once, and `open().write()` with fsync: less than that no store with checksums can take. *Extract*
is `repstat.extract` to a folder on the local disk. Wall time, best of {turns} in turns; memory is the peak
of a second run above what the first one left."""
    columns = (
        *("framework", "forward|", "activations per ms|", "adapter|", "bare|", "extract|"),
        *("memory of forward|", "of extract|"),
    )
    rows = [_row(name, one) for name, one in found.items()]
    return Table("What extraction costs", before, columns, rows, _after(found))


def _after(found: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("of an extraction", "wall time|", *(f"{part}|" for part in PARTS), "rest|")
    grid = Table("", "", columns, [_parts_row(name, one) for name, one in found.items()]).grid()
    stores = [(f["best"]["extract"] - f["best"]["run"]) / f["bytes"] for f in found.values()]
    cost = sorted(stores)[len(stores) // 2]
    onnx = found["ONNX"]["best"]
    plain, own = onnx["as adapter"] / onnx["forward"], onnx["run"] / onnx["as adapter"]
    keras = found["Keras"]["best"]
    turn = keras["turn"] / keras["forward"]
    limit = (GOAL - 1) / cost / 1e6
    return f"""The goal is {GOAL}×. *Adapter* is beyond it for ONNX because onnxruntime's optimisation is off,
under which a layer's values depend on which others are asked for: without it the plain forward pass takes
{ratio(plain)} as long, and `Adapter.run` {ratio(own)} of that. For Keras it contains a copy of each feature
map, whose channels are last in TensorFlow and first in a store: {turn:.2f} of a forward pass. *Extract* is
beyond it where a network makes activations faster than they can be hashed and written, as *bare* shows.
Storing costs {cost * 1e9:.1f} s per GB here. That is {GOAL - 1:.1f} of the forward pass, as much as the
goal allows, in a network that makes {limit:,.0f} kB of hidden activations per ms,
and less where it makes fewer.

{grid}

*The model*: `Adapter.run`. *Hash*: SHA-256 of everything twice, when it is written and when the file is read
back before it gets its name, and the counts of NaN and Inf. *Rest*: opening and checking the model, the hash
and the entropy of the inputs, the metadata. Tried and left out: a helper thread for the first hash. It saves
11 to 20 % of the wall time where a second core is idle, which it is not by default, and no CPU time."""


if __name__ == "__main__":
    with one_thread():
        print(json.dumps(measure(sys.argv[1], "quick" in sys.argv)))
