"""Truths that do not come from the code under test: quadrature, closed forms, and the slow obvious twin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import norm

from repstat.results import Estimate

Floats = NDArray[np.float64]


def entropy_of_mixture(points: Sequence[float], weights: Sequence[float], std: float) -> float:
    """h(sum_j w_j N(x_j, std^2)) in nats, by Gauss-Hermite quadrature around every centre."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(200)
    x, w = np.asarray(points, float), np.asarray(weights, float) / np.sum(weights)
    at = x[:, None] + std * nodes
    log_density = logsumexp(
        norm.logpdf(at[..., None], x, std), axis=-1, b=np.broadcast_to(w, (*at.shape, len(w)))
    )
    return float(-(w @ (log_density @ (mass / mass.sum()))))


def information(points: Sequence[float], std: float, weights: Sequence[float] | None = None) -> float:
    """I(X;X + N(0, std^2)) for X on a finite set."""
    weights = np.ones(len(points)) if weights is None else weights
    return entropy_of_mixture(points, weights, std) - 0.5 * log(2 * np.pi * np.e * std**2)


def label_information(points: Sequence[float], labels: Sequence[int], std: float) -> float:
    """I(Y;X + N(0, std^2)) for X uniform on the points and Y a function of X."""
    x, y = np.asarray(points, float), np.asarray(labels)
    within = sum(
        np.mean(y == c) * entropy_of_mixture(x[y == c], np.ones(np.sum(y == c)), std) for c in np.unique(y)
    )
    return entropy_of_mixture(x, np.ones(len(x)), std) - float(within)


def uniform_information(std: float, half: float = 1.0) -> float:
    """I(U;U + N(0, std^2)) for U uniform on [-half, half], by adaptive quadrature of the density."""

    def integrand(t: float) -> float:
        density = 0.5 / half * (norm.cdf((t + half) / std) - norm.cdf((t - half) / std))
        return -density * log(density) if density > 0 else 0.0

    edges = [-half - 10 * std, -half, 0, half, half + 10 * std]
    total = sum(quad(integrand, a, b, limit=200)[0] for a, b in pairwise(edges))
    return float(total) - 0.5 * log(2 * np.pi * np.e * std**2)


def gaussian_information(covariance: Floats, std: float) -> float:
    """I(S;S + Z) for S ~ N(0, covariance): half the log-determinant of 1 + covariance / std^2."""
    return 0.5 * float(np.linalg.slogdet(np.eye(len(covariance)) + covariance / std**2)[1])


def cube(d: int) -> Floats:
    """All corners of {-1, 1}^d."""
    return 2.0 * ((np.arange(2**d)[:, None] >> np.arange(d)) & 1) - 1.0


def plain_log_sums(points: Floats, own: NDArray[np.int64], noise: Floats) -> Floats:
    """ln sum_{j != i} exp(E_ij) the slow way: differences, no Gram matrix, no blocks."""
    found = []
    for i, z in zip(own, noise, strict=True):
        difference = points[i] - np.delete(points, i, axis=0)
        found.append(logsumexp(-0.5 * (difference**2).sum(1) - difference @ z))
    return np.array(found)


@dataclass(frozen=True)
class Case:
    """A finite set of points under noise, with the exact information about the point and its label."""

    name: str
    points: Floats
    labels: NDArray[np.int64]
    noise_std: float
    input: float
    label: float


def table() -> list[Case]:
    """Cases whose truth is exact for the stored samples: only Monte Carlo error is allowed."""
    cases = []
    for name, x, std in [
        ("bpsk", [-1.0, 1.0], 0.5),
        ("bpsk", [-1.0, 1.0], 1.0),
        ("bpsk", [-1.0, 1.0], 2.0),
        ("4-pam", [-3.0, -1.0, 1.0, 3.0], 0.5),
        ("4-pam", [-3.0, -1.0, 1.0, 3.0], 1.0),
        ("uneven", [0.0, 0.1, 0.5, 0.55, 2.0, 2.2, 3.5], 0.2),
        *((f"tanh {w} {b}", np.tanh(w * np.array([-3.0, -1, 1, 3]) + b), 0.05)
          for w, b in [(1, 0), (1, -2), (2, -4)]),
    ]:  # fmt: skip
        points, labels = np.asarray(x, float), np.arange(len(x)) % 2
        cases.append(
            Case(f"{name} {std}", points[:, None], labels, std, information(points, std),
                 label_information(points, labels, std))
        )  # fmt: skip
    # The label is the first bit: it is one BPSK channel, whatever the others are.
    cases += [
        Case(f"cube {d} {std}", cube(d), (cube(d)[:, 0] > 0).astype(np.int64), std,
             d * information([-1, 1], std), information([-1, 1], std))
        for d, std in [(3, 0.5), (6, 1.0), (8, 1.5)]
    ]  # fmt: skip
    grid = -1 + (2 * np.arange(1500) + 1) / 1500
    cases.append(
        Case("uniform grid", grid[:, None], (grid > 0).astype(np.int64), 0.1, uniform_information(0.1),
             uniform_information(0.1) - uniform_information(0.1, half=0.5))
    )  # fmt: skip
    return cases


Estimator = Callable[[Floats, float, NDArray[np.int64]], tuple[Estimate, Estimate]]


def failures(estimator: Estimator, cases: list[Case], largest_error: float = 0.01) -> list[str]:
    """Names of the cases where (I(X;T), I(Y;T)) is off by more than four standard errors, or uncertain."""
    wrong = []
    for case in cases:
        found = estimator(case.points, case.noise_std, case.labels)
        for quantity, estimate, truth in zip(
            ("input", "label"), found, (case.input, case.label), strict=True
        ):
            assert estimate.value is not None
            assert estimate.std_error is not None
            if (
                estimate.std_error > largest_error
                or abs(estimate.value - truth) > 4 * estimate.std_error + 1e-6
            ):
                wrong.append(f"{case.name} {quantity}: {estimate.value} against {truth}")
    return wrong
