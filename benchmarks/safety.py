"""What it costs that nothing gets lost: an extraction beside an unsafe one that h5py writes to one file."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import repstat
from benchmarks.cases import SEED, STORE
from benchmarks.measure import Settings, cpu_seconds
from benchmarks.report import Table, ratio, seconds
from repstat.discovery import open_model

PLACE = STORE.parent / "safety"
N_SAMPLES, WIDTH, N_LAYERS = 4096, 1024, 4
BATCH = 512


def checkpoint(path: Path, seed: int) -> Path:
    """Write a network of four hidden layers of 1,024 units."""
    rng = np.random.default_rng([SEED, seed])
    nodes, weights, last = [], [], "x"
    for i in range(N_LAYERS + 1):
        width = WIDTH if i < N_LAYERS else 10
        matrix = rng.normal(size=(WIDTH if i else 784, width)).astype(np.float32) / np.float32(32)
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"a{i}"]))
        last = f"a{i}"
        if i < N_LAYERS:
            nodes.append(helper.make_node("Tanh", [last], [f"h{i}"]))
            last = f"h{i}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 784])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def unsafe(models: Sequence[Path], inputs: Any, path: Path) -> None:
    """Write all activations to one open file: no hash, no sync, nothing read back."""
    rows = np.arange(N_SAMPLES)
    with h5py.File(path, "w") as file:
        for i, model in enumerate(models):
            adapter = open_model(model, repstat.AdapterOptions(threads=1))
            layers = [layer for layer in adapter.layers({"x": inputs[:3]}) if layer.kind == "hidden"]
            for layer in layers:
                shape = (len(models), N_SAMPLES, layer.n_units)
                file.require_dataset(layer.key, shape, layer.dtype, chunks=(1, 256, layer.n_units))
            for start in range(0, N_SAMPLES, BATCH):
                batch = inputs[start : start + BATCH]
                found = adapter.run({"x": batch}, layers, samples=rows[start : start + BATCH])
                for key, values in found.items():
                    file[key][i, start : start + BATCH] = values
            adapter.close()


def safe(models: Sequence[Path], inputs: Any, path: Path, *, folder: bool) -> None:
    """Extract as a user does."""
    repstat.extract(
        models, inputs, store=path, folder=folder, batch_size=BATCH, options=repstat.AdapterOptions(threads=1)
    )


def table(settings: Settings) -> Table:
    """Measure in turns, and keep the best of each."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    n = 2 if settings.quick else 6
    models = [checkpoint(PLACE / f"step-{i}.onnx", i) for i in range(n)]
    inputs = np.random.default_rng(SEED).normal(size=(N_SAMPLES, 784)).astype(np.float32)
    jobs: dict[str, Callable[[Path], None]] = {
        "one file by h5py, unsafe": lambda path: unsafe(models, inputs, path),
        "`-o acts/`, a file for each checkpoint": lambda path: safe(models, inputs, path, folder=True),
        "`-o acts.h5`, joined": lambda path: safe(models, inputs, path, folder=False),
    }
    best = {name: (float("inf"), float("inf")) for name in jobs}
    for _ in range(settings.repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            _, cpu = cpu_seconds(lambda job=job: job(PLACE / "acts.h5"))
            wall = time.perf_counter() - start
            best[name] = min(best[name][0], wall), min(best[name][1], cpu)
            left = PLACE / "acts.h5"
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.rmtree(PLACE)
    (base_wall, base_cpu), *_ = best.values()
    rows = [
        [name, seconds(wall), ratio(wall / base_wall), seconds(cpu), ratio(cpu / base_cpu)]
        for name, (wall, cpu) in best.items()
    ]
    size = n * N_LAYERS * N_SAMPLES * WIDTH * 4 / 1e6
    before = f"""{n} checkpoints of a network 784-{"-".join([str(WIDTH)] * N_LAYERS)}-10, {N_SAMPLES:,}
samples: {size:.0f} MB of activations. The first line computes the same and writes it to one open file on the
same disk, without hash, sync or reading back: what a crash leaves of that is not readable. Best of
{settings.repeats}, in turns."""
    return Table(
        "What safety costs", before, ("extraction to", "wall time|", "ratio|", "CPU time|", "ratio|"), rows
    )
