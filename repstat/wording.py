"""Findings in sentences: each says what the numbers say, in the words that the kind of network allows.

I(X;T) of a deterministic network read through noise, and binned entropies of any, are *clustering at a
scale*. The word compression is for networks that compute with noise (docs/estimators.md, "Findings").
"""

from collections.abc import Iterator, Sequence

from repstat.findings import Fall, Findings, Verdict, Why
from repstat.units import Units, from_nats

MOST_LAYERS = 6
"""Layers named in one sentence; of more the largest falls, and how many are left."""

MOST_PAIRS = 3

STRONG = 0.8
"""Rank correlations below this are left to the table of the report."""


def sentences(findings: Findings, units: Units) -> list[str]:
    """Return the findings in a few sentences, information in `units`."""
    known = [fall for fall in findings.falls if fall.first is not None]
    if known and all(fall.first is fall.last for fall in known):
        return [
            "A single checkpoint is no trajectory: whether anything falls cannot be judged.",
            *_caveats(findings),
        ]
    return [
        *_information(findings, units),
        *_binned(findings, units),
        *_with_loss(findings),
        *_caveats(findings),
    ]


def _information(findings: Findings, units: Units) -> Iterator[str]:
    falls = _finest([fall for fall in findings.falls if fall.quantity == "mi_input"])
    network = [fall for fall in falls if fall.is_network]
    measured = [fall for fall in falls if not fall.is_network]
    if found := _of(network, Verdict.YES):
        yield (
            f"Compression in {_layers(found, units)}: I(X;T) of the noisy network falls from its maximum to "
            "the end, beyond error and steadily, in a training that learned."
        )
    if found := _of(measured, Verdict.YES):
        yield (
            f"Clustering at the scale of the noise in {_layers(found, units)}: I(X;T) through measurement "
            "noise falls from its maximum to the end, beyond error and steadily. The network is "
            "deterministic: what falls is how many samples can be told apart at that scale."
        )
    for group, what in ((network, "of the noisy network"), (measured, "through measurement noise")):
        yield from _others(group, f"I(X;T) {what}", units)


def _binned(findings: Findings, units: Units) -> Iterator[str]:
    falls = _finest([fall for fall in findings.falls if fall.quantity == "binned_mi_input"])
    if found := _of(falls, Verdict.YES):
        yield (
            f"Clustering at the scale of a bin in {_layers(found, units)}: H(Bin) falls from its maximum to "
            "the end, as samples come to share cells."
        )
    yield from _others(falls, "H(Bin)", units)


def _others(falls: Sequence[Fall], what: str, units: Units) -> Iterator[str]:
    """Yield what is not a yes: no, within error, and what cannot be judged, by reason."""
    if found := _of(falls, Verdict.NO):
        yield f"{what} does not fall by {_nats(0.1, units)} in {_names(found)}."
    if found := _of(falls, Verdict.WITHIN_ERROR):
        yield f"{what} falls within its error in {_layers(found, units)}."
    unknown = _of(falls, Verdict.CANNOT_BE_JUDGED)
    for why in dict.fromkeys(fall.why for fall in unknown):
        found = [fall for fall in unknown if fall.why is why]
        listed = _names(found) if why in (Why.SATURATED, Why.UNDEFINED) else _layers(found, units)
        yield f"Whether {what} falls cannot be judged in {listed}: {why.value}."


def _of(falls: Sequence[Fall], verdict: Verdict) -> list[Fall]:
    return [fall for fall in falls if fall.verdict is verdict]


def _finest(falls: Sequence[Fall]) -> list[Fall]:
    """Return one fall of each layer: at the first scale (of ``auto`` the finest) that can be judged."""
    chosen: dict[str, Fall] = {}
    for fall in falls:
        known = chosen.get(fall.layer)
        if known is None or (Verdict.CANNOT_BE_JUDGED is known.verdict is not fall.verdict):
            chosen[fall.layer] = fall
    return list(chosen.values())


def _names(falls: Sequence[Fall]) -> str:
    names = [fall.layer for fall in falls]
    if len(names) > MOST_LAYERS:
        names = [*names[:MOST_LAYERS], f"{len(names) - MOST_LAYERS} more"]
    return ", ".join(names)


def _layers(falls: Sequence[Fall], units: Units) -> str:
    """Return the layers with their falls, as ``L004 (4.40±.00 nats from step 208, noise_std 0.035)``."""
    shown = falls
    if len(falls) > MOST_LAYERS:
        largest = sorted(falls, key=lambda fall: -(fall.fall or 0.0))[:MOST_LAYERS]
        shown = [fall for fall in falls if fall in largest]
    texts = [_fall(fall, units) for fall in shown]
    return ", ".join(texts) + (f" and {len(falls) - len(shown)} more" if len(falls) > len(shown) else "")


def _fall(fall: Fall, units: Units) -> str:
    if fall.fall is None or fall.peak is None:
        return fall.layer
    error = "" if not fall.std_error else f"±{_number(fall.std_error, units)}"
    least = "at least " if fall.from_ceiling else ""
    at = f"noise_std {fall.peak.noise_std:g}" if fall.peak.noise_std is not None else fall.scale
    amount = f"{least}{_number(fall.fall, units)}{error} {units}"
    return f"{fall.layer} ({amount} from step {fall.peak.step:,}, {at})"


def _number(nats: float, units: Units) -> str:
    return f"{from_nats(nats, units):.3f}"


def _nats(nats: float, units: Units) -> str:
    return f"{from_nats(nats, units):.2g} {units}"


def _with_loss(findings: Findings) -> Iterator[str]:
    learning = findings.learning
    if learning.improves is not None and learning.first is not None and learning.best is not None:
        verb = "improves" if learning.improves else "does not improve steadily"
        yield (
            f"{learning.metric} {verb}: {learning.first:.4g} at the first checkpoint, "
            f"{learning.best:.4g} at best."
        )
    elif learning.improves is None:
        yield "No loss or accuracy at five checkpoints or more tells whether the training improves."
    if learning.apart is False:
        yield (
            "At the last checkpoint neighbours share their class no more than by chance, in every layer: "
            "the labels fit none."
        )
    pairs = [
        pair
        for pair in findings.with_metrics
        if pair.second == learning.metric
        and pair.correlation.beyond_chance
        and abs(pair.correlation.value or 0.0) >= STRONG
    ]
    if pairs and learning.improves:
        pairs.sort(key=lambda pair: -abs(pair.correlation.value or 0.0))
        shown = [
            f"{pair.layer} {pair.first} ({pair.correlation.value:+.2f}, by chance within "
            f"{pair.correlation.chance_low:+.2f} to {pair.correlation.chance_high:+.2f})"
            for pair in pairs[:MOST_PAIRS]
        ]
        yield (
            f"Most in step with {learning.metric}, by rank correlation: {', '.join(shown)}. "
            "What drifts together correlates; this shows no cause."
        )


def _caveats(findings: Findings) -> Iterator[str]:
    if findings.synthetic:
        yield "The inputs are synthetic: nothing here is about data."
    if findings.left_out:
        yield "Not measured: " + "; ".join(f"{name} ({why})" for name, why in findings.left_out.items()) + "."
