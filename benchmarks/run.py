"""Time, error and memory of `noisy_mi` beside what a user could pick instead, in one run: ``make bench``.

Every peer estimates I(X;T) of the same data by Monte Carlo samples of -ln p, the way published scripts do;
repstat runs to a standard error of 0.01 nat. Since the peers' errors differ, the figure to compare is the
time each needs for that standard error, computed from its own time and its own spread.
Writes docs/benchmarks.md; the ratios matter, the seconds are this machine's.
"""

import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import repstat
from repstat.extraction import extract

ROOT = Path(__file__).parents[1]
TOLERANCE = 0.01
SEED = 5
SUBSET = 512
"""Centres from which the peers sample; repstat samples from all."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Data, a noise level, and the truth where it is known."""

    name: str
    activations: Floats
    noise_std: float


def cases() -> Iterator[Case]:
    """Yield the data: a cloud in the plane, a real layer, and a wide layer."""
    rng = np.random.default_rng(SEED)
    yield Case("cloud, n = 4096, d = 2", rng.normal(size=(4096, 2)), 0.1)
    data = np.load(ROOT / "fixtures/twelve_bit/data.npz")
    path = ROOT / "fixtures/twelve_bit/step-026000.onnx"
    store = ROOT / "build" / "bench.h5"
    store.parent.mkdir(exist_ok=True)
    extract(path, data["inputs"], store=store, overwrite=True)
    with repstat.open_store(store) as opened:
        layer = opened.layers["L000"].at(index=0).read().astype(np.float64)
    yield Case("tanh layer of the fixture, n = 4096, d = 10", layer, 0.3)
    yield Case("rectified cloud, n = 4096, d = 128", np.maximum(rng.normal(size=(4096, 128)), 0), 1.5)


def numpy_logsumexp(centres: Floats, points: Floats, std: float) -> Floats:
    """Blocked distances by the Gram form, then a stable log-sum-exp: the usual careful script."""
    from scipy.special import logsumexp

    out = np.empty(len(points))
    squared = (centres**2).sum(1)
    for start in range(0, len(points), 512):
        block = points[start : start + 512]
        distance = (block**2).sum(1)[:, None] + squared - 2 * block @ centres.T
        out[start : start + 512] = logsumexp(-distance / (2 * std**2), axis=1)
    return out - np.log(len(centres)) - centres.shape[1] / 2 * np.log(2 * np.pi * std**2)


def sklearn_kde(centres: Floats, points: Floats, std: float) -> Floats:
    """scikit-learn's KernelDensity, which published scripts for this estimator use."""
    from sklearn.neighbors import KernelDensity

    scores = KernelDensity(bandwidth=std).fit(centres).score_samples(points)
    return np.asarray(scores, dtype=np.float64)


def scipy_kde(centres: Floats, points: Floats, std: float) -> Floats:
    """Score with scipy's gaussian_kde, its covariance set to noise_std^2 I."""
    from scipy.stats import gaussian_kde

    kde = gaussian_kde(centres.T, bw_method=1.0)
    kde.covariance = np.eye(centres.shape[1]) * std**2
    kde.cho_cov = np.eye(centres.shape[1]) * std
    kde.log_det = 2 * centres.shape[1] * np.log(std) + centres.shape[1] * np.log(2 * np.pi)
    return np.asarray(kde.logpdf(points.T), dtype=np.float64)


PEERS: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "numpy, logsumexp": numpy_logsumexp,
    "scipy gaussian_kde": scipy_kde,
    "scikit-learn KernelDensity": sklearn_kde,
}


def measured(job: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the job's result, its best CPU seconds of three, and its peak memory in MB."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        result = job()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    job()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, min(seconds), peak / 1e6


def peer_estimate(case: Case, log_density: Callable[[Floats, Floats, float], Floats]) -> tuple[float, float]:
    """Return I(X;T) and its standard error as a plain script gets them: h(T) - h(Z) by Monte Carlo."""
    rng = np.random.default_rng([SEED, 1])
    n, d = case.activations.shape
    chosen = case.activations[rng.choice(n, SUBSET, replace=False)]
    points = chosen + case.noise_std * rng.normal(size=chosen.shape)
    surprise = -log_density(case.activations, points, case.noise_std)
    entropy_of_noise = d / 2 * np.log(2 * np.pi * np.e * case.noise_std**2)
    return float(surprise.mean() - entropy_of_noise), float(surprise.std() / np.sqrt(SUBSET))


def line(case: str, name: str, error: float, seconds: float, ratio: float, memory: float) -> str:
    """Return one line of the table."""
    return f"| {case} | {name} | {error:+.3f} | {seconds:.2f} s | {ratio:.0f} | {memory:.0f} MB |"


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    for case in cases():
        truth = repstat.noisy_mi(case.activations, case.noise_std, tolerance=TOLERANCE / 5, seed=99).input
        assert truth.value is not None
        run = measured(lambda c=case: repstat.noisy_mi(c.activations, c.noise_std, tolerance=TOLERANCE).input)
        found, ours, memory = run
        yield line(case.name, "**repstat**", found.value - truth.value, ours, 1.0, memory)
        for name, log_density in PEERS.items():
            (value, error), seconds, memory = measured(lambda c=case, f=log_density: peer_estimate(c, f))
            needed = seconds * (error / TOLERANCE) ** 2
            yield line("", name, value - truth.value, needed, needed / ours, memory)


def main() -> None:
    """Run everything on one thread and write docs/benchmarks.md."""
    with threadpool_limits(1):
        table = "\n".join(rows())
    cores = os.cpu_count()
    (ROOT / "docs" / "benchmarks.md").write_text(
        f"""# Benchmarks

Written by `make bench`; read the ratios. One thread, CPU time, best of three, on {platform.machine()} with
{cores} cores, Python {platform.python_version()}, numpy {np.__version__}. Peers sample {SUBSET} centres once;
*time* is what each needs for a standard error of {TOLERANCE} nat. *Error* is against a run of repstat with
a fifth of the tolerance; that of the peers carries their own Monte Carlo error at {SUBSET} samples. Memory is
what numpy and Python allocate; compiled code of scipy and scikit-learn allocates elsewhere.

| data | estimator | error, nats | time | ratio | peak memory |
|---|---|---:|---:|---:|---:|
{table}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
