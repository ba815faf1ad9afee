"""What may be claimed of a layer of a noisy network: both ends, the bias of few realizations, statuses.

References
----------
Z. Goldfeld et al., Convergence of Smoothed Empirical Measures with Applications to Entropy Estimation,
IEEE Trans. Inf. Theory 66 (2020) 4368, doi:10.1109/TIT.2020.2975480, arXiv:1905.13576.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, log
from typing import Literal, Protocol

import numpy as np

from repstat.estimators.channel import Channel, Terms
from repstat.estimators.sampling import Sampled
from repstat.results import Estimate, Status, saturates

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
    bias, label_bias
        By how much `input` and `label` may err upward for too few realizations, as the halvings tell.
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
    label_bias: float
    noise_std: float
    n_recorded: int
    n_conditional: int
    n_repeated: int
    n_draws: int
    seed: int
    noise_model: Literal["network"] = "network"


@dataclass(frozen=True, slots=True)
class Claims:
    """What may be claimed of a sampled channel."""

    channel: Channel
    sampled: Sampled
    halves: Sequence[tuple[Channel, Sampled]]
    tolerance: float
    ceiling: float
    n_units: int

    def result(self, noise_std: float, seed: int, *, labelled: bool) -> NetworkMI:
        """Return everything."""
        log_m = log(self.channel.n_inputs)
        means, errors = self.sampled.means, self.sampled.errors
        gap, class_gap, own_gap = self.sampled.extras[:3]
        value, linearised = log_m - means[Terms.RESIDUAL], log_m - means[Terms.LINEARISED]
        curve = [value, *(log_m - half.means[Terms.RESIDUAL] for _, half in self.halves)]
        bias = self._bias(curve)
        label_curve = [-one.means[Terms.EQUIVOCATION] for one in (self.sampled, *(s for _, s in self.halves))]
        label_bias = min(bias, self._bias(label_curve))
        of_input = self._estimate(value, errors[Terms.RESIDUAL], self.ceiling, bias)
        of_input = replace(
            of_input, population_lower=_finite(value - own_gap), population_upper=_finite(value + gap)
        )
        # Of C realizations at different places the entropy is ln C above that of the noise, and not more.
        log_c = log(self.channel.n_conditional)
        conditional = self._estimate(means[Terms.CONDITIONAL], errors[Terms.CONDITIONAL], log_c, bias)
        return NetworkMI(
            input=of_input,
            label=self._label(float(gap), float(class_gap), label_bias) if labelled else None,
            conditional_entropy=conditional,
            linearised=self._estimate(linearised, errors[Terms.LINEARISED], self.ceiling, 0.0),
            halvings=tuple(
                (half.n_recorded, half.n_conditional, float(point))
                for (half, _), point in zip(self.halves, curve[1:], strict=True)
            ),
            bias=bias,
            label_bias=label_bias,
            noise_std=noise_std,
            n_recorded=self.channel.n_recorded,
            n_conditional=self.channel.n_conditional,
            n_repeated=len(self.channel.repeated),
            n_draws=self.sampled.n_draws + sum(half.n_draws for _, half in self.halves),
            seed=seed,
        )

    def _bias(self, curve: Sequence[float]) -> float:
        """Return by how much an information may be too large, of its values from all realizations and fewer.

        At most h(T|X) - h(Z), here that of Gaussians, which does not end at ln C. Of a single realization
        nothing is known: then it is the whole of I(X;T).
        """
        value = max(0.0, log(self.channel.n_inputs) - float(self.sampled.means[Terms.RESIDUAL]))
        if self.channel.n_conditional == 1:
            return value
        means = self.sampled.means
        gaussian = means[Terms.CONDITIONAL] + max(0.0, means[Terms.LINEARISED] - means[Terms.RESIDUAL])
        most = min(value, max(0.0, float(gaussian)))
        if self.channel.n_recorded == 1:
            return most
        numbers = [one.n_recorded for one in (self.channel, *(half for half, _ in self.halves))]
        return min(most, _bias(curve, numbers))

    def _label(self, gap: float, class_gap: float, bias: float) -> Estimate:
        sizes, entropy = self.channel.class_sizes, float(self.channel.surprise.mean())
        if len(sizes) == 1:
            return self._estimate(0.0, 0.0, 0.0, 0.0)
        value = entropy - float(self.sampled.means[Terms.EQUIVOCATION])
        error = self.sampled.errors[Terms.EQUIVOCATION]
        found = self._estimate(value, error, min(entropy, self.ceiling), bias)
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
                f"{self.channel.n_recorded} and {self.channel.n_conditional} realizations: I is too large "
                f"by up to about {bias:.2g} nat, above the tolerance {self.tolerance:g}",
            )
        elif error > self.tolerance:
            known = f"the standard error {error:.2g} is above the tolerance {self.tolerance:g}"
            reason = known if isfinite(error) else "one repeated input tells no standard error"
            status = Status.TOLERANCE_NOT_REACHED
        return Estimate(
            value=value,
            std_error=_finite(error),
            ceiling=ceiling,
            status=status,
            reason=reason,
            n_samples=self.channel.n_inputs,
            n_units=self.n_units,
        )


def _bias(curve: Sequence[float], numbers: Sequence[int]) -> float:
    """Return by how much the first value is too large, by the larger step: either may be small by chance.

    Parameters
    ----------
    curve
        Values from all realizations, from half, from a quarter.
    numbers
        How many realizations these are.
    """
    steps = [b - a for a, b in pairwise(curve)]
    if not steps:
        return 0.0
    factors = [a / b for a, b in pairwise(numbers)]
    exponent = SLOWEST
    if len(steps) > 1 and steps[1] > steps[0] > 0.0:
        exponent = min(max(log(steps[1] / steps[0]) / log(factors[1]), SLOWEST), FASTEST)
    found, shrunk = 0.0, 1.0
    for step, factor in zip(steps, factors, strict=True):
        found = max(found, step / (factor**exponent - 1.0) / shrunk)
        shrunk *= factor**exponent
    return float(found)


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


class Known(Protocol):
    """A value with its standard error: an `Estimate`, or a row of results."""

    @property
    def value(self) -> float | None:
        """In nats; None if undefined."""

    @property
    def std_error(self) -> float | None:
        """In nats; None if unknown."""


def rise(before: Known, after: Known) -> tuple[float, float] | None:
    """Return I(X;T) of a layer less that of the one before, and its standard error.

    In a noisy network no layer knows more of the input than the one before it, if all that it receives comes
    through that one (data processing inequality): a rise far above its error is an alarm, and a sign of too
    few realizations. None where one has no value.
    """
    if before.value is None or after.value is None:
        return None
    return after.value - before.value, float(np.hypot(before.std_error or 0.0, after.std_error or 0.0))
