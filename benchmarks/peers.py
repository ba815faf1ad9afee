"""What a user could pick instead: each scores points under the mixture, in nats, with the noise's density."""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from math import log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LogDensity = Callable[[Floats, Floats, float], Floats]
"""Centres (n, d), points (m, d) and noise_std to log densities (m,)."""

POINT_BLOCK = 256
CENTRE_BLOCK = 2048


def _constant(centres: Floats, std: float) -> float:
    return log(len(centres)) + centres.shape[1] / 2 * log(2 * pi * std**2)


def _scaled(centres: Floats, points: Floats, std: float) -> tuple[Floats, Floats]:
    """Return both in units of the noise, about the mean of the centres."""
    mean = centres.mean(0)
    return (centres - mean) / std, (points - mean) / std


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def dense64(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by numpy alone: the Gram form in blocks that fit the cache, with a running maximum.

    The squared length of a centre is one more column, so that the product needs no further pass.
    """
    c, p = _scaled(centres, points, std)
    c = np.hstack([c, -0.5 * (c**2).sum(1, keepdims=True)])
    p = np.hstack([p, np.ones((len(p), 1))])
    out = -0.5 * (p[:, :-1] ** 2).sum(1)
    for rows in _blocks(len(p), POINT_BLOCK):
        largest = np.full(rows.stop - rows.start, -np.inf)
        total = np.zeros(rows.stop - rows.start)
        for columns in _blocks(len(c), CENTRE_BLOCK):
            exponent = p[rows] @ c[columns].T
            raised = np.maximum(largest, exponent.max(1))
            exponent -= raised[:, None]
            np.exp(exponent, out=exponent)
            total = total * np.exp(largest - raised) + exponent.sum(1)
            largest = raised
        out[rows] += largest + np.log(total)
    return out - _constant(centres, std)


def cdist_logsumexp(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by scipy's cdist and logsumexp, in chunks."""
    from scipy.spatial.distance import cdist
    from scipy.special import logsumexp

    out = np.empty(len(points))
    for rows in _blocks(len(points), POINT_BLOCK):
        out[rows] = logsumexp(-cdist(points[rows], centres, "sqeuclidean") / (2 * std**2), axis=1)
    return out - _constant(centres, std)


def scipy_kde(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by scipy's gaussian_kde, its covariance set to noise_std^2 I."""
    from scipy.stats import gaussian_kde

    class Isotropic(gaussian_kde):
        def _compute_covariance(self) -> None:
            self.covariance = np.eye(self.d) * std**2
            self.cho_cov = np.eye(self.d) * std
            self.log_det = self.d * log(2 * pi * std**2)

    return np.asarray(Isotropic(centres.T).logpdf(points.T), np.float64)


def sklearn_kde(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by scikit-learn's KernelDensity as it comes."""
    from sklearn.neighbors import KernelDensity

    return np.asarray(KernelDensity(bandwidth=std).fit(centres).score_samples(points), np.float64)


def torch64(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by torch in float64: addmm and logsumexp, in blocks."""
    import torch

    scaled = [torch.from_numpy(part) for part in _scaled(centres, points, std)]
    c, p = scaled
    bias = (-0.5 * (c**2).sum(1))[None, :]
    found = [torch.logsumexp(torch.addmm(bias, block, c.T), 1) for block in p.split(POINT_BLOCK)]
    out = torch.cat(found) - 0.5 * (p**2).sum(1)
    return np.asarray(out.numpy(), np.float64) - _constant(centres, std)


@cache
def _jax_kernel() -> Any:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    @jax.jit
    def kernel(c: Any, blocks: Any) -> Any:
        bias = -0.5 * (c**2).sum(1)

        def one(block: Any) -> Any:
            return jax.nn.logsumexp(block @ c.T + bias, axis=1) - 0.5 * (block**2).sum(1)

        return jax.lax.map(one, blocks)

    return lambda c, blocks: np.asarray(kernel(jnp.asarray(c), jnp.asarray(blocks)))


def jax64(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by jax in float64: compiled, the blocks one after the other by lax.map."""
    c, p = _scaled(centres, points, std)
    block = min(POINT_BLOCK, len(p))
    padded = np.concatenate([p, np.zeros((-len(p) % block, p.shape[1]))])
    found = _jax_kernel()(c, padded.reshape(-1, block, p.shape[1])).ravel()[: len(p)]
    return np.asarray(found, np.float64) - _constant(centres, std)


def keops64(centres: Floats, points: Floats, std: float) -> Floats:
    """Score by KeOps in float64: compiled, without a matrix of distances."""
    from pykeops.numpy import LazyTensor

    c, p = _scaled(centres, points, std)
    left, right = LazyTensor(p[:, None, :].copy()), LazyTensor(c[None, :, :].copy())
    sums = (-((left - right) ** 2).sum(-1) / 2).logsumexp(1, backend="CPU")
    return np.asarray(sums, np.float64).ravel() - _constant(centres, std)


ALL: dict[str, tuple[str, LogDensity]] = {
    "numpy float64": ("numpy", dense64),
    "scipy cdist + logsumexp": ("scipy", cdist_logsumexp),
    "scipy gaussian_kde": ("scipy", scipy_kde),
    "scikit-learn KernelDensity": ("sklearn", sklearn_kde),
    "torch float64": ("torch", torch64),
    "jax float64": ("jax", jax64),
    "KeOps float64": ("pykeops", keops64),
}
"""The package each needs, and its function."""


COMPILED = (jax64, keops64)
"""Those that compile for each shape."""


@cache
def present() -> dict[str, LogDensity]:
    """Return the peers that can be used here: those that import and score a point."""
    found = {}
    for name, (package, score) in ALL.items():
        if find_spec(package) is None:
            continue
        try:
            score(np.zeros((4, 2)), np.zeros((2, 2)), 1.0)
        except (ImportError, OSError, RuntimeError):
            continue
        found[name] = score
    return found


def absent() -> list[str]:
    """Return the peers that are not installed here."""
    return [name for name in ALL if name not in present()]
