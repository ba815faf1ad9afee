"""The information plane: I(X;T) against I(Y;T) of every layer, time as colour.

R. Shwartz-Ziv and N. Tishby, Opening the black box of deep neural networks via information (2017),
doi:10.48550/arXiv.1703.00810, drew it first; here both axes say what noise they were read through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repstat.errors import UsageError
from repstat.plots import WIDTH_INCHES, style
from repstat.plots.lines import WITHOUT_MEAN, Flags, Legend, ceilings_of, doubtful, name_layers, seeds_text
from repstat.plots.scene import Floats, Scene, channel
from repstat.results import Results, Status
from repstat.trajectories import Trajectory, spread
from repstat.units import Units

_HEIGHT = 2.9
_SIZE = 10.0

Found = list[dict[str, Trajectory]]


def information_plane(
    runs: Results | Sequence[Results],
    ax: Axes | None = None,
    *,
    names: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    step: int | None = None,
    level: int = 0,
    units: Units = "nats",
    width: float = WIDTH_INCHES,
) -> Figure:
    """Draw the information plane (`repstat.plots.figure`); `step` is not used.

    Raises
    ------
    UsageError
        The results have no labels, or no I(X;T).
    """
    scene = Scene.of(runs, names=names, layers=layers, step=step, level=level, units=units, width=width)
    inputs, labels = scene.series("mi_input"), scene.series("mi_label")
    _check(scene, inputs, labels)
    if ax is not None:
        words = _draw(ax, scene, inputs, labels)
        style.legend(ax, list(words.entries.values()), list(words.entries), loc="best")
        return style.figure_of(ax)
    with style.context():
        figure, (panel,) = style.panels(1, scene.width, _HEIGHT)
        words = _draw(panel, scene, inputs, labels)
        style.legend_outside(figure, words.entries, "lower")
    return figure


def _check(scene: Scene, inputs: Found, labels: Found) -> None:
    if not any(inputs):
        raise UsageError(
            what="the results hold no I(X;T)",
            fix="Run repstat analyze again with --estimators noisy, or draw another kind of figure",
        )
    for name, of_run in zip(scene.names, labels, strict=True):
        if not of_run:
            of = f" of {name}" if len(scene.runs) > 1 else ""
            raise UsageError(
                what=f"the information plane needs labels, and the results{of} have none",
                why="there is no I(Y;T) without them",
                fix="Give labels to repstat extract with --labels, or draw trajectories, distances, scatter "
                "or noise-profile, which work without",
            )


@dataclass(frozen=True, slots=True)
class _Path:
    """A layer's way through the plane: of one run with standard errors, or a mean with its spread."""

    places: Floats
    x: Floats
    y: Floats
    x_error: Floats
    y_error: Floats
    saturated: Flags
    doubtful: Flags


def _draw(ax: Axes, scene: Scene, inputs: Found, labels: Found) -> Legend:
    words = Legend()
    name_layers(scene, words, [*inputs, *labels])
    for group in scene.groups:
        for layer in scene.layers:
            members = [run for run in group.members if layer in inputs[run] and layer in labels[run]]
            paths = [_path(scene, run, inputs[run][layer], labels[run][layer]) for run in members]
            looks: dict[str, Any] = {"color": scene.colour(layer), "linestyle": scene.line(layer, group)}
            for path in paths:
                ax.plot(
                    path.x,
                    path.y,
                    **looks,
                    linewidth=style.THIN if len(paths) > 1 else 0.6,
                    alpha=0.7,
                    zorder=1.5,
                )
            if len(paths) > 1:
                words.add("one run", Line2D([], [], color=style.GREY, linewidth=style.THIN))
                scales = {inputs[run][layer].scale for run in members}
                paths = [] if len(scales) > 1 else _mean(paths)
                if len(scales) > 1:
                    words.add(WITHOUT_MEAN, Line2D([], [], linestyle=""))
                elif paths:
                    line = Line2D([], [], color=style.GREY, linestyle=group.line)
                    words.add(seeds_text(scene, group, len(members)), line)
            for path in paths:
                if len(members) > 1:
                    ax.plot(path.x, path.y, **looks, zorder=1.6)
                _points(ax, scene, path, scene.marker(layer), words)
    for draw, found in ((ax.axvline, inputs), (ax.axhline, labels)):
        for value in ceilings_of(scene, found):
            draw(value, color=style.GREY, linestyle=style.CEILING, linewidth=0.7, zorder=0.5)
            words.add("ceiling", Line2D([], [], color=style.GREY, linestyle=style.CEILING, linewidth=0.7))
    ax.set_xlabel(f"{channel(inputs, 'mi_input')} ({scene.units})")
    ax.set_ylabel(f"{channel(labels, 'mi_label')} ({scene.units})")
    style.time_bar(ax, scene.axis)
    return words


def _path(scene: Scene, run: int, given: Trajectory, label: Trajectory) -> _Path:
    return _Path(
        scene.places[run],
        given.numbers("value", scene.units),
        label.numbers("value", scene.units),
        given.numbers("std_error", scene.units),
        label.numbers("std_error", scene.units),
        given.are(Status.SATURATED) | label.are(Status.SATURATED),
        doubtful(given) | doubtful(label),
    )


def _mean(paths: Sequence[_Path]) -> list[_Path]:
    """Return the path of the mean over seeds, where all of them have both numbers; none without any."""
    both = [np.isfinite(path.x) & np.isfinite(path.y) for path in paths]
    x = spread([(path.places[has], path.x[has]) for path, has in zip(paths, both, strict=True)])
    y = spread([(path.places[has], path.y[has]) for path, has in zip(paths, both, strict=True)])
    if x is None or y is None:
        return []
    at = [np.searchsorted(path.places, x.values) for path in paths]
    saturated = np.any([path.saturated[i] for path, i in zip(paths, at, strict=True)], axis=0)
    crossed = np.any([path.doubtful[i] for path, i in zip(paths, at, strict=True)], axis=0)
    return [_Path(x.values, x.mean, y.mean, x.std, y.std, saturated, crossed)]


def _points(ax: Axes, scene: Scene, path: _Path, marker: str, words: Legend) -> None:
    known = np.flatnonzero(np.isfinite(path.x) & np.isfinite(path.y))
    if not known.size:
        return
    colours = style.at_times(scene.axis, path.places)
    x_error, y_error = (np.nan_to_num(error)[known] for error in (path.x_error, path.y_error))
    looks: dict[str, Any] = {"linestyle": "", "ecolor": colours[known], "elinewidth": 0.6, "zorder": 1.7}
    ax.errorbar(path.x[known], path.y[known], yerr=y_error, xerr=x_error, **looks)
    for which, shape, faces in (
        (~path.saturated & ~path.doubtful, marker, colours),
        (path.saturated & ~path.doubtful, marker, np.ones_like(colours)),
        (path.doubtful, "x", colours),
    ):
        some = known[which[known]]
        if some.size:
            edges: dict[str, Any] = {} if shape == "x" else {"edgecolors": colours[some]}
            ax.scatter(path.x[some], path.y[some], s=_SIZE, c=faces[some], marker=shape, linewidths=0.7,
                       zorder=2, **edges)  # fmt: skip
    words.marks(path.saturated[known], path.doubtful[known])
    first, last = known[0], known[-1]
    for at, shape, text in ((first, "+", "first"), (last, "1", "last")):
        ax.plot(path.x[at], path.y[at], shape, color="black", markersize=5, markeredgewidth=0.8, zorder=3)
        words.add(text, Line2D([], [], linestyle="", marker=shape, color="black", markersize=5))
