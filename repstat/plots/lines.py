"""Trajectories as lines: with errors and bounds, and marks that show which points are no findings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from repstat.plots.scene import Floats, Group, Scene
from repstat.plots.style import CEILING, GREY, THIN
from repstat.results import Status
from repstat.trajectories import Trajectory, spread

MANY = 40
"""From so many checkpoints on only points that need a mark have one."""

DOUBTFUL = (Status.TOO_FEW_SAMPLES, Status.TOO_FEW_REALIZATIONS, Status.TOLERANCE_NOT_REACHED)

WITHOUT_MEAN = "without mean:\nnoise levels differ"

_MOST_SCALES = 3

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Legend:
    """What has been drawn and needs a word, each once."""

    entries: dict[str, Any] = field(default_factory=dict)

    def add(self, text: str, handle: Any) -> None:
        """Note what `text` explains."""
        self.entries.setdefault(text, handle)

    def marks(self, saturated: Flags, doubtful: Flags) -> None:
        """Explain the marks that occur."""
        if saturated.any():
            self.add("hollow: saturated", _mark("o", markerfacecolor="white"))
        if doubtful.any():
            self.add("cross: error not within tolerance,\nor too few samples", _mark("x"))


def _mark(marker: str, **looks: Any) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=GREY, markersize=3.5, **looks)


def doubtful(one: Trajectory) -> Flags:
    """Return at which checkpoints a value has a status that is neither ok nor saturated."""
    found: Flags = np.any([one.are(status) for status in DOUBTFUL], axis=0)
    return found


def draw_series(
    ax: Axes, scene: Scene, found: Sequence[Mapping[str, Trajectory]], words: Legend, *, bounds: bool = False
) -> None:
    """Draw the trajectories of a quantity: of each setting and layer, or mean and spread of its seeds."""
    for group in scene.groups:
        for layer in scene.layers:
            members = [(run, found[run][layer]) for run in group.members if layer in found[run]]
            if not members:
                continue
            looks = {"color": scene.colour(layer), "linestyle": scene.line(layer, group)}
            if len(members) == 1:
                _draw_one(ax, scene, members[0], looks, words, bounds=bounds)
            else:
                _draw_seeds(ax, scene, members, looks, words, group)
    _ceilings(ax, scene, found, words)


def _draw_one(
    ax: Axes,
    scene: Scene,
    member: tuple[int, Trajectory],
    looks: Mapping[str, Any],
    words: Legend,
    *,
    bounds: bool,
) -> None:
    run, one = member
    places, values = scene.places[run], one.numbers("value", scene.units)
    error = one.numbers("std_error", scene.units)
    ax.plot(places, values, **looks)
    _band(ax, places, values - error, values + error, looks["color"], 0.3)
    lower, upper = (one.numbers(name, scene.units) for name in ("lower_bound", "upper_bound"))
    if bounds and (np.isfinite(lower) & np.isfinite(upper)).any():
        _band(ax, places, lower, upper, looks["color"], 0.1)
        words.add("pairwise bounds", Patch(color=GREY, alpha=0.2, linewidth=0))
    saturated, crossed = one.are(Status.SATURATED), doubtful(one)
    draw_marks(ax, places, values, scene.marker(one.layer), looks["color"], saturated, crossed)
    words.marks(saturated, crossed)


def _draw_seeds(
    ax: Axes,
    scene: Scene,
    members: Sequence[tuple[int, Trajectory]],
    looks: Mapping[str, Any],
    words: Legend,
    group: Group,
) -> None:
    for run, one in members:
        ax.plot(scene.places[run], one.numbers("value", scene.units), **looks, linewidth=THIN, alpha=0.6)
    words.add("one run", Line2D([], [], color=GREY, linewidth=THIN))
    if len({one.scale for _, one in members}) > 1:
        words.add(WITHOUT_MEAN, Line2D([], [], linestyle=""))
        return
    found = spread([(scene.places[run], one.numbers("value", scene.units)) for run, one in members])
    if found is None:
        return
    ax.plot(found.values, found.mean, **looks)
    _band(ax, found.values, found.mean - found.std, found.mean + found.std, looks["color"], 0.2)
    at = [np.searchsorted(scene.places[run], found.values) for run, _ in members]
    saturated = np.any(
        [one.are(Status.SATURATED)[i] for (_, one), i in zip(members, at, strict=True)], axis=0
    )
    crossed = np.any([doubtful(one)[i] for (_, one), i in zip(members, at, strict=True)], axis=0)
    layer = members[0][1].layer
    draw_marks(ax, found.values, found.mean, scene.marker(layer), looks["color"], saturated, crossed)
    words.marks(saturated, crossed)
    words.add(seeds_text(scene, group, found.n_runs), Line2D([], [], color=GREY, linestyle=group.line))


def seeds_text(scene: Scene, group: Group, n_runs: int) -> str:
    """Return what a mean and its band are: the spread is of seeds, no error of estimation."""
    of = f"{group.name}: " if len(scene.groups) > 1 else ""
    return f"{of}mean ± std of {n_runs} runs"


def _band(ax: Axes, places: Floats, low: Floats, high: Floats, colour: str, alpha: float) -> None:
    ax.fill_between(places, low, high, color=colour, alpha=alpha, linewidth=0)


def draw_marks(
    ax: Axes, places: Floats, values: Floats, marker: str, colour: str, saturated: Flags, crossed: Flags
) -> None:
    """Mark points: hollow where saturated, a cross where in doubt, else where there are few or one alone."""
    known = np.isfinite(values)
    alone = known & ~np.append(known[1:], False) & ~np.append(False, known[:-1])
    plain = known & ~saturated & ~crossed
    for which, shape, face in (
        (plain if len(values) <= MANY else plain & alone, marker, colour),
        (known & saturated, marker, "white"),
        (known & crossed, "x", colour),
    ):
        if which.any():
            ax.plot(places[which], values[which], linestyle="", marker=shape, color=colour,
                    markerfacecolor=face, markeredgewidth=0.6)  # fmt: skip


def _ceilings(ax: Axes, scene: Scene, found: Sequence[Mapping[str, Trajectory]], words: Legend) -> None:
    for value in ceilings_of(scene, found):
        ax.axhline(value, color=GREY, linestyle=CEILING, linewidth=0.7, zorder=0.5)
        words.add("ceiling", Line2D([], [], color=GREY, linestyle=CEILING, linewidth=0.7))


def ceilings_of(scene: Scene, found: Sequence[Mapping[str, Trajectory]]) -> list[float]:
    """Return the ceilings that occur, each once."""
    every = [one.numbers("ceiling", scene.units) for of_run in found for one in of_run.values()]
    values = np.concatenate([*every, np.empty(0)])
    return [float(value) for value in np.unique(values[np.isfinite(values)].round(9))]


def name_layers(scene: Scene, words: Legend, found: Sequence[Mapping[str, Trajectory]] = ()) -> None:
    """Explain the layers, with their noise levels where these differ, and the settings."""
    scales = {one.scale for of_run in found for one in of_run.values()}
    for layer, text in scene.layers.items():
        of_layer = dict.fromkeys(of_run[layer].scale for of_run in found if layer in of_run)
        some = ", ".join(list(of_layer)[:_MOST_SCALES]) + (", …" if len(of_layer) > _MOST_SCALES else "")
        noise = f" ({some})" if len(scales) > 1 and of_layer else ""
        words.add(
            text + noise,
            Line2D([], [], color=scene.colour(layer), marker=scene.marker(layer),
                   linestyle=scene.line(layer, scene.groups[0])),
        )  # fmt: skip
    if len(scene.groups) > 1:
        for group in scene.groups:
            if len(group.members) == 1:
                words.add(group.name, Line2D([], [], color=GREY, linestyle=group.line))
