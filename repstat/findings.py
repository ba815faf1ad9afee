"""What a trajectory shows, from its numbers: where I(X;T) peaks, how far it falls, what moves together.

Everything here is a number with its error, or a verdict by a rule that is written beside it;
`repstat.wording` makes sentences of them. A fall is called compression for a network that computes with noise
only, and only where the training is seen to have taught it something; of a deterministic network it is
clustering at a scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import hypot, isfinite
from statistics import NormalDist

from repstat.learning import TREND, Learning, learning_of
from repstat.rank import RankCorrelation, decline, rank_correlation
from repstat.results import SATURATION_MARGIN_NATS, Results, Row, Status
from repstat.trajectories import trajectories

ALARM_ERRORS, ALARM_NATS = 4.0, 0.01
"""I(X;T) may rise from a layer to the next by this many standard errors, and this much for skipped terms."""

CHANCE = 1e-3
"""How often a trajectory that stays where it is may be said to fall beyond its error."""

CLUSTERING = (
    "distance_ratio",
    "distance_auc",
    "mean_distance",
    "knn_agreement",
    "silhouette",
    "nc1",
    "participation_ratio",
)


class Verdict(StrEnum):
    """Whether I(X;T) or H(Bin) falls from its maximum to the end."""

    YES = "yes"
    NO = "no"
    WITHIN_ERROR = "within error"
    CANNOT_BE_JUDGED = "cannot be judged"


class Why(StrEnum):
    """What a verdict rests on, beside the numbers."""

    NUMBERS = ""
    SATURATED = "saturated"
    UNDEFINED = "undefined"
    NO_ERROR = "its error is not known"
    FEW_REALIZATIONS = "too few realizations"
    FEW_CHECKPOINTS = "fewer than five checkpoints"
    NO_TREND = "too few checkpoints, or too unsteady, for a decline"
    NOT_LEARNED = "the training taught the network nothing"
    LEARNING_UNKNOWN = "whether the network learned is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """One trajectory of one layer: its maximum and its way down to the end.

    Parameters
    ----------
    layer, quantity
        Layer key; ``mi_input`` or ``binned_mi_input``.
    scale
        Noise level or binning, as it was asked for.
    first, peak, last
        Rows of the first checkpoint, the highest and the last that have a value; None without any.
    fall, std_error
        Peak less last, in nats, with the bias of too few realizations taken off; None without values.
        The peak is the highest of several estimates, which `threshold` allows for.
    threshold
        Standard errors that a fall must exceed.
    trend
        How often values in random order decline as steadily: the whole trajectory or what comes after its
        peak, whichever is steadier, times two for the choice. None of fewer than five checkpoints.
    verdict, why
        Yes: above `threshold` errors and 0.1 nat, and `trend` at most 0.01. No: a fall of 0.1 nat is
        excluded. Within error: neither. Cannot be judged: the reason is `why`.
    """

    layer: str
    quantity: str
    scale: str
    first: Row | None = None
    peak: Row | None = None
    last: Row | None = None
    fall: float | None = None
    std_error: float | None = None
    threshold: float = 0.0
    trend: float | None = None
    verdict: Verdict = Verdict.CANNOT_BE_JUDGED
    why: Why = Why.UNDEFINED

    @property
    def is_network(self) -> bool:
        """Whether the network computes with noise, so that a fall may be called compression."""
        return self.last is not None and self.last.noise_model == "network"

    @property
    def compresses(self) -> Verdict | None:
        """The verdict, of a network that computes with noise; None of any other: there it is clustering."""
        return self.verdict if self.is_network else None

    @property
    def from_ceiling(self) -> bool:
        """Whether the peak is saturated, so that the fall may be larger than what is seen."""
        return self.peak is not None and self.peak.status is Status.SATURATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Two series of one layer (or a series and a metric) along the trajectory.

    `first` and `second` are quantities with their scale, or names of metrics.
    """

    layer: str
    first: str
    second: str
    correlation: RankCorrelation


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Rises of I(X;T) from a layer to the next, impossible where all comes through the former.

    `n_cases` were looked at, `n_alarms` are above their error, `worst` is the largest of these.
    """

    n_cases: int
    n_alarms: int
    worst: Row | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the results of an analysis show.

    Parameters
    ----------
    falls
        Of each layer, for each noise level and binning.
    learning
        What is known of the training.
    together
        Rank correlations between information, binned entropy and clustering, by layer.
    with_metrics
        Rank correlations of each of these with each recorded metric.
    alarm
        Of noisy networks; without cases otherwise.
    left_out
        What was not measured, with the reason.
    synthetic
        Whether inputs were drawn, not measured.
    """

    falls: tuple[Fall, ...]
    learning: Learning
    together: tuple[Together, ...]
    with_metrics: tuple[Together, ...]
    alarm: Alarm
    left_out: Mapping[str, str]
    synthetic: bool


def find(results: Results) -> Findings:
    """Return what the results show; equal results give equal findings."""
    learning = learning_of(results)
    series = {layer: _series(results, layer) for layer in results.layers}
    falls = [
        _guarded(_fall(layer, quantity, scale, rows), learning)
        for layer, known in series.items()
        for (quantity, scale), rows in known.items()
        if quantity in ("mi_input", "binned_mi_input")
    ]
    return Findings(
        falls=tuple(falls),
        learning=learning,
        together=tuple(pair for layer, known in series.items() for pair in _together(layer, known)),
        with_metrics=tuple(
            _pair(layer, key, name, rows, dict(enumerate(values)))
            for layer, known in series.items()
            for key, rows in known.items()
            for name, values in results.metrics.items()
        ),
        alarm=alarm(results.rows),
        left_out=_left_out(results),
        synthetic=results.synthetic,
    )


def alarm(rows: Sequence[Row]) -> Alarm:
    """Return where a layer of a noisy network seems to know more of the input than the one before it."""
    rises = [row for row in rows if row.quantity == "mi_input_rise" and row.value is not None]
    alarms = [r for r in rises if (r.value or 0.0) > ALARM_ERRORS * (r.std_error or 0.0) + ALARM_NATS]
    worst = max(alarms, key=lambda row: row.value or 0.0, default=None)
    return Alarm(n_cases=len(rises), n_alarms=len(alarms), worst=worst)


Series = dict[tuple[str, str], list[Row]]


def _series(results: Results, layer: str) -> Series:
    """Return the trajectories of one layer by quantity and scale, in the order of checkpoints."""
    return {
        (found.quantity, found.scale): list(found.known)
        for found in trajectories(results, layer=layer)
        if found.quantity in ("mi_input", "binned_mi_input", *CLUSTERING)
    }


def _fall(layer: str, quantity: str, scale: str, rows: Sequence[Row]) -> Fall:
    """Judge one trajectory by the rules of `Fall`."""
    known = [row for row in rows if row.value is not None]
    nothing = Fall(layer=layer, quantity=quantity, scale=scale)
    if not known or rows[-1].value is None:
        return nothing
    peak, last = max(known, key=_value), known[-1]
    after = [_value(row) for row in known if row.checkpoint > peak.checkpoint]
    fall = _value(peak) - _value(last)
    error = None if None in (peak.std_error, last.std_error) else hypot(_error(peak), _error(last))
    threshold = NormalDist().inv_cdf(1.0 - CHANCE / max(1, len(known) - 1))
    bias = max(0.0, float(peak.params.get("bias") or 0.0)) if after else 0.0
    found = replace(
        nothing,
        first=known[0],
        peak=peak,
        last=last,
        fall=fall - bias,
        std_error=error,
        threshold=threshold,
        trend=_trend([_value(row) for row in known], after),
    )
    verdict, why = _judged(found, fall, len(after))
    return replace(found, verdict=verdict, why=why)


def _judged(found: Fall, raw_fall: float, n_after: int) -> tuple[Verdict, Why]:
    """Return the verdict on a fall; `raw_fall` has the bias of too few realizations still in it."""
    unknown, margin = Verdict.CANNOT_BE_JUDGED, SATURATION_MARGIN_NATS
    if found.peak is None or found.last is None or found.fall is None:
        return unknown, Why.UNDEFINED
    if found.last.status is Status.SATURATED and found.from_ceiling:
        return unknown, Why.SATURATED
    if found.std_error is None:
        return unknown, Why.NO_ERROR
    if n_after == 0:
        # With a single checkpoint there is no trajectory; with more, the end is the maximum.
        alone = found.first is found.last
        return (unknown, Why.FEW_CHECKPOINTS) if alone else (Verdict.NO, Why.NUMBERS)
    reach = found.threshold * found.std_error
    if raw_fall + reach <= margin:
        return Verdict.NO, Why.NUMBERS
    if found.fall <= reach or found.fall < margin:
        few = raw_fall > max(reach, margin)
        return (unknown, Why.FEW_REALIZATIONS) if few else (Verdict.WITHIN_ERROR, Why.NUMBERS)
    if found.trend is None:
        return unknown, Why.FEW_CHECKPOINTS
    return (Verdict.YES, Why.NUMBERS) if found.trend <= TREND else (unknown, Why.NO_TREND)


def _trend(whole: Sequence[float], after: Sequence[float]) -> float | None:
    """Return the chance of so steady a decline, by `Fall.trend`."""
    found = [p for p in (decline(whole), decline(after)) if p is not None]
    return min(1.0, 2.0 * min(found)) if found else None


def _guarded(found: Fall, learning: Learning) -> Fall:
    """Take back that a network compresses if it is not seen to have learned."""
    if found.compresses is not Verdict.YES or learning.learned:
        return found
    why = Why.LEARNING_UNKNOWN if learning.learned is None else Why.NOT_LEARNED
    return replace(found, verdict=Verdict.CANNOT_BE_JUDGED, why=why)


def _value(row: Row) -> float:
    return row.value or 0.0


def _error(row: Row) -> float:
    return row.std_error or 0.0


def _together(layer: str, series: Series) -> Iterator[Together]:
    """Yield the correlations between information, binned entropy and clustering of one layer."""
    ranks = {"mi_input": 0, "binned_mi_input": 1} | dict.fromkeys(CLUSTERING, 2)
    for second, others in series.items():
        for first, rows in series.items():
            if ranks[first[0]] < ranks[second[0]]:
                values = {row.checkpoint: _value(row) for row in others if row.value is not None}
                pair = _pair(layer, first, _name(second), rows, values)
                yield replace(pair, correlation=_unsaturated(pair.correlation, others))


def _pair(
    layer: str, key: tuple[str, str], name: str, rows: Sequence[Row], values: Mapping[int, float]
) -> Together:
    both = [
        row for row in rows if row.value is not None and isfinite(values.get(row.checkpoint, float("nan")))
    ]
    correlation = rank_correlation([_value(row) for row in both], [values[row.checkpoint] for row in both])
    return Together(layer=layer, first=_name(key), second=name, correlation=_unsaturated(correlation, rows))


def _unsaturated(correlation: RankCorrelation, rows: Sequence[Row]) -> RankCorrelation:
    """Leave out a correlation where most of the values say no more than that they are at the ceiling."""
    if 2 * sum(row.status is Status.SATURATED for row in rows) <= len(rows):
        return correlation
    return RankCorrelation(value=None, n=correlation.n, reason="saturated at most checkpoints")


def _name(key: tuple[str, str]) -> str:
    return " ".join(filter(None, key))


def _left_out(results: Results) -> dict[str, str]:
    measured = {row.quantity for row in results.rows}
    if "nc1" not in measured:
        return {}
    missing = {"nc3": "a store holds no last weights; repstat.clustering.self_duality takes them"}
    if "nc4" not in measured:
        missing["nc4"] = "the store holds no output layer: extract with --layers all"
    return missing
