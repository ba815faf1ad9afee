"""The geometry of classes in one layer at one checkpoint: collapse, neighbours, silhouette, dimension.

The gate of the methods beside it (`collapse`, `knn`, `silhouette`, `dimension`): it checks arguments, shares
distances among them, and says what is undefined and why. Each module names its source. `geometry` is long by
its documentation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from repstat.clustering.collapse import Collapse, neural_collapse
from repstat.clustering.diagnostics import MAX_SAMPLES, choose_subset, rounding_of
from repstat.clustering.dimension import participation_ratio
from repstat.clustering.errors import subset_error
from repstat.clustering.knn import K, chance_and_ceiling, neighbour_agreement
from repstat.clustering.pairs import distance_rows
from repstat.clustering.silhouette import silhouettes
from repstat.errors import UsageError
from repstat.results import Estimate
from repstat.threads import one_blas_thread

MAX_QUERIES = 1024
"""Samples whose distances to all others are looked at: a fifth of what all pairs of 4,096 cost."""

COLLAPSE = ("nc1", "nc2_equinorm", "nc2_equiangularity", "nc2_simplex")
LABELLED = (*COLLAPSE, "knn_agreement", "silhouette")
ONE_CLASS = "there is one class only"
COINCIDE = "all samples coincide"
OPPOSITE = "two class means lie opposite each other about their centre, whatever the network does"

_PRIVATE_KEY = (0x72657073, 0x71756572)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How samples and classes lie to each other in one layer.

    Parameters
    ----------
    estimates
        By quantity: ``participation_ratio``; with labels also ``nc1``, ``nc2_equinorm``,
        ``nc2_equiangularity``, ``nc2_simplex``, ``knn_agreement`` and ``silhouette``; with outputs ``nc4``.
        Neural collapse is exact for the samples given (standard error 0).
    n_samples, n_total
        Samples among which neighbours, silhouettes and dimension were found, and samples given.
    n_queries
        Samples whose neighbours and silhouettes were looked at.
    k, chance
        Neighbours, and the agreement that labels without meaning would have; None without labels.
    """

    estimates: Mapping[str, Estimate]
    n_samples: int
    n_total: int
    n_queries: int
    k: int
    chance: float | None


def geometry(
    activations: ArrayLike,
    labels: ArrayLike | None = None,
    outputs: ArrayLike | None = None,
    *,
    k: int = K,
    max_samples: int = MAX_SAMPLES,
    max_queries: int = MAX_QUERIES,
    seed: int = 0,
) -> Geometry:
    """Measure dimension, and with labels neural collapse, neighbour agreement and silhouette.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), activations of one layer at one checkpoint; axes after the first are units.
    labels
        Shape (n_samples,), classes as integers, booleans or strings.
    outputs
        Shape (n_samples, n_outputs), of the network, for NC4: output u stands for the label u.
    k
        Neighbours of each sample; fewer where there are fewer other samples.
    max_samples
        Above this many samples a random subset is used for all but neural collapse.
    max_queries
        Above this many samples, neighbours and silhouettes are those of a random part of them, among all.
    seed
        Of both choices.

    Returns
    -------
    result
        Standard errors are those of the choices, over all samples given, and 0 where all were used. Density
        and so neighbourhoods are those of the samples that neighbours were found among. Non-finite
        activations give estimates with status `undefined`.

    Raises
    ------
    UsageError
        If an argument cannot be right.
    """
    matrix = activation_matrix(activations)
    classes = None if labels is None else class_indices(labels, len(matrix))
    checked_integer("k", k, 1)
    checked_integer("max_samples", max_samples, 2)
    checked_integer("max_queries", max_queries, 1)
    checked_integer("seed", seed, 0)
    predicted = None if outputs is None else _predicted(outputs, labels, len(matrix))
    reason = nonfinite_reason(matrix)
    if not reason and len(matrix) < 2:
        reason = "one sample has no other"
    if not reason and (matrix == matrix[0]).all():
        reason = COINCIDE
    if reason:
        names = ["participation_ratio", *([] if classes is None else LABELLED)]
        names += [] if predicted is None or classes is None else ["nc4"]
        nothing = Estimate.undefined(reason, n_samples=len(matrix), n_units=matrix.shape[1])
        return Geometry(
            estimates=dict.fromkeys(names, nothing),
            n_samples=len(matrix),
            n_total=len(matrix),
            n_queries=0,
            k=k,
            chance=None,
        )
    with one_blas_thread():
        return _geometry(matrix, classes, predicted, k, max_samples, max_queries, seed)


def _geometry(
    matrix: Matrix,
    classes: Integers | None,
    predicted: "NDArray[np.int64] | str | None",
    k: int,
    max_samples: int,
    max_queries: int,
    seed: int,
) -> Geometry:
    subset, _ = choose_subset(len(matrix), max_samples, seed)
    scale = binary_scale(matrix)
    kinds = np.zeros(len(subset), np.int64) if classes is None else classes[subset]
    subset, kinds = subset[(order := np.argsort(kinds, kind="stable"))], kinds[order]
    points = np.hstack([block[subset] for block in centred_blocks(matrix, scale, 256)])
    numbers = _Numbers(len(subset), matrix.shape)
    estimates = {"participation_ratio": numbers.dimension(points)}
    k, n_queries, chance = min(k, len(subset) - 1), 0, None
    if classes is not None:
        estimates |= numbers.collapse(matrix, classes, predicted, scale)
        present, kinds = np.unique(kinds, return_inverse=True)
        queries = random_rows(len(subset), max_queries, seed, _PRIVATE_KEY)
        n_queries = len(queries)
        sizes = np.bincount(kinds, minlength=len(present))
        chance, ceiling = chance_and_ceiling(sizes, k)
        if (points == points[0]).all():
            reason = "all samples of the subset coincide"
        else:
            reason = ONE_CLASS if len(present) == 1 else ""
        agreement, silhouette = np.empty(n_queries), np.empty(n_queries)
        if not reason:
            agreement, silhouette = _of_distances(
                points, group_rows(matrix[subset]).inverse, kinds, queries, k
            )
        estimates["knn_agreement"] = numbers.mean(agreement, 0.0, ceiling, reason)
        reason = reason or ("no class has two samples" if sizes.max() == 1 else "")
        estimates["silhouette"] = numbers.mean(silhouette, -1.0, 1.0, reason)
    return Geometry(
        estimates=estimates,
        n_samples=len(subset),
        n_total=len(matrix),
        n_queries=n_queries,
        k=k,
        chance=chance,
    )


def _of_distances(
    points: Floats, groups: Integers, classes: Integers, queries: Integers, k: int
) -> tuple[Floats, Floats]:
    """Return neighbour agreement and silhouette of each query, from one pass over their distances."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(classes))])
    agreement, silhouette = [], []
    for some, squared in distance_rows(points, groups, queries):
        own = classes[some]
        agreement.append(neighbour_agreement(squared, own[:, None] == classes, k))
        silhouette.append(silhouettes(squared, own, starts))
    return np.concatenate(agreement), np.concatenate(silhouette)


def _predicted(outputs: ArrayLike, labels: ArrayLike | None, n_samples: int) -> NDArray[np.int64] | str:
    """Return the class index that the network gives each sample, -1 for none that occurs, or why unknown."""
    found = activation_matrix(outputs)
    if labels is None:
        return "there are no labels"
    if len(found) != n_samples:
        raise UsageError(
            what="outputs and activations differ in length",
            why=f"found {len(found)} outputs for {n_samples} samples",
            fix="Pass the outputs of the same samples, in their order.",
        )
    names = np.unique(np.asarray(labels))
    if found.shape[1] < 2:
        return "one output does not say where it turns from class to class"
    if names.dtype.kind in "US":
        return "labels that are text do not say which output is whose"
    if int(names.min()) < 0 or int(names.max()) >= found.shape[1]:
        return f"labels from {names.min()} to {names.max()} are not the outputs 0 to {found.shape[1] - 1}"
    if reason := nonfinite_reason(found):
        return f"the outputs have {reason}"
    of_output = np.full(found.shape[1], -1)
    of_output[names.astype(np.int64)] = np.arange(len(names))
    classes: NDArray[np.int64] = of_output[found.argmax(axis=1)]
    return classes


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Estimates of what was measured, with the error of what was chosen."""

    n_samples: int
    shape: tuple[int, ...]

    def _estimate(
        self, value: float, error: float | None, ceiling: float | None, n_samples: int = 0
    ) -> Estimate:
        return Estimate(
            value=value,
            std_error=error,
            ceiling=ceiling,
            n_samples=n_samples or self.n_samples,
            n_units=self.shape[1],
        )

    def _undefined(self, reason: str) -> Estimate:
        return Estimate.undefined(reason, n_samples=self.n_samples, n_units=self.shape[1])

    def dimension(self, points: Floats) -> Estimate:
        """Return the participation ratio."""
        if (points == points[0]).all():
            return self._undefined("all samples of the subset coincide")
        value, influence = participation_ratio(points)
        whole = self.n_samples == self.shape[0]
        error = 0.0 if whole else subset_error(influence, self.shape[0])
        return self._estimate(value, error, float(min(self.shape[1], self.n_samples - 1)))

    def mean(self, values: Floats, lowest: float, ceiling: float, reason: str) -> Estimate:
        """Return the mean over the queries, for all samples given."""
        if reason:
            return self._undefined(reason)
        n, n_total = len(values), self.shape[0]
        error: float | None = 0.0
        if n < n_total:
            # Values that are all alike do not tell their spread: one more may lie half the range away.
            unseen = (ceiling - lowest) ** 2 / (4.0 * n)
            spread = sqrt(float(values.var(ddof=1)) + unseen) if n > 1 else None
            error = None if spread is None else spread * sqrt((1.0 - n / n_total) / n)
        return self._estimate(float(values.mean()), error, ceiling)

    def collapse(
        self,
        matrix: Matrix,
        classes: Integers,
        predicted: NDArray[np.int64] | str | None,
        scale: float,
    ) -> dict[str, Estimate]:
        """Return neural collapse, of all samples given."""
        n_classes = int(classes.max()) + 1
        names = (*COLLAPSE, *(() if predicted is None else ("nc4",)))
        whole = _Numbers(len(matrix), self.shape)
        if n_classes == 1:
            return dict.fromkeys(names, whole._undefined(ONE_CLASS))
        found = neural_collapse(matrix, classes, scale, rounding_of(matrix, scale))
        estimates = dict(zip(COLLAPSE, whole._collapse(found, n_classes), strict=True))
        if isinstance(predicted, str):
            estimates["nc4"] = whole._undefined(predicted)
        elif predicted is not None:
            estimates["nc4"] = whole._estimate(float((predicted != found.nearest).mean()), 0.0, 1.0)
        return estimates

    def _collapse(self, found: Collapse, n_classes: int) -> Iterator[Estimate]:
        """Yield NC1 and the three numbers of NC2."""
        values = (found.within, found.equinorm, found.equiangularity, found.simplex)
        for name, value in zip(COLLAPSE, values, strict=True):
            if found.within is None:
                yield self._undefined("all class means coincide")
            elif name != "nc1" and n_classes == 2:
                yield self._undefined(OPPOSITE)
            elif value is None:
                yield self._undefined("the mean of a class lies at their centre")
            else:
                yield self._estimate(value, 0.0, None)
