"""A noisy network, extracted and analysed: time and memory of one checkpoint; noise beside a forward pass."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

import repstat
from benchmarks.cases import FIXTURE, STORE, checkpoints
from benchmarks.measure import Job, Settings, interleaved
from benchmarks.report import Table, megabytes, seconds
from benchmarks.trajectory import run_apart
from repstat.adapter import Noise
from repstat.discovery import open_model
from repstat.noise import standard_normal

STEP = 26_000
LEVELS = (0.005, 0.05)
REPEATED, REALIZATIONS = 256, 1000
WIDE = 6
"""Hidden layers of the wide network."""
NOISY_STORE = STORE.with_name("noisy.h5")


def extract_noisy(std: float) -> float:
    """Return wall seconds of the extraction of one checkpoint."""
    (model,) = [path for path in checkpoints() if int(path.stem.split("-")[1]) == STEP]
    data = np.load(FIXTURE / "data.npz")
    start = time.perf_counter()
    repstat.extract(
        model,
        data["inputs"],
        labels=data["labels"],
        store=NOISY_STORE,
        noise_std=std,
        conditional_samples=REPEATED,
        conditional_realizations=REALIZATIONS,
        overwrite=True,
    )
    return time.perf_counter() - start


def analyse_noisy() -> tuple[float, list[tuple[float, float, float]]]:
    """Return wall seconds of the analysis, and value, error and bias of I(X;T) of each layer."""
    start = time.perf_counter()
    results = repstat.analyze(NOISY_STORE, estimators="noisy")
    wall = time.perf_counter() - start
    rows = [row for row in results.rows if row.quantity == "mi_input"]
    return wall, [(row.value or 0.0, row.std_error or 0.0, row.params["bias"]) for row in rows]


def wide_network() -> onnx.ModelProto:
    """Return a network of `WIDE` hidden layers of 1,024 rectified units, with random weights."""
    rng = np.random.default_rng(0)
    weights, nodes, here = [], [], "x"
    for i in range(WIDE + 1):
        matrix = rng.standard_normal((1024, 1024 if i < WIDE else 10)) / 32
        weights.append(from_array(matrix.astype(np.float32), f"fc{i}.weight"))
        nodes.append(helper.make_node("MatMul", [here, f"fc{i}.weight"], [f"s{i}"]))
        nodes.append(helper.make_node("Relu", [f"s{i}"], [f"t{i}"]))
        here = f"t{i}"
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", width))
        for name, width in (("x", 1024), (here, 10))
    )
    graph = helper.make_graph(nodes, "wide", [first], [last], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _passes(model: Path | onnx.ModelProto, inputs: NDArray[np.float32], repeats: int) -> list[float]:
    """Return CPU seconds of a clean pass of all inputs, of a noisy one, and of the noise alone."""
    adapter = open_model(model, repstat.AdapterOptions(threads=1))
    rows = np.arange(len(inputs))
    feeds = {adapter.inputs()[0].name: inputs}
    layers = adapter.layers({name: array[:3] for name, array in feeds.items()})
    noise = Noise({layer.key: 0.005 for layer in layers if layer.kind == "hidden"}, 0)
    draws = [(layer.key, layer.n_units) for layer in layers if layer.key in noise.noise_std]
    jobs: list[Job] = [
        lambda: adapter.run(feeds, layers, samples=rows),
        lambda: adapter.run(feeds, layers, samples=rows, noise=noise),
        lambda: [standard_normal(0, key, 0, rows, n) for key, n in draws],
    ]
    # One mode after the other: a change of mode builds another session.
    return [interleaved([job], 10 * repeats)[0] for job in jobs]


def _beside(settings: Settings) -> str:
    """Measure what noise costs beside a forward pass, of a small network and of a wide one."""
    narrow = np.load(FIXTURE / "data.npz")["inputs"]
    wide = np.random.default_rng(1).random((512, 1024), np.float32)
    networks: dict[str, tuple[Path | onnx.ModelProto, NDArray[np.float32]]] = {
        "the fixture (10-7-5-4-3), 4,096 samples": (checkpoints()[0], narrow),
        f"{WIDE} layers of 1,024, 512 samples": (wide_network(), wide),
    }
    rows = []
    for name, (model, inputs) in networks.items():
        clean, noisy, drawn = _passes(model, inputs, settings.repeats)
        times = [seconds(value) for value in (clean, noisy, drawn)]
        rows.append([name, *times, f"{noisy / clean:.1f}×", f"{drawn / noisy:.0%}"])
    columns = ("one pass", "clean|", "noisy|", "its numbers|", "noisy / clean|", "numbers / noisy|")
    grid = Table("", "", columns, rows).grid()
    return f"What noise costs, in CPU time of one thread:\n\n{grid}"


def table(settings: Settings) -> Table:
    """Measure one checkpoint of the fixture as a noisy network."""
    rows = []
    for std in LEVELS[:1] if settings.quick else LEVELS:
        extracted, extract_memory = run_apart("benchmarks.network", "extract", str(std))
        (wall, layers), memory = run_apart("benchmarks.network", "analyse")
        rows.append(
            [
                f"{std:g}",
                f"{extracted:.1f} s",
                megabytes(extract_memory),
                f"{wall:.1f} s",
                megabytes(memory),
                ", ".join(f"{value:.3f}" for value, _, _ in layers),
                ", ".join(f"{error:.3f}" for _, error, _ in layers),
                ", ".join(f"{bias:.3f}" for _, _, bias in layers),
            ]
        )
    before = f"""The fixture at step {STEP:,}: 4,096 inputs in 10 noisy passes, {REPEATED} of them
{REALIZATIONS:,} times more; five layers, one process, tolerance 0.01. *bias*: by how much I(X;T) may be
too large for too few realizations."""
    columns = (
        *("noise_std|", "extract|", "memory|", "analyze|", "memory|"),
        *("I(X;T) of the layers, nats", "error", "bias"),
    )
    return Table("A noisy network", before, columns, rows, _beside(settings))


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    print(json.dumps(extract_noisy(float(words[0])) if verb == "extract" else analyse_noisy()))
