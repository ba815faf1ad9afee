"""What the page says in words and tables: verdicts, correlations, where the numbers come from."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repstat.caveats import checkpoint_records, notes, status_counts
from repstat.findings import Fall, Findings, Together, find
from repstat.naming import printable
from repstat.report.methods import LABELS, Method, used
from repstat.results import Results, Row, Status
from repstat.trajectories import Trajectory, trajectories
from repstat.units import Units, from_nats
from repstat.wording import sentences

MOST_CORRELATIONS = 12
"""Of one run, strongest first; the rest is in the results file."""


def number(value: float | None) -> str:
    """Write a number with four digits, as the page's script does."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e5:
        decimals = 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
        return f"{value:,.{decimals}f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.2e}")


@dataclass(frozen=True, slots=True)
class FallLine:
    """One line of the table of falls: strings as shown."""

    layer: str
    name: str
    quantity: str
    scale: str
    first: str
    peak: str
    last: str
    fall: str
    verdict: str
    why: str


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One line of the table of statuses: a trajectory, its last row, and how often it had which status."""

    index: int
    label: str
    scale: str
    value: str
    error: str
    bounds: str
    ceiling: str
    status: str
    reason: str
    counts: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that the page says of one run."""

    name: str
    results: Results
    findings: tuple[str, ...]
    caveats: tuple[str, ...]
    notes: tuple[str, ...]
    falls: tuple[FallLine, ...]
    correlations: tuple[Together, ...]
    tables: tuple[tuple[str, str, tuple[StatusLine, ...]], ...]
    provenance: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    checkpoints: tuple[Mapping[str, Any], ...]
    methods: tuple[Method, ...]


def facts_of(results: Results, name: str, units: Units) -> RunFacts:
    """Return what is to be said of one run, information in `units`."""
    found = find(results)
    series = trajectories(results)
    kinds = {(t.quantity, t.noise_model) for t in series}
    return RunFacts(
        name=printable(name),
        results=results,
        findings=tuple(printable(line) for line in sentences(found, units)),
        caveats=tuple(
            printable(" ".join([count.text, *(f"({reason})" for reason in count.reasons)]))
            for count in status_counts(results.rows)
        ),
        notes=tuple(printable(note) for note in notes(results, units)),
        falls=tuple(_fall_line(fall, results, units) for fall in found.falls),
        correlations=_strongest(found),
        tables=tuple(_tables(results, series, units)),
        provenance=tuple(_provenance(results)),
        commands=tuple(_commands(results)),
        checkpoints=tuple(_checkpoints(results)),
        methods=used(kinds, scatter=bool(results.scatters)),
    )


def amount_of(fall: Fall, units: Units) -> str:
    """Write how far a trajectory falls, with its error, and whether it may be more."""
    if fall.fall is None:
        return "–"
    error = f" ± {number(from_nats(fall.std_error, units))}" if fall.std_error else ""
    return f"{'≥ ' if fall.from_ceiling else ''}{number(from_nats(fall.fall, units))}{error}"


def _fall_line(fall: Fall, results: Results, units: Units) -> FallLine:
    def value(row: Row | None) -> str:
        return "–" if row is None or row.value is None else number(from_nats(row.value, units))

    at = f" @ {fall.peak.step:,}" if fall.peak is not None else ""
    return FallLine(
        layer=fall.layer,
        name=printable(results.layers[fall.layer]),
        quantity=LABELS[fall.quantity],
        scale=printable(fall.scale),
        first=value(fall.first),
        peak=value(fall.peak) + at,
        last=value(fall.last),
        fall=amount_of(fall, units),
        verdict=fall.verdict.value,
        why=fall.why.value,
    )


def _strongest(found: Findings) -> tuple[Together, ...]:
    """Return the correlations beyond chance, the strongest first."""
    pairs = [p for p in (*found.with_metrics, *found.together) if p.correlation.beyond_chance]
    pairs.sort(key=lambda pair: -abs(pair.correlation.value or 0.0))
    return tuple(pairs[:MOST_CORRELATIONS])


def _tables(
    results: Results, series: tuple[Trajectory, ...], units: Units
) -> Iterator[tuple[str, str, tuple[StatusLine, ...]]]:
    """Yield layer, name and the line of each of its trajectories."""
    for layer, name in results.layers.items():
        lines = [_status_line(i, t, units) for i, t in enumerate(series) if t.layer == layer]
        yield layer, printable(name), tuple(lines)


def _status_line(index: int, series: Trajectory, units: Units) -> StatusLine:
    last = series.rows[-1]
    row = None if last is None else last.in_units(units)
    counts = {status: int(series.are(status).sum()) for status in Status}
    bounds = () if row is None else (row.lower_bound, row.upper_bound)
    return StatusLine(
        index=index,
        label=LABELS.get(series.quantity, series.quantity),
        scale=printable(series.scale),
        value=number(None if row is None else row.value),
        error=number(row.std_error) if row is not None and row.std_error is not None else "",
        bounds=" … ".join(map(number, bounds)) if any(bound is not None for bound in bounds) else "",
        ceiling=number(row.ceiling) if row is not None and row.ceiling is not None else "",
        status="" if row is None else row.status.value,
        reason="" if row is None else printable(row.reason),
        counts=", ".join(f"{count} {status.value}" for status, count in counts.items() if count),
    )


def _provenance(results: Results) -> Iterator[tuple[str, str]]:
    """Yield what the results were computed from and with, as label and text."""
    known = results.provenance
    classes = f"{results.n_classes:,} classes" if results.n_classes else "no labels"
    yield "samples", f"{results.n_samples:,}, {classes}" + (", SYNTHETIC" if results.synthetic else "")
    for name in ("store", "inputs_source", "inputs_sha256", "repstat", "numpy"):
        if known.get(name):
            yield name.replace("_", " "), printable(str(known[name]))
    for name, value in _mapping(known.get("options")).items():
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"option {name}".replace("_", " "), printable(shown)
    for record in known.get("extraction") or ():
        adapter = _mapping(_mapping(record).get("adapter"))
        versions = _mapping(adapter.get("versions"))
        facts = [str(adapter[name]) for name in ("framework", "provider", "device") if adapter.get(name)]
        facts += [f"{name} {version}" for name, version in versions.items()]
        if facts:
            yield "model run by", printable(", ".join(facts))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _commands(results: Results) -> Iterator[str]:
    """Yield the commands that lead to the results, as far as they are known."""
    for record in results.provenance.get("extraction") or ():
        command = _mapping(record).get("command")
        if command:
            yield printable(str(command))
    options = _mapping(results.provenance.get("options"))
    if not options:
        return
    words = ["repstat", "analyze", str(results.provenance.get("store", "acts.h5"))]
    noisy = any(row.noise_model == "network" for row in results.rows)
    if not noisy:
        words += ["--noise-std", ",".join(map(str, options.get("noise_std", ["auto"])))]
    for binning in options.get("binning", ()):
        words += ["--binning", str(binning)]
    words += ["--estimators", ",".join(map(str, options.get("estimators", ())))]
    if options.get("conditional", "sampled") != "sampled":
        words += ["--conditional", str(options["conditional"])]
    for layer in options.get("layers") or ():
        words += ["--layers", str(layer)]
    if options.get("steps"):
        words += ["--steps", ",".join(map(str, options["steps"]))]
    if options.get("device", "cpu") != "cpu":
        words += ["--device", str(options["device"])]
    words += ["--tolerance", str(options.get("tolerance")), "--seed", str(options.get("seed"))]
    yield printable(shlex.join(words))


def _checkpoints(results: Results) -> Iterator[Mapping[str, Any]]:
    """Yield step, source and hashes of each checkpoint analysed."""
    known = checkpoint_records(results)
    for step, epoch in zip(results.steps, results.epochs, strict=True):
        record = known.get(step, {})
        yield {
            "step": step,
            "epoch": epoch,
            "source": printable(str(record.get("source", ""))),
            "sha256": printable(str(record.get("sha256", ""))),
            "weights_sha256": printable(str(record.get("weights_sha256", ""))),
        }
