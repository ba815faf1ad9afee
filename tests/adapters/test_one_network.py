"""One network in PyTorch, Keras and ONNX by three exporters: one store and one analysis, clean and noisy.

The numbers compared are whole stores and every row of `repstat.analyze`, values, errors and bounds, to 1e-6.
An activation that is rounded across the edge of a bin changes H(Bin) by much more than that: inputs are such
that none is, which is asserted.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.adapter import Array
from tests.adapters.test_onnx_exporters import CNNS, FOLDER, MLPS, make
from tests.optional import require

for package in ("torch", "tensorflow", "keras", "tf2onnx"):
    require(package)

from tests.adapters.keras_models import quietly  # noqa: E402 - they need Keras
from tests.adapters.test_keras_exporters import keras_cnn  # noqa: E402

__all__ = ["make"]  # a fixture

N = 256
EQUAL = 1e-6
BIN = 0.07
NOISE: dict[str, Any] = {
    "noise_std": 0.3,
    "realizations": 2,
    "conditional_samples": 16,
    "conditional_realizations": 32,
    "seed": 7,
}
LAST = frozenset({"keras", "cnn.keras.onnx"})
"""Forms of the CNN whose inputs have channels last."""
Row = Mapping[str, float | str]


class Table:
    """The forms of one network, each extracted and analysed once."""

    def __init__(self, forms: Mapping[str, Any], inputs: Array, folder: Path) -> None:
        self.forms, self._inputs, self._folder = forms, inputs, folder
        self._labels = (inputs.reshape(N, -1)[:, 0] > 0).astype(np.int64)
        self.store = cache(self._store)
        self.rows = cache(self._rows)

    def _store(self, form: str, noisy: bool, **options: Any) -> Path:
        inputs = self._inputs
        if inputs.ndim == 4 and form in LAST:
            inputs = inputs.transpose(0, 2, 3, 1)
        noise = {**NOISE, **options} if noisy else {}
        name = f"{form}-{noisy}-{len(list(self._folder.iterdir()))}.h5"
        model = self.forms[form]
        return repstat.extract(
            model, inputs, labels=self._labels, steps=0, store=self._folder / name, **noise
        )

    def values(self, form: str, noisy: bool, **options: Any) -> dict[str, Array]:
        """All activations by layer, those of repeated samples too."""
        found = {}
        with repstat.open_store(self.store(form, noisy, **options)) as store:
            for key, layer in store.layers.items():
                view = layer.at(index=0)
                parts = {key: view, f"{key} repeated": view.conditional}
                for name, part in parts.items():
                    if part is None:
                        continue
                    value = part.read()
                    found[name] = value.reshape(*value.shape[:-1], *layer.unit_shape)
        return found

    def _rows(self, form: str, noisy: bool, **options: Any) -> dict[tuple[Any, ...], Row]:
        path = self.store(form, noisy, **options)
        how: dict[str, Any] = {} if noisy else {"noise_std": [0.3], "binning": f"width:{BIN}"}
        results = repstat.analyze(path, tolerance=0.01, **how)
        rows = {}
        for row in results.rows:
            numbers = ("value", "std_error", "lower_bound", "upper_bound", "ceiling")
            facts: dict[str, Any] = {name: getattr(row, name) for name in numbers}
            key = (row.layer, row.quantity, row.estimator, row.noise_std)
            assert key not in rows
            rows[key] = {name: v for name, v in facts.items() if v is not None} | {"status": row.status.value}
        return rows


def unequal(a: Mapping[Any, Row], b: Mapping[Any, Row]) -> list[tuple[Any, str]]:
    """Rows and fields that are not equal to 1e-6, of their size where that is above one."""
    assert a.keys() == b.keys()
    found = []
    for key, row in a.items():
        other = b[key]
        for name in row.keys() | other.keys():
            x, y = row.get(name), other.get(name)
            if isinstance(x, float) and isinstance(y, float):
                same = abs(x - y) <= EQUAL * max(1.0, abs(x))
            else:
                same = x == y
            found += [] if same else [(key, name)]
    return found


def furthest(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
    """Return the largest difference, relative to a layer's largest activation where that is above one."""
    assert a.keys() == b.keys()
    scales = {key: max(1.0, float(np.abs(value).max())) for key, value in a.items()}
    return max(float(np.abs(b[key] - value).max()) / scales[key] for key, value in a.items())


def identities(path: Path) -> list[tuple[Any, ...]]:
    with repstat.open_store(path) as store:
        return [(key, x.name, x.op, x.unit_shape, x.dtype) for key, x in store.layers.items()]


@pytest.fixture(scope="module")
def tables(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    rng = np.random.default_rng(3)
    cnn = keras_cnn()
    exported = tmp_path_factory.mktemp("exported") / "cnn.keras.onnx"
    cnn(np.zeros((1, 10, 10, 1), np.float32))
    quietly(lambda: cnn.export(exported, format="onnx", verbose=False))
    forms = {
        "mlp": {"torch": make._torch_mlp(), "keras": make.keras_mlp(), **{f: FOLDER / f for f in MLPS}},
        "cnn": {
            "torch": make._torch_cnn(),
            "keras": cnn,
            **{f: FOLDER / f for f in CNNS},
            "cnn.keras.onnx": exported,
        },
    }
    shapes = {"mlp": (N, 6), "cnn": (N, 1, 10, 10)}
    return {
        name: Table(forms[name], rng.standard_normal(shape).astype(np.float32), tmp_path_factory.mktemp(name))
        for name, shape in shapes.items()
    }


CASES = [
    *(("mlp", form, noisy) for form in ("keras", *MLPS) for noisy in (False, True)),
    *(("cnn", form, noisy) for form in ("keras", *CNNS, "cnn.keras.onnx") for noisy in (False, True)),
]


@pytest.mark.parametrize(("network", "form", "noisy"), CASES)
def test_stores_and_analyses_are_equal(
    tables: dict[str, Table], network: str, form: str, noisy: bool
) -> None:
    table = tables[network]
    first, other = table.values("torch", noisy), table.values(form, noisy)
    assert furthest(first, other) < EQUAL
    if not noisy:
        for key, value in first.items():
            cells = [np.floor(v.astype(np.float64) / BIN) for v in (value, other[key])]
            assert np.array_equal(*cells), "an activation is rounded across an edge: choose other inputs"
    assert unequal(table.rows("torch", noisy), table.rows(form, noisy)) == []
    ours, theirs = (identities(table.store(f, noisy)) for f in ("torch", form))
    assert [x[0] for x in ours] == [x[0] for x in theirs]
    assert [x[3:] for x in ours] == [x[3:] for x in theirs]


def test_the_rows_hold_what_is_claimed(tables: dict[str, Table]) -> None:
    for network in ("mlp", "cnn"):
        for noisy in (False, True):
            rows = tables[network].rows("torch", noisy)
            quantities = {key[1] for key in rows}
            assert {"mi_input", "mi_label", "within_class_distance"} <= quantities
            assert noisy or {"binned_mi_input", "binned_mi_label"} <= quantities
            assert sum("std_error" in row for row in rows.values()) >= 4


def test_the_comparison_sees_another_seed_and_another_weight(
    tables: dict[str, Table], make: ModuleType
) -> None:
    """Mutants of the claim: noise of another seed, and one bias that is off by 1e-4."""
    table = tables["mlp"]
    assert furthest(table.values("torch", True), table.values("torch", True, seed=8)) > 0.1
    assert unequal(table.rows("torch", True), table.rows("torch", True, seed=8))
    model = make._torch_mlp()
    model.fc1.bias.data[0] += 1e-4
    nudged = Table({"torch": model}, table._inputs, table._folder)
    assert furthest(table.values("torch", False), nudged.values("torch", False)) > 10 * EQUAL
    assert unequal(table.rows("torch", False), nudged.rows("torch", False))
