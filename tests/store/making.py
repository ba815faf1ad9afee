"""Small stores for the tests of this folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer
from repstat.store import Checkpoint, Conditional, NoiseRecord, Samples, StoreWriter

N_SAMPLES = 20
IDENTITY = {"noise_std": 0.1, "layers": ["L000 linear>tanh", "L001 conv"], "options": {"opt_level": "none"}}


def layer(
    key: str = "L000", unit_shape: tuple[int, ...] = (3,), dtype: str = "float32", **facts: Any
) -> Layer:
    known = {
        "name": f"/net/{key}/Tanh_output_0",
        "op": "Gemm+Tanh",
        "kind": "hidden",
        "source_dtype": dtype,
        "signature": "linear>tanh",
        "target": "t",
    }
    return Layer(key=key, unit_shape=unit_shape, dtype=np.dtype(dtype), **(known | facts))


LAYERS = (layer("L000"), layer("L001", (2, 2, 2), "float64", signature="conv"))
NOISY_LAYERS = (*LAYERS, layer("L002", (), "float16"))
NOISE = NoiseRecord({"L000": 0.1, "L001": 0.25, "L007": 1.0}, 2**40, "Philox", "c0ffee")
REPEATED = Conditional(np.array([0, 3, 4, 11, 19]), 4, ("L001", "L002"))
"""Of five inputs four realizations each; the first layer has no noisy layer before it."""
NOISY: dict[str, Any] = {
    "layers": NOISY_LAYERS, "n_realizations": 3, "noise": NOISE, "conditional": REPEATED
}  # fmt: skip


def samples(n: int = N_SAMPLES, **facts: Any) -> Samples:
    known = {
        "index": np.arange(n),
        "labels": np.arange(n) % 3,
        "inputs_sha256": "ab" * 32,
        "inputs_source": "data.npz",
        "class_names": ("zero", "one", "two"),
        "input_entropy": float(np.log(n)),
    }
    return Samples(**(known | facts))


def values(step: int, of: Layer, n: int = N_SAMPLES) -> NDArray[Any]:
    """The activations that the tests expect at `step`."""
    seed = [step, int(of.key[1:])]
    return np.random.default_rng(seed).normal(size=(n, *of.unit_shape)).astype(of.dtype)


def flat(step: int, of: Layer, n: int = N_SAMPLES) -> NDArray[Any]:
    return values(step, of, n).reshape(n, -1)


def checkpoint(step: int, **facts: Any) -> Checkpoint:
    known = {
        "epoch": step / 10,
        "source": f"step-{step}.onnx",
        "sha256": f"{step:064x}",
        "weights_sha256": f"{step + 1:064x}",
        "metrics": {"loss": 1 / (step + 1)},
        "provenance": {"adapter": "onnx", "step": step},
    }
    return Checkpoint(step=step, **(known | facts))


def writer(path: Path, steps: Sequence[int] = (0, 10, 200), **options: Any) -> StoreWriter:
    known = {"samples": samples(), "layers": LAYERS, "identity": IDENTITY}
    return StoreWriter(path, steps=steps, **(known | options))


def record(into: StoreWriter, step: int, layers: Sequence[Layer] = LAYERS, batch: int = 7) -> None:
    """Write one checkpoint, layers taking turns."""
    with into.checkpoint(checkpoint(step)) as part:
        for start in range(0, N_SAMPLES, batch):
            for one in layers:
                part.write(one.key, values(step, one)[start : start + batch])


def passes(step: int, of: Layer) -> NDArray[Any]:
    """Noisy passes over all samples, shape (realizations, samples, *unit_shape)."""
    return np.stack([values(1000 * r + step, of) for r in range(3)])


def repeats(step: int, of: Layer, shape: tuple[int, int] = (5, 4)) -> NDArray[Any]:
    """Noisy passes of the repeated inputs, shape (inputs, realizations, *unit_shape)."""
    return values(500 + step, of, shape[0] * shape[1]).reshape(*shape, *of.unit_shape)


def record_noisy(into: StoreWriter, step: int, batch: int = 7) -> None:
    """Write one checkpoint of a noisy network, tables taking turns."""
    with into.checkpoint(checkpoint(step)) as part:
        for start in range(0, N_SAMPLES, batch):
            for one in NOISY_LAYERS:
                for realization, rows in enumerate(passes(step, one)):
                    part.write(one.key, rows[start : start + batch], realization=realization)
                if one.key in REPEATED.layers:
                    rows = repeats(step, one).reshape(-1, *one.unit_shape)
                    part.write_conditional(one.key, rows[start : start + batch])


def record_some(into: StoreWriter, step: int, complete: Sequence[Layer] = ()) -> None:
    """Stop in the middle of the realizations of repeated inputs."""
    with into.checkpoint(checkpoint(step)) as part:
        for one in complete:
            for realization, rows in enumerate(passes(step, one)):
                part.write(one.key, rows, realization=realization)
        part.write_conditional("L001", repeats(step, LAYERS[1]).reshape(20, 2, 2, 2)[:7])


def write_noisy(path: Path, steps: Sequence[int] = (0, 10, 200), batch: int = 7, **options: Any) -> Path:
    """Write a whole store of a noisy network."""
    with writer(path, steps, **(NOISY | options)) as into:
        for step in steps:
            if step not in into.done:
                record_noisy(into, step, batch)
        return into.finish()


def write(path: Path, steps: Sequence[int] = (0, 10, 200), **options: Any) -> Path:
    """Write a whole store."""
    with writer(path, steps, **options) as into:
        for step in steps:
            if step not in into.done:
                record(into, step, options.get("layers", LAYERS))
        return into.finish()


def contents(store: Any) -> Mapping[str, Any]:
    """All that a store says, comparable with ==; NaN as text."""
    return {
        "steps": store.steps,
        "checkpoints": repr(store.checkpoints),
        "samples": [
            store.samples.index.tolist(),
            None if store.samples.labels is None else store.samples.labels.tolist(),
            store.samples.inputs_sha256,
            store.samples.class_names,
            store.samples.input_entropy,
        ],
        "identity": dict(store.identity),
        "provenance": list(store.provenance),
        "layers": [
            (v.key, v.name, v.op, v.kind, v.unit_shape, v.dtype, v.source_dtype, v.signature, v.index)
            for v in store.layers.values()
        ],
        "noise": store.noise,
        "repeated": None
        if store.conditional is None
        else [store.conditional.samples.tolist(), store.conditional.n_realizations, store.conditional.layers],
        "values": {
            (key, step): view.at(step=step).read().tobytes()
            for key, view in store.layers.items()
            for step in store.steps
        },
        "conditional": {
            (key, step): None if found is None else found.read().tobytes()
            for key, view in store.layers.items()
            for step in store.steps
            for found in [view.at(step=step).conditional]
        },
    }
