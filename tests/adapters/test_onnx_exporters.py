"""One network from several exporters is one network: equal keys, signatures, names and activations."""

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from tests.adapters.onnx_models import layers_of, opened, values_of
from tests.optional import require

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "exporters"
MLPS = ("mlp.torchscript.onnx", "mlp.dynamo.onnx", "mlp.keras.onnx")
CNNS = ("cnn.torchscript.onnx", "cnn.dynamo.onnx", "cnn.dynamo-unoptimised.onnx")
ROUNDING = 1e-6
FOLDED = ("cnn.torchscript.onnx",)
"""Its exporter multiplies batch normalisation into the weights, whose last bit depends on the processor."""


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_exporters", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "inputs.npz") as arrays:
        return dict(arrays)


def identities(path: Path) -> list[tuple[str, str, str, str, tuple[int, ...]]]:
    found = layers_of(path).values()
    return [(x.key, x.name, x.kind, x.signature, x.unit_shape) for x in found]


@pytest.mark.parametrize("name", MLPS)
def test_mlp_has_the_activations_that_numpy_computes(name: str, inputs: dict[str, np.ndarray]) -> None:
    assert identities(FOLDER / name) == [
        ("L000", "fc1", "hidden", "linear>tanh", (5,)),
        ("L001", "fc2", "hidden", "linear>tanh", (4,)),
        ("L002", "out", "output", "linear", (3,)),
    ]
    values = values_of(FOLDER / name, {"x": inputs["mlp"]})
    with np.load(FOLDER / "expected.npz") as expected:
        assert sorted(expected.files) == sorted(values)
        for key, value in values.items():
            assert np.abs(value - expected[key]).max() < ROUNDING


@pytest.mark.parametrize("name", CNNS)
def test_cnn_does_not_depend_on_the_exporter_folding_batch_norm(
    name: str, inputs: dict[str, np.ndarray]
) -> None:
    assert identities(FOLDER / name) == [
        ("L000", "0.0", "hidden", "conv>relu", (3, 8, 8)),
        ("L001", "1.0", "hidden", "conv>relu", (4, 2, 2)),
        ("L002", "3", "output", "linear", (2,)),
    ]
    has_norm = any(n.op_type == "BatchNormalization" for n in onnx.load(FOLDER / name).graph.node)
    assert has_norm == ("unoptimised" in name)
    feeds = {"x": inputs["cnn"]}
    first, values = values_of(FOLDER / CNNS[0], feeds), values_of(FOLDER / name, feeds)
    for key, value in values.items():
        assert np.abs(value - first[key]).max() < 4 * ROUNDING  # folding rounds the weights anew


def test_the_files_hold_what_the_script_computes(make: ModuleType, inputs: dict[str, np.ndarray]) -> None:
    for name, array in make.inputs().items():
        assert np.array_equal(array, inputs[name])
    with np.load(FOLDER / "expected.npz") as expected:
        for key, value in make.mlp_activations(inputs["mlp"]).items():
            assert np.allclose(value, expected[key], atol=1e-7)


@pytest.mark.parametrize("name", [*MLPS, *CNNS])
def test_no_file_tells_where_it_was_made(name: str, make: ModuleType) -> None:
    data = (FOLDER / name).read_bytes()
    assert len(data) < 20_000
    for word in (b"/home", b"/root", b"/tmp", b"site-packages", b".py", *map(str.encode, make.PRIVATE)):
        assert word not in data


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MLPS, *CNNS])
def test_exporting_again_gives_the_same_layers_and_weights(
    name: str, make: ModuleType, tmp_path: Path, inputs: dict[str, np.ndarray]
) -> None:
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):  # exporters, about themselves
            warnings.simplefilter("ignore", category)
        for module in ("tensorflow", "tf2onnx") if "keras" in name else ("torch", "onnxscript"):
            require(module)
        again = make.make(name, tmp_path)
    assert identities(again) == identities(FOLDER / name)
    feeds = {"x": inputs[name.split(".")[0]]}
    old, new = values_of(FOLDER / name, feeds), values_of(again, feeds)
    assert all(np.abs(new[key] - old[key]).max() < ROUNDING for key in old)
    if "keras" not in name and name not in FOLDED:
        prints = {opened(path).provenance()["weights_sha256"] for path in (again, FOLDER / name)}
        assert len(prints) == 1
