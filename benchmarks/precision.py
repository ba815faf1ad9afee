"""Time to a standard error: repstat with that tolerance, peers by plain Monte Carlo."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from math import log, log2

import numpy as np

import repstat
from benchmarks.cases import Case, Floats, noise_levels, precision_cases, residuals
from benchmarks.measure import Settings, cpu_seconds, interleaved
from benchmarks.peers import COMPILED, LogDensity, present
from benchmarks.report import Table, count, megabytes, ratio, seconds

TARGETS = (0.01, 0.001)
"""Standard errors, in nats."""

WRONG = 4.0
"""Standard errors from the truth beyond which a peer is called wrong."""

FEW, LEAST, MOST = 16, 96, 2**16
"""Points of a peer's shorter run, and the least and the most of its longer one."""

COLUMNS = (
    *("data", "noise", "estimator", "value - truth|", "standard error|", "verdict"),
    *("time to 0.01|", "time to 0.001|", "ratio to repstat at 0.001|", "pairs per second|", "memory|"),
)
BEFORE = """I(X;T) to a standard error of 0.01 and of 0.001 nat. repstat runs with that tolerance,
timed as a user calls it, bounds and set-up included; *≈* marks a run that was cut short at some
seconds and whose time is scaled by (its standard error / 0.001)². Peers take the mean of -ln p over
points drawn about random centres, minus the entropy of the noise, from as many points as they score
in some tenths of a second; the time they need is their set-up plus the time of these points scaled by
(their standard error / target)². *Value - truth* and *standard error* belong to the runs that were made
(repstat's: the one for 0.01). *Wrong* is what is off by more than four standard errors. A pair is one
noisy point against one centre. Memory is the peak above data and imports, in a process of its own, at
middle noise."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What I(X;T) is.

    Parameters
    ----------
    value, error
        By repstat with a seed of its own and a smaller tolerance.
    z
        Distance from plain Monte Carlo with the own term known, in standard errors of the difference.
    """

    value: float
    error: float
    z: float


def truth_of(centres: Floats, std: float, budget: int) -> Truth:
    """Return the truth from at most so many draws, checked by an independent implementation."""
    tolerance = 0.002 if len(centres) >= 100_000 else 0.0005
    found = repstat.noisy_mi(centres, std, tolerance=tolerance, seed=99, max_draws=budget).input
    assert found.value is not None
    assert found.std_error is not None
    n_draws = min(2**14, 2**35 // centres.size, 2**28 // len(centres))
    sample = residuals(centres, std, n_draws, seed=2)
    difference = log(len(centres)) - sample.mean() - found.value
    spread = np.hypot(sample.std() / len(sample) ** 0.5, found.std_error)
    # Where no centre meets another both are ln n to rounding, and there is no spread to compare with.
    return Truth(found.value, found.std_error, abs(difference) / max(spread, 1e-9))


def plain_estimate(score: LogDensity, centres: Floats, std: float, n_points: int) -> tuple[float, float]:
    """Return I(X;T) and its standard error as a plain script gets them: h(T) - h(Z) by Monte Carlo."""
    rng = np.random.default_rng([7, n_points])
    n, d = centres.shape
    chosen = centres[rng.integers(n, size=n_points)]
    surprise = -score(centres, chosen + std * rng.normal(size=chosen.shape), std)
    noise_entropy = d / 2 * np.log(2 * np.pi * np.e * std**2)
    return float(surprise.mean() - noise_entropy), float(surprise.std(ddof=1) / n_points**0.5)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of a peer.

    Parameters
    ----------
    n_points
        Points of its longer run.
    setup
        Once per call, such as scaling the centres or building a tree.
    per_point
        For each point.
    """

    n_points: int
    setup: float
    per_point: float


def costs(scores: Sequence[LogDensity], centres: Floats, std: float, settings: Settings) -> list[Cost]:
    """Measure all peers by turns, each with few points and with as many as a budget allows."""
    jobs: list[Callable[[], object]] = []
    sizes = []
    for score in scores:

        def job(n_points: int, score: LogDensity = score) -> object:
            return plain_estimate(score, centres, std, n_points)

        job(FEW)  # Imports, and compiles where it must.
        few = cpu_seconds(partial(job, FEW))[1]
        if score in COMPILED:
            job(LEAST)
        more = cpu_seconds(partial(job, LEAST))[1]
        # Beside a long set-up the difference is noise, and no less than a tenth of the whole is believed.
        per_point = max((more - few) / (LEAST - FEW), 0.1 * more / LEAST)
        size = min(max(2 ** int(log2(settings.peer_seconds / per_point)), LEAST), MOST)
        if score in COMPILED:
            job(size)
        sizes.append(size)
        jobs += [partial(job, FEW), partial(job, size)]
    spent = interleaved(jobs, settings.repeats)
    found = []
    for size, few, many in zip(sizes, spent[::2], spent[1::2], strict=True):
        per_point = (many - few) / (size - FEW)
        found.append(Cost(size, max(few - FEW * per_point, 0.0), per_point))
    return found


def _verdict(difference: float, error: float, truth: Truth, information: float) -> str:
    if abs(difference) <= WRONG * np.hypot(error, truth.error) + 1e-9:
        return ""
    return "**wrong**, above ln n" if information > 0 else "**wrong**"


def _peer_rows(
    centres: Floats, std: float, truth: Truth, ours: float, memory: dict[str, str], settings: Settings
) -> list[list[str]]:
    rows = []
    found = costs(list(present().values()), centres, std, settings)
    for (name, score), cost in zip(present().items(), found, strict=True):
        value, error = plain_estimate(score, centres, std, cost.n_points)
        points = [cost.n_points * (error / target) ** 2 for target in TARGETS]
        needed = [cost.setup + cost.per_point * n_points for n_points in points]
        difference = value - truth.value
        verdict = _verdict(difference, error, truth, value - WRONG * error - log(len(centres)))
        cells = [f"{difference:+.4f}", f"{error:.4f}", verdict, *map(seconds, needed)]
        rate = count(len(centres) / cost.per_point)
        rows.append(["", "", name, *cells, ratio(needed[1] / ours), rate, memory.get(name, "")])
    return rows


def _repstat_row(centres: Floats, std: float, settings: Settings) -> tuple[list[str], float, Truth]:
    """Return repstat's cells from the difference on, its time to 0.001 nat, and the truth."""
    first, spent = cpu_seconds(lambda: repstat.noisy_mi(centres, std, tolerance=TARGETS[0]))
    if spent < 1.0:
        again = [lambda: repstat.noisy_mi(centres, std, tolerance=TARGETS[0])]
        spent = min(spent, *interleaved(again, settings.repeats))
    per_second = max(first.n_draws, 16) / spent
    most = [int(min(per_second * s + 16, 2**24)) for s in (settings.run_seconds, settings.truth_seconds)]
    second, longer = cpu_seconds(
        lambda: repstat.noisy_mi(centres, std, tolerance=TARGETS[1], seed=1, max_draws=most[0])
    )
    truth = truth_of(centres, std, most[1])
    reached = second.input.std_error or 0.0
    cut = reached > TARGETS[1]
    needed = longer * (reached / TARGETS[1]) ** 2 if cut else longer
    error = first.input.std_error or 0.0
    difference = (first.input.value or 0.0) - truth.value
    off = abs(difference) > WRONG * np.hypot(error, truth.error) + 1e-6
    cells = [f"{difference:+.4f}", f"{error:.2g}", "**wrong**" if off else "", seconds(spent)]
    cells += [("≈ " if cut else "") + seconds(needed), "1"]
    return [*cells, count(len(centres) * second.n_draws / longer)], needed, truth


@cache
def peak(case: str, std: float, estimator: str) -> str:
    """Return the peak memory of an estimator in a process of its own, as text."""
    command = [sys.executable, "-m", "benchmarks.memory", case, str(std), estimator]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return megabytes(float(done.stdout.split()[-1])) if done.returncode == 0 else "failed"


def _memory(case: Case, std: float) -> dict[str, str]:
    names = ["repstat", *present()]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: peak(case.name, std, name), names), strict=True))


def table(settings: Settings) -> Table:
    """Measure every case at every noise."""
    rows: list[list[str]] = []
    for case in precision_cases(settings.quick):
        centres = case.make()
        for level, std in noise_levels(centres, settings.quick):
            memory = _memory(case, std) if level == "middle" else {}
            ours, needed, truth = _repstat_row(centres, std, settings)
            print(f"precision: {case.name}, {level} noise", flush=True)
            noise = f"{level}, {std:g}: I = {truth.value:.4f} ± {truth.error:.1g}, \\|z\\| = {truth.z:.1f}"
            name = case.name if level == "middle" or not rows or rows[-1][0] != case.name else ""
            rows.append([name, noise, "**repstat**", *ours, memory.get("repstat", "")])
            rows += _peer_rows(centres, std, truth, needed, memory, settings)
    after = """Small, middle and large noise leave about 0.99 ln n, half of it, and 0.7 nat. The truth is a
run of repstat with tolerance 0.0005 (0.002 for 100,000 samples), as far as some seconds take it; |z| is
its distance from a plain Monte Carlo mean with the own term known, by other code, in standard errors."""
    return Table("Time to a standard error", BEFORE, COLUMNS, rows, after)
