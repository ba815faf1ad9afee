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

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import Floats, Integers, checked_integer, class_indices, nonfinite_reason
from repstat.errors import UsageError
from repstat.estimators.backend import Backend
from repstat.estimators.channel import SOURCES, Channel, ChannelMeasure, Surroundings, Terms
from repstat.estimators.engines import MOST_SKIPPED, SKIPPED
from repstat.estimators.network_claims import Claims, NetworkMI
from repstat.estimators.noisy_channel import (
    DEFAULT_MAX_DRAWS,
    checked_ceiling,
    checked_positive,
    noisy_mi,
)
from repstat.estimators.sampling import Budget, Sampled, Sampler, noise_rng
from repstat.estimators.slots import MIN_SLOTS, Slots
from repstat.results import Estimate
from repstat.threads import one_blas_thread

HALVINGS = 2
"""How often the realizations are halved to see what their number does."""


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
    for name, array in (("values", recorded.swapaxes(0, 1)), ("conditional", realizations)):
        if reason := nonfinite_reason(array.reshape(len(array), -1)):
            return _undefined(
                f"{name}: {reason}", recorded, realizations, noise_std, seed, labels is not None
            )
    by_input = np.ascontiguousarray(recorded.swapaxes(0, 1), np.float64)
    channel = Channel(by_input, repeated, list(realizations), classes)
    with one_blas_thread():
        run = _Run(noise_std, tolerance, max_draws, seed, backend)
        sampled = run.sample(channel)
        halves = run.halve(channel)
    claims = Claims(channel, sampled, halves, tolerance, ceiling, n_units)
    return claims.result(noise_std, seed, labelled=labels is not None)


@dataclass(frozen=True, slots=True)
class _Run:
    """How channels are sampled."""

    noise_std: float
    tolerance: float
    max_draws: int
    seed: int
    backend: Backend

    def sample(self, channel: Channel, *, with_gaps: bool = True) -> Sampled:
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
        measure = ChannelMeasure(channel, n_sources, order, bias, self.backend, n_visits, with_gaps)
        share = n_repeated / channel.n_inputs
        around = Surroundings.of(channel, self.noise_std) if share < 1.0 else None
        # The repeated inputs do not have the classes in the proportions of all.
        known = channel.surprise[:, None]
        if around is not None:
            known = np.column_stack([known, around.log_densities])
        known = (known - known.mean(axis=0))[channel.repeated[order]]
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
            covariates=known,
        )
        (found,) = sampler.run()
        # Two-stage sampling: the choice of sources counts as far as the inputs are all there.
        visited = n_visits[n_visits > 0]
        used = np.minimum(n_conditional, visited * n_sources)
        by_sources = share * float(np.mean(1.0 / used - 1.0 / n_conditional)) / len(visited)
        errors = found.errors.copy()
        errors[:2] = np.sqrt(np.square(errors[:2]) + by_sources * found.extras[3:])
        if around is not None:
            met = channel.repeated[order[n_visits > 0]]
            by_missed = around.missed(met) * (1.0 - len(met) / channel.n_inputs) / len(met)
            errors[Terms.EQUIVOCATION] = np.hypot(errors[Terms.EQUIVOCATION], sqrt(by_missed))
        return replace(found, errors=errors)

    def halve(self, channel: Channel) -> list[tuple[Channel, Sampled]]:
        """Sample the channel from half the realizations, and from a quarter."""
        found = list[tuple[Channel, Sampled]]()
        for _ in range(HALVINGS):
            if channel.n_conditional < 2 or channel.n_recorded < 2:
                break
            channel = channel.halved()
            found.append((channel, self.sample(channel, with_gaps=False)))
        return found


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
        label_bias=0.0,
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
        label_bias=0.0,
        noise_std=noise_std,
        n_recorded=len(recorded),
        n_conditional=realizations.shape[1],
        n_repeated=len(realizations),
        n_draws=0,
        seed=seed,
    )
