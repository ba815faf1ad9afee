"""Mutual information of a noisy network, from activations of several noisy passes (sample propagation).

With T = S + Z and S random given the input, h(T|X) has to be estimated as well as h(T). Both come from one
estimated channel (`channel`), so that I(X;T) stays below ln m. Finitely many realizations make the channel
look cleaner than it is: the value errs upward, by an amount that halving the realizations shows.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.
Z. Goldfeld et al., Convergence of Smoothed Empirical Measures with Applications to Entropy Estimation,
IEEE Trans. Inf. Theory 66 (2020) 4368, doi:10.1109/TIT.2020.2975480, arXiv:1905.13576.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import Floats, Integers, checked_integer, class_indices, nonfinite_reason
from repstat.errors import UsageError
from repstat.estimators.backend import Backend
from repstat.estimators.channel import SOURCES, Channel, ChannelMeasure, Terms, log_densities
from repstat.estimators.engines import MOST_SKIPPED, SKIPPED
from repstat.estimators.noisy_channel import (
    DEFAULT_MAX_DRAWS,
    checked_ceiling,
    checked_positive,
    noisy_mi,
)
from repstat.estimators.sampling import Budget, Sampled, Sampler, noise_rng
from repstat.estimators.slots import MIN_SLOTS, Slots
from repstat.results import Estimate, Status, saturates
from repstat.threads import one_blas_thread

HALVINGS = 2
"""How often the realizations are halved to see what their number does."""

SLOWEST, FASTEST = 0.5, 1.0
"""The bias falls as a power of the number of realizations; its exponent lies between these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMI:
    """I(X;T) and I(Y;T) of one layer of a noisy network, in nats.

    Parameters
    ----------
    input
        I(X;T), X uniform on the inputs.
    label
        I(Y;T); None without labels.
    conditional_entropy
        h(T|X) - h(Z) >= 0: what the noise of earlier layers adds to that of this one.
    linearised
        I(X;T) with the entropy of Gaussians of the same covariance for h(T|X), which is never smaller: the
        other end, exact where noise is small enough for the network to be linear in it.
    halvings
        I(X;T) from half the realizations, a quarter, ...: (recorded, conditional, value) of each.
    bias
        By how much `input` may err upward for too few realizations, as its halvings tell.
    noise_std
        Standard deviation of the layer's own noise.
    n_recorded, n_conditional, n_repeated
        Realizations of every input, of the repeated inputs, and the number of these.
    n_draws, seed
        Monte Carlo draws; seed.
    """

    input: Estimate
    label: Estimate | None
    conditional_entropy: Estimate
    linearised: Estimate
    halvings: tuple[tuple[int, int, float], ...]
    bias: float
    noise_std: float
    n_recorded: int
    n_conditional: int
    n_repeated: int
    n_draws: int
    seed: int
    noise_model: Literal["network"] = "network"


def sample_propagation_mi(
    values: ArrayLike,
    conditional: ArrayLike | None = None,
    *,
    noise_std: float,
    conditional_samples: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    max_draws: int = DEFAULT_MAX_DRAWS,
    input_entropy: float | None = None,
    device: str = "cpu",
) -> NetworkMI:
    """Estimate I(X;T) and I(Y;T) of a layer of a network that has noise in every hidden layer.

    T = S + Z with Z ~ N(0, noise_std^2 I), where S are activations before the layer's own noise and after the
    noise of all earlier layers: `values` and `conditional` must not contain Z.

    Parameters
    ----------
    values
        Shape (R, m, ...): S of m inputs in R noisy passes. Axes after the second are units.
    conditional
        Shape (k, C, ...): S of k of the inputs in C more passes. None where S does not vary between
        passes (the first layer: exact), or else to use `values` for every input.
    noise_std
        Standard deviation of the layer's own noise, in activation units.
    conditional_samples
        Shape (k,): which inputs these are, each once; needed unless all are repeated in their order. They
        should be chosen at random: their mean stands for that over all, with its error in `std_error`.
    labels
        Shape (m,), classes as integers, booleans or strings.
    tolerance
        Standard error (nats) at which sampling stops, and the bias above which realizations are too few.
    seed, max_draws, input_entropy, device
        As of `repstat.noisy_mi`.

    Returns
    -------
    result
        `input` has no rigorous pairwise bounds; its population bracket is that of random inputs and random
        realizations. Its status is `too_few_realizations` where the bias exceeds the tolerance.

    Raises
    ------
    UsageError
        If an argument cannot be right, or the device is not there.

    Notes
    -----
    The value errs upward: a mixture of too few realizations has too little entropy. `bias` is extrapolated
    from half and a quarter of the realizations, assuming that it falls as a power of their number between the
    root and the number itself. It is at most h(T|X) - h(Z), the information about the realization that could
    be mistaken for one about the input; with a single recorded pass nothing better is known.
    """
    recorded = _passes("values", values)
    _, m, n_units = recorded.shape
    noise_std = checked_positive("noise_std", noise_std, kind=" is a standard deviation and")
    tolerance = checked_positive("tolerance", tolerance)
    checked_integer("seed", seed, 0)
    checked_integer("max_draws", max_draws, 16)
    ceiling = checked_ceiling(input_entropy, m)
    classes = np.zeros(m, np.int64) if labels is None else class_indices(labels, m)
    if conditional is None and (recorded == recorded[:1]).all():
        options = {"tolerance": tolerance, "seed": seed, "max_draws": max_draws, "device": device}
        return _first_layer(recorded, noise_std, labels, input_entropy, options)
    repeated, realizations = _repeated(recorded, conditional, conditional_samples)
    backend = Backend.open(device)
    for name, array in (("values", recorded), ("conditional", realizations)):
        if reason := nonfinite_reason(array.reshape(-1, n_units)):
            return _undefined(
                f"{name}: {reason}", recorded, realizations, noise_std, seed, labels is not None
            )
    by_input = np.ascontiguousarray(recorded.swapaxes(0, 1), np.float64)
    channel = Channel(by_input, repeated, list(realizations), classes)
    with one_blas_thread():
        run = _Run(noise_std, tolerance, max_draws, seed, backend)
        sampled = run.sample(channel)
        halves = run.halve(channel)
    return _Claims(channel, sampled, halves, tolerance, ceiling, n_units).result(
        run, labelled=labels is not None
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """How channels are sampled."""

    noise_std: float
    tolerance: float
    max_draws: int
    seed: int
    backend: Backend

    def sample(self, channel: Channel) -> Sampled:
        """Sample one channel; equal seeds give equal inputs, realizations and noise."""
        rng = noise_rng(self.seed)
        n_repeated, n_conditional = len(channel.repeated), channel.n_conditional
        n_sources = min(SOURCES, n_conditional)
        budget = Budget.fit(
            self.tolerance, self.max_draws, n_sources * n_repeated, min(MIN_SLOTS, n_repeated) * n_sources
        )
        slots = Slots(
            members=[np.arange(n_sources)] * n_repeated,
            row_shares=[np.full(n_sources, 1.0 / n_sources)] * n_repeated,
            shares=np.full(n_repeated, 1.0 / n_repeated),
            group=np.zeros(n_repeated, np.int64),
            all_needed=False,
        )
        bias = min(SKIPPED * self.tolerance, MOST_SKIPPED)
        order, n_visits = rng.permutation(n_repeated), np.zeros(n_repeated, np.int64)
        measure = ChannelMeasure(channel, n_sources, order, bias, self.backend, n_visits)
        share = n_repeated / channel.n_inputs
        covariates = None
        if share < 1.0 and (known := log_densities(channel, self.noise_std)) is not None:
            covariates = (known - known.mean(axis=0))[channel.repeated[order]]
        sampler = Sampler(
            slots,
            measure,
            [self.noise_std],
            channel.recorded[:, 0],
            budget,
            tolerance=self.tolerance,
            max_draws=self.max_draws,
            rng=rng,
            share=share,
            covariates=covariates,
        )
        (found,) = sampler.run()
        # Two-stage sampling: the choice of sources counts as far as the inputs are all there.
        visited = n_visits[n_visits > 0]
        used = np.minimum(n_conditional, visited * n_sources)
        by_sources = share * float(np.mean(1.0 / used - 1.0 / n_conditional)) / len(visited)
        errors = found.errors.copy()
        errors[:2] = np.sqrt(np.square(errors[:2]) + by_sources * found.extras[3:])
        return replace(found, errors=errors)

    def halve(self, channel: Channel) -> list[tuple[Channel, Sampled]]:
        """Sample the channel from half the realizations, and from a quarter."""
        found = list[tuple[Channel, Sampled]]()
        for _ in range(HALVINGS):
            if channel.n_conditional < 2 or channel.n_recorded < 2:
                break
            channel = channel.halved()
            found.append((channel, self.sample(channel)))
        return found


@dataclass(frozen=True, slots=True)
class _Claims:
    """What may be claimed of a sampled channel."""

    channel: Channel
    sampled: Sampled
    halves: Sequence[tuple[Channel, Sampled]]
    tolerance: float
    ceiling: float
    n_units: int

    def result(self, run: _Run, *, labelled: bool) -> NetworkMI:
        """Return everything."""
        log_m = log(self.channel.n_inputs)
        means, errors = self.sampled.means, self.sampled.errors
        gap, class_gap, own_gap = self.sampled.extras[:3]
        value, linearised = log_m - means[Terms.RESIDUAL], log_m - means[Terms.LINEARISED]
        curve = [value, *(log_m - half.means[Terms.RESIDUAL] for _, half in self.halves)]
        numbers = [one.n_recorded for one in (self.channel, *(half for half, _ in self.halves))]
        most = max(0.0, float(means[Terms.CONDITIONAL]))
        bias = most if self.channel.n_recorded == 1 else min(most, _bias(curve, numbers))
        of_input = self._estimate(value, errors[Terms.RESIDUAL], self.ceiling, bias)
        of_input = replace(
            of_input, population_lower=_finite(value - own_gap), population_upper=_finite(value + gap)
        )
        conditional = self._estimate(means[Terms.CONDITIONAL], errors[Terms.CONDITIONAL], None, bias)
        return NetworkMI(
            input=of_input,
            label=self._label(float(gap), float(class_gap), bias) if labelled else None,
            conditional_entropy=conditional,
            linearised=self._estimate(linearised, errors[Terms.LINEARISED], self.ceiling, 0.0),
            halvings=tuple(
                (half.n_recorded, half.n_conditional, float(point))
                for (half, _), point in zip(self.halves, curve[1:], strict=True)
            ),
            bias=bias,
            noise_std=run.noise_std,
            n_recorded=self.channel.n_recorded,
            n_conditional=self.channel.n_conditional,
            n_repeated=len(self.channel.repeated),
            n_draws=self.sampled.n_draws + sum(half.n_draws for _, half in self.halves),
            seed=run.seed,
        )

    def _label(self, gap: float, class_gap: float, bias: float) -> Estimate:
        sizes = self.channel.class_sizes
        share = sizes / sizes.sum()
        entropy = float(-(share @ np.log(share)))
        value = float(self.sampled.means[Terms.LABEL])
        if len(sizes) == 1:
            return self._estimate(0.0, 0.0, 0.0, 0.0)
        found = self._estimate(value, self.sampled.errors[Terms.LABEL], min(entropy, self.ceiling), bias)
        below = _finite(value - class_gap) if sizes.min() > 1 else None
        return replace(found, population_lower=below, population_upper=_finite(value + gap))

    def _estimate(self, value: float, error: float, ceiling: float | None, bias: float) -> Estimate:
        value, error = float(value), float(error)
        status, reason = Status.OK, ""
        if self.channel.n_inputs == 1:
            status, reason = Status.TOO_FEW_SAMPLES, "one input carries no information"
        elif ceiling is not None and saturates(value, ceiling):
            status, reason = Status.SATURATED, f"{value:.4f} is within 0.1 nat of the ceiling {ceiling:.4f}"
        elif bias > self.tolerance:
            status, reason = (
                Status.TOO_FEW_REALIZATIONS,
                f"{self.channel.n_recorded} and {self.channel.n_conditional} realizations: the value is too "
                f"large by up to about {bias:.2g} nat, above the tolerance {self.tolerance:g}",
            )
        elif error > self.tolerance:
            status, reason = (
                Status.TOLERANCE_NOT_REACHED,
                f"the standard error {error:.2g} is above the tolerance {self.tolerance:g}",
            )
        return Estimate(
            value=value,
            std_error=error,
            ceiling=ceiling,
            status=status,
            reason=reason,
            n_samples=self.channel.n_inputs,
            n_units=self.n_units,
        )


def _bias(curve: Sequence[float], numbers: Sequence[int]) -> float:
    """Return by how much the first value is too large.

    Parameters
    ----------
    curve
        Values from all realizations, from half, from a quarter.
    numbers
        How many realizations these are.
    """
    steps = [b - a for a, b in pairwise(curve)]
    if not steps or steps[0] <= 0.0:
        return 0.0
    factors = [a / b for a, b in pairwise(numbers)]
    exponent = SLOWEST
    if len(steps) > 1 and steps[1] > steps[0]:
        exponent = min(max(log(steps[1] / steps[0]) / log(factors[1]), SLOWEST), FASTEST)
    return float(steps[0] / (factors[0] ** exponent - 1.0))


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _passes(name: str, array: ArrayLike) -> Floats:
    """Return activations of shape (first, second, units)."""
    found = np.asarray(array)
    if found.ndim < 2 or found.dtype.kind not in "fiub" or 0 in found.shape:
        axes = "realizations, samples" if name == "values" else "repeated samples, realizations"
        raise UsageError(
            what=f"{name} must be numbers of shape ({axes}, units)",
            why=f"found {found.dtype} of shape {found.shape}",
            fix="Give one activation vector for each",
        )
    if found.dtype.kind != "f":
        found = found.astype(np.float64)
    return found.reshape(*found.shape[:2], -1)


def _repeated(
    recorded: Floats, conditional: ArrayLike | None, samples: ArrayLike | None
) -> tuple[Integers, Floats]:
    """Return which inputs were repeated, and their realizations (k, C, units)."""
    _, m, n_units = recorded.shape
    if conditional is None:
        return np.arange(m), recorded.swapaxes(0, 1)
    realizations = _passes("conditional", conditional)
    k = len(realizations)
    if realizations.shape[2] != n_units:
        raise UsageError(
            what="values and conditional differ in their units",
            why=f"found {n_units} and {realizations.shape[2]}",
            fix="Give the same layer",
        )
    if samples is None:
        if k != m:
            raise UsageError(
                what="conditional_samples is missing",
                why=f"{k} of {m} inputs were repeated",
                fix="Say which ones, by their positions",
            )
        return np.arange(m), realizations
    repeated = np.asarray(samples)
    fits = repeated.shape == (k,) and repeated.dtype.kind in "iu" and len(np.unique(repeated)) == k
    if not fits or repeated.min() < 0 or repeated.max() >= m:
        raise UsageError(
            what=f"conditional_samples must be {k} different positions from 0 to {m - 1}",
            why=f"found {repeated.dtype} of shape {repeated.shape}",
            fix="Give one position for each repeated input",
        )
    return repeated.astype(np.int64), realizations


def _first_layer(
    recorded: Floats,
    noise_std: float,
    labels: ArrayLike | None,
    input_entropy: float | None,
    options: dict[str, object],
) -> NetworkMI:
    """Return the estimate of a layer whose S depends on the input alone: h(T|X) = h(Z) exactly."""
    found = noisy_mi(recorded[0], noise_std, labels=labels, input_entropy=input_entropy, **options)  # type: ignore[call-overload]
    _, m, n_units = recorded.shape
    exact = Estimate(value=0.0, std_error=0.0, n_samples=m, n_units=n_units)
    return NetworkMI(
        input=found.input,
        label=found.label,
        conditional_entropy=exact if found.input.value is not None else found.input,
        linearised=found.input,
        halvings=(),
        bias=0.0,
        noise_std=noise_std,
        n_recorded=len(recorded),
        n_conditional=1,
        n_repeated=m,
        n_draws=found.n_draws,
        seed=found.seed,
    )


def _undefined(
    reason: str,
    recorded: Floats,
    realizations: Floats,
    noise_std: float,
    seed: int,
    labels: ArrayLike | None,
) -> NetworkMI:
    _, m, n_units = recorded.shape
    nothing = Estimate.undefined(reason, n_samples=m, n_units=n_units)
    return NetworkMI(
        input=nothing,
        label=None if labels is None else nothing,
        conditional_entropy=nothing,
        linearised=nothing,
        halvings=(),
        bias=0.0,
        noise_std=noise_std,
        n_recorded=len(recorded),
        n_conditional=realizations.shape[1],
        n_repeated=len(realizations),
        n_draws=0,
        seed=seed,
    )


def dpi_violation(layers: Sequence[Estimate]) -> tuple[float, float] | None:
    """Return the largest I(X;T) of a layer less that of the one before, and its standard error.

    In a noisy network no layer knows more of the input than the one before (data processing inequality): a
    difference far above its error shows that realizations were too few.

    Parameters
    ----------
    layers
        I(X;T) of consecutive layers.

    Returns
    -------
    violation
        None where fewer than two layers have a value.
    """
    known = [(e.value, e.std_error or 0.0) for e in layers if e.value is not None]
    steps = [(b[0] - a[0], float(np.hypot(a[1], b[1]))) for a, b in pairwise(known)]
    return max(steps, default=None)
