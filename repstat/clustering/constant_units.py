"""Constant units: how many units of a layer have one value for every sample, and so tell nothing of it.

Dead rectifiers are such units, and so is what sees only padding. Values are compared exactly: it is a count,
and needs no source.
"""

from repstat.arrays import ConstantUnits, Matrix, nonfinite_reason
from repstat.results import Estimate


def constant_units(matrix: Matrix) -> Estimate:
    """Count the constant units of one layer at one checkpoint.

    Parameters
    ----------
    matrix
        Shape (n_samples, n_units).

    Returns
    -------
    estimate
        Exact for the samples given; undefined with a single sample, or if a value is not finite.
    """
    found = ConstantUnits()
    found.add(matrix)
    n_samples, n_units = matrix.shape
    return of_count(found.count, n_samples, n_units, nonfinite_reason(matrix))


def of_count(n_constant: int, n_samples: int, n_units: int, reason: str) -> Estimate:
    """Return a count that was made already as an estimate, undefined for a `reason`."""
    if n_samples < 2:
        reason = "one sample has no other"
    if reason:
        return Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
    return Estimate(
        value=float(n_constant),
        std_error=0.0,
        ceiling=float(n_units),
        n_samples=n_samples,
        n_units=n_units,
    )
