"""What comes along: labels, several noise levels, bounds, unique rows, distances."""

from collections.abc import Callable, Iterator
from math import log
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

import repstat
from benchmarks.cases import Floats, cloud, noise_for, tanh_layer
from benchmarks.measure import Settings, interleaved
from benchmarks.report import Table, ratio, seconds
from repstat.arrays import group_rows

TOLERANCE = 0.003


def _bounds_by_cdist(centres: Floats, std: float) -> tuple[float, float]:
    """Return the pairwise bounds of Kolchinsky and Tracey as a plain script computes them."""
    squared = cdist(centres, centres, "sqeuclidean")
    n = len(centres)
    lower = log(n) - logsumexp(-squared / (8 * std**2), axis=1).mean()
    upper = log(n) - logsumexp(-squared / (2 * std**2), axis=1).mean()
    return float(lower), float(upper)


def _histogram_by_cdist(centres: Floats, labels: Any) -> Any:
    """Return histograms of the distances of all pairs and of those of equal class."""
    distances = cdist(centres, centres)
    edges = np.linspace(0.0, distances.max(), 101)
    pairs = np.triu_indices(len(centres), 1)
    same = (labels[:, None] == labels[None, :])[pairs]
    return np.histogram(distances[pairs], edges), np.histogram(distances[pairs][same], edges)


def _row(name: str, ours: float, other: float, note: str) -> list[str]:
    return [name, seconds(ours), seconds(other), ratio(other / ours), note]


def _labels(settings: Settings) -> Iterator[list[str]]:
    sizes = (4096,) if settings.quick else (4096, 10_000)
    for n in sizes:
        centres = tanh_layer("L000", 26000) if n == 4096 else cloud(n, 12)
        std = 0.3 if n == 4096 else 0.6
        for n_classes in (2, 10):
            labels = np.random.default_rng([3, n]).integers(n_classes, size=n)
            jobs: list[Callable[[], Any]] = [
                lambda x=centres, s=std, y=labels: repstat.noisy_mi(x, s, labels=y, tolerance=TOLERANCE),
                lambda x=centres, s=std: repstat.noisy_mi(x, s, tolerance=TOLERANCE),
            ]
            both, alone = interleaved(jobs, settings.repeats + 1)
            draws = jobs[0]().n_draws / jobs[1]().n_draws
            note = f"{(both / alone - 1) * 100:+.0f} % time at {draws:.2f}× the draws"
            name = f"I(X;T) and I(Y;T), {n_classes} classes, n = {n:,} / I(X;T) alone"
            yield _row(name, both, alone, note)


def _levels(settings: Settings) -> Iterator[list[str]]:
    for d in (10,) if settings.quick else (10, 128):
        centres = tanh_layer("L000", 26000) if d == 10 else cloud(4096, d)
        levels = [0.1, 0.2, 0.4, 0.8] if d == 10 else [1.5, 2.5, 4.0, 6.0]
        jobs: list[Callable[[], Any]] = [
            lambda x=centres, s=levels: repstat.noisy_mi(x, s),
            lambda x=centres, s=levels: [repstat.noisy_mi(x, std) for std in s],
        ]
        together, apart = interleaved(jobs, settings.repeats)
        pairs = zip(jobs[0](), jobs[1](), strict=True)
        largest = max(abs(a.input.value - b.input.value) for a, b in pairs)
        yield _row(
            f"4 noise levels in one call / one call each, d = {d}", together, apart, f"{largest:.0e} nat"
        )


def _pairwise(settings: Settings) -> Iterator[list[str]]:
    for d in (10, 784) if settings.quick else (10, 128, 784):
        centres = cloud(4096, d)
        std = noise_for(centres, log(4096) / 2)
        jobs: list[Callable[[], Any]] = [
            lambda x=centres, s=std: repstat.pairwise_bounds(x, s),
            lambda x=centres, s=std: _bounds_by_cdist(x, s),
        ]
        ours, other = interleaved(jobs, settings.repeats)
        largest = max(abs(a - b) for a, b in zip(jobs[0](), jobs[1](), strict=True))
        yield _row(f"pairwise_bounds / cdist + 2 logsumexp, d = {d}", ours, other, f"{largest:.0e} nat")


def _unique(settings: Settings) -> Iterator[list[str]]:
    rng = np.random.default_rng(11)
    bytes_of = {d: rng.integers(0, 30, size=(100_000, d)).astype(np.uint8) for d in (10, 128)}
    duplicates = bytes_of[10][rng.integers(1000, size=100_000)]
    data = {
        "uint8 (100000, 10)": bytes_of[10],
        "uint8 (100000, 10), 1,000 distinct": duplicates,
        "uint8 (100000, 128)": bytes_of[128],
        "float32 (4096, 10)": cloud(4096, 10).astype(np.float32),
    }
    for name, rows in data.items():
        jobs: list[Callable[[], Any]] = [
            lambda x=rows: group_rows(x),
            lambda x=rows: np.unique(x, axis=0, return_index=True, return_inverse=True, return_counts=True),
        ]
        ours, other = interleaved(jobs, settings.repeats + 1)
        groups, reference = jobs[0](), jobs[1]()
        equal = sorted(groups.counts.tolist()) == sorted(reference[3].tolist())
        note = "same groups" if equal else "**other groups**"
        yield _row(f"group_rows / np.unique(axis=0), {name}", ours, other, note)


def _distances(settings: Settings) -> Iterator[list[str]]:
    centres = tanh_layer("L000", 26000)
    labels = np.random.default_rng(3).integers(2, size=len(centres))
    jobs: list[Callable[[], Any]] = [
        lambda: repstat.clustering(centres, labels),
        lambda: _histogram_by_cdist(centres, labels),
    ]
    ours, other = interleaved(jobs, settings.repeats)
    note = "repstat: also cosines and statistics of both"
    yield _row("clustering / cdist + np.histogram, n = 4,096, d = 10", ours, other, note)


def table(settings: Settings) -> Table:
    """Measure the side jobs."""
    before = f"""Each line: repstat's job / what it is measured against. The labels are random;
`noisy_mi` runs with tolerance {TOLERANCE} there. For labels, *against* is I(X;T) alone, so that the
ratio is at most one; the work is settled by the less precise of the two numbers, so the draws
differ too."""
    rows: list[list[str]] = []
    for part in (_labels, _levels, _pairwise, _unique, _distances):
        rows += part(settings)
    columns = ("job / against", "repstat|", "against|", "ratio|", "difference")
    return Table("Side jobs", before, columns, rows)
