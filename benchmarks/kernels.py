"""Cost of a sample at equal count, and time times variance."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import log

import numpy as np

import repstat
from benchmarks.cases import Floats, cloud, clusters, noise_for, rectified, tanh_layer
from benchmarks.measure import Settings, cpu_seconds, interleaved
from benchmarks.peers import dense64, present
from benchmarks.precision import costs, plain_estimate
from benchmarks.report import Table, ratio

EQUAL_PEERS = ("numpy float64", "torch float64", "jax float64", "scipy cdist + logsumexp")
DRAWS_PER_CENTRE = 10
"""Of plain Monte Carlo, as in Goldfeld et al. 2019."""

SUBSET = 2048
"""Draws of it that are made; time and variance are scaled to all."""

SZT = (("L000", 26000, 0.1), ("L000", 26000, 0.3), ("L000", 0, 0.3), ("L001", 26000, 0.1))
SZT += (("L001", 0, 0.3), ("L002", 26000, 0.1), ("L002", 0, 0.3), ("L000", 0, 1.0))


def equal_count(settings: Settings) -> Table:
    """Measure microseconds per sample: one noise draw against all centres."""
    rows: list[list[str]] = []
    longer = replace(settings, peer_seconds=2 * settings.peer_seconds)
    names = [name for name in EQUAL_PEERS if name in present()]
    scores = [present()[name] for name in names]
    for d in (10, 128, 784):
        centres = cloud(10_000, d)
        std = noise_for(centres, log(len(centres)) / 2)
        drawn = []

        def ours(x: Floats = centres, s: float = std, out: list[int] = drawn) -> None:
            found = repstat.noisy_mi(x, s, tolerance=1e-9, max_draws=settings.equal_draws)
            out.append(found.n_draws)

        bounds = partial(repstat.pairwise_bounds, centres, std)
        # As often as the peers, and by turns with each other: only the difference counts.
        spent = interleaved([ours, bounds], settings.repeats)
        each = (spent[0] - spent[1]) / drawn[-1]
        rows.append([f"d = {d}, noise {std:g}", "**repstat**", f"{each * 1e6:.3g}", "1"])
        for name, cost in zip(names, costs(scores, centres, std, longer), strict=True):
            rows.append(["", name, f"{cost.per_point * 1e6:.4g}", ratio(cost.per_point / each)])
    before = f"""One noise draw against all centres of a normal cloud of 10,000, at a noise that leaves about
half of ln n. repstat: the time of `noisy_mi` with {settings.equal_draws:,} draws minus that of
`pairwise_bounds`, which it includes and which is a result of its own. Peers: their time per point,
set-up left out. repstat's draws share noise within blocks, so that they are not independent: what they
are worth is in the next table."""
    columns = ("data", "estimator", "µs per sample|", "ratio|")
    return Table("Equal sample count", before, columns, rows)


def mixtures(quick: bool) -> Iterator[tuple[str, Floats, float]]:
    """Yield name, centres and noise of the mixtures of the next table."""
    for layer, step, std in SZT[1:4:2] if quick else SZT:
        centres = tanh_layer(layer, step)
        yield f"fixture {layer} at step {step:,}, d = {centres.shape[1]}", centres, std
    yield "normal cloud, d = 12", cloud(4096, 12), 0.6
    yield "saturated clusters, d = 12", clusters(4096, 12), 0.5
    yield "normal cloud, d = 128", cloud(4096, 128), 4.0
    if not quick:
        yield "normal cloud, d = 784", cloud(4096, 784), 6.0
        yield "rectified cloud, d = 784", rectified(4096, 784), 2.0


def time_times_variance(settings: Settings) -> Table:
    """Measure the ratio of time times variance of plain Monte Carlo to that of repstat."""
    rows = []
    gains = []
    for name, centres, std in mixtures(settings.quick):
        # Wide data at the smaller tolerance would take minutes, and no other ratio: both scale alike.
        tolerance = 0.002 if settings.quick else 0.004 if centres.shape[1] > 200 else 0.001
        values, errors, times = [], [], []
        for seed in range(settings.seeds):
            found, spent = cpu_seconds(
                lambda x=centres, s=std, k=seed, t=tolerance: repstat.noisy_mi(x, s, tolerance=t, seed=k)
            )
            values.append(found.input.value)
            errors.append(found.input.std_error)
            times.append(spent)
        peer = lambda x=centres, s=std: plain_estimate(dense64, x, s, SUBSET)  # noqa: E731
        (subset_time,) = interleaved([peer], settings.repeats)
        scale = DRAWS_PER_CENTRE * len(centres) / SUBSET
        peer_time, peer_error = subset_time * scale, peer()[1] / scale**0.5
        spread = float(np.std(values, ddof=1))
        gain = peer_time * peer_error**2 / (np.mean(times) * max(spread, 1e-12) ** 2)
        gains.append(gain)
        ours = [f"{np.mean(times):.3g} s", f"{spread:.1e}", f"{np.mean(errors):.1e}"]
        rows.append([name, f"{std:g}", f"{peer_time:.3g} s", f"{peer_error:.1e}", *ours, ratio(gain)])
    before = f"""n = 4,096. numpy float64: plain Monte Carlo with {DRAWS_PER_CENTRE} draws per
centre (from {SUBSET:,} draws, scaled). repstat: mean time and standard deviation of
{settings.seeds} seeds at tolerance {"0.002" if settings.quick else "0.001 (0.004 at d = 784)"},
set-up and bounds included. A variance from {settings.seeds} seeds is uncertain by a factor of about
{"2" if settings.seeds < 8 else "1.6"}."""
    columns = ("data", "noise|", "numpy: time|", "error|", "repstat: time|", "spread|", "reported|", "gain|")
    after = (
        f"Gain: minimum {ratio(min(gains))}, median {ratio(float(np.median(gains)))}, "
        f"geometric mean {ratio(float(np.exp(np.mean(np.log(gains)))))}."
    )
    return Table("Time times variance", before, columns, rows, after)
