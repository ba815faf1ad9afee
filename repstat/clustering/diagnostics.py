"""Clustering diagnostics of one layer at one checkpoint: how far samples are apart, and whether classes are.

The gate: it checks arguments, takes a subset where pairs are too many, and says what is undefined and why.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728 (pairwise
distances as evidence of clustering).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import (
    Floats,
    Integers,
    Matrix,
    activation_matrix,
    binary_scale,
    centred_blocks,
    checked_integer,
    class_indices,
    group_rows,
    nonfinite_reason,
    random_rows,
)
from repstat.clustering.errors import auc_influence, mean_influence, ratio_influence, subset_error
from repstat.clustering.pairs import Grid, Measure, PairCounts, count_pairs
from repstat.clustering.summary import DistanceSummary, separation, summarize
from repstat.clustering.summary import distance_edges as edges_of
from repstat.errors import UsageError
from repstat.results import Estimate
from repstat.threads import one_blas_thread

Relation = Literal["within", "between", "all"]

MAX_SAMPLES = 4096
"""Samples whose pairs are all counted: 8.4 million pairs, well under a second up to a hundred units."""

LABELLED = (
    "within_class_distance",
    "between_class_distance",
    "distance_ratio",
    "distance_auc",
    "within_class_cosine",
    "between_class_cosine",
)
UNLABELLED = ("mean_distance", "mean_cosine")

_NO_WITHIN = "no class has two samples"
_NO_BETWEEN = "there is one class only"

_PRIVATE_KEY = (0x72657073, 0x70616972)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """Distances and cosine similarities between samples.

    Parameters
    ----------
    estimates
        By quantity. With labels: ``within_class_distance``, ``between_class_distance``, ``distance_ratio``
        (within over between), ``distance_auc`` (probability that a between pair is farther than a within
        pair, ties half), ``within_class_cosine``, ``between_class_cosine``. Without: ``mean_distance``,
        ``mean_cosine``.
    distances, cosines
        Summaries by relation: ``within`` and ``between``, or ``all`` without labels. Empty where undefined.
    n_samples, n_total
        Samples whose pairs were counted, and samples given.
    n_classes, n_singletons
        Classes among the counted samples, and those of one sample, which have no within pair.
    n_zero_vectors
        Samples at the mean, to the rounding of the activations' dtype; they have no cosine.
    notes
        What a reader should know.
    """

    estimates: Mapping[str, Estimate]
    distances: Mapping[Relation, DistanceSummary]
    cosines: Mapping[Relation, DistanceSummary]
    n_samples: int
    n_total: int
    n_classes: int
    n_singletons: int
    n_zero_vectors: int
    notes: tuple[str, ...] = ()


def clustering(
    activations: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    max_samples: int = MAX_SAMPLES,
    seed: int = 0,
    distance_edges: ArrayLike | None = None,
    n_bins: int = 100,
) -> Clustering:
    """Measure distances and cosines between all pairs of samples.

    Activations are centred on their mean first, so that a shift changes nothing but what it rounds.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), activations of one layer at one checkpoint; axes after the first are units.
    labels
        Shape (n_samples,), classes as integers, booleans or strings.
    max_samples
        Above this many samples a random subset is used; the standard error is then that of the subset.
    seed
        Of the subset.
    distance_edges
        Equal bins from 0, from `repstat.clustering.distance_edges` over the whole trajectory.
    n_bins
        Bins of the cosine histogram, and of the distance histogram if no edges are given.

    Returns
    -------
    result
        Non-finite activations give estimates with status `undefined` and no summaries.

    Raises
    ------
    UsageError
        If an argument cannot be right.
    """
    matrix = activation_matrix(activations)
    classes = None if labels is None else class_indices(labels, len(matrix))
    checked_integer("max_samples", max_samples, 2)
    checked_integer("seed", seed, 0)
    checked_integer("n_bins", n_bins, 1)
    edges = None if distance_edges is None else _checked_edges(distance_edges)
    reason = nonfinite_reason(matrix)
    if not reason and len(matrix) < 2:
        reason = "one sample has no pair"
    if reason:
        return _undefined(matrix, classes, reason)
    if edges is None:
        edges = edges_of([matrix], n_bins)
    return _clustering(matrix, classes, edges, n_bins, max_samples, seed)


def _clustering(
    matrix: Matrix,
    classes: Integers | None,
    edges: Floats,
    n_bins: int,
    max_samples: int,
    seed: int,
) -> Clustering:
    subset, notes = choose_subset(len(matrix), max_samples, seed)
    scale = binary_scale(matrix) or 1.0
    kinds = np.zeros(len(subset), np.int64) if classes is None else classes[subset]
    # Classes in contiguous rows make relations rectangles of the table of pairs.
    subset, kinds = subset[(order := np.argsort(kinds))], kinds[order]
    points = np.hstack([block[subset] for block in centred_blocks(matrix, scale, 256)])
    radius = float(np.sqrt(np.einsum("ij,ij->i", points, points).max(initial=0.0)))
    distance = Measure(
        Grid(0.0, float(edges[-1]) / scale, len(edges) - 1),
        2.0 * radius * (1.0 + 1e-9) if radius else 1.0,
    )
    cosine = Measure(Grid(-1.0, 1.0, n_bins), 1.0)
    groups = group_rows(matrix[subset]).inverse
    with one_blas_thread():
        n_zero = count_pairs(points, groups, kinds, distance, cosine, rounding_of(matrix, scale))
        auc = (
            auc_influence(distance, points, groups, kinds)
            if len(subset) < len(matrix) and radius and distance.other.n_pairs
            else None
        )
    estimates = _Numbers(len(subset), matrix.shape, scale, radius == 0.0, auc).all(
        distance, cosine, labelled=classes is not None
    )
    sizes = np.bincount(kinds)
    return Clustering(
        estimates=estimates,
        distances=_summaries(distance, edges, scale, labelled=classes is not None),
        cosines=_summaries(cosine, np.linspace(-1.0, 1.0, n_bins + 1), 1.0, labelled=classes is not None),
        n_samples=len(subset),
        n_total=len(matrix),
        n_classes=0 if classes is None else int(np.count_nonzero(sizes)),
        n_singletons=0 if classes is None else int(np.count_nonzero(sizes == 1)),
        n_zero_vectors=n_zero,
        notes=notes,
    )


def choose_subset(n_samples: int, max_samples: int, seed: int) -> tuple[Integers, tuple[str, ...]]:
    """Return the samples to count, all of them or a random part, and what to say of it."""
    subset = random_rows(n_samples, max_samples, seed, _PRIVATE_KEY)
    if len(subset) == n_samples:
        return subset, ()
    return subset, (f"pairs of a random subset of {max_samples} of {n_samples} samples",)


def rounding_of(matrix: Matrix, scale: float) -> float:
    """Return how far from the mean, over `scale`, a row may lie that equals it but for rounding.

    For every varying unit half an epsilon of its magnitude for the row, and as much for the mean.
    """
    high, low = matrix.max(axis=0).astype(np.float64), matrix.min(axis=0).astype(np.float64)
    magnitude = np.maximum(np.abs(high), np.abs(low))[high != low] / scale
    return float(np.finfo(matrix.dtype).eps * np.linalg.norm(magnitude))


def _summaries(
    measure: Measure, edges: Floats, scale: float, *, labelled: bool
) -> dict[Relation, DistanceSummary]:
    same = summarize(measure.same, measure.fine, edges, scale)
    if not labelled:
        return {"all": same}
    return {"within": same, "between": summarize(measure.other, measure.fine, edges, scale)}


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The estimates of counted pairs."""

    n_samples: int
    shape: tuple[int, ...]
    scale: float
    coincide: bool
    auc_influence: Floats | None

    def all(self, distance: Measure, cosine: Measure, *, labelled: bool) -> dict[str, Estimate]:
        """Return every estimate by its quantity."""
        away = "no such pair of samples away from the mean"
        if not labelled:
            found = (
                self._mean(distance, distance.same, self.scale, ""),
                self._mean(cosine, cosine.same, 1.0, away),
            )
            return dict(zip(UNLABELLED, found, strict=True))
        numbers = (
            self._mean(distance, distance.same, self.scale, _NO_WITHIN),
            self._mean(distance, distance.other, self.scale, _NO_BETWEEN),
            self._ratio(distance),
            self._auc(distance),
            self._mean(cosine, cosine.same, 1.0, away if distance.same.n_pairs else _NO_WITHIN),
            self._mean(cosine, cosine.other, 1.0, away if distance.other.n_pairs else _NO_BETWEEN),
        )
        return dict(zip(LABELLED, numbers, strict=True))

    def _estimate(
        self,
        value: float,
        influence: Floats | None,
        lower: float | None = None,
        upper: float | None = None,
        of_pairs: float = 0.0,
        scale: float = 1.0,
    ) -> Estimate:
        whole = self.n_samples == self.shape[0]
        error = 0.0 if whole else subset_error(influence, self.shape[0], of_pairs)
        return Estimate(
            value=value,
            std_error=None if error is None else error * scale,
            lower_bound=lower,
            upper_bound=upper,
            n_samples=self.n_samples,
            n_units=self.shape[1],
        )

    def _undefined(self, reason: str) -> Estimate:
        return Estimate.undefined(reason, n_samples=self.n_samples, n_units=self.shape[1])

    def _mean(self, measure: Measure, pairs: PairCounts, scale: float, missing: str) -> Estimate:
        if not pairs.n_pairs:
            return self._undefined(missing)
        influence = mean_influence(pairs)
        return self._estimate(
            pairs.total / pairs.n_pairs * scale,
            influence,
            of_pairs=pairs.spread(measure.fine, measure.reach) / sqrt(pairs.n_pairs),
            scale=scale,
        )

    def _reason(self, distance: Measure) -> str:
        if not distance.same.n_pairs:
            return _NO_WITHIN
        if not distance.other.n_pairs:
            return _NO_BETWEEN
        return "all samples coincide" if self.coincide else ""

    def _ratio(self, distance: Measure) -> Estimate:
        if reason := self._reason(distance):
            return self._undefined(reason)
        within = distance.same.total / distance.same.n_pairs
        between = distance.other.total / distance.other.n_pairs
        if between == 0.0:
            return self._undefined("samples of different classes coincide")
        return self._estimate(within / between, ratio_influence(distance))

    def _auc(self, distance: Measure) -> Estimate:
        if reason := self._reason(distance):
            return self._undefined(reason)
        value, lower, upper = separation(distance.same, distance.other)
        return self._estimate(value, self.auc_influence, lower, upper)


def _undefined(matrix: Matrix, classes: Integers | None, reason: str) -> Clustering:
    nothing = Estimate.undefined(reason, n_samples=len(matrix), n_units=matrix.shape[1])
    quantities = UNLABELLED if classes is None else LABELLED
    return Clustering(
        estimates=dict.fromkeys(quantities, nothing),
        distances={},
        cosines={},
        n_samples=len(matrix),
        n_total=len(matrix),
        n_classes=0 if classes is None else int(classes.max()) + 1,
        n_singletons=0 if classes is None else int(np.count_nonzero(np.bincount(classes) == 1)),
        n_zero_vectors=0,
    )


def _checked_edges(edges: ArrayLike) -> Floats:
    array = np.asarray(edges)
    if array.dtype.kind in "iuf" and array.ndim == 1 and len(array) >= 2 and np.isfinite(array).all():
        floats = array.astype(np.float64)
        even = np.linspace(0.0, floats[-1], len(floats))
        if floats[-1] > 0 and np.allclose(floats, even, rtol=0, atol=1e-6 * floats[1]):
            return floats
    raise UsageError(
        what="distance_edges are not histogram edges",
        why="expected at least two finite numbers in equal steps from 0",
        fix="Take them from repstat.clustering.distance_edges.",
    )
