"""The table that ``repstat analyze`` prints: one line per layer and scale, a trajectory as a sparkline."""

from collections.abc import Sequence
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repstat.caveats import notes, status_counts
from repstat.cli.console import PipeConsole
from repstat.cli.options import plural
from repstat.findings import find
from repstat.naming import printable
from repstat.results import Results, Row, Status
from repstat.units import Units
from repstat.wording import sentences

Column = tuple[str, Literal["left", "right"]]
BARS = "▁▂▃▄▅▆▇█"
MARKS = {
    Status.SATURATED: "*",
    Status.TOLERANCE_NOT_REACHED: "?",
    Status.TOO_FEW_SAMPLES: "!",
    Status.TOO_FEW_REALIZATIONS: "!",
    Status.UNDEFINED: "",
}
GEOMETRY = {
    "nc1": ("NC1", None),
    "silhouette": ("silhouette", 1.0),
    "knn_agreement": ("10-NN agreement", 1.0),
    "participation_ratio": ("dimension", None),
}
"""Heading, and what the bars run up to; None for the maximum of the layer."""
WIDE = 140
"""Width of the whole table, and of what is printed where there is no terminal to ask."""
NARROW = 76
"""Below this width the terminal breaks lines itself, but no number is cut."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What fits: a narrow terminal gets shorter trajectories and fewer columns."""

    wide: bool

    @property
    def bars(self) -> int:
        """Most bars of a trajectory."""
        return 20 if self.wide else 10

    def spark(self, series: Sequence[Row | None], low: float = 0.0, high: float | None = None) -> str:
        """Return a trajectory between `low` and `high`, by default zero and the ceiling."""
        values = [None if row is None else row.value for row in series]
        if not any(series):
            return ""
        if high is None:
            ceilings = [row.ceiling for row in series if row is not None and row.ceiling is not None]
            high = max(ceilings, default=0) or max((v for v in values if v is not None), default=1.0)
        return sparkline(values, low, high, self.bars)


def sparkline(values: Sequence[float | None], low: float, high: float, width: int) -> str:
    """Return one bar per value between `low` and `high`, a dot where there is none; long ones are thinned."""
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    span = high - low or 1.0

    def bar(value: float | None) -> str:
        if value is None:
            return "·"
        return BARS[min(len(BARS) - 1, max(0, int((value - low) / span * len(BARS))))]

    return "".join(map(bar, values))


def number(row: Row | None) -> str:
    """Return a value with its standard error and the mark of its status: ``8.221±.003*``."""
    if row is None:
        return ""
    if row.value is None:
        return "undefined"
    text = f"{row.value:.3f}" if 1e-3 <= abs(row.value) < 1e5 or row.value == 0 else f"{row.value:.2e}"
    if row.std_error:
        error = f"{row.std_error:.3f}".removeprefix("0")
        text += f"±{error}" if row.std_error >= 5e-4 else "±.000"
    return text + MARKS.get(row.status, "")


def _width() -> int:
    return max(NARROW, get_terminal_size().columns) if Console().is_terminal else WIDE


def print_results(results: Results, units: Units) -> None:
    """Print what an analysis found to stdout, for a person at a glance."""
    width = _width()
    console = PipeConsole(width=width, highlight=False)
    layout = Layout(wide=width >= WIDE)
    rows = [row.in_units(units) for row in results.rows]
    known = f"{results.n_classes:,} classes" if results.n_classes != 1 else "1 class"
    last = f" to {results.steps[-1]:,}" if len(results.steps) > 1 else ""
    console.print(
        f"{plural(len(results.steps), 'checkpoint')}, step {results.steps[0]:,}{last}"
        f" · {plural(results.n_samples, 'sample')}, {known if results.n_classes else 'no labels'}"
        + (" · SYNTHETIC inputs" if results.synthetic else ""),
        style="bold",
    )
    for table in (
        _noise_table(results, rows, units, layout),
        _cluster_table(results, rows, units, layout),
        _geometry_table(results, rows, layout),
    ):
        if table.row_count:
            console.print(table)
    for found in status_counts(rows):
        mark = MARKS.get(found.status, "")
        console.print(f"{mark} {found.text}".strip(), markup=False)
        for reason in found.reasons:
            console.print(f"    {printable(reason)}", markup=False)
    for note in notes(results, units):
        console.print(note, markup=False)


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


def _peak(series: Sequence[Row | None], results: Results) -> str:
    """Say where a trajectory is highest, unless that says nothing."""
    found = [row for row in series if row is not None and row.value is not None]
    if len(found) < 2:
        return ""
    top = max(found, key=lambda row: row.value or 0.0)
    if top.status is Status.SATURATED:
        return "at its ceiling"
    return f"{number(top)} @ {results.steps[top.checkpoint]:,}"


def _layer_label(layer: str, results: Results) -> Text:
    name = printable(results.layers[layer])
    return Text(layer, style="bold").append(f" {name if len(name) <= 24 else name[:23] + '…'}", "not bold")


def _table(title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading, justify in columns:
        # A bar may be cut, a value may not: it would lose the mark that says it is saturated.
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=justify == "left")
    return table


def _at_most(rows: Sequence[Row], quantity: str) -> str:
    ceilings = [row.ceiling for row in rows if row.quantity == quantity and row.ceiling is not None]
    return f" ≤{max(ceilings):.3f}" if ceilings else ""


def _noise_table(results: Results, rows: Sequence[Row], units: Units, layout: Layout) -> Table:
    middle: list[Column] = [("first", "right"), ("maximum @ step", "right")]
    tops = _at_most(rows, "mi_input"), _at_most(rows, "mi_label")
    inside, outside = (tops, ("", "")) if layout.wide else (("", ""), tops)
    table = _table(
        f"{_channel(rows)}, in {units}: I(X;T){outside[0]}, I(Y;T){outside[1]}",
        [
            ("layer", "left"),
            ("units", "right"),
            ("noise_std", "right"),
            (f"I(X;T){inside[0]}", "left"),
            *(middle if layout.wide else []),
            ("last", "right"),
            (f"I(Y;T){inside[1]}", "left"),
            ("last", "right"),
        ],
    )
    for layer in results.layers:
        for i, level in enumerate(_variants(rows, layer, "mi_input", "noise")):
            series = _series(rows, results, layer, "mi_input", noise=level)
            labels = _series(rows, results, layer, "mi_label", noise=level)
            any_row = next(row for row in series if row is not None)
            table.add_row(
                _layer_label(layer, results) if i == 0 else "",
                f"{any_row.n_units:,}" if i == 0 else "",
                _noise_level(any_row, level, layout),
                layout.spark(series),
                *([number(series[0]), _peak(series, results)] if layout.wide else []),
                number(series[-1]),
                layout.spark(labels) or "no labels",
                number(labels[-1]),
            )
    return table


def _channel(rows: Sequence[Row]) -> str:
    network = any(row.noise_model == "network" for row in rows)
    return "information in the noisy network" if network else "information through Gaussian noise"


def _noise_level(row: Row, level: str, layout: Layout) -> str:
    if row.noise_std is None:
        return "none"
    return f"{level} = {row.noise_std:g}" if level.endswith("x") and layout.wide else f"{row.noise_std:g}"


def _cluster_table(results: Results, rows: Sequence[Row], units: Units, layout: Layout) -> Table:
    first: list[Column] = [("first", "right")] if layout.wide else []
    ratios: list[Column] = (
        [("within/between", "left"), ("last", "right")] if layout.wide else [("w/b", "right")]
    )
    table = _table(
        f"\nclustering: binned entropy in {units}; AUC of distances (.5: mixed, 1: apart)",
        [
            ("layer", "left"),
            ("binning", "left"),
            ("H(Bin)", "left"),
            *first,
            ("last", "right"),
            ("I(Y;Bin)", "right"),
            *ratios,
            ("AUC", "left"),
            ("last", "right"),
        ],
    )
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
                layout.spark(series),
                *([number(series[0])] if layout.wide else []),
                number(series[-1]),
                number(labels[-1]),
                *([layout.spark(ratio, 0.0, 1.0) if i == 0 else ""] if layout.wide else []),
                number(ratio[-1]) if i == 0 else "",
                layout.spark(auc, 0.5, 1.0) if i == 0 else "",
                number(auc[-1]) if i == 0 else "",
            )
    return table


def _geometry_table(results: Results, rows: Sequence[Row], layout: Layout) -> Table:
    """Return the table of what has been measured of the geometry of classes, trajectory and last value."""
    known = [quantity for quantity in GEOMETRY if any(row.quantity == quantity for row in rows)]
    columns: list[Column] = [("layer", "left")]
    for quantity in known:
        heading = GEOMETRY[quantity][0]
        columns += [(heading, "left"), ("last", "right")] if layout.wide else [(heading, "right")]
    table = _table("\ngeometry of classes" if results.n_classes else "\ngeometry", columns)
    for layer in results.layers if known else ():
        cells: list[str] = []
        for quantity in known:
            series, top = _series(rows, results, layer, quantity), GEOMETRY[quantity][1]
            values = [row.value for row in series if row is not None and row.value is not None]
            bars = layout.spark(series, 0.0, top or max(values, default=1.0))
            cells += [bars, number(series[-1])] if layout.wide else [number(series[-1])]
        table.add_row(_layer_label(layer, results), *cells)
    return table


def print_findings(results: Results, units: Units, *, to_stderr: bool) -> None:
    """Print what the results show, in a few sentences; to stderr where stdout is for numbers alone."""
    lines = sentences(find(results), units)
    if to_stderr:
        for line in lines:
            click.echo(f"repstat: {printable(line)}", err=True)
        return
    console = PipeConsole(width=_width(), highlight=False)
    console.print("\nfindings", style="italic")
    for line in lines:
        console.print(f"- {printable(line)}", markup=False)
