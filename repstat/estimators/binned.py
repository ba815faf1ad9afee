"""Mutual information by binning: H(Bin(T)) = I(X;Bin(T)) and I(Y;Bin(T)) of a deterministic network.

Each unit is binned, the joint vector of cells of a sample is one symbol, and symbols are counted exactly. The
result measures clustering at the scale of a bin: it is ln n wherever each sample has a cell of its own.

References
----------
A. M. Saxe et al., On the Information Bottleneck Theory of Deep Learning, ICLR 2018,
J. Stat. Mech. (2019) 124020, doi:10.1088/1742-5468/ab3985.
"""

from dataclasses import dataclass
from math import fsum, log

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import (
    Floats,
    Integers,
    Matrix,
    activation_matrix,
    class_indices,
    group_rows,
    nonfinite_reason,
)
from repstat.errors import UsageError
from repstat.estimators.binning import Binning
from repstat.estimators.noisy_channel import checked_ceiling
from repstat.results import Estimate, Status, saturates

DEFAULT_BINNING = Binning.width(0.07)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedMI:
    """Information of binned activations about the input and the label, in nats.

    Parameters
    ----------
    input
        H(Bin(T)), which is I(X;Bin(T)) of a deterministic network.
    label
        I(Y;Bin(T)); None without labels.
    n_cells
        Occupied joint cells.
    binning
        The convention used.
    notes
        What a reader should know, such as values outside the edges.
    """

    input: Estimate
    label: Estimate | None
    n_cells: int
    binning: Binning
    notes: tuple[str, ...] = ()


def binned_mi(
    activations: ArrayLike,
    labels: ArrayLike | None = None,
    binning: Binning | str = DEFAULT_BINNING,
    edges: ArrayLike | None = None,
    input_entropy: float | None = None,
) -> BinnedMI:
    """Count joint bins of a layer's activations.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), activations of one layer at one checkpoint; axes after the first are units.
    labels
        Shape (n_samples,), classes as integers, booleans or strings.
    binning
        Convention, or its text such as ``width:0.07``.
    edges
        From `Binning.edges` over the whole trajectory. Without, ``count`` and ``quantile`` take the range of
        these activations alone, so that checkpoints cannot be compared; a note says so.
    input_entropy
        H(X) in nats where inputs repeat and it is below ln n; lowers the ceiling.

    Returns
    -------
    result
        Exact for the stored samples: the standard error is zero. Non-finite activations give estimates with
        status `undefined`.

    Raises
    ------
    UsageError
        If an argument cannot be right.
    """
    matrix = activation_matrix(activations)
    n_samples, n_units = matrix.shape
    rule = Binning.parse(binning) if isinstance(binning, str) else binning
    if not isinstance(rule, Binning):
        raise UsageError(
            what=f"binning {binning!r} is not understood", fix="Pass a Binning, or text such as width:0.07."
        )
    classes = None if labels is None else class_indices(labels, n_samples)
    ceiling = checked_ceiling(input_entropy, n_samples)
    given = None if edges is None else _checked_edges(edges, rule)
    reason = nonfinite_reason(matrix)
    if reason:
        nothing = Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
        return BinnedMI(input=nothing, label=None if classes is None else nothing, n_cells=0, binning=rule)
    bin_edges = rule.edges([matrix]) if given is None else given
    groups = group_rows(rule.cells(matrix, bin_edges))
    entropy = _entropy(groups.counts)
    label = None
    if classes is not None:
        size = np.bincount(classes)
        information = _mutual_information(groups.inverse, classes)
        label = _estimate(information, min(_entropy(size), ceiling), n_samples, n_units)
    return BinnedMI(
        input=_estimate(entropy, ceiling, n_samples, n_units),
        label=label,
        n_cells=len(groups.counts),
        binning=rule,
        notes=tuple(_notes(matrix, rule, bin_edges, own_edges=given is None)),
    )


def _entropy(counts: Integers) -> float:
    """Return the entropy of counts in nats, summed without rounding and so independent of their order."""
    n = int(counts.sum())
    values, times = np.unique(counts, return_counts=True)
    return fsum(int(t) * (int(c) / n) * log(n / int(c)) for c, t in zip(values, times, strict=True))


def _mutual_information(cells: Integers, classes: Integers) -> float:
    """Return sum p(c,y) ln p(c,y) / (p(c) p(y)); ratios of integers, so that independence gives exactly 0."""
    n, n_classes = len(cells), int(classes.max()) + 1
    joint, counts = np.unique(cells * n_classes + classes, return_counts=True)
    of_cell = np.bincount(cells)[joint // n_classes]
    of_class = np.bincount(classes)[joint % n_classes]
    ratio = (counts * n) / (of_cell * of_class)
    return fsum((counts / n) * np.log(ratio))


def _estimate(value: float, ceiling: float, n_samples: int, n_units: int) -> Estimate:
    status, reason = Status.OK, ""
    if n_samples == 1:
        status, reason = Status.TOO_FEW_SAMPLES, "one sample carries no information"
    elif saturates(value, ceiling):
        status = Status.SATURATED
        reason = f"{value:.4f} is within 0.1 nat of the ceiling {ceiling:.4f}: most samples are told apart"
    return Estimate(
        value=value,
        std_error=0.0,
        ceiling=ceiling,
        status=status,
        reason=reason,
        n_samples=n_samples,
        n_units=n_units,
    )


def _checked_edges(edges: ArrayLike, rule: Binning) -> Floats:
    array = np.asarray(edges)
    if rule.kind == "width":
        raise UsageError(
            what=f"edges do not apply to the binning {rule}",
            why="its grid is anchored at zero",
            fix="Leave them out, or use a binning by count or quantile.",
        )
    numeric = array.dtype.kind in "iuf" and array.ndim == 1 and len(array) >= 2
    if not (numeric and np.isfinite(array).all() and (array[1:] > array[:-1]).all()):
        raise UsageError(
            what="edges are not bin edges",
            why="expected at least two finite numbers in increasing order",
            fix="Take them from Binning.edges.",
        )
    return array.astype(np.float64)


def _notes(matrix: Matrix, rule: Binning, bin_edges: Floats | None, *, own_edges: bool) -> list[str]:
    if bin_edges is None:
        return []
    notes = []
    if own_edges and rule.kind in ("count", "quantile"):
        notes.append("edges from these activations alone: not comparable between checkpoints")
    if rule.n_bins is not None and len(bin_edges) - 1 < rule.n_bins:
        notes.append(f"{len(bin_edges) - 1} bins instead of {rule.n_bins}: values repeat")
    below, above = matrix < bin_edges[0], matrix > bin_edges[-1]
    for outside, text in ((below, "below the first"), (above, "above the last")):
        if outside.any():
            n_values, n_rows = np.count_nonzero(outside), np.count_nonzero(outside.any(axis=1))
            notes.append(f"{n_values} values of {n_rows} samples {text} edge share a cell per unit")
    return notes
