"""What a reader must know beside the numbers: statuses that occur, what the noise means, alarms.

One wording for the table of ``repstat analyze`` and for the report.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repstat.findings import alarm
from repstat.oddities import listed, repeated, same_activations
from repstat.results import Results, Row, Status
from repstat.scales import AUTO
from repstat.units import Units, from_nats

UNSEEN = ("effective_clusters", "nc2_equinorm", "nc2_equiangularity", "nc2_simplex")
"""Not counted: a profile is meant to reach its ceiling; two classes have no NC2."""

MOST_REASONS = 3

NETWORK = (
    "The network had noise in its layers, and T is a layer with its own: I(X;T) is what the noisy network "
    "transmits. Too few realizations make it too large."
)
MEASUREMENT = (
    "Noise was added to stored activations of a deterministic network: I(X;T) and I(Y;T) say how its "
    "representation clusters at the scale noise_std, not how much a noisy network transmits."
)
AUTOMATIC = (
    "noise_std was picked for each layer, the same for all its checkpoints: the smallest round multiples x "
    "of its spread at which I(X;T) is at most about 0.8 and 0.4 of its ceiling. Levels differ between layers."
)


@dataclass(frozen=True, slots=True)
class StatusCount:
    """How many of `n_rows` numbers have a status other than ok, and the first few reasons why."""

    status: Status
    count: int
    n_rows: int
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """The status, how often, and what to change."""
        return f"{self.status.value} ({self.count:,} of {self.n_rows:,} numbers): {self.status.advice}"


def status_counts(rows: Sequence[Row]) -> Iterator[StatusCount]:
    """Yield every status but ok that occurs; reasons where there is no value."""
    counted = [row for row in rows if row.quantity not in UNSEEN]
    for status in Status:
        having = [row for row in counted if row.status is status]
        if status is Status.OK or not having:
            continue
        reasons = dict.fromkeys(row.reason for row in having if row.reason)
        shown = tuple(reasons)[:MOST_REASONS] if status is Status.UNDEFINED else ()
        yield StatusCount(status, len(having), len(counted), shown)


def notes(results: Results, units: Units) -> Iterator[str]:
    """Yield what is odd about the checkpoints, what the noise means, and the alarm of noisy networks."""
    yield from _repeated(results)
    yield from _constant(results.rows)
    models = {row.noise_model for row in results.rows}
    if "network" in models:
        yield NETWORK
        yield from _alarm(results.rows, units)
    if "measurement" in models:
        yield MEASUREMENT
        options = results.provenance.get("options")
        if AUTO.text in str(options.get("noise_std") if isinstance(options, Mapping) else ""):
            yield AUTOMATIC


def checkpoint_records(results: Results) -> Mapping[int, Mapping[str, Any]]:
    """Return what is known of each checkpoint analysed, by step: its source and hashes.

    A results file may be a stranger's, and its provenance any JSON.
    """
    found = results.provenance.get("checkpoints")
    records = [c for c in found if isinstance(c, Mapping)] if isinstance(found, list | tuple) else []
    known = {record["step"]: record for record in records if isinstance(record.get("step"), int)}
    return {step: known[step] for step in results.steps if step in known}


def _repeated(results: Results) -> Iterator[str]:
    """Name checkpoints that are one and the same: a file copied twice, or a training that stands still."""
    records = checkpoint_records(results)
    of_weights, of_activations = (
        [*repeated({step: str(found) for step, record in records.items() if (found := record.get(name))})]
        for name in ("weights_sha256", "activations_sha256")
    )
    for steps in of_weights:
        yield f"The weights at steps {listed(steps)} are the same: is one checkpoint there twice?"
    for steps in of_activations:
        if steps not in of_weights:
            yield same_activations(steps)


def _constant(rows: Sequence[Row]) -> Iterator[str]:
    """Name the layer of which most units tell nothing."""
    some = [row for row in rows if row.quantity == "constant_units" and row.value and row.ceiling]
    if some:
        most = max(some, key=lambda row: (row.value or 0.0) / (row.ceiling or 1.0))
        n_layers = len({row.layer for row in some})
        where = most.layer if n_layers == 1 else f"{n_layers:,} layers, most in {most.layer}"
        yield (
            f"Constant units in {where}: {most.value:,.0f} of {most.n_units:,} have one value for every "
            f"sample at step {most.step:,}."
        )


def _alarm(rows: Sequence[Row], units: Units) -> Iterator[str]:
    """Sound the alarm where a layer seems to know more of the input than the one before it."""
    found = alarm(rows)
    if found.worst is not None and found.worst.value is not None:
        error = f"±{from_nats(found.worst.std_error, units):.3f}" if found.worst.std_error else ""
        yield (
            f"ALARM: in {found.n_alarms:,} of {found.n_cases:,} cases I(X;T) rises from a layer to the next, "
            f"most by {from_nats(found.worst.value, units):.3f}{error} {units} from "
            f"{found.worst.params['from_layer']} to {found.worst.layer} at step {found.worst.step:,}: "
            "impossible where all comes through the former. Extract with more realizations."
        )
