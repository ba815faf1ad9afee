"""What cannot be imported, and what the message says; names of layers are data and nothing else."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.errors import InputRefusedError, RepstatError
from tests.optional import require
from tests.recorded import Arrays, N, as_npz

X = np.ones((N, 2), np.float32)
REFUSED: dict[str, tuple[Arrays, dict[str, Any], str]] = {
    "integers": (
        {"ids": X.astype(int)},
        {},
        r"'ids': found int64, expected .* --layers '-ids', name it 'labels'",
    ),
    "booleans": ({"mask": X > 0}, {}, "'mask': found bool, expected .* pass --cast"),
    "complex": ({"fft": X + 0j}, {}, r"'fft': found complex64.* save real and imaginary parts"),
    "words": ({"words": np.array([["a"]] * N)}, {}, "'words': found str32"),
    "times": ({"when": X.astype("M8[s]")}, {}, r"'when': found datetime64\[s\]"),
    "records": ({"rec": np.zeros(N, [("a", "f4")])}, {}, "'rec': found void32.* save it as float32"),
    "bytes": ({"words": np.array([[b"a"]] * N)}, {}, "'words': found bytes8"),
    "long doubles": (
        {"wide": X.astype(np.longdouble)},
        {},
        "'wide': found (longdouble|float128).* --dtype float64",
    ),
    "no samples": ({"fc": X[:0]}, {}, r"'fc': its shape is \(0, 2\), expected \(samples, ...\)"),
    "no units": ({"fc": X[:, :0]}, {}, r"'fc': its shape is \(30, 0\)"),
    "another length": ({"fc": X, "fd": X[1:]}, {}, "'fd': it has 29 samples, and 'fc' has 30"),
    "both labels": ({"fc": X, "labels": np.arange(N), "y": np.arange(N)}, {}, "found both 'labels' and 'y'"),
    "labels too few": (
        {"fc": X, "labels": np.arange(4)},
        {},
        r"'labels': found labels of shape \(4,\) for 30 sam",
    ),
    "one-hot labels": ({"fc": X, "labels": np.eye(N)}, {}, r"found labels of shape \(30, 30\).*argmax"),
    "no classes": ({"fc": X, "labels": np.linspace(0, 1, N)}, {}, "labels are not classes"),
    "labels given too few": ({"fc": X}, {"labels": [1, 2]}, "found 2 labels for 30 samples"),
    "only labels": ({"labels": np.arange(N)}, {}, "found labels, and no activations"),
    "no arrays": ({}, {}, "found no arrays, and no activations"),
    "half a step": ({"fc": X, "step": 1.5}, {}, "its step is 1.5, expected one whole number from 0"),
    "step before 0": ({"fc": X, "step": -1}, {}, "its step is -1, expected"),
    "steps": ({"fc": X, "step": np.arange(3)}, {}, r"its step is int64 of shape \(3,\)"),
    "another dtype": ({"fc": X}, {"dtype": "int8"}, "cannot store activations as 'int8'. Choose float16"),
    "too large": (
        {"fc": X * 1e5},
        {"dtype": "float16"},
        r"'fc': some values exceed the range of float16 \(step 0\)",
    ),
    "integers too large": (
        {"fc": np.full((N, 1), 2**60)},
        {"cast": True},
        "'fc': integers above 9007199254740992 are not all distinct",
    ),
    "no such layer": ({"fc": X}, {"layers": "fd"}, "no layer is called 'fd'"),
    "inputs too few": (
        {"fc": X},
        {"inputs": X[1:]},
        r"'inputs': found float32 \(29, 2\), expected .* \(30, ...\)",
    ),
    "inputs in words": ({"fc": X, "inputs": np.array(["a"] * N)}, {}, "inputs do not fit"),
}


@pytest.mark.parametrize(("arrays", "options", "text"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, arrays: Arrays, options: dict[str, Any], text: str) -> None:
    store = tmp_path / "acts.h5"
    for source in (as_npz(tmp_path / "a", arrays), {0: arrays}):
        with pytest.raises(RepstatError, match=text) as caught:
            repstat.import_arrays(source, store=store, **options)
        assert caught.value.exit_code in (2, 3)
        assert [path.name for path in tmp_path.rglob("*.h5*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_numbers_that_numpy_does_not_know_are_refused(tmp_path: Path, name: str) -> None:
    """HDF5 would keep them as bytes without a meaning, as NumPy's own files do."""
    arrays = {"h": X.astype(getattr(require("ml_dtypes"), name))}
    want = "expected float16, float32 or float64.*float32|not a valid dtype"
    for source, found in (({0: arrays}, name), (as_npz(tmp_path / "a", arrays), "void|f1")):
        with pytest.raises(InputRefusedError) as caught:
            repstat.import_arrays(source, store=tmp_path / "acts.h5")
        assert re.search(found, str(caught.value))
        assert re.search(want, str(caught.value))
        assert not (tmp_path / "acts.h5").exists()


OTHERS: dict[str, tuple[Arrays, str]] = {
    "a layer more": ({"fe": X}, r"step-1.npz: it has 'fe' besides"),
    "a layer less": ({"fd": None}, r"step-1.npz: it lacks 'fd'"),
    "another width": ({"fd": X[:, :1]}, r"'fd': found float32 \(30, 1\), expected float32 \(30, 2\)"),
    "another length": (
        {"fc": X[1:], "fd": X[1:]},
        r"'fc': found float32 \(29, 2\), expected float32 \(30, 2\)",
    ),
    "another dtype": ({"fd": X.astype(float)}, r"'fd': found float64 \(30, 2\), expected float32"),
    "other labels": ({"labels": np.ones(N, int)}, "'labels': its labels are not those of step-0.npz"),
    "other inputs": ({"inputs": X * 2}, "'inputs': they are not those of step-0.npz"),
}


@pytest.mark.parametrize(("change", "text"), OTHERS.values(), ids=OTHERS)
def test_checkpoints_must_fit_each_other(tmp_path: Path, change: Arrays, text: str) -> None:
    arrays = {"fc": X, "fd": X, "labels": np.zeros(N, int), "inputs": X}
    other = {name: array for name, array in (arrays | change).items() if array is not None}
    files = [as_npz(tmp_path / "step-0", arrays), as_npz(tmp_path / "step-1", other)]
    with pytest.raises(InputRefusedError, match=text):
        repstat.import_arrays(files, store=tmp_path / "acts.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0.npz", "step-1.npz"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"fc": X}, r"found 'fc': ndarray. Give {step: {layer: array}}"),
        ({0: X}, r"found 0: ndarray. Give"),
        ({True: {"fc": X}}, "found True: dict"),
        ({}, "no activations: found dict"),
        ([], "no activations: found list"),
        ([{"fc": X}], "no activations: found list"),
        (7, "no activations: found int"),
        ({0: {"fc": np.ma.masked_array(X, X > 0)}}, "masked: step 0, 'fc'"),
        ({0: {"fc": [[1.0], [2.0, 3.0]]}}, "cannot be read as an array: step 0, 'fc'"),
        ({0: {"fc": np.array([{}, {}], dtype=object)}}, "holds Python objects: step 0, 'fc'"),
        ({0: {"fc": X, "step": 5}}, "given as step 0, and its array 'step' is 5"),
        ({-1: {"fc": X}}, "step -1 is negative"),
    ],
)
def test_what_is_no_mapping_of_arrays_is_refused(tmp_path: Path, source: Any, text: str) -> None:
    with pytest.raises(RepstatError, match=text):
        repstat.import_arrays(source, store=tmp_path / "acts.h5")


STRANGE = [
    "../../evil",
    "/etc/passwd",
    "a/b\\c",
    "<b>\x1b[31m",
    "\u202egnp",
    "x" * 60_000,
    "L000",
    "auto",
    "re:(",
]


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_names_of_layers_are_data(tmp_path: Path, name: str) -> None:
    place = tmp_path / "deep" / "down"
    place.mkdir(parents=True)
    path = repstat.import_arrays(as_npz(place / "a", {name: X}), store=place / "acts.h5")
    repstat.verify(path)
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert sorted(p.name for p in place.iterdir() if not p.name.startswith(".")) == ["a.npz", "acts.h5"]
    with repstat.open_store(path) as store:
        assert [(v.key, v.name) for v in store.layers.values()] == [("L000", name)]
