"""The noise-scale profile: the effective number of clusters exp(I(X;T)) over the scale of the noise."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repstat.errors import UsageError
from repstat.plots import WIDTH_INCHES, style
from repstat.plots.lines import Legend
from repstat.plots.scene import Scene
from repstat.results import Results
from repstat.trajectories import Profile, profile
from repstat.units import Units

_HEIGHT, _LEAST, _LABEL = 1.25, 1.5, 0.2
_MOST_LINES = 8


def noise_profile(
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
    """Draw the profile of each layer at some checkpoints, of several runs at the last (`plots.figure`).

    Parameters
    ----------
    ax
        Draw the panel of one layer into it.
    layer
        Key or name of the only layer.

    Raises
    ------
    UsageError
        There is no profile, no such checkpoint, or `ax` is given and several layers remain.
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
    found = {key: [profile(run, key) for run in scene.runs] for key in scene.layers}
    keys = [key for key, of in found.items() if any(of)]
    if not keys:
        raise UsageError(
            what="the results hold no noise-scale profile",
            why="it is of networks without noise in them, by the estimator profile",
            fix="Run repstat analyze again with --estimators profile among others, or draw another kind",
        )
    words = Legend()
    if ax is not None:
        scene.only_one(keys, "layer")
        _draw(ax, scene, keys[0], found[keys[0]], words)
        ax.set(xlabel="noise_std (activation units)", ylabel="effective clusters")
        if len(scene.runs) == 1 and scene.step is None:
            style.time_bar(ax, scene.axis)
        style.legend(ax, list(words.entries.values()), list(words.entries), loc="best")
        return style.figure_of(ax)
    with style.context():
        columns = style.columns_of(len(keys), scene.width, _LEAST)
        figure, axes = style.panels(len(keys), scene.width, _HEIGHT, columns=columns, share_y=True)
        for panel, key in zip(axes, keys, strict=True):
            _draw(panel, scene, key, found[key], words)
        style.plain(
            figure.supxlabel("noise_std (activation units)", fontsize=style.SIZE),
            figure.supylabel("effective clusters", fontsize=style.SIZE),
        )
        if len(scene.runs) == 1 and scene.step is None:
            style.time_bar(axes, scene.axis)
        figure.set_figheight(figure.get_figheight() + _LABEL)
        style.legend_outside(figure, words.entries, "upper")
    return figure


def _draw(ax: Axes, scene: Scene, layer: str, found: Sequence[Profile | None], words: Legend) -> None:
    ax.set(xscale="log", yscale="log")
    drawn = False
    for place, group in enumerate(scene.groups):
        for run in group.members:
            one = found[run]
            if one is None:
                continue
            for at in _checkpoints(scene, run):
                colour = style.at_times(scene.axis, scene.places[run][[at]])[0]
                if len(scene.runs) > 1:
                    colour = style.COLOURS[place % len(style.COLOURS)]
                    when = "" if scene.step is not None else ", last"
                    of = f"{group.name}{when}" + (
                        f" ({len(group.members)} runs)" if len(group.members) > 1 else ""
                    )
                    words.add(of, Line2D([], [], color=colour, linestyle=group.line))
                elif scene.step is not None:
                    words.add(scene.time(run, at), Line2D([], [], color=colour))
                drawn |= _line(ax, one, at, colour, group.line)
            if np.isfinite(one.ceiling):
                ax.axhline(one.ceiling, color=style.GREY, linestyle=style.CEILING, linewidth=0.7, zorder=0.5)
                words.add(
                    "samples told apart",
                    Line2D([], [], color=style.GREY, linestyle=style.CEILING, linewidth=0.7),
                )
    if not drawn:
        ax.text(0.5, 0.5, "undefined", transform=ax.transAxes, ha="center", va="center", color=style.GREY)
    style.decades(ax)
    style.title(ax, scene.layers[layer])


def _checkpoints(scene: Scene, run: int) -> list[int]:
    """Return some along the training, or the one asked for; of several runs the last."""
    at = scene.checkpoint(run)
    if scene.step is not None or len(scene.runs) > 1:
        return [at]
    return sorted({round(i) for i in np.linspace(0, at, min(at + 1, _MOST_LINES))})


def _line(ax: Axes, one: Profile, at: int, colour: object, line: object) -> bool:
    clusters, error = one.clusters[at], one.std_error[at]
    known = np.isfinite(clusters) & (clusters > 0)
    ax.plot(one.noise_std[known], clusters[known], color=colour, linestyle=line, linewidth=0.8)
    # A cluster is one at least: an error below zero has no place on this axis.
    low = np.maximum(clusters - error, np.finfo(float).tiny)
    ax.fill_between(
        one.noise_std[known], low[known], (clusters + error)[known], color=colour, alpha=0.3, linewidth=0
    )
    return bool(known.any())
