"""Neural collapse: variability within classes against that of their means, the angles of the means, and NC4.

Every class weighs the same, whatever its size: C classes of means m_c, their mean m, and

    W = (1/C) sum_c Cov(class c)      B = (1/C) sum_c (m_c - m)(m_c - m)^T

which are the published ones where classes are of one size. NC3, the alignment of the last layer's weights
with the means, is in `duality`.

References
----------
V. Papyan, X. Y. Han and D. L. Donoho, Prevalence of neural collapse during the terminal phase of deep
learning training, PNAS 117 (2020) 24652, doi:10.1073/pnas.2015509117.
"""

from dataclasses import dataclass

import numpy as np

from repstat.arrays import Floats, Integers, Matrix, centred_blocks

BLOCK_UNITS = 256


@dataclass(frozen=True, slots=True)
class Collapse:
    """Neural collapse of one layer at one checkpoint, exact for the samples given.

    Parameters
    ----------
    within
        NC1, tr(W B^+) / C; None where all means coincide.
    equinorm
        NC2: standard deviation over mean of the distances |m_c - m|; None as above.
    equiangularity
        NC2: standard deviation of the cosines between the m_c - m; None where a class mean is at the centre.
    simplex
        NC2: mean of |cosine + 1 / (C - 1)|, zero at the angles of a regular simplex; None as before.
    nearest
        Shape (n_samples,): class whose mean is nearest to each sample, the first of several.
    """

    within: float | None
    equinorm: float | None
    equiangularity: float | None
    simplex: float | None
    nearest: Integers


def neural_collapse(matrix: Matrix, classes: Integers, scale: float, rounding: float) -> Collapse:
    """Measure the collapse of classes to their means.

    Parameters
    ----------
    matrix
        Shape (n_samples, n_units), finite.
    classes
        Shape (n_samples,): 0 to n_classes - 1, two at least, each with a sample.
    scale
        From `repstat.arrays.binary_scale`, not zero.
    rounding
        Distance over `scale` that the rounding of the activations makes; means closer than it coincide.
    """
    order, sizes = np.argsort(classes, kind="stable"), np.bincount(classes)
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]

    def means_of(rows: Floats) -> Floats:
        found: Floats = np.add.reduceat(rows[order], starts, axis=0) / sizes[:, None]
        return found

    means = np.hstack([means_of(block) for block in centred_blocks(matrix, scale, BLOCK_UNITS)])
    centre = means.mean(axis=0)
    arms = means - centre
    n_classes = len(arms)
    _, spread, right = np.linalg.svd(arms, full_matrices=False)
    known = spread > max(rounding, np.finfo(np.float64).eps * max(arms.shape) * float(spread.max(initial=0)))
    # B = right^T diag(spread^2 / C) right, hence tr(W B^+) = C sum over directions of W's part over spread^2.
    whitening = right[known].T / spread[known]
    score, projected, at = np.zeros((len(matrix), n_classes)), np.zeros((len(matrix), int(known.sum()))), 0
    for block in centred_blocks(matrix, scale, BLOCK_UNITS):
        units = slice(at, at + block.shape[1])
        at = units.stop
        moved = block - centre[units]
        score += moved @ arms[:, units].T
        projected += moved @ whitening[units]
    nearest = (np.einsum("ij,ij->i", arms, arms) / 2.0 - score).argmin(axis=1)
    if not known.any():
        return Collapse(None, None, None, None, nearest)
    deviations = np.square(projected - means_of(projected)[classes]).sum(axis=1)
    return Collapse(float(means_of(deviations[:, None]).mean()), *_angles(arms, rounding), nearest)


def _angles(arms: Floats, rounding: float) -> tuple[float, float | None, float | None]:
    """Return what NC2 says of the arms (n_classes, n_units) that the class means are at the ends of."""
    n_classes = len(arms)
    norms = np.sqrt(np.einsum("ij,ij->i", arms, arms))
    equinorm = float(norms.std() / norms.mean())
    if norms.min() <= max(rounding, 1e-12 * norms.max()):
        return equinorm, None, None
    directions = arms / norms[:, None]
    cosines = (directions @ directions.T)[np.triu_indices(n_classes, 1)]
    return equinorm, float(cosines.std()), float(np.abs(cosines + 1.0 / (n_classes - 1)).mean())
