"""``results.plot.KIND(...)``: the figures of one training, from the results in hand."""

from typing import TYPE_CHECKING, Any

from repstat.plots import drawing_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repstat.results import Results


class Plots:
    """The kinds of figures as methods; options as of `repstat.plots.figure`.

    With `ax` a method draws into it and returns its figure; kinds of several panels then take `layer` or
    `quantity`, and ``scatter`` also `step`, to say which one.
    """

    def __init__(self, results: "Results") -> None:
        self._results = results

    def __repr__(self) -> str:
        return "plots of results: information_plane, trajectories, distances, scatter, noise_profile"

    def information_plane(self, ax: "Axes | None" = None, **options: Any) -> "Figure":
        """Draw I(X;T) against I(Y;T) of every layer, time as colour."""
        return drawing_of("information-plane")(self._results, ax, **options)

    def trajectories(self, ax: "Axes | None" = None, **options: Any) -> "Figure":
        """Draw I(X;T), H(Bin), distances and losses over the training; `quantity` picks one panel."""
        return drawing_of("trajectories")(self._results, ax, **options)

    def distances(self, ax: "Axes | None" = None, **options: Any) -> "Figure":
        """Draw histograms of distances within and between classes; `layer` picks one panel."""
        return drawing_of("distances")(self._results, ax, **options)

    def scatter(self, ax: "Axes | None" = None, **options: Any) -> "Figure":
        """Draw samples in axes that all checkpoints share; `layer` and `step` pick one panel."""
        return drawing_of("scatter")(self._results, ax, **options)

    def noise_profile(self, ax: "Axes | None" = None, **options: Any) -> "Figure":
        """Draw the effective number of clusters over the scale of the noise; `layer` picks one panel."""
        return drawing_of("noise-profile")(self._results, ax, **options)
