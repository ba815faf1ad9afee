"""Activations for the tests of importing, and every form in which they may be saved."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.optional import require

N = 30
Arrays = dict[str, Any]


def activations(step: int, n: int = N) -> Arrays:
    rng = np.random.default_rng([7, step])
    return {
        "fc1": rng.normal(size=(n, 4)).astype(np.float32),
        "conv10": rng.normal(size=(n, 2, 3)),
        "conv2": rng.normal(size=n).astype(np.float16),
    }


def as_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def as_packed_npz(path: Path, arrays: Arrays) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def as_folder(path: Path, arrays: Arrays) -> Path:
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def as_safetensors(path: Path, arrays: Arrays) -> Path:
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    require("safetensors.numpy").save_file(plain, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")
