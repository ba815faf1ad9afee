"""Scatter: some samples of every layer in axes that all checkpoints share, coloured by class."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from repstat.errors import UsageError
from repstat.plots import WIDTH_INCHES, style
from repstat.plots.lines import Legend
from repstat.plots.scene import Floats, Scene
from repstat.results import Results
from repstat.results import Scatter as Points
from repstat.units import Units

_SIZE = 3.0
_ROOM = 0.3
_MOST_CLASSES = 10
"""More have colours of a scale and no entries of their own: nobody can tell so many apart."""


def scatter(
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
    """Draw samples at the first, middle and last checkpoint, or at one (`repstat.plots.figure`).

    Parameters
    ----------
    ax
        Draw one panel into it: of one layer, at `step` or at the last checkpoint.
    layer
        Key or name of the only layer.

    Raises
    ------
    UsageError
        There are no coordinates, no such checkpoint, or `ax` is given and several panels remain.
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
    shown = [
        (run, one) for key in scene.layers for run in range(len(scene.runs))
        for one in scene.runs[run].scatters if one.layer == key
    ]  # fmt: skip
    if not shown:
        raise UsageError(
            what="the results hold no scatter coordinates",
            why="files of schema 1.0 and analyses without --estimators clustering have none",
            fix="Run repstat analyze again, or draw another kind of figure",
        )
    words = Legend()
    if ax is not None:
        scene.only_one([f"{scene.names[run]} {one.layer}" for run, one in shown], "layer")
        run, one = shown[0]
        at = scene.checkpoint(run)
        _draw(ax, scene, run, one, at, words)
        axes_of = _axes_of(one)
        ax.set(
            xlabel=_axis_text(one, axes_of[0]),
            ylabel=_axis_text(one, axes_of[-1]) if len(axes_of) > 1 else "class",
        )
        style.legend(ax, list(words.entries.values()), list(words.entries), loc="best")
        return style.figure_of(ax)
    with style.context():
        columns = max(len(_checkpoints(scene, run)) for run, _ in shown)
        height = min(scene.width / columns, 2.4) + (_ROOM if columns == 1 else 0.0)
        figure, axes = style.panels(len(shown) * columns, scene.width, height, columns=columns)
        for row, (run, one) in enumerate(shown):
            _draw_row(axes[row * columns : (row + 1) * columns], scene, run, one, words)
        style.legend_outside(figure, words.entries, "lower")
    return figure


def _checkpoints(scene: Scene, run: int) -> list[int]:
    """Return the first, the middle and the last, or the one asked for."""
    last = scene.checkpoint(run)
    return [last] if scene.step is not None else sorted({0, last // 2, last})


def _draw_row(axes: Sequence[Axes], scene: Scene, run: int, one: Points, words: Legend) -> None:
    checkpoints = _checkpoints(scene, run)
    for extra in axes[len(checkpoints) :]:
        extra.remove()
    x, y = _axes_of(one)[0], _axes_of(one)[-1]
    for panel, at in zip(axes, checkpoints, strict=False):
        _draw(panel, scene, run, one, at, words)
        panel.set_xlabel(_axis_text(one, x), labelpad=1)
    of = f"{scene.names[run]}\n" if len(scene.runs) > 1 else ""
    vertical = _axis_text(one, y) if x != y else "class"
    axes[0].set_ylabel(f"{of}{scene.layers[one.layer]}\n{vertical}", labelpad=1)
    style.plain(axes[0].yaxis.label)


def _axes_of(one: Points) -> list[int]:
    """Return the axes that are drawn: of three the two along which samples spread most, or the only one."""
    if len(one.axes) == 1:
        return [0]
    scale = np.nanmax(np.abs(one.coordinates), initial=0.0) or 1.0
    with np.errstate(all="ignore"):
        finite = np.where(np.isfinite(one.coordinates), one.coordinates / scale, 0.0)
    variance = finite.var(axis=1).sum(axis=0)
    return sorted(int(i) for i in np.argsort(-variance, kind="stable")[:2])


def _axis_text(one: Points, axis: int) -> str:
    return style.label(one.axes[axis])


def _draw(ax: Axes, scene: Scene, run: int, one: Points, checkpoint: int, words: Legend) -> None:
    chosen = _axes_of(one)
    x = one.coordinates[checkpoint][:, chosen[0]]
    y = one.coordinates[checkpoint][:, chosen[-1]] if len(chosen) > 1 else _rows(one)
    known = np.isfinite(x) & np.isfinite(y)
    for text, colour, marker, among in _classes(one):
        some = known & among
        if some.any():
            # Small points over each other: order is of classes, so they are let shine through.
            ax.scatter(x[some], y[some], s=_SIZE, color=colour, marker=marker, alpha=0.6, linewidths=0.0)
            words.add(text, Line2D([], [], linestyle="", color=colour, marker=marker, markersize=3.5))
    if not known.any():
        ax.text(0.5, 0.5, "undefined", transform=ax.transAxes, ha="center", va="center", color=style.GREY)
    _limit(ax, one, chosen)
    share = one.shown[checkpoint]
    percent = f"({share:.0%})" if np.isfinite(share) and "PC 1" in one.axes else ""
    if percent:
        words.add("(%): variance shown", Line2D([], [], linestyle=""))
    width = ax.get_position().width * style.figure_of(ax).get_figwidth()
    style.title(ax, style.broken(scene.time(run, checkpoint), percent, width))


def _rows(one: Points) -> Floats:
    """Return where samples with one coordinate are drawn: by class, spread so that none covers another."""
    places = np.searchsorted(np.unique(one.labels), one.labels)
    found: Floats = places + 0.6 * (np.arange(len(places)) / max(1, len(places) - 1) - 0.5)
    return found


def _limit(ax: Axes, one: Points, chosen: Sequence[int]) -> None:
    """Give all checkpoints of a layer the same limits, and both axes one scale where both are coordinates."""
    values = one.coordinates[..., chosen]
    finite = np.isfinite(values).all(axis=-1)
    if not finite.any():
        ax.set(xticks=[], yticks=[])
        return
    low, high = values[finite].min(axis=0), values[finite].max(axis=0)
    # Halves cannot overflow.
    middle, reach = low / 2 + high / 2, (high / 2 - low / 2).max() * 1.08 or 1.0
    ax.set_xlim(middle[0] - reach, middle[0] + reach)
    ax.locator_params(axis="x", nbins=3)
    if len(chosen) > 1:
        ax.set_ylim(middle[1] - reach, middle[1] + reach)
        ax.locator_params(axis="y", nbins=3)
        ax.set_aspect("equal", "box")
    else:
        ax.set_yticks([])


def _classes(one: Points) -> list[tuple[str, Any, str, NDArray[np.bool_]]]:
    """Return text, colour, marker and members of every class."""
    labels = np.unique(one.labels)
    if len(labels) == 1 and labels[0] == -1:
        return [("samples, without labels", style.COLOURS[0], "o", one.labels == -1)]
    if len(labels) > _MOST_CLASSES:
        scale = mpl.colormaps["cividis"](np.linspace(0.0, 1.0, len(labels)))
        text = f"{len(labels)} classes, by colour"
        return [(text, colour, "o", one.labels == of) for of, colour in zip(labels, scale, strict=True)]
    colours, markers = style.COLOURS, style.MARKERS
    return [
        (f"class {of}", colours[i % len(colours)], markers[i % len(markers)], one.labels == of)
        for i, of in enumerate(labels)
    ]
