"""Constant units: how many units of a layer have one value for every sample, and so tell nothing of it.

Dead rectifiers are such units, and so is what sees only padding. Values are compared exactly: it is a count,
and needs no source.
"""

from collections.abc import Iterable

from repstat.arrays import ConstantUnits, Matrix, nonfinite_reason
from repstat.results import Estimate


def constant_units(blocks: Iterable[Matrix], *, n_samples: int, n_units: int) -> Estimate:
    """Count the constant units of one layer at one checkpoint.

    Parameters
    ----------
    blocks
        Shape (n_rows, n_units) each: all samples once.
    n_samples, n_units
        How many there are in all.

    Returns
    -------
    estimate
        Exact for the samples given; undefined with a single sample, or if a value is not finite, for
        the reason of the first block that has one.
    """
    found = ConstantUnits()
    reason = "" if n_samples > 1 else "one sample has no other"
    for block in blocks:
        found.add(block)
        reason = reason or nonfinite_reason(block)
    if reason:
        return Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
    return Estimate(
        value=float(found.count),
        std_error=0.0,
        ceiling=float(n_units),
        n_samples=n_samples,
        n_units=n_units,
    )
