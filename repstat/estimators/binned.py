"""Mutual information by binning: I(X;Bin(T)), which is H(Bin(T)) of a deterministic network, and I(Y;Bin(T)).

Each unit is binned, the joint vector of cells of a sample is one symbol, and symbols are counted exactly. The
result measures clustering at the scale of a bin: it is ln n wherever each sample has a cell of its own.

References
----------
A. M. Saxe et al., On the Information Bottleneck Theory of Deep Learning, ICLR 2018,
J. Stat. Mech. (2019) 124020, doi:10.1088/1742-5468/ab3985.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
        I(X;Bin(T)) = H(Bin(T)) - H(Bin(T)|X); the last term is zero without realizations.
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
    *,
    realizations: bool = False,
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
    realizations
        Whether activations are of shape (n_realizations, n_samples, ...), passes of a noisy network.

    Returns
    -------
    result
        Exact for the stored samples: the standard error is zero. Over realizations, which are draws, there
        is no standard error, and counting them errs upward while few share a cell. Non-finite activations
        give estimates with status `undefined`.

    Raises
    ------
    UsageError
        If an argument cannot be right.
    """
    by_sample, n_realizations = _samples(activations, realizations=realizations)
    rule = _rule(binning)
    classes = None if labels is None else class_indices(labels, len(by_sample))
    ceiling = checked_ceiling(input_entropy, len(by_sample))
    given = None if edges is None else _checked_edges(edges, rule)
    n_units = by_sample.shape[1] // n_realizations
    if reason := nonfinite_reason(by_sample):
        nothing = Estimate.undefined(reason, n_samples=len(by_sample), n_units=n_units)
        return BinnedMI(input=nothing, label=None if classes is None else nothing, n_cells=0, binning=rule)
    matrix = by_sample.reshape(-1, n_units)
    bin_edges = rule.edges([matrix]) if given is None else given
    groups = group_rows(rule.cells(matrix, bin_edges))
    count = _Count(groups.inverse, len(by_sample), n_units, realizations=realizations)
    return BinnedMI(
        input=count.input(ceiling),
        label=None if classes is None else count.label(classes, ceiling),
        n_cells=len(groups.counts),
        binning=rule,
        notes=edge_notes([by_sample], rule, bin_edges, own_edges=given is None),
    )


def _rule(binning: Binning | str) -> Binning:
    rule = Binning.parse(binning) if isinstance(binning, str) else binning
    if not isinstance(rule, Binning):
        raise UsageError(
            what=f"binning {binning!r} is not understood", fix="Pass a Binning, or text such as width:0.07."
        )
    return rule


def _samples(activations: ArrayLike, *, realizations: bool) -> tuple[Matrix, int]:
    """Return activations of shape (n_samples, n_realizations * n_units), and the number of realizations."""
    matrix = activation_matrix(activations)
    if not realizations:
        return matrix, 1
    shape = np.shape(activations)
    if len(shape) < 2 or shape[1] == 0:
        raise UsageError(
            what="activations are not realizations of samples",
            why=f"found shape {shape}, expected (realizations, samples, units)",
            fix="Stack the passes of the noisy network along a first axis, or leave out realizations=True.",
        )
    passes = matrix.reshape(shape[0], shape[1], -1)
    return passes.swapaxes(0, 1).reshape(shape[1], -1), shape[0]


@dataclass(frozen=True, slots=True)
class _Count:
    """Estimates from the cell of each realization of each sample.

    Parameters
    ----------
    cells
        Shape (n_samples * n_realizations,), the realizations of a sample side by side.
    """

    cells: Integers
    n_samples: int
    n_units: int
    realizations: bool

    def input(self, ceiling: float) -> Estimate:
        """Return I(X;Bin); the rows of one sample are the symbols of one x."""
        if not self.realizations:
            return self._estimate(_entropy(np.bincount(self.cells)), ceiling)
        n_realizations = len(self.cells) // self.n_samples
        sample = np.repeat(np.arange(self.n_samples), n_realizations)
        found = self._estimate(_mutual_information(self.cells, sample), ceiling)
        given_input = _conditional_entropy(self.cells, sample)
        if not saturates(given_input, log(n_realizations)):
            return found
        reason = (
            f"H(Bin|X) = {given_input:.4f} is within 0.1 nat of ln {n_realizations}: few realizations of a "
            "sample share a cell, and the value is biased upward"
        )
        return replace(found, status=Status.TOO_FEW_REALIZATIONS, reason=reason)

    def label(self, classes: Integers, ceiling: float) -> Estimate:
        """Return I(Y;Bin) for `classes` of shape (n_samples,)."""
        label_entropy = _entropy(np.bincount(classes))
        repeated = np.repeat(classes, len(self.cells) // self.n_samples)
        return self._estimate(_mutual_information(self.cells, repeated), min(label_entropy, ceiling))

    def _estimate(self, value: float, ceiling: float) -> Estimate:
        status, reason = Status.OK, ""
        if self.n_samples == 1:
            status, reason = Status.TOO_FEW_SAMPLES, "one sample carries no information"
        elif saturates(value, ceiling):
            status = Status.SATURATED
            reason = (
                f"{value:.4f} is within 0.1 nat of the ceiling {ceiling:.4f}: most samples are told apart"
            )
        return Estimate(
            value=value,
            std_error=None if self.realizations else 0.0,
            ceiling=ceiling,
            status=status,
            reason=reason,
            n_samples=self.n_samples,
            n_units=self.n_units,
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


def _conditional_entropy(cells: Integers, classes: Integers) -> float:
    """Return H(cells|classes) in nats, exactly 0 where the class decides the cell."""
    joint, counts = np.unique(cells * (int(classes.max()) + 1) + classes, return_counts=True)
    of_class = np.bincount(classes)[joint % (int(classes.max()) + 1)]
    return fsum((counts / len(cells)) * np.log(of_class / counts))


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


def edge_notes(
    blocks: Iterable[Matrix], rule: Binning, bin_edges: Floats | None, *, own_edges: bool
) -> tuple[str, ...]:
    """Return what is to be said of edges that do not fit the activations, some rows at a time.

    Parameters
    ----------
    blocks
        Shape (rows, n_units) each.
    rule, bin_edges
        The binning, and its edges.
    own_edges
        Whether they come from these activations alone.
    """
    if bin_edges is None:
        return ()
    notes = []
    if own_edges and rule.kind in ("count", "quantile"):
        notes.append("edges from these activations alone: not comparable between checkpoints")
    if rule.n_bins is not None and len(bin_edges) - 1 < rule.n_bins:
        notes.append(f"{len(bin_edges) - 1} bins instead of {rule.n_bins}: values repeat")
    counts = np.zeros((2, 2), np.int64)
    for block in blocks:
        for count, outside in zip(counts, (block < bin_edges[0], block > bin_edges[-1]), strict=True):
            count += np.count_nonzero(outside), np.count_nonzero(outside.any(axis=1))
    for (n_values, n_rows), text in zip(counts, ("below the first", "above the last"), strict=True):
        if n_values:
            notes.append(f"{n_values} values of {n_rows} samples {text} edge share a cell per unit")
    return tuple(notes)
