"""Peak memory of one estimator on one case, in bytes above data and imports: a process of its own."""

import importlib
import sys

import repstat
from benchmarks.cases import precision_cases
from benchmarks.measure import one_thread, peak_bytes, reset_peak
from benchmarks.peers import ALL
from benchmarks.precision import TARGETS, plain_estimate

N_POINTS = 512
"""That a peer scores; more are scored in blocks, at no more memory."""


N_WARM = 1024
"""Centres of a first call, for what it imports and keeps."""


def measure(case_name: str, std: float, estimator: str) -> int:
    """Return the peak memory in bytes."""
    (case,) = [case for case in precision_cases(quick=False) if case.name == case_name]
    centres = case.make()
    if estimator == "repstat":
        repstat.noisy_mi(centres[:N_WARM], std)  # Imports, and the buffers of BLAS.
        before = reset_peak()
        repstat.noisy_mi(centres, std, tolerance=TARGETS[0])
    else:
        package, score = ALL[estimator]
        importlib.import_module(package)
        plain_estimate(score, centres[:N_WARM], std, 2)
        before = reset_peak()
        plain_estimate(score, centres, std, N_POINTS)
    return peak_bytes() - before


if __name__ == "__main__":
    with one_thread():
        print(measure(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
