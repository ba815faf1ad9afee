"""Binnings: how an activation becomes a cell, with every convention named.

Values are compared in float64 whatever their dtype, which is exact for float16 and float32: the float32
nearest to 0.21 lies below 0.21 and is binned as such. IEEE division, floor and comparison are correctly
rounded, so a value on an edge falls into the same cell on every platform.

References
----------
R. Shwartz-Ziv and N. Tishby, Opening the Black Box of Deep Neural Networks via Information, arXiv:1703.00810.
A. M. Saxe et al., On the Information Bottleneck Theory of Deep Learning, ICLR 2018,
J. Stat. Mech. (2019) 124020, doi:10.1088/1742-5468/ab3985.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repstat.arrays import Floats, Matrix, activation_matrix, checked_integer
from repstat.errors import UsageError

BinningKind = Literal["szt", "width", "count", "quantile"]

MAX_QUANTILE_VALUES = 2**21
"""Values kept for quantile edges; longer trajectories are thinned evenly, to a mass error near 1e-3."""

THINNING_KEY = 0x7175616E
"""Seed of the thinning: edges are the same on every run."""
_SYNTAX = "szt, width:W, count:N or quantile:N"


@dataclass(frozen=True, slots=True)
class Binning:
    """A rule that turns each unit of an activation into a cell.

    Make one with `szt`, `width`, `count`, `quantile` or `parse`; ``str(binning)`` is what `parse` reads.

    Parameters
    ----------
    kind
        Which convention.
    bin_width
        Of ``width``, in activation units.
    n_bins
        Of ``count`` and ``quantile``.
    """

    kind: BinningKind
    bin_width: float | None = None
    n_bins: int | None = None

    def __post_init__(self) -> None:
        """Refuse a rule without its number, or with another's."""
        needs = {"szt": (), "width": ("bin_width",), "count": ("n_bins",), "quantile": ("n_bins",)}
        if self.kind not in needs:
            raise UsageError(what=f"binning {self.kind!r} is not understood", why=f"expected {_SYNTAX}")
        given = tuple(name for name in ("bin_width", "n_bins") if getattr(self, name) is not None)
        if given != needs[self.kind]:
            raise UsageError(
                what=f"binning {self.kind!r} has the wrong parameters",
                why=f"found {', '.join(given) or 'none'}, expected {', '.join(needs[self.kind]) or 'none'}",
                fix=f"Write {_SYNTAX}",
            )
        if self.bin_width is not None:
            _check_width(self.bin_width)
        if self.n_bins is not None:
            checked_integer("n_bins", self.n_bins, 1)

    @classmethod
    def szt(cls) -> Self:
        """30 edges from -1 to 1 as in Shwartz-Ziv & Tishby: 29 bins, and a cell for 1.0 and above.

        Values below -1 go to an underflow cell (the original wrapped them into the last one).
        """
        return cls("szt")

    @classmethod
    def width(cls, bin_width: float) -> Self:
        """Bins of one width anchored at zero, cell floor(value / bin_width), as in Saxe et al.

        Raises
        ------
        UsageError
            If `bin_width` is not positive and finite.
        """
        _check_width(bin_width)
        return cls("width", bin_width=float(bin_width))

    @classmethod
    def count(cls, n_bins: int = 30) -> Self:
        """Equal bins between the minimum and maximum of the layer over the whole trajectory."""
        return cls("count", n_bins=checked_integer("n_bins", n_bins, 1))

    @classmethod
    def quantile(cls, n_bins: int = 30) -> Self:
        """Bins of equal mass over the whole trajectory; where values repeat, fewer bins."""
        return cls("quantile", n_bins=checked_integer("n_bins", n_bins, 1))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``szt``, ``width:0.07``, ``count:30`` or ``quantile:30``.

        Raises
        ------
        UsageError
            If the text is none of these.
        """
        kind, _, number = text.strip().partition(":")
        try:
            if kind == "szt" and not number:
                return cls.szt()
            if kind == "width":
                return cls.width(float(number))
            if kind in ("count", "quantile"):
                n_bins = int(number) if number else 30
                return cls.count(n_bins) if kind == "count" else cls.quantile(n_bins)
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
        raise UsageError(
            what=f"binning {text!r} is not understood",
            why=f"expected {_SYNTAX}",
            fix="For example width:0.07 or count:30.",
        )

    def __str__(self) -> str:
        if self.kind == "szt":
            return "szt"
        return f"{self.kind}:{self.bin_width if self.kind == 'width' else self.n_bins}"

    def edges(self, blocks: Iterable[ArrayLike]) -> Floats | None:
        """Return the edges for a trajectory, reading one block at a time.

        Parameters
        ----------
        blocks
            Activations of one layer, one array per checkpoint. Non-finite values are left out.

        Returns
        -------
        bin_edges
            Increasing, shape (n_edges,); None for ``width``, whose grid needs no data.
        """
        if self.kind == "szt":
            return np.linspace(-1.0, 1.0, 30)
        if self.kind == "count":
            return _equal_edges(blocks, cast(int, self.n_bins))
        if self.kind == "quantile":
            return _quantile_edges(blocks, cast(int, self.n_bins))
        return None

    def cells(self, matrix: Matrix, bin_edges: Floats | None) -> NDArray[np.integer]:
        """Return the cell of every value; numbering is arbitrary but fixed by the edges.

        Parameters
        ----------
        matrix
            Shape (n_samples, n_units), finite.
        bin_edges
            From `edges`: cell 0 is below the first edge. In ``szt`` a value at or above the last edge has the
            last cell; otherwise the last bin includes its upper edge and larger values have one more cell.

        Raises
        ------
        UsageError
            If a width is so small that cell numbers overflow.
        """
        if bin_edges is None:
            return _floor_cells(matrix, cast(float, self.bin_width))
        cells = np.empty(matrix.shape, dtype=np.int32)
        for start in range(0, matrix.shape[1], 256):
            block = matrix[:, start : start + 256].astype(np.float64)
            found = np.searchsorted(bin_edges, block, side="right")
            if self.kind != "szt":
                found[block == bin_edges[-1]] = len(bin_edges) - 1
            cells[:, start : start + 256] = found
        return cells.astype(np.uint8) if len(bin_edges) < 256 else cells


def _check_width(bin_width: object) -> None:
    number = isinstance(bin_width, int | float | np.number) and not isinstance(bin_width, bool)
    if not number or not (isfinite(bin_width) and bin_width > 0):  # type: ignore[arg-type,operator]
        raise UsageError(what=f"bin_width must be > 0, got {bin_width!r}")


def _floor_cells(matrix: Matrix, bin_width: float) -> NDArray[np.integer]:
    with np.errstate(over="ignore"):
        floors = np.floor(matrix.astype(np.float64) / bin_width)
    low, high = float(floors.min()), float(floors.max())
    if max(-low, high) >= 2.0**53:
        raise UsageError(
            what=f"bin_width {bin_width:g} is too small",
            why="activations lie more than 2^53 bins from zero, where cells cannot be told apart",
            fix="Use a width near the precision of the activations, or larger.",
        )
    if high - low < 2**16:
        return (floors - low).astype(np.uint16)
    return floors.astype(np.int64)


def _finite_values(block: ArrayLike) -> Floats:
    values = activation_matrix(block).ravel()
    return values[np.isfinite(values)].astype(np.float64)


def _equal_edges(blocks: Iterable[ArrayLike], n_bins: int) -> Floats:
    low, high = np.inf, -np.inf
    for block in blocks:
        values = _finite_values(block)
        low = min(low, float(values.min(initial=np.inf)))
        high = max(high, float(values.max(initial=-np.inf)))
    if low > high:
        return np.array([0.0, 1.0])
    # Halves, because high - low may overflow; unique, because a narrow range has fewer floats than bins.
    fractions = np.arange(n_bins + 1) / n_bins
    edges: Floats = 2.0 * (low / 2.0 * (1.0 - fractions) + high / 2.0 * fractions)
    edges[0], edges[-1] = low, high
    return _at_least_two(np.unique(np.clip(edges, low, high)))


def _quantile_edges(blocks: Iterable[ArrayLike], n_bins: int) -> Floats:
    kept: list[Floats] = []
    # Chance thins evenly; any fixed stride favours some units where it divides their number.
    rng = np.random.default_rng(THINNING_KEY)
    share, n_kept, low, high = 1.0, 0, np.inf, -np.inf
    for block in blocks:
        values = _finite_values(block)
        low = min(low, float(values.min(initial=np.inf)))
        high = max(high, float(values.max(initial=-np.inf)))
        kept.append(values if share == 1.0 else values[rng.random(len(values)) < share])
        n_kept += len(kept[-1])
        while n_kept > MAX_QUANTILE_VALUES:
            whole = np.concatenate(kept)
            kept = [whole[rng.random(len(whole)) < 0.5]]
            share, n_kept = share / 2.0, len(kept[0])
    if not n_kept:
        return np.array([0.0, 1.0])
    fractions = np.arange(n_bins + 1) / n_bins
    edges = np.quantile(np.concatenate(kept), fractions, method="nearest")
    # Thinning must not put extreme values outside.
    edges[0], edges[-1] = low, high
    return _at_least_two(np.unique(edges))


def _at_least_two(edges: Floats) -> Floats:
    """Give a constant layer one cell of the smallest width."""
    return np.append(edges, np.nextafter(edges[-1], np.inf)) if len(edges) == 1 else edges
