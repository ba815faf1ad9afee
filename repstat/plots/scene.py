"""What a figure is of: runs by setting, layers as chosen, one axis of time; checked before it is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Self

import numpy as np
from numpy.typing import NDArray

from repstat.errors import UsageError
from repstat.naming import natural_key
from repstat.plots.style import COLOURS, LINES, MARKERS, label
from repstat.results import Results
from repstat.selection import select_layers
from repstat.trajectories import TimeAxis, Trajectory, group_of, places_of, time_axis, trajectories
from repstat.units import Units

NARROWEST, WIDEST = 2.0, 40.0
"""Inches between which a figure can be read, or printed."""

INFORMATION = {"mi_input": "I(X;T)", "mi_label": "I(Y;T)"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one setting, which differ by their seed, and how the lines of the setting look."""

    name: str
    members: tuple[int, ...]
    line: tuple[int, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class _Known:
    """A layer as the selectors of ``--layers`` look at it; results tell key and name only."""

    key: str
    name: str
    op: str = ""
    kind: str = "hidden"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Runs, layers and axis of a figure.

    Parameters
    ----------
    runs, names
        Results and what they are called, as they can be drawn.
    groups
        The runs by setting.
    layers
        What the layers that are drawn are called, by key, in forward order.
    everything
        Keys of all layers: the looks of a layer do not depend on which others are drawn.
    axis
        Of time, shared by all runs.
    units
        Of information.
    level
        Place of the noise level among those of its layer.
    step
        The checkpoint asked for, or None.
    width
        Of a new figure, in inches.
    """

    runs: tuple[Results, ...]
    names: tuple[str, ...]
    groups: tuple[Group, ...]
    layers: Mapping[str, str]
    everything: tuple[str, ...]
    axis: TimeAxis
    units: Units
    level: int
    step: int | None
    width: float

    @classmethod
    def of(
        cls,
        runs: Results | Sequence[Results],
        *,
        names: Sequence[str] = (),
        layers: Sequence[str] | None = None,
        step: int | None = None,
        level: int = 0,
        units: Units = "nats",
        width: float = 0.0,
    ) -> Self:
        """Return what is drawn of `runs`; parameters as of `repstat.plots.figure`.

        Raises
        ------
        UsageError
            An argument cannot be right.
        """
        every = (runs,) if isinstance(runs, Results) else tuple(runs)
        if not every:
            raise UsageError(what="no results to draw", fix="Give the results of at least one analysis")
        if names and len(names) != len(every):
            raise UsageError(
                what=f"{len(names)} names do not fit {len(every)} runs", fix="Give one name for each run"
            )
        if not (isfinite(width) and NARROWEST <= width <= WIDEST):
            raise UsageError(
                what=f"a figure cannot be {width:g} inches wide",
                why=f"texts are readable from {NARROWEST:g} inches, and paper ends at {WIDEST:g}",
                fix="One column of a paper is 3.4 inches, two are about 7",
            )
        if units not in ("nats", "bits"):
            raise UsageError(what=f"there is no unit {units!r}", fix="Choose nats or bits")
        known: dict[str, str] = {}
        for run in every:
            known = known | {key: name for key, name in run.layers.items() if key not in known}
        if not known:
            raise UsageError(what="the results hold no layer", fix="Run repstat analyze again")
        keys = sorted(known, key=natural_key)
        chosen = select_layers([_Known(key, known[key]) for key in keys], layers or ("all",))
        called = names or [f"run {i + 1}" for i in range(len(every))]
        return cls(
            runs=every,
            names=tuple(label(name) for name in called),
            groups=_groups(called, every),
            layers={layer.key: label(f"{layer.key} {layer.name}") for layer in chosen},
            everything=tuple(keys),
            axis=time_axis(*every),
            units=units,
            level=level,
            step=step,
            width=width,
        )

    @cached_property
    def places(self) -> tuple[Floats, ...]:
        """Where the checkpoints of every run are on the axis of time."""
        return tuple(places_of(run, self.axis) for run in self.runs)

    def colour(self, layer: str) -> str:
        """Return the colour of a layer."""
        return COLOURS[self.everything.index(layer) % len(COLOURS)]

    def marker(self, layer: str) -> str:
        """Return the marker of a layer."""
        return MARKERS[self.everything.index(layer) % len(MARKERS)]

    def line(self, layer: str, group: Group) -> tuple[int, tuple[float, ...]]:
        """Return the kind of line: of the setting if there are several, else of a layer without a colour."""
        if len(self.groups) > 1:
            return group.line
        return LINES[self.everything.index(layer) // len(COLOURS) % len(LINES)]

    def series(self, quantity: str) -> list[dict[str, Trajectory]]:
        """Return the trajectories of a quantity at the level asked for: of each run, by layer.

        Binned entropies have binnings, not noise: of fewer of them than levels the last is taken.

        Raises
        ------
        UsageError
            No layer has a noise level of that place.
        """
        found, most = [], -1
        for run in self.runs:
            of_run: dict[str, Trajectory] = {}
            for one in trajectories(run, quantity):
                most = max(most, one.level)
                fits = one.level == self.level if quantity in INFORMATION else one.level <= self.level
                if one.layer in self.layers and fits:
                    of_run[one.layer] = one
            found.append(of_run)
        if most >= 0 and quantity in INFORMATION and not 0 <= self.level <= most:
            count = "there is one" if most == 0 else f"the layers have {most + 1}, counted from 0"
            raise UsageError(
                what=f"there is no noise level {self.level}", why=count, fix="Give another --level"
            )
        return found

    def checkpoint(self, run: int) -> int:
        """Return the place of the step asked for among the checkpoints of a run; by default the last.

        Raises
        ------
        UsageError
            The run has no such checkpoint.
        """
        steps = self.runs[run].steps
        if self.step is None:
            return len(steps) - 1
        if self.step in steps:
            return steps.index(self.step)
        close = sorted(sorted(steps, key=lambda step: abs(step - (self.step or 0)))[:3])
        of = f" of {self.names[run]}" if len(self.runs) > 1 else ""
        raise UsageError(
            what=f"there is no checkpoint at step {self.step}{of}",
            why=f"the nearest are {', '.join(map(str, close))}",
            fix="Give one of the steps of the results",
        )

    def only_one(self, panels: Sequence[str], option: str) -> None:
        """Refuse an axes for several panels.

        Raises
        ------
        UsageError
            There are several.
        """
        if len(panels) > 1:
            raise UsageError(
                what="one axes cannot take several panels",
                why=f"there are {len(panels)}: {', '.join(panels[:8])}{', ...' if len(panels) > 8 else ''}",
                fix=f"Name one with {option}=, or leave ax out",
            )

    def time(self, run: int, checkpoint: int) -> str:
        """Return when a checkpoint was, as ``epoch 30``."""
        of = self.runs[run].epochs if self.axis.name == "epoch" else self.runs[run].steps
        return f"{self.axis.name} {of[checkpoint]:,.6g}"


def _groups(names: Sequence[str], runs: Sequence[Results]) -> tuple[Group, ...]:
    """Return the runs by setting: by name, and a network with noise in it never with one without."""
    members: dict[tuple[str, bool], list[int]] = {}
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        members.setdefault((group_of(name), is_network(run)), []).append(index)
    mixed = len({network for _, network in members}) > 1
    found = []
    for place, ((name, network), of) in enumerate(members.items()):
        own = names[of[0]] if len(of) == 1 else name
        kind = (" (noisy network)" if network else " (no noise in it)") if mixed else ""
        found.append(Group(label(own) + kind, tuple(of), LINES[place % len(LINES)]))
    return tuple(found)


def is_network(run: Results) -> bool:
    """Whether the network computes with noise, so that I(X;T) is what it transmits."""
    return run.provenance.get("noise") is not None or any(row.noise_model == "network" for row in run.rows)


def channel(found: Sequence[Mapping[str, Trajectory]], quantity: str) -> str:
    """Return what I(X;T) or I(Y;T) is of: measurement noise never passes for a noisy network."""
    every = [one for of_run in found for one in of_run.values()]
    models = {one.noise_model for one in every}
    scales = {one.scale for one in every}
    name = INFORMATION[quantity]
    if models == {"network"}:
        return f"{name}, noisy network"
    if models == {"measurement"}:
        return f"{name} + noise {scales.pop()}" if len(scales) == 1 else f"{name} + noise"
    return name
