"""Two estimates that other code gets wrong without a word."""

from math import log

import numpy as np

import repstat
from benchmarks.cases import SEED, cloud, residuals
from benchmarks.peers import present
from benchmarks.precision import plain_estimate
from benchmarks.report import Table
from repstat.arrays import Floats

N_POINTS = 256


def gram32(centres: Floats, std: float) -> float:
    """Return the upper bound on I(X;T) from float32 distances by the Gram form, without centring."""
    x = centres.astype(np.float32)
    squared = (x**2).sum(1)
    distances = squared[:, None] + squared[None, :] - 2 * x @ x.T
    # As common code does against negative squares; it hides the fault.
    distances = np.maximum(distances, 0)
    exponents = (-distances / np.float32(2 * std**2)).astype(np.float64)
    largest = exponents.max(1)
    sums = largest + np.log(np.exp(exponents - largest[:, None]).sum(1))
    return float(log(len(x)) - sums.mean())


def _truth(centres: Floats, std: float) -> str:
    sample = residuals(centres, std, 2048, seed=4)
    return f"{log(len(centres)) - sample.mean():.3f} ± {sample.std() / len(sample) ** 0.5:.3f}"


def table() -> Table:
    """Measure both traps."""
    rows = []
    wide = cloud(10_000, 512)
    ours = repstat.noisy_mi(wide, 12.0).input
    rows.append(["normal cloud, n = 10,000, d = 512, noise 12", _truth(wide, 12.0), "9.210"])
    name = "scikit-learn KernelDensity"
    theirs = (
        f"{plain_estimate(present()[name], wide, 12.0, N_POINTS)[0]:.3f}" if name in present() else "absent"
    )
    rows[-1] += [f"{name}: **{theirs}**", f"{ours.value:.3f} ± {ours.std_error:.3f}"]
    shifted = 1000.0 + np.random.default_rng([SEED, 3]).normal(size=(2048, 10))
    found = repstat.noisy_mi(shifted, 0.3).input
    rows.append(["normal cloud about 1,000, n = 2,048, d = 10, noise 0.3", _truth(shifted, 0.3), "7.625"])
    rows[-1] += [f"float32 Gram form, not centred: **{gram32(shifted, 0.3):.3f}**"]
    rows[-1] += [f"{found.value:.3f} ± {found.std_error:.3f}"]
    before = """scikit-learn's KernelDensity loses the normalisation of its kernel above some tens
of dimensions; the Gram form in float32 loses the distances when the data have an offset, and its
estimate exceeds ln n, which no information about n samples can. The truth is plain float64 Monte
Carlo with the own term known."""
    return Table("Two traps", before, ("data", "truth|", "ln n|", "another", "repstat|"), rows)
