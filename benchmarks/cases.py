"""The data: clouds, saturated clusters, real layers; and noise that leaves a given information."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import repstat
from benchmarks.peers import dense64
from repstat.extraction import extract

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "fixtures" / "twelve_bit"
STORE = ROOT / "build" / "bench.h5"
SEED = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A layer's activations by name.

    Parameters
    ----------
    name
        As the tables show it.
    make
        Returns the activations, the same ones each time.
    """

    name: str
    make: Callable[[], Floats]


def checkpoints() -> list[Path]:
    """Return the model files of the fixture in the order of training."""
    return sorted(FIXTURE.glob("step-*.onnx"))


def fixture_store() -> Path:
    """Return a store of the whole trajectory of the fixture; it is made once per run."""
    STORE.parent.mkdir(exist_ok=True)
    data = np.load(FIXTURE / "data.npz")
    extract(checkpoints(), data["inputs"], store=STORE, labels=data["labels"], overwrite=True)
    return STORE


@cache
def tanh_layer(layer: str, step: int) -> Floats:
    """Return a layer of the fixture at a training step, in float64."""
    with repstat.open_store(STORE) as opened:
        return opened.layers[layer].at(step=step).read().astype(np.float64)


def cloud(n: int, d: int) -> Floats:
    """Return standard normal centres."""
    return np.random.default_rng([SEED, n, d]).normal(size=(n, d))


def rectified(n: int, d: int) -> Floats:
    """Return centres whose units are zero half of the time."""
    return np.maximum(cloud(n, d), 0.0)


def clusters(n: int, d: int) -> Floats:
    """Return saturated tanh units: rows near the corners of a cube, each a little off."""
    rng = np.random.default_rng([SEED, n, d, 1])
    corners = rng.integers(0, 2, size=(n, d)) * 2.0 - 1.0
    return np.asarray(np.tanh(2.5 * corners + 0.3 * rng.normal(size=(n, d))))


def precision_cases(quick: bool) -> list[Case]:
    """Return the cases of time to a standard error."""
    found = [
        Case("cloud, n = 4,096, d = 2", lambda: cloud(4096, 2)),
        Case("tanh layer of the fixture, n = 4,096, d = 10", lambda: tanh_layer("L000", 26000)),
        Case("rectified cloud, n = 10,000, d = 128", lambda: rectified(10_000, 128)),
        Case("rectified cloud, n = 10,000, d = 784", lambda: rectified(10_000, 784)),
        Case("saturated clusters, n = 100,000, d = 12", lambda: clusters(100_000, 12)),
    ]
    return found[1:3] if quick else found


def residuals(centres: Floats, std: float, n_draws: int, seed: int) -> Floats:
    """Return ln sum_i N(s; mu_i) / N(s; mu_j) at points s drawn about random centres j: ln n - I on average.

    This is the plain Monte Carlo estimate with its own term known, by an implementation that shares nothing
    with repstat.
    """
    rng = np.random.default_rng([SEED, seed])
    noise = rng.normal(size=(n_draws, centres.shape[1]))
    points = centres[rng.integers(len(centres), size=n_draws)] + std * noise
    own = -0.5 * (noise**2).sum(1) - centres.shape[1] / 2 * log(2 * np.pi * std**2)
    return dense64(centres, points, std) + log(len(centres)) - own


def noise_for(centres: Floats, information: float) -> float:
    """Return noise_std, to two digits, at which I(X;T) is about `information` nats."""
    low, high = log(1e-5), log(1e2 * float(centres.std()) * centres.shape[1] ** 0.5)
    for _ in range(12):
        middle = (low + high) / 2
        found = log(len(centres)) - residuals(centres, float(np.exp(middle)), 96, seed=1).mean()
        low, high = (middle, high) if found > information else (low, middle)
    return float(f"{np.exp((low + high) / 2):.1e}")


def noise_levels(centres: Floats, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield small, middle and large noise: I(X;T) near ln n, about half of it, below one nat."""
    whole = log(len(centres))
    levels = {"small": 0.99 * whole, "middle": whole / 2, "large": 0.7}
    for name, information in levels.items():
        if not quick or name == "middle":
            yield name, noise_for(centres, information)
