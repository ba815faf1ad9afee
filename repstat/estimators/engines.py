"""Which kernel serves which noise: a grid, neighbours, the factorised product, or all terms one by one.

- up to three axes, where it is small enough: the integral itself (`grid`);
- where few centres lie within reach of each other: sums over neighbours (`neighbours`);
- otherwise the factorised product (`factorised`); where the data are too wide for it, one for each compact
  group of rows, and neighbours for the rows outside;
- `exact_log_sums` wherever one of these declines.

All kernels compute the same numbers from the same noise; the choice is one of time, never of value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators import grid
from repstat.estimators.backend import Backend
from repstat.estimators.factorised import (
    ROW_RADIUS,
    SINGLE_RADIUS,
    SINGLE_TOLERANCE,
    UNRESOLVED,
    Factorised,
)
from repstat.estimators.mixture import LogSums, Mixture, exact_log_sums
from repstat.estimators.mixture_terms import Kernel, LeftOut, MixtureTerms, sample_centres
from repstat.estimators.neighbours import mean_neighbours, near_log_sums, reach
from repstat.estimators.sampling import REPLICATES, Sampled, combined, noise_rng
from repstat.estimators.slots import MAX_STRATIFIED

DRAW_RADIUS = 1.0e10
"""Beyond this radius (in noise_std) differences of projections are off by more than 1e-5 (eps r |z|)."""

SKIPPED = 0.01
"""Of the tolerance: what skipping far pairs may cost at most, a certified bound on the bias."""

MOST_SKIPPED = 1e-4
"""The same in nats, whatever the tolerance."""

PILOT_ROWS = 64
"""Rows whose neighbours are counted before a kernel is chosen."""

FEW_NEIGHBOURS = 1 / 128
"""Of the centres: with fewer within reach, sums over neighbours are faster than the product."""

LEAST_GROUP = 64
"""Rows from which on a product of their own is worth it."""

MOST_GROUPS = 32
"""Products at most."""

LONELY_ROWS = 16
"""Rows of a slot for which the leave-one-out sums are computed exactly, where more are unresolved."""

LONELY_NOISES = 2
"""Noises with which they are."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to sample, and how well: common to all noise standard deviations.

    `quadrature` allows integrals in place of draws; without, many levels share one product in any dimension.
    """

    mixture: Mixture
    tolerance: float
    max_draws: int
    seed: int
    backend: Backend
    quadrature: bool = True


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that are served together.

    Parameters
    ----------
    rows
        Indices of centres.
    centre
        Shape (n_axes,): about which they lie within reach of the product; None for sums over neighbours.
    """

    rows: Integers
    centre: Floats | None


def sample_mixture(request: Request, stds: Sequence[float]) -> list[MixtureTerms | None]:
    """Return what sampling or quadrature gives for every noise standard deviation.

    None where all centres coincide, or lie too far apart to be sampled in float64.

    Parameters
    ----------
    request
        The mixture and the demands.
    stds
        Noise standard deviations, in the units of the points.
    """
    mixture = request.mixture
    results: dict[float, MixtureTerms] = {}
    shared: dict[bool, list[float]] = {}
    for std in dict.fromkeys(stds):
        if mixture.radius == 0.0 or mixture.radius > DRAW_RADIUS * std:
            continue
        integrable = request.quadrature and grid.worth_it(mixture, std)
        part = replace(request, tolerance=np.inf) if integrable else request
        few = _few_neighbours(part, std)
        if not integrable and mixture.radius <= ROW_RADIUS * std and not few:
            single = mixture.radius <= SINGLE_RADIUS * std and request.tolerance >= SINGLE_TOLERANCE
            shared.setdefault(single, []).append(std)
            continue
        terms = MixtureTerms.of(_apart(part, std, by_neighbours=few))
        results[std] = _integrated(mixture, std, terms) if integrable else terms
    for single, together in shared.items():
        factorised = Factorised(mixture, backend=request.backend, single=single)
        found = _sample(request, together, _product_kernel(factorised), [np.arange(mixture.n_points)])
        results |= dict(zip(together, map(MixtureTerms.of, found), strict=True))
    return [results.get(std) for std in stds]


def _few_neighbours(request: Request, std: float) -> bool:
    """Whether sums over neighbours are faster than the product."""
    mixture = request.mixture
    pilot = noise_rng(request.seed).permutation(mixture.n_points)[:PILOT_ROWS]
    near = mean_neighbours(mixture, pilot, std, reach(100.0, _bias(request)))
    return near <= FEW_NEIGHBOURS * mixture.n_points


def _bias(request: Request) -> float:
    return min(SKIPPED * request.tolerance, MOST_SKIPPED)


def _apart(request: Request, std: float, *, by_neighbours: bool) -> Sampled:
    """Sample one standard deviation: groups of rows through products of their own, others by neighbours."""
    mixture = request.mixture
    groups = [_Group(np.arange(mixture.n_points), None)]
    if not by_neighbours and REPLICATES * mixture.n_points <= request.max_draws:
        groups = _compact_groups(mixture, std)
    kernels = [_kernel(request, group, std) for group in groups]
    if mixture.n_points <= MAX_STRATIFIED or len(groups) == 1:
        of_row = np.empty(mixture.n_points, np.int64)
        for k, group in enumerate(groups):
            of_row[group.rows] = k

        def log_sums(rows: Integers, noise: Floats, stds: Sequence[float]) -> list[LogSums]:
            kernel = kernels[int(of_row[rows[0]])]
            return kernel(rows, noise, stds)

        return _sample(request, [std], log_sums, [group.rows for group in groups])[0]
    parts = []
    for stream, (group, kernel) in enumerate(zip(groups, kernels, strict=True)):
        share = float(mixture.weights[group.rows].sum()) / mixture.n_samples
        part = replace(request, max_draws=max(16, int(share * request.max_draws)))
        parts.append((share, _sample(part, [std], kernel, [group.rows], stream)[0]))
    return combined(parts)


def _compact_groups(mixture: Mixture, std: float) -> list[_Group]:
    """Return groups of rows that lie within `ROW_RADIUS` of their mean, and one of all other rows.

    A group that is too wide is cut halfway to its farthest row; what is small stays without a product.
    """
    waiting, groups = [np.arange(mixture.n_points)], list[_Group]()
    rest: list[Integers] = []
    while waiting:
        rows = waiting.pop()
        points = mixture.points[rows]
        centre = points.mean(axis=0)
        offset = points - centre
        squares = np.einsum("ij,ij->i", offset, offset)
        farthest = int(squares.argmax())
        if len(rows) < LEAST_GROUP or len(groups) + len(waiting) >= MOST_GROUPS:
            rest.append(rows)
        elif squares[farthest] <= (ROW_RADIUS * std) ** 2:
            groups.append(_Group(rows, centre))
        else:
            far = offset @ offset[farthest] > squares[farthest] / 2.0
            waiting += [rows[far], rows[~far]]
    if rest:
        groups.append(_Group(np.sort(np.concatenate(rest)), None))
    return groups


def _kernel(request: Request, group: _Group, std: float) -> Kernel:
    """Return the kernel of a group of rows."""
    if group.centre is None:
        return _near_kernel(request)
    offset = request.mixture.points - group.centre
    within = (ROW_RADIUS + reach(request.mixture.n_samples, _bias(request))) * std
    columns = np.flatnonzero(np.einsum("ij,ij->i", offset, offset) <= within**2)
    return _product_kernel(Factorised(request.mixture, columns, group.centre, request.backend))


def _sample(
    request: Request,
    stds: Sequence[float],
    kernel: Kernel,
    groups: Sequence[Integers],
    stream: int = 0,
) -> list[Sampled]:
    return sample_centres(
        request.mixture,
        stds,
        kernel,
        _left_out(request.mixture),
        groups,
        tolerance=request.tolerance,
        max_draws=request.max_draws,
        rng=noise_rng(request.seed, stream),
    )


def _product_kernel(factorised: Factorised) -> Kernel:
    """Return the product, with every term one by one where its guard refuses."""

    def log_sums(rows: Integers, noise: Floats, stds: Sequence[float]) -> list[LogSums]:
        found = factorised.log_sums(rows, noise, stds)
        return [
            exact_log_sums(factorised.mixture, rows, noise, std) if sums is None else sums
            for sums, std in zip(found, stds, strict=True)
        ]

    return log_sums


def _near_kernel(request: Request) -> Kernel:
    bias = _bias(request)

    def log_sums(rows: Integers, noise: Floats, stds: Sequence[float]) -> list[LogSums]:
        return [near_log_sums(request.mixture, rows, noise, std, bias) for std in stds]

    return log_sums


def _left_out(mixture: Mixture) -> LeftOut:
    """Return the mean log-sums of rows; where they are not resolved, of a few rows exactly."""

    def means(rows: Integers, noise: Floats, sums: LogSums, std: float) -> tuple[Floats, Floats]:
        size = mixture.class_sizes[mixture.classes[rows]]
        # -E of the leave-one-out term within classes; a sample that is alone in its class has none.
        alone = size < 2.0
        log_size = np.log(np.maximum(size - 1.0, 1.0))
        everyone, same_class = sums.everyone.mean(axis=1), sums.same_class.mean(axis=1)
        lonely = (sums.everyone < UNRESOLVED).any(axis=1)
        lonely |= (sums.same_class < UNRESOLVED).any(axis=1) & ~alone
        if lonely.any():
            some = np.flatnonzero(lonely)
            some = some[:: -(-len(some) // LONELY_ROWS)]
            exact = exact_log_sums(mixture, rows[some], noise[:LONELY_NOISES], std)
            # Rows that were left out are like those that were not.
            everyone[lonely] = exact.everyone.mean()
            everyone[some] = exact.everyone.mean(axis=1)
            within = exact.same_class.mean(axis=1)
            excess = within - log_size[some]
            known = ~alone[some]
            same_class[lonely] = log_size[lonely] + (excess[known].mean() if known.any() else 0.0)
            same_class[some] = within
        return everyone, np.where(alone, 0.0, same_class) - log_size

    return means


def _integrated(mixture: Mixture, std: float, sampled: MixtureTerms) -> MixtureTerms:
    """Replace sampled information by integrals; what leaving samples out adds to it stays sampled."""
    integral = grid.integrate(mixture, std)
    return replace(
        sampled,
        residual=log(mixture.n_samples) - integral.input,
        label=integral.label,
        residual_error=integral.input_error,
        label_error=integral.label_error,
    )
