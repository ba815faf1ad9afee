"""Distances: histograms of pairs of samples within and between classes, one panel for each layer."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repstat.errors import UsageError
from repstat.plots import WIDTH_INCHES, style
from repstat.plots.lines import Legend
from repstat.plots.scene import Group, Scene
from repstat.results import Histogram, Results, Row
from repstat.units import Units

_HEIGHT, _LEAST, _LABEL = 1.15, 1.5, 0.2
_RELATIONS = {
    "within": ("within classes", style.COLOURS[0]),
    "between": ("between classes", style.COLOURS[1]),
    "all": ("all pairs", style.COLOURS[0]),
}


def distances(
    runs: Results | Sequence[Results],
    ax: Axes | None = None,
    *,
    names: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    step: int | None = None,
    level: int = 0,
    units: Units = "nats",
    width: float = WIDTH_INCHES,
    layer: str = "",
) -> Figure:
    """Draw the distances at one checkpoint, by default the last (`repstat.plots.figure`).

    Parameters
    ----------
    ax
        Draw the panel of one layer into it.
    layer
        Key or name of the only layer.

    Raises
    ------
    UsageError
        There are no histograms, no such checkpoint, or `ax` is given and several layers remain.
    """
    scene = Scene.of(
        runs,
        names=names,
        layers=[layer] if layer else layers,
        step=step,
        level=level,
        units=units,
        width=width,
    )
    keys = [key for key in scene.layers if any(_histograms(run, key) for run in scene.runs)]
    if not keys:
        raise UsageError(
            what="the results hold no histograms of distances",
            fix="Run repstat analyze again with --estimators clustering among others, or draw another kind",
        )
    checkpoints = [scene.checkpoint(run) for run in range(len(scene.runs))]
    words = Legend()
    if ax is not None:
        scene.only_one(keys, "layer")
        _draw(ax, scene, keys[0], checkpoints, words)
        ax.set(xlabel=_distance(scene, checkpoints), ylabel="density")
        style.legend(ax, list(words.entries.values()), list(words.entries), loc="best")
        return style.figure_of(ax)
    with style.context():
        columns = style.columns_of(len(keys), scene.width, _LEAST)
        figure, axes = style.panels(len(keys), scene.width, _HEIGHT, columns=columns)
        for panel, key in zip(axes, keys, strict=True):
            _draw(panel, scene, key, checkpoints, words)
        style.plain(
            figure.supxlabel(_distance(scene, checkpoints), fontsize=style.SIZE),
            figure.supylabel("density", fontsize=style.SIZE),
        )
        figure.set_figheight(figure.get_figheight() + _LABEL)
        style.legend_outside(figure, words.entries, "upper")
    return figure


def _histograms(run: Results, layer: str) -> list[Histogram]:
    return [one for one in run.histograms if (one.layer, one.quantity) == (layer, "distance")]


def _distance(scene: Scene, checkpoints: Sequence[int]) -> str:
    times = {scene.time(run, at) for run, at in enumerate(checkpoints)}
    when = times.pop() if len(times) == 1 else "each run's last checkpoint"
    return f"distance at {when} (activation units)"


def _draw(ax: Axes, scene: Scene, layer: str, checkpoints: Sequence[int], words: Legend) -> None:
    several = len(scene.runs) > 1
    end = 0.0
    for group in scene.groups:
        for run in group.members:
            for one in _histograms(scene.runs[run], layer):
                reach = _draw_one(ax, one, checkpoints[run], words, group if several else None)
                end = max(end, reach)
        if several:
            text = f"{group.name}, {len(group.members)} runs" if len(group.members) > 1 else group.name
            words.add(text, Line2D([], [], color=style.GREY, linestyle=group.line))
    if not ax.patches:
        ax.text(0.5, 0.5, "undefined", transform=ax.transAxes, ha="center", va="center", color=style.GREY)
    ax.set_ylim(bottom=0.0)
    # The bins hold the distances of all checkpoints: those of this one may end long before.
    ax.set_xlim(0.0, end * 1.03 or None)
    style.title(ax, scene.layers[layer], "" if several else _auc(scene.runs[0], layer, checkpoints[0]))


def _draw_one(ax: Axes, one: Histogram, checkpoint: int, words: Legend, group: Group | None) -> float:
    """Draw the density, and return where it ends."""
    counts = one.counts[checkpoint].astype(np.float64)
    if counts.sum() == 0:
        return 0.0
    density = counts / counts.sum() / np.diff(one.edges)
    text, colour = _RELATIONS.get(one.relation, (style.label(one.relation), style.GREY))
    line = group.line if group is not None else style.LINES[one.relation == "between"]
    patch = ax.stairs(density, one.edges, color=colour, linestyle=line, linewidth=0.7)
    if group is None:
        ax.stairs(density, one.edges, color=colour, fill=True, alpha=0.3, linewidth=0.0)
    words.add(text, patch)
    return float(one.edges[np.flatnonzero(counts)[-1] + 1])


def _auc(run: Results, layer: str, checkpoint: int) -> str:
    """Return the AUC of the two histograms with its error, or why there is none."""
    found: list[Row] = [
        row
        for row in run.rows
        if (row.layer, row.quantity, row.checkpoint) == (layer, "distance_auc", checkpoint)
    ]
    if not found:
        return ""
    if found[0].value is None:
        return "AUC undefined"
    error = f"±{found[0].std_error:.3f}" if found[0].std_error else ""
    # What is not quite apart is not to read as if it were.
    value = "> 0.999" if 0.9995 <= found[0].value < 1.0 else f"{found[0].value:.3f}"
    return f"AUC {value}{error}"
