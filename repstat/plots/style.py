"""How figures look: one set of parameters, one palette, and names from strangers shown as plain text.

The colours are those of M. Okabe and K. Ito, which colour-blind readers can tell apart (B. Wong, Points of
view: Color blindness, Nat. Methods 8 (2011) 441, doi:10.1038/nmeth.1618); beside colour there is always a
marker or a kind of line. Time is viridis without its lightest part, which white paper swallows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from repstat.naming import printable
from repstat.trajectories import TimeAxis

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)),
)  # fmt: skip
GREY = "#767676"
CEILING = (0, (4, 3))
THIN = 0.4
"""Width of the line of one run among several."""

FONT = "DejaVu Sans"
"""Comes with matplotlib: figures are the same wherever they are made."""

SIZE = 7.0
LONGEST = 22
"""Characters of a name that are shown; a layer is told by its key."""

PARAMETERS: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.labelsize": SIZE - 1,
    "ytick.labelsize": SIZE - 1,
    "legend.fontsize": SIZE - 1,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 2.8,
    "patch.linewidth": 0.8,
    "figure.dpi": 300,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
    "savefig.dpi": "figure",
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "repstat",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # many journals refuse type 3
}


@contextmanager
def context() -> Iterator[None]:
    """Use our parameters, over matplotlib's own and not over the user's, and leave none behind."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PARAMETERS)
        yield


def panels(
    n: int, width: float, height: float, *, columns: int = 1, share_x: bool = False, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a new figure of `n` panels, each `height` inches high, in rows of `columns`."""
    rows = ceil(n / columns)
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    every: list[Axes] = list(grid.flat)
    for extra in every[n:]:
        extra.remove()
    for ax in every[:n]:
        # Ticks are made when the figure is drawn, perhaps by others: what they look like is said now.
        ax.tick_params(labelsize=SIZE - 1, width=0.6, length=2.5, pad=2, labelfontfamily=FONT)
        ax.tick_params(which="minor", width=0.4, length=1.5)
    if share_x:
        for index, ax in enumerate(every[:n]):
            ax.tick_params(labelbottom=index + columns >= n)
    return figure, every[:n]


def columns_of(n: int, width: float, least: float) -> int:
    """Return how many panels fit side by side, each at least so many inches wide."""
    return max(1, min(n, int(width / least)))


def time_colours() -> Colormap:
    """Return the colours of time, dark to light."""
    return ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.93, 256)), name="repstat time")


def label(text: str, longest: int = LONGEST) -> str:
    """Return a foreign name as it can be drawn: short, on one line, of characters that the font has."""
    known = _characters(findfont(FontProperties()))
    unknown = "\ufffd" if 0xFFFD in known else "?"
    shown = "".join(c if ord(c) in known else unknown for c in printable(text))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


@lru_cache
def _characters(font: str) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())


def plain(*texts: Text) -> None:
    """See that no text is read as mathematics or TeX, whatever the user's own parameters say."""
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)


def legend(owner: Axes | Figure, handles: Sequence[object], labels: Sequence[str], **options: object) -> None:
    """Add a legend with names from strangers; a leading underscore would hide one."""
    if not handles:
        return
    shown = [f" {text}" if text.startswith("_") else text for text in labels]
    made: Legend = owner.legend(handles, shown, **options)  # type: ignore[call-overload]
    plain(*made.get_texts())


def legend_outside(figure: Figure, entries: Mapping[str, object], side: str, *, most: int = 4) -> None:
    """Add a legend beside all panels, in as many columns as fit, and make the figure higher by it.

    Parameters
    ----------
    side
        ``upper`` or ``lower``.
    most
        Columns.
    """
    if not entries:
        return
    canvas = FigureCanvasAgg(figure)  # measures texts; a figure that is saved takes the canvas of its format
    for columns in range(min(most, len(entries)), 0, -1):
        for other in list(figure.legends):
            other.remove()
        legend(figure, list(entries.values()), list(entries), loc=f"outside {side} center", ncols=columns)
        size = figure.legends[0].get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]
        if size.width <= figure.bbox.width:
            break
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)


def time_ticks(ax: Axes, axis: TimeAxis) -> None:
    """Label the x axis with a training's epochs or steps."""
    ax.set_xticks([place for place, _ in axis.ticks], [text for _, text in axis.ticks])
    ax.set_xlabel(axis.name)


def at_times(axis: TimeAxis, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours of places on the axis of time, shape ``(n, 4)``."""
    found: NDArray[np.float64] = np.asarray(time_colours()(_normal(axis)(places)), dtype=np.float64)
    return found


def _normal(axis: TimeAxis) -> Normalize:
    return Normalize(float(axis.places[0]), float(axis.places[-1]))


def time_bar(owner: Axes | Sequence[Axes], axis: TimeAxis) -> None:
    """Say what the colours of time are, unless there is one time only."""
    if len(axis.places) < 2:
        return
    figure = figure_of(owner if isinstance(owner, Axes) else owner[0])
    bar = figure.colorbar(ScalarMappable(_normal(axis), time_colours()), ax=owner, pad=0.02, aspect=30)
    bar.set_ticks([place for place, _ in axis.ticks], labels=[text for _, text in axis.ticks])
    bar.ax.tick_params(labelsize=SIZE - 1, width=0.6, length=2.5, pad=2, labelfontfamily=FONT)
    bar.ax.minorticks_off()
    bar.set_label(axis.name, labelpad=2)
    bar.outline.set_linewidth(0.0)


def figure_of(ax: Axes) -> Figure:
    """Return the figure that an axes is in."""
    found = ax.get_figure(root=True)
    assert isinstance(found, Figure)
    return found


def title(ax: Axes, left: str, right: str = "") -> None:
    """Write what a panel is of above it, and a number on its other side."""
    sides: tuple[tuple[str, Literal["left", "right"]], ...] = ((left, "left"), (right, "right"))
    for text, side in sides:
        plain(ax.set_title(text, loc=side, pad=2, fontsize=SIZE - 1))


def broken(first: str, second: str, width: float) -> str:
    """Return two short texts on one line, or on two where a panel of so many inches is too narrow."""
    points = len(f"{first} {second}") * (SIZE - 1) * 0.56
    return f"{first} {second}".strip() if points < width * 72 else f"{first}\n{second}".strip()


def decades(ax: Axes) -> None:
    """Give two logarithmic axes ticks at decades, written as plain numbers."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
