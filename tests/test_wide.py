"""A layer too large to be held gives the numbers of one that is; nothing of it stays in memory."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repstat import analyze, open_store, wide
from repstat.errors import StoreDamagedError
from repstat.estimators import Binning
from repstat.results import Results
from repstat.store import StoreWriter
from tests.store.making import checkpoint, layer, samples

N, UNITS = 60, 700
RNG = np.random.default_rng(11)
PLAIN = np.tanh(RNG.normal(size=(N, 5)) @ RNG.normal(size=(5, UNITS)) / 2)
SIGNS = np.where(np.arange(N) % 2, 1, -1)[:, None]
REPEATED = np.where(np.arange(N)[:, None] < 50, PLAIN, PLAIN[3])
CASES: dict[str, NDArray[Any]] = {
    "float32": PLAIN.astype("<f4"),
    "float64": PLAIN,
    "float16": PLAIN.astype("<f2"),
    "repeated rows": REPEATED.astype("<f4"),
    "two kinds of zero": np.where(PLAIN < 0, np.copysign(0.0, PLAIN * SIGNS), PLAIN).astype("<f4"),
    "offset": (PLAIN + 1000).astype("<f8"),
    "large": PLAIN * 1e200,
    "small": PLAIN * 1e-200,
    "constant": np.full((N, UNITS), 3, "<f4"),
    "zero": np.zeros((N, UNITS), "<f4"),
    "NaN": np.where(PLAIN > 0.999, np.nan, PLAIN).astype("<f4"),
}
BINNINGS = ("count:5", "width:0.5", "szt", "quantile:4")


def store(path: Path, values: NDArray[Any]) -> Path:
    of = samples(N, labels=np.arange(N) % 3)
    layers = (layer("L000", (UNITS,), str(values.dtype)),)
    with StoreWriter(path, samples=of, layers=layers, steps=(0, 1), identity={}) as into:
        for step in (0, 1):
            with into.checkpoint(checkpoint(step)) as part:
                part.write("L000", np.ascontiguousarray(values * values.dtype.type(1 + step)))
        return into.finish()


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch):
    wide.fold.cache_clear()
    monkeypatch.setattr(wide, "WIDE_BYTES", 1)
    monkeypatch.setattr(wide, "_SLAB_BYTES", 8 * N * 97)  # slabs of 97 units, the last one of 21
    yield
    wide.fold.cache_clear()


def both(path: Path, monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[Results, Results]:
    folded = analyze(path, **how)
    monkeypatch.setattr(wide, "WIDE_BYTES", 2**62)
    return folded, analyze(path, **how)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_the_layer_held(folding, tmp_path: Path, monkeypatch, name: str) -> None:
    """To 1e-6: both are estimates with a quadrature or sampling error far above that of the folding."""
    scale = {"large": 1e200, "small": 1e-200}.get(name, 1.0)
    binnings = [b for b in BINNINGS if scale == 1.0 or b.startswith(("count", "szt"))]
    path = store(tmp_path / "acts.h5", CASES[name])
    folded, held = both(path, monkeypatch, noise_std=["0.3x", "auto"], binning=binnings)
    assert len(folded.rows) == len(held.rows) > 20
    for one, two in zip(folded.rows, held.rows, strict=True):
        for field in ("layer", "step", "quantity", "status", "reason", "n_units", "n_samples", "params"):
            a, b = getattr(one, field), getattr(two, field)
            if field == "params":
                a, b = ({k: v for k, v in x.items() if k != "n_draws"} for x in (a, b))
            if field == "reason":
                a, b = (re.sub(r"[\d.]+", "#", text)[:30] for text in (a, b))  # its number is the estimate's
            assert a == b, (field, one, two)
        assert one.noise_std == two.noise_std
        if one.value is None:
            continue
        slack = 4 * ((one.std_error or 0) ** 2 + (two.std_error or 0) ** 2) ** 0.5
        unit = scale if one.units == "activation" else 1.0
        assert one.value == pytest.approx(two.value, rel=1e-6, abs=slack + 1e-6 * unit)
    for a, b in zip(folded.histograms, held.histograms, strict=True):
        np.testing.assert_allclose(a.edges, b.edges, rtol=1e-7)
        assert np.abs(a.counts - b.counts).sum() <= 0.01 * b.counts.sum()


def test_distances_are_kept_and_equal_rows_stay_equal(folding, tmp_path: Path) -> None:
    with open_store(store(tmp_path / "acts.h5", REPEATED)) as opened:
        folded = wide.fold(opened.layers["L000"].at(step=0))
    points = folded.points
    expected = np.linalg.norm(REPEATED[:, None] - REPEATED[None], axis=-1)
    found = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert (points[50:] == points[3]).all()
    assert folded.n_units == UNITS


@pytest.mark.parametrize("text", BINNINGS)
def test_cells_are_equal_where_rows_of_bins_are(folding, tmp_path: Path, text: str) -> None:
    binning = Binning.parse(text)
    coarse = np.round(PLAIN[:, :3] @ RNG.normal(size=(3, UNITS)))
    edges = binning.edges([coarse])
    with open_store(store(tmp_path / "acts.h5", coarse)) as opened:
        numbers = wide.cell_numbers(opened.layers["L000"].at(step=0), binning, edges).ravel()
    rows = binning.cells(coarse, edges)
    np.testing.assert_array_equal(
        numbers[:, None] == numbers[None], (rows[:, None] == rows[None]).all(axis=-1)
    )


def test_what_is_wide(tmp_path: Path) -> None:
    """By shape and bytes alone: never by the memory of the machine."""

    class View:
        def __init__(self, *shape: int) -> None:
            self.shape, self.ndim, self.nbytes = shape, len(shape), 4 * int(np.prod(shape))

    assert wide.is_wide(View(4096, 131072))  # type: ignore[arg-type]
    for shape in ((4096, 1000), (100_000, 2000), (9000, 100_000), (3, 4096, 131072)):
        assert not wide.is_wide(View(*shape))  # type: ignore[arg-type]


def test_damage_is_noticed_on_every_pass(folding, tmp_path: Path, monkeypatch) -> None:
    path = store(tmp_path / "acts.h5", PLAIN)
    sums = wide._row_sums
    calls = []

    def another(rows: NDArray[Any]) -> NDArray[np.uint64]:
        calls.append(len(rows))
        changed = rows.copy()
        if len(calls) == 4:
            changed[5, 3] = np.nextafter(changed[5, 3], 9)
        return sums(changed)

    monkeypatch.setattr(wide, "_row_sums", another)
    with open_store(path) as opened, pytest.raises(StoreDamagedError, match="changed while they were read"):
        wide.fold(opened.layers["L000"].at(step=0))
