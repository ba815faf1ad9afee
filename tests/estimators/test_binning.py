"""Binnings and counts: known values, edges, refusals."""

from collections.abc import Callable
from math import inf, log, nan, nextafter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repstat.errors import UsageError
from repstat.estimators import Binning, binned_mi
from repstat.estimators import binning as binning_module
from repstat.results import Status

LN2, LN3 = log(2), log(3)


def cells(binning: Binning, values: list[float], dtype: type = np.float64) -> list[int]:
    array = np.array(values, dtype)[:, None]
    found = binning.cells(array, binning.edges([array]))
    return [int(c) for c in found.ravel().astype(int) - int(found.min())]


def test_counts_by_hand() -> None:
    """Cells (0, 0), (0, 0), (1, 0), (1, 1): H = 1.5 ln 2; only the first has two labels."""
    x = [[0.01, 0.02], [0.06, 0.0], [0.08, 0.03], [0.13, 0.07]]
    found = binned_mi(x, [0, 1, 1, 1], "width:0.07")
    assert found.input.value == pytest.approx(1.5 * LN2, abs=1e-15)
    assert found.label is not None
    truth = (log(4) - 0.75 * LN3) - 0.5 * LN2
    assert found.label.value == pytest.approx(truth, abs=1e-15)
    assert (found.n_cells, found.input.std_error) == (3, 0.0)
    assert found.input.status == Status.OK


def test_independence_is_exactly_zero() -> None:
    x = np.repeat([0.0, 1.0, 2.0], 4)
    found = binned_mi(x, np.tile([0, 1], 6))
    assert found.label is not None
    assert found.label.value == 0.0
    assert found.input.value == pytest.approx(LN3, abs=1e-15)


def test_no_label_knows_more_than_the_inputs() -> None:
    found = binned_mi(np.arange(8.0), np.arange(8) % 2, input_entropy=0.3)
    assert found.label is not None
    assert (found.input.ceiling, found.label.ceiling) == (0.3, 0.3)
    full = binned_mi(np.arange(8.0), np.arange(8) % 2)
    assert full.label is not None
    assert full.label.ceiling == pytest.approx(LN2)


def test_a_cell_per_sample_is_saturated(rng: np.random.Generator) -> None:
    found = binned_mi(rng.standard_normal((100, 50)), np.arange(100) % 2)
    assert found.input.value == pytest.approx(log(100), abs=1e-12)
    assert found.input.status == Status.SATURATED
    assert found.label is not None
    assert (found.label.value, found.label.status) == (pytest.approx(LN2), Status.SATURATED)


@pytest.mark.parametrize("binning", ["szt", "width:0.07", "count:30", "quantile:30"])
def test_degenerate_data(binning: str) -> None:
    constant = binned_mi(np.full((10, 3), 0.3), np.arange(10) % 2, binning)
    assert constant.label is not None
    assert (constant.input.value, constant.label.value) == (0.0, 0.0)
    assert constant.input.status == Status.OK
    one = binned_mi([[0.3]], None, binning)
    assert (one.input.value, one.input.status, one.label) == (0.0, Status.TOO_FEW_SAMPLES, None)
    one_class = binned_mi([0.0, 0.5, 0.9], [1, 1, 1], binning)
    assert one_class.label is not None
    assert (one_class.label.value, one_class.label.ceiling) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_nonfinite_activations_are_undefined(bad: float) -> None:
    found = binned_mi([[0.0, bad], [1.0, 2.0]], [0, 1])
    assert found.label is not None
    for estimate in (found.input, found.label):
        assert (estimate.value, estimate.status) == (None, Status.UNDEFINED)
        assert "in 1 of 2 samples" in estimate.reason


def test_the_width_grid_is_floor_of_the_quotient() -> None:
    """In float64 the quotients 0.21 / 0.07 and 0.35 / 0.07 are rounded; float32 values are widened first."""
    multiples = [k * 0.07 for k in range(-20, 21)]
    width = Binning.width(0.07)
    expected = [int(np.floor(np.float64(v) / np.float64(0.07))) for v in multiples]
    assert [c - 20 for c in cells(width, multiples)] == expected
    assert cells(width, [0.0, 0.21, nextafter(0.21, 0), 0.35]) == [0, int(0.21 / 0.07), 2, int(0.35 / 0.07)]
    assert cells(width, [0.0, 0.35], np.float32) == [0, int(float(np.float32(0.35)) / 0.07)]


def test_the_width_grid_is_anchored_at_zero() -> None:
    assert cells(Binning.width(0.5), [-0.5, -1e-300, -0.0, 0.0, 0.49, 0.5]) == [0, 0, 1, 1, 1, 2]
    assert binned_mi([0.0, -0.0, 1e-9]).n_cells == 1


def test_a_wide_range_keeps_its_cells_apart() -> None:
    found = binned_mi([0.0, 1.0, 65536.0, 1e12], binning="width:1")
    assert found.n_cells == 4
    with pytest.raises(
        UsageError, match="bin_width 1e-10 is too small: activations lie more than 2\\^53 bins"
    ):
        binned_mi([0.0, 1e10], binning="width:1e-10")
    with pytest.raises(UsageError, match="is too small"):
        binned_mi([0.0, 1e300], binning="width:1e-300")


def test_the_edges_of_szt() -> None:
    """30 edges make 29 bins of width 2/29, 1.0 has a cell of its own, and below -1 is one more."""
    edges = Binning.szt().edges([])
    assert edges is not None
    assert len(edges) == 30
    assert np.diff(edges) == pytest.approx(2 / 29)
    found = cells(Binning.szt(), [-1.5, -1.0, float(edges[1]), nextafter(1.0, 0), 1.0, 2.0])
    assert found == [0, 1, 2, 29, 30, 30]
    uniform = np.linspace(-1, 1, 29, endpoint=False) + 1 / 29
    assert binned_mi(uniform, binning="szt").input.value == pytest.approx(log(29))


def test_values_outside_are_said() -> None:
    found = binned_mi([[-1.2, 0.0], [-3.0, 1.5], [0.0, 0.0]], binning="szt")
    assert found.notes == (
        "2 values of 2 samples below the first edge share a cell per unit",
        "1 values of 1 samples above the last edge share a cell per unit",
    )
    assert binned_mi([0.5, 0.1], binning="szt").notes == ()


def test_equal_bins_span_the_trajectory() -> None:
    """0 to 4 in four bins; the last includes its upper edge, and what lies outside has cells of its own."""
    count = Binning.count(4)
    edges = count.edges(np.array(block) for block in ([1.0, 2.0], [0.0, nan], [4.0, inf]))
    assert edges is not None
    assert edges.tolist() == [0, 1, 2, 3, 4]
    array = np.array([[-1.0], [0.0], [1.0], [3.9], [4.0], [4.1]])
    assert count.cells(array, edges).ravel().tolist() == [0, 1, 2, 4, 4, 5]
    assert binned_mi([1.0, 2.0], binning=count, edges=edges).input.value == pytest.approx(LN2)


def test_edges_of_one_checkpoint_are_noted() -> None:
    found = binned_mi([0.0, 1.0], binning="count:5")
    assert found.notes == ("edges from these activations alone: not comparable between checkpoints",)


def test_equal_mass() -> None:
    x = np.exp(np.arange(1200) / 100.0)
    for blocks in ([x], np.array_split(x, 7)):
        edges = Binning.quantile(4).edges(blocks)
        assert edges is not None
        found = Binning.quantile(4).cells(x[:, None], edges)
        assert np.bincount(found.ravel())[1:].tolist() == pytest.approx([300] * 4, abs=1)
    repeated = binned_mi(np.repeat([0.0, 1.0, 2.0], [96, 2, 2]), binning="quantile:30")
    assert repeated.notes[1] == f"{repeated.notes[1].split()[0]} bins instead of 30: values repeat"
    assert repeated.n_cells <= 3


def test_long_trajectories_are_thinned_evenly(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 values of which 3,000 are kept: masses to 4 / sqrt(3000)."""
    monkeypatch.setattr(binning_module, "MAX_QUANTILE_VALUES", 3000)
    blocks = rng.standard_normal((10, 2000, 10)) * np.arange(1, 11)[:, None, None]
    edges = Binning.quantile(5).edges(blocks)
    assert edges is not None
    inner = np.searchsorted(np.sort(blocks.ravel()), edges[1:-1]) / blocks.size
    assert inner == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=4 * 0.5 / np.sqrt(1000))


@pytest.mark.parametrize("n_units", [2, 3, 10])
def test_thinning_favours_no_unit_and_no_block(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, n_units: int
) -> None:
    """Units of very different scale; about 3,000 of 120,000 values are kept: masses to 4 / (2 sqrt(1500))."""
    monkeypatch.setattr(binning_module, "MAX_QUANTILE_VALUES", 3000)
    blocks = rng.standard_normal((4, 30_000 // n_units, n_units)) * 10.0 ** np.arange(n_units)
    edges = Binning.quantile(4).edges(blocks)
    assert edges is not None
    assert (edges[0], edges[-1]) == (blocks.min(), blocks.max())
    inner = np.searchsorted(np.sort(blocks.ravel()), edges[1:-1]) / blocks.size
    assert inner == pytest.approx([0.25, 0.5, 0.75], abs=4 * 0.5 / np.sqrt(1500))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Binning("foo"), "'foo' is not understood"),
        (lambda: Binning("width"), "wrong parameters: found none, expected bin_width"),
        (lambda: Binning("szt", n_bins=3), "wrong parameters: found n_bins, expected none"),
        (lambda: Binning("width", bin_width=-0.1), "bin_width must be > 0, got -0.1"),
        (lambda: Binning.width("0.07"), "bin_width must be > 0, got '0.07'"),
        (lambda: binned_mi([[1.0]], binning=None), "binning None is not understood"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()


@pytest.mark.parametrize("kind", ["count", "quantile"])
@pytest.mark.parametrize("values", [[nan], [2.0, 2.0], [1e308, -1e308], [1.0, nextafter(1.0, 2.0)]])
def test_edges_are_increasing_whatever_the_data(kind: str, values: list[float]) -> None:
    edges = Binning.parse(f"{kind}:30").edges([np.array(values)])
    assert edges is not None
    assert np.all(np.isfinite(edges))
    assert np.all(edges[1:] > edges[:-1])


@pytest.mark.parametrize("text", ["szt", "width:0.07", "count:30", "quantile:12"])
def test_text_round_trip(text: str) -> None:
    assert str(Binning.parse(text)) == text
    assert Binning.parse(f" {text} ") == Binning.parse(text)


def test_names_are_constructors() -> None:
    assert Binning.parse("count") == Binning.count() == Binning.count(30)
    assert Binning.parse("width:0.5") == Binning.width(0.5)
    assert Binning.parse("quantile:3") == Binning.quantile(3)


@pytest.mark.parametrize("text", ["", "width", "width:x", "szt:3", "count:2.5", "width=0.07", "bins:3"])
def test_unknown_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood: expected szt, width:W, count:N or quantile:N"):
        Binning.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width:0", "bin_width must be > 0, got 0"),
        ("width:-1", "bin_width must be > 0, got -1"),
        ("width:nan", "bin_width must be > 0, got nan"),
        ("width:inf", "bin_width must be > 0, got inf"),
        ("count:0", "n_bins must be an integer of at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Binning.parse(text)


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0], [0.0, nan], [[0.0, 1.0]], ["a", "b"]])
def test_impossible_edges_are_refused(edges: object) -> None:
    with pytest.raises(UsageError, match="at least two finite numbers in increasing order"):
        binned_mi([0.0, 1.0], binning="count:3", edges=edges)


def test_a_width_takes_no_edges() -> None:
    with pytest.raises(UsageError, match=r"edges do not apply to the binning width:0\.07"):
        binned_mi([0.0, 1.0], edges=[0.0, 1.0])


def test_realizations_by_hand() -> None:
    """Two samples, four passes. Cells of the first 0 0 0 1, of the second 0 1 1 1: H(Bin) = ln 2.

    H(Bin|X) = (3/4) ln(4/3) + (1/4) ln 4 = 2 ln 2 - (3/4) ln 3, with n = 2 and labels that are the samples.
    """
    x = [[[0.0], [0.5]], [[0.0], [1.5]], [[0.5], [1.5]], [[1.5], [1.5]]]
    found = binned_mi(x, ["a", "b"], "width:1", realizations=True)
    truth = LN2 - (2 * LN2 - 0.75 * LN3)
    assert found.label is not None
    for estimate in (found.input, found.label):
        assert estimate.value == pytest.approx(truth, abs=1e-15)
        assert estimate.ceiling == pytest.approx(LN2)
        assert (estimate.status, estimate.std_error) == (Status.OK, None)
        assert (estimate.n_samples, estimate.n_units) == (2, 1)
    assert found.n_cells == 2


def test_passes_that_agree_are_one_pass(rng: np.random.Generator) -> None:
    """n = 50 samples of two units, three times each: H(Bin|X) is exactly zero, so nothing is too few."""
    x, y = rng.standard_normal((50, 2)).round(), np.arange(50) % 3
    once, thrice = binned_mi(x, y, "width:1"), binned_mi(np.stack([x] * 3), y, "width:1", realizations=True)
    assert once.label is not None
    assert thrice.label is not None
    assert thrice.input.value == pytest.approx(once.input.value, abs=1e-14)
    assert thrice.label.value == pytest.approx(once.label.value, abs=1e-14)
    assert (thrice.input.status, thrice.n_cells) == (Status.OK, once.n_cells)


def test_noise_alone_is_exactly_zero() -> None:
    """Each of three samples visits both cells twice: independent counts."""
    x = np.tile(np.array([0.0, 0.0, 1.0, 1.0])[:, None, None], (1, 3, 1))
    assert binned_mi(x, realizations=True).input.value == 0.0


def test_too_few_realizations_are_said(rng: np.random.Generator) -> None:
    """Ten passes that never share a cell seem to tell all 20 samples apart, and know nothing of them."""
    found = binned_mi(rng.standard_normal((10, 20, 6)), realizations=True).input
    assert found.value == pytest.approx(log(20))
    assert found.status == Status.TOO_FEW_REALIZATIONS
    assert found.reason.startswith("H(Bin|X) = 2.3026 is within 0.1 nat of ln 10")
    assert "biased upward" in found.reason
    # 2000 passes over four cells of equal mass: the bias is 3 * 19 / (2 * 40,000) nat.
    many = binned_mi(rng.integers(0, 4, (2000, 20, 1)), binning="width:1", realizations=True).input
    assert many.status == Status.OK
    assert many.value == pytest.approx(0.0, abs=4e-3)
    assert binned_mi(rng.standard_normal((1, 20, 6)), realizations=True).input.status == Status.SATURATED


def test_realizations_keep_units_samples_and_notes() -> None:
    """Two passes, two samples, units in two axes; one NaN or one value below -1 belongs to one sample."""
    x = np.arange(16.0).reshape(2, 2, 2, 2) / 16
    found = binned_mi(x, binning="count:4", realizations=True)
    assert (found.input.n_samples, found.input.n_units) == (2, 4)
    x[:, 1, 0, 0] = -2.0
    assert binned_mi(x, binning="szt", realizations=True).notes == (
        "2 values of 1 samples below the first edge share a cell per unit",
    )
    x[0, 1, 0, 0] = nan
    assert "in 1 of 2 samples" in binned_mi(x, realizations=True).input.reason
    assert binned_mi(x, [0, 1], realizations=True).label is not None


def test_realizations_need_two_axes() -> None:
    with pytest.raises(UsageError, match=r"found shape \(3,\), expected \(realizations, samples, units\)"):
        binned_mi([0.0, 1.0, 2.0], realizations=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 5), st.sampled_from(["szt", "width:0.5", "count:3", "quantile:3"]),
       st.integers(0, 999))  # fmt: skip
def test_information_is_ordered_and_counted(n: int, d: int, binning: str, seed: int) -> None:
    """0 <= I(Y;Bin) <= min(H(Bin), H(Y)), equal to counting with a dictionary, whatever the order."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)).round(1), rng.integers(0, 3, n)
    found = binned_mi(x, y, binning)
    assert found.label is not None
    assert -1e-12 <= found.label.value <= min(found.input.value, found.label.ceiling) + 1e-12
    rule = Binning.parse(binning)
    symbols = [tuple(row) for row in rule.cells(x, rule.edges([x])).tolist()]
    shares = np.array([symbols.count(s) / n for s in set(symbols)])
    assert found.input.value == pytest.approx(float(-(shares @ np.log(shares))), abs=1e-12)
    assert found.n_cells == len(shares)
    order = rng.permutation(n)
    assert binned_mi(x[order], y[order], binning).input == found.input
