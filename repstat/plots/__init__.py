"""Figures fit for a paper, of the results of one or more trainings: by matplotlib, which is loaded when used.

One module per kind, with a function of its name. They draw what the results hold and compute nothing but,
over several runs of one setting, a mean and a spread. No global state of matplotlib is used or changed.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from repstat.errors import UsageError
from repstat.units import Units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repstat.results import Results

KINDS = {
    "information-plane": "I(X;T) against I(Y;T) of every layer, time as colour; needs labels",
    "trajectories": "I(X;T), H(Bin), distances and losses over the training",
    "distances": "histograms of distances within and between classes at one checkpoint",
    "scatter": "samples in axes that all checkpoints share, at the first, middle and last",
    "noise-profile": "effective number of clusters over the scale of the noise",
}
"""What can be drawn, each with what it shows."""

WIDTH_INCHES = 3.4
"""One column of a paper; two are about 7."""

SUFFIXES = (".pdf", ".svg", ".png")

Format = Literal["pdf", "svg", "png"]


class Draw(Protocol):
    """What the function of every kind takes; some take more."""

    def __call__(
        self,
        runs: "Results | Sequence[Results]",
        ax: "Axes | None" = None,
        *,
        names: Sequence[str] = (),
        layers: Sequence[str] | None = None,
        step: int | None = None,
        level: int = 0,
        units: Units = "nats",
        width: float = WIDTH_INCHES,
    ) -> "Figure":
        """Draw into a new figure, or into `ax`."""


def drawing_of(kind: str) -> Draw:
    """Return the function that draws a kind.

    Raises
    ------
    UsageError
        There is no such kind, or matplotlib is not installed.
    """
    if kind not in KINDS:
        close = get_close_matches(kind, KINDS, n=1, cutoff=0.4)
        raise UsageError(
            what=f"no kind of figure is called {kind!r}",
            why=f"the kinds are {', '.join(KINDS)}",
            fix=f"Did you mean {close[0]}?" if close else "Choose one of them",
        )
    require_matplotlib()
    name = kind.replace("-", "_")
    return cast("Draw", getattr(import_module(f"repstat.plots.{name}"), name))


def require_matplotlib() -> None:
    """Say what to install where matplotlib is missing.

    Raises
    ------
    UsageError
        It is.
    """
    try:
        import_module("matplotlib")
    except ImportError:
        raise UsageError(
            what="matplotlib is not installed", fix="Install it with pip install 'repstat[plot]'"
        ) from None


def figure(
    kind: str,
    runs: "Sequence[Results]",
    *,
    names: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    step: int | None = None,
    units: Units = "nats",
    width: float = WIDTH_INCHES,
    level: int = 0,
) -> "Figure":
    """Draw one of `KINDS`.

    Parameters
    ----------
    kind
        One of `KINDS`.
    runs
        Results of one training, or of several to lay over each other.
    names
        What the runs are called, one each. Those that differ only in a number at their end are seeds of one
        setting, and are shown with their mean and spread; without names all runs are of one setting.
    layers
        Keys, names, globs or ``re:PATTERN`` of the layers to draw, ``-NAME`` to leave out; None for all.
    step
        Which checkpoint, for ``distances`` (default: last), ``scatter`` (first, middle and last) and
        ``noise-profile`` (some along the training).
    units
        Of information.
    width
        In inches.
    level
        Which noise level of each layer, for kinds with I(X;T): 0 is the first, of ``auto`` the finest.

    Returns
    -------
    figure
        With no tie to pyplot; `save` writes it.

    Raises
    ------
    UsageError
        There is no such kind, layer, step or level, the results do not hold what the kind shows, or
        matplotlib is not installed.
    """
    return drawing_of(kind)(
        runs, names=names, layers=layers, step=step, level=level, units=units, width=width
    )


def encode(figure: "Figure", form: Format) -> bytes:
    """Return a figure as a file's content: the same bytes for the same figure and version of matplotlib."""
    from repstat.plots.files import encode

    return encode(figure, form)


def save(figure: "Figure", path: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a figure as PDF, SVG or PNG, by the suffix of `path`, and return its path.

    The same figure gives the same bytes with the same version of matplotlib.

    Raises
    ------
    UsageError
        The suffix is another, the file exists and `overwrite` is False or it is no figure of repstat, or its
        folder cannot be written.
    ResourceError
        The disk is full or failed.
    """
    from repstat.plots.files import save

    return save(figure, Path(path), overwrite=overwrite)
