"""What may be claimed of an estimate through noise: values with errors, bounds, ceilings, brackets, statuses.

References
----------
Z. Goldfeld et al., Convergence of Smoothed Empirical Measures with Applications to Entropy Estimation,
IEEE Trans. Inf. Theory 66 (2020) 4368, doi:10.1109/TIT.2020.2975480, arXiv:1905.13576.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from repstat.arrays import Floats
from repstat.estimators.bounds import PairwiseBounds
from repstat.estimators.engines import DRAW_RADIUS
from repstat.estimators.mixture_terms import MixtureTerms
from repstat.results import Estimate, Status, saturates

CERTAIN = 1e-12
"""Where nothing can be sampled, the value is known all the same if its bounds are this close (nats)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What may be claimed: values with their errors, bounds, ceilings, brackets and statuses."""

    bounds: PairwiseBounds | None
    sampled: MixtureTerms | None
    tolerance: float
    n_samples: int
    n_units: int

    def input(self, ceiling: float) -> Estimate:
        """Return I(X;T)."""
        bounds = (self.bounds.lower, self.bounds.upper) if self.bounds else (None, None)
        if self.sampled is None:
            value, error = self._certain(bounds), 0.0
            above = 0.0 if value == 0.0 and self.n_samples > 1 else None
        else:
            value, error = log(self.n_samples) - self.sampled.residual, self.sampled.residual_error
            above = value + self.sampled.gap
        return self._estimate(value, error, bounds, ceiling, (value, above))

    def label(self, class_sizes: Floats, input_ceiling: float) -> Estimate:
        """Return I(Y;T); its bounds come from those of I(X;T) and I(X;T|Y)."""
        if len(class_sizes) == 1:
            return self._estimate(0.0, 0.0, (0.0, 0.0), 0.0, (None, None))
        share = class_sizes / self.n_samples
        ceiling = min(float(-(share @ np.log(share))), input_ceiling)
        bounds: tuple[float | None, float | None] = (None, None)
        if self.bounds:
            upper = min(ceiling, self.bounds.label_upper)
            bounds = (min(self.bounds.label_lower, upper), upper)
        if self.sampled is None:
            return self._estimate(self._certain(bounds), 0.0, bounds, ceiling, (None, None))
        mean = self.sampled
        below = None if class_sizes.min() < 2 else mean.label - mean.class_gap
        bracket = (below, mean.label + mean.gap)
        return self._estimate(mean.label, self.sampled.label_error, bounds, ceiling, bracket)

    @staticmethod
    def _certain(bounds: tuple[float | None, float | None]) -> float | None:
        """Return the value that the bounds leave, if they leave one only."""
        lower, upper = bounds
        return upper if lower is not None and upper is not None and upper - lower < CERTAIN else None

    def _estimate(
        self,
        value: float | None,
        error: float,
        bounds: tuple[float | None, float | None],
        ceiling: float,
        bracket: tuple[float | None, float | None],
    ) -> Estimate:
        if value is None:
            reason = (
                f"the activations spread over more than {DRAW_RADIUS:g} noise_std and some nearly coincide: "
                "float64 cannot resolve the noise; use a larger noise_std"
            )
            return Estimate.undefined(reason, n_samples=self.n_samples, n_units=self.n_units)
        status, reason = self._status(value, error, ceiling)
        return Estimate(
            value=value,
            std_error=error,
            lower_bound=bounds[0],
            upper_bound=bounds[1],
            ceiling=ceiling,
            status=status,
            reason=reason,
            population_lower=bracket[0],
            population_upper=bracket[1],
            n_samples=self.n_samples,
            n_units=self.n_units,
        )

    def _status(self, value: float, error: float, ceiling: float) -> tuple[Status, str]:
        if self.n_samples == 1:
            return Status.TOO_FEW_SAMPLES, "one sample carries no information"
        if saturates(value, ceiling):
            return Status.SATURATED, f"{value:.4f} is within 0.1 nat of the ceiling {ceiling:.4f}"
        if error > self.tolerance:
            return (
                Status.TOLERANCE_NOT_REACHED,
                f"the standard error {error:.2g} is above the tolerance {self.tolerance:g}",
            )
        return Status.OK, ""
