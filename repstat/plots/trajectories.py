"""Trajectories: I(X;T), H(Bin), distances and losses over the training, one panel above the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repstat.errors import UsageError
from repstat.plots import WIDTH_INCHES, style
from repstat.plots.lines import Legend, draw_series, name_layers
from repstat.plots.scene import INFORMATION, Scene, channel, is_network
from repstat.results import Results
from repstat.trajectories import Trajectory, spread
from repstat.units import Units

QUANTITIES = (
    "mi_input",
    "mi_label",
    "binned_mi_input",
    "distance_auc",
    "distance_ratio",
    "mean_distance",
    "losses",
)
"""What a panel can be of."""

_PANEL_HEIGHT, _LABEL = 1.15, 0.25
_MOST_METRICS = 6
_PLAIN = {
    "distance_auc": "AUC of distances",
    "distance_ratio": "distance within /\nbetween classes",
    "mean_distance": "mean distance\n(activation units)",
}
_LOSS_WORDS, _ACCURACY_WORDS = ("loss", "error", "cross"), ("acc",)
_METRIC_COLOURS = ("#000000", style.GREY, *style.COLOURS[:4])

Found = Sequence[Mapping[str, Trajectory]]


def trajectories(
    runs: Results | Sequence[Results],
    ax: Axes | None = None,
    *,
    names: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    step: int | None = None,
    level: int = 0,
    units: Units = "nats",
    width: float = WIDTH_INCHES,
    quantity: str = "",
) -> Figure:
    """Draw trajectories of all layers (`repstat.plots.figure`).

    Parameters
    ----------
    ax
        Draw one panel into it, of `quantity`.
    quantity
        One of `QUANTITIES`: the only panel. By default ``mi_input``, ``binned_mi_input``, the first of the
        three of distances that is in the results, and ``losses``, as far as there are any.

    Raises
    ------
    UsageError
        Nothing of it is in the results, or `ax` is given and several panels remain.
    """
    scene = Scene.of(runs, names=names, layers=layers, step=step, level=level, units=units, width=width)
    chosen = _panels(scene, quantity)
    words = Legend()
    if ax is not None:
        scene.only_one(list(chosen), "quantity")
        figure = style.figure_of(ax)
        _draw(ax, scene, *next(iter(chosen.items())), words)
        style.time_ticks(ax, scene.axis)
        words = _explained(scene, chosen, words)
        style.legend(ax, list(words.entries.values()), list(words.entries), loc="best")
        return figure
    with style.context():
        figure, axes = style.panels(len(chosen), scene.width, _PANEL_HEIGHT, share_x=True)
        for panel, (name, found) in zip(axes, chosen.items(), strict=True):
            _draw(panel, scene, name, found, words)
        style.time_ticks(axes[-1], scene.axis)
        figure.align_ylabels(axes)
        figure.set_figheight(figure.get_figheight() + _LABEL)
        style.legend_outside(figure, _explained(scene, chosen, words).entries, "lower")
    return figure


def _panels(scene: Scene, quantity: str) -> dict[str, Found]:
    """Return what is drawn, in order, with its trajectories; of losses there are none."""
    if quantity and quantity not in QUANTITIES:
        raise UsageError(
            what=f"there is no panel {quantity!r}",
            why=f"the panels are {', '.join(QUANTITIES)}",
            fix="Choose one of them",
        )
    wanted = (quantity,) if quantity else tuple(name for name in QUANTITIES if name != "mi_label")
    chosen: dict[str, Found] = {}
    for name in wanted:
        if name in _PLAIN and chosen.keys() & _PLAIN.keys():
            continue
        if name == "losses":
            if any(_metrics(run) for run in scene.runs):
                chosen[name] = ()
        elif any(found := scene.series(name)):
            chosen[name] = found
    if not chosen:
        held = dict.fromkeys(row.quantity for row in scene.runs[0].rows)
        raise UsageError(
            what=f"the results hold no {quantity or 'trajectories'}",
            why=f"they hold {', '.join(held) or 'nothing'}",
            fix="Run repstat analyze again with --estimators noisy,binned,clustering, or draw another kind",
        )
    return chosen


def _draw(ax: Axes, scene: Scene, name: str, found: Found, words: Legend) -> None:
    if name == "losses":
        _draw_losses(ax, scene, words)
        return
    draw_series(ax, scene, found, words, bounds=name in INFORMATION)
    if name in INFORMATION:
        ax.set_ylabel(f"{channel(found, name)}\n({scene.units})")
    elif name == "binned_mi_input":
        ax.set_ylabel(_binned(scene, found))
    else:
        ax.set_ylabel(_PLAIN[name])


def _binned(scene: Scene, found: Found) -> str:
    scales = {one.scale for of_run in found for one in of_run.values()}
    # Of noisy passes some of H(Bin) is noise, and is taken off.
    name = "I(X;Bin)" if any(map(is_network, scene.runs)) else "H(Bin)"
    return f"{name}{', ' + style.label(scales.pop()) if len(scales) == 1 else ''}\n({scene.units})"


def _metrics(run: Results) -> list[str]:
    """Return the names of the recorded losses, or else of the accuracies."""
    for words in (_LOSS_WORDS, _ACCURACY_WORDS):
        if found := [name for name in run.metrics if any(word in name.lower() for word in words)]:
            return found
    return []


def _draw_losses(ax: Axes, scene: Scene, words: Legend) -> None:
    names = list(dict.fromkeys(name for run in scene.runs for name in _metrics(run)))[:_MOST_METRICS]
    handles = []
    for place, name in enumerate(names):
        colour = _METRIC_COLOURS[place]
        for group in scene.groups:
            line = group.line if len(scene.groups) > 1 else style.LINES[place % len(style.LINES)]
            every = []
            for run in group.members:
                values = np.asarray(scene.runs[run].metrics.get(name, ()), dtype=np.float64)
                if len(values):
                    every.append((scene.places[run], np.where(np.isfinite(values), values, np.nan)))
            thin: dict[str, Any] = {"linewidth": style.THIN, "alpha": 0.6} if len(every) > 1 else {}
            drawn = [ax.plot(*one, color=colour, linestyle=line, **thin)[0] for one in every]
            if (mean := spread(every)) is not None:
                drawn = ax.plot(mean.values, mean.mean, color=colour, linestyle=line)
                low, high = mean.mean - mean.std, mean.mean + mean.std
                ax.fill_between(mean.values, low, high, color=colour, alpha=0.2, linewidth=0)
            handles += drawn[:1] if group is scene.groups[0] else []
    kinds = {word for name in names for word in _LOSS_WORDS if word in name.lower()}
    ax.set_ylabel("loss" if kinds == {"loss"} else "recorded" if kinds else "accuracy")
    style.legend(ax, handles, [style.label(name) for name in names[: len(handles)]], loc="best")


def _explained(scene: Scene, chosen: Mapping[str, Found], words: Legend) -> Legend:
    """Return the layers and then what else needs words."""
    drawn = Legend()
    if any(name != "losses" for name in chosen):
        name_layers(scene, drawn, chosen.get("mi_input", ()))
    for text, handle in words.entries.items():
        drawn.add(text, handle)
    return drawn
