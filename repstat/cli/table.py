"""The table that ``repstat analyze`` prints: one line per layer and scale, a trajectory as a sparkline."""

from collections.abc import Sequence
from shutil import get_terminal_size

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repstat.cli import printable
from repstat.cli.options import plural
from repstat.results import Results, Row, Status
from repstat.units import Units

BARS = "▁▂▃▄▅▆▇█"
MARKS = {
    Status.SATURATED: "*",
    Status.TOLERANCE_NOT_REACHED: "?",
    Status.TOO_FEW_SAMPLES: "!",
    Status.TOO_FEW_REALIZATIONS: "!",
    Status.UNDEFINED: "",
}
SPARK_WIDTH = 32
PLAIN_WIDTH = 132
"""Width where there is no terminal to ask."""


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """Return one bar per value between `low` and `high`, a dot where there is none; long ones are thinned."""
    if len(values) > SPARK_WIDTH:
        picks = [round(i * (len(values) - 1) / (SPARK_WIDTH - 1)) for i in range(SPARK_WIDTH)]
        values = [values[i] for i in picks]
    span = high - low or 1.0

    def bar(value: float | None) -> str:
        if value is None:
            return "·"
        return BARS[min(len(BARS) - 1, max(0, int((value - low) / span * len(BARS))))]

    return "".join(map(bar, values))


def number(row: Row | None) -> str:
    """Return a value with its standard error and the mark of its status."""
    if row is None:
        return ""
    if row.value is None:
        return "undefined"
    text = f"{row.value:.3f}" if abs(row.value) >= 1e-3 or row.value == 0 else f"{row.value:.1e}"
    if row.std_error:
        text += f" ±{row.std_error:.3f}" if row.std_error >= 5e-4 else " ±<.001"
    return text + MARKS.get(row.status, "")


def print_results(results: Results, units: Units) -> None:
    """Print what an analysis found to stdout, for a person at a glance."""
    on_terminal = Console().is_terminal
    console = Console(
        width=max(get_terminal_size().columns, 100) if on_terminal else PLAIN_WIDTH, highlight=False
    )
    rows = [row.in_units(units) for row in results.rows]
    classes = plural(results.n_classes, "class").replace("classs", "classes")
    console.print(
        f"{plural(len(results.steps), 'checkpoint')}, step {results.steps[0]:,} to {results.steps[-1]:,}"
        f" · {plural(results.n_samples, 'sample')}, {classes}"
        + (" · SYNTHETIC inputs" if results.synthetic else ""),
        style="bold",
    )
    for table in (_noise_table(results, rows, units), _cluster_table(results, rows, units)):
        if table.row_count:
            console.print(table)
    _print_legend(console, rows)


def _series(
    rows: Sequence[Row], results: Results, layer: str, quantity: str, **params: str
) -> list[Row | None]:
    """Return one layer's rows of one quantity, one place per checkpoint."""
    series: list[Row | None] = [None] * len(results.steps)
    for row in rows:
        same = row.layer == layer and row.quantity == quantity
        if same and all(row.params.get(name) == value for name, value in params.items()):
            series[row.checkpoint] = row
    return series


def _variants(rows: Sequence[Row], layer: str, quantity: str, name: str) -> list[str]:
    return list(dict.fromkeys(r.params[name] for r in rows if (r.layer, r.quantity) == (layer, quantity)))


def _spark(series: Sequence[Row | None], low: float = 0.0, high: float | None = None) -> str:
    values = [None if row is None else row.value for row in series]
    ceilings = [row.ceiling for row in series if row is not None and row.ceiling is not None]
    if high is None:
        present = [value for value in values if value is not None]
        high = max(ceilings, default=0) or max(present, default=1.0)
    return sparkline(values, low, high)


def _peak(series: Sequence[Row | None], results: Results) -> str:
    """Say where a trajectory is highest, unless that says nothing."""
    found = [row for row in series if row is not None and row.value is not None]
    if len(found) < 2:
        return ""
    top = max(found, key=lambda row: row.value or 0.0)
    if top.status is Status.SATURATED:
        return "at its ceiling"
    return f"{top.value:.3f} @ {results.steps[top.checkpoint]:,}"


def _layer_label(layer: str, results: Results) -> Text:
    name = printable(results.layers[layer])
    return Text(layer, style="bold").append(f" {name if len(name) <= 24 else name[:23] + '…'}", "not bold")


def _noise_table(results: Results, rows: Sequence[Row], units: Units) -> Table:
    table = Table(
        title=f"information through Gaussian noise added to the activations, in {units}",
        title_justify="left", box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    tops = [r.ceiling for r in rows if r.quantity == "mi_input" and r.ceiling is not None]
    label_tops = [r.ceiling for r in rows if r.quantity == "mi_label" and r.ceiling is not None]
    top = f" ≤{max(tops):.3f}" if tops else ""
    label_top = f" ≤{max(label_tops):.3f}" if label_tops else ""
    for heading, right in (
        ("layer", False), ("units", True), ("noise_std", True), (f"I(X;T){top}", False), ("first", True),
        ("maximum @ step", True), ("last", True), (f"I(Y;T){label_top}", False), ("last", True),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for layer in results.layers:
        for i, level in enumerate(_variants(rows, layer, "mi_input", "noise")):
            series = _series(rows, results, layer, "mi_input", noise=level)
            labels = _series(rows, results, layer, "mi_label", noise=level)
            any_row = next(row for row in series if row is not None)
            suffix = f" ({level})" if level.endswith("x") else ""
            table.add_row(
                _layer_label(layer, results) if i == 0 else "",
                f"{any_row.n_units:,}" if i == 0 else "",
                f"{any_row.noise_std:g}{suffix}",
                _spark(series),
                number(series[0]),
                _peak(series, results),
                number(series[-1]) if len(series) > 1 else "",
                _spark(labels) if any(labels) else "no labels",
                number(labels[-1]),
            )
    return table


def _cluster_table(results: Results, rows: Sequence[Row], units: Units) -> Table:
    table = Table(
        title=f"\nclustering: binned entropy in {units}; distance AUC (0.5: classes mixed, 1: apart)",
        title_justify="left", box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for heading, right in (
        ("layer", False), ("binning", False), ("H(Bin)", False), ("first", True), ("last", True),
        ("I(Y;Bin)", True), ("within/between", False), ("last", True), ("AUC", False), ("last", True),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for layer in results.layers:
        ratio = _series(rows, results, layer, "distance_ratio")
        auc = _series(rows, results, layer, "distance_auc")
        binnings = _variants(rows, layer, "binned_mi_input", "binning")
        if not binnings and not any(auc):
            continue
        for i, binning in enumerate(binnings or [""]):
            series = _series(rows, results, layer, "binned_mi_input", binning=binning)
            labels = _series(rows, results, layer, "binned_mi_label", binning=binning)
            table.add_row(
                _layer_label(layer, results) if i == 0 else "",
                binning,
                _spark(series) if any(series) else "",
                number(series[0]),
                number(series[-1]),
                number(labels[-1]),
                _spark(ratio, 0.0, 1.0) if any(ratio) and i == 0 else "",
                number(ratio[-1]) if i == 0 else "",
                _spark(auc, 0.5, 1.0) if any(auc) and i == 0 else "",
                number(auc[-1]) if i == 0 else "",
            )
    return table


def _print_legend(console: Console, rows: Sequence[Row]) -> None:
    """Explain every status that occurs, and how often."""
    for status in Status:
        count = sum(row.status is status for row in rows)
        if status is Status.OK or not count:
            continue
        mark = MARKS.get(status, "")
        of = f"{count:,} of {len(rows):,} numbers"
        console.print(f"{mark + ' ' if mark else ''}{status.value} ({of}): {status.advice}", markup=False)
        reasons = list(dict.fromkeys(r.reason for r in rows if r.status is status and r.reason))
        for reason in reasons[:3] if status is Status.UNDEFINED else []:
            console.print(f"    {printable(reason)}", markup=False)
    if any(row.noise_model == "measurement" for row in rows):
        console.print(
            "Noise was added to stored activations of a deterministic network: I(X;T) and I(Y;T) say how its "
            "representation clusters at the scale noise_std, not how much a noisy network transmits.",
            markup=False,
        )
