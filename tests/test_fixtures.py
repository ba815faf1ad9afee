"""The fixtures are what their README says: unchanged, reproducible and usable."""

import csv
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.optional import require

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TANH, RELU, MODELS = (FIXTURES / name for name in ("twelve_bit", "twelve_bit_relu", "models"))
CHECKPOINTS = sorted([*TANH.glob("step-*.onnx"), *RELU.glob("step-*.onnx")])
MODEL_NAMES = ("cnn", "residual", "two_inputs", "fixed_batch", "float64", "int64_input", "float16")
EXPORTED = [path for path in (FIXTURES / "exporters").iterdir() if path.suffix in {".npz", ".onnx"}]
ONNX_FILES = [*CHECKPOINTS, *(MODELS / f"{name}.onnx" for name in MODEL_NAMES)]
DTYPES = {"float": "f4", "double": "f8", "float16": "f2", "int64": "i8"}


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def task() -> Iterator[ModuleType]:
    yield load("task", TANH / "task.py")
    del sys.modules["task"]


@pytest.fixture(scope="module")
def maker(task: ModuleType) -> Iterator[ModuleType]:
    yield load("fixtures_twelve_bit_make", TANH / "make.py")
    del sys.modules["fixtures_twelve_bit_make"]


@pytest.fixture(scope="module")
def data() -> dict[str, NDArray[Any]]:
    with np.load(TANH / "data.npz") as file:
        return dict(file)


def file_id(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Files


def test_checksums_match_the_manifest() -> None:
    manifest = load("fixtures_manifest", FIXTURES / "manifest.py")
    assert (
        len(manifest.fixture_files()) == len(ONNX_FILES) + len(EXPORTED) + 3
    )  # data.npz and two metrics.csv
    assert (FIXTURES / "SHA256SUMS").read_text(encoding="utf-8") == manifest.checksums()


def test_fixtures_stay_below_two_megabytes() -> None:
    folders = (TANH, RELU, MODELS)
    sizes = [p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert 0 < sum(sizes) < 2_000_000


@pytest.mark.parametrize("path", ONNX_FILES, ids=file_id)
def test_model_is_portable_and_says_nothing_of_the_machine_that_made_it(path: Path) -> None:
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert {prop.key for prop in model.metadata_props} <= {"step", "epoch"}
    assert not any(text in content for text in (b"/home", b"/usr", b"/tmp", b".py", b"C:\\"))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_model_runs_and_each_sample_has_its_own_answer(name: str) -> None:
    run = session(MODELS / f"{name}.onnx")
    rng = np.random.default_rng(0)
    n_samples = 1 if name == "fixed_batch" else 3
    feeds = {}
    for spec in run.get_inputs():
        dtype = DTYPES[spec.type.removeprefix("tensor(").removesuffix(")")]
        shape = (n_samples, *spec.shape[1:])
        values = rng.integers(10, size=shape) if dtype == "i8" else rng.normal(size=shape)
        feeds[spec.name] = values.astype(dtype)
    (output,) = run.run(None, feeds)
    assert output.shape == (n_samples, *run.get_outputs()[0].shape[1:])
    assert output.dtype == (np.float32 if name == "int64_input" else dtype)
    assert np.isfinite(output).all()
    assert len(np.unique(output)) == output.size


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_script_rebuilds_the_model(name: str) -> None:
    made = getattr(load("fixtures_models_make", MODELS / "make.py"), name)()
    stored = onnx.load(MODELS / f"{name}.onnx")
    assert made.graph == stored.graph


# The task


def test_task_is_rebuilt_from_the_script(task: ModuleType, data: dict[str, NDArray[Any]]) -> None:
    built = task.build()
    assert sorted(data) == ["inputs", "labels", "train"]
    for name, dtype in (("inputs", np.float32), ("labels", np.int64), ("train", np.bool_)):
        assert data[name].dtype == dtype
        np.testing.assert_array_equal(data[name], getattr(built, name))


def test_inputs_are_all_patterns_once(data: dict[str, NDArray[Any]]) -> None:
    assert data["inputs"].shape == (4096, 12)
    assert set(np.unique(data["inputs"])) == {-1.0, 1.0}
    assert len(np.unique(data["inputs"], axis=0)) == 4096


def test_task_is_nearly_balanced_also_within_the_split(data: dict[str, NDArray[Any]]) -> None:
    labels, train = data["labels"], data["train"]
    assert train.sum() == 3277
    assert labels.mean() == pytest.approx(0.5017, abs=1e-4)
    # The standard error of the test part's mean is 0.016 (819 samples, finite population).
    assert labels[~train].mean() == pytest.approx(0.5, abs=0.064)


def test_points_are_an_icosahedron(task: ModuleType) -> None:
    at = task.points()
    cosine = np.sort(at @ at.T, axis=1)
    expected = np.repeat([-1, -1 / np.sqrt(5), 1 / np.sqrt(5), 1], [1, 5, 5, 1])
    np.testing.assert_allclose(cosine, np.tile(expected, (12, 1)), atol=1e-14)


def test_power_spectrum_is_the_sum_of_legendre_polynomials_over_pairs(task: ModuleType) -> None:
    at, lit = task.points(), task.patterns()[::37]
    for degree, power in enumerate(task.power_spectrum(lit, at, max_degree=6).T):
        pairs = np.polynomial.legendre.legval(at @ at.T, [0] * degree + [1])
        np.testing.assert_allclose(power, np.einsum("ni,ij,nj->n", lit, pairs, lit), atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_power_spectrum_does_not_change_under_rotations_and_reflections(task: ModuleType, seed: int) -> None:
    at, lit = task.points(), task.patterns()[::17]
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    turn *= 1 if seed % 2 else -1  # both signs of the determinant occur
    before = task.power_spectrum(lit, at, max_degree=4)
    np.testing.assert_allclose(task.power_spectrum(lit, at @ turn, max_degree=4), before, atol=1e-10)
    stretched = at * np.array([1, 1, 0.5])
    stretched /= np.linalg.norm(stretched, axis=1, keepdims=True)
    assert not np.allclose(task.power_spectrum(lit, stretched, max_degree=4), before, atol=0.1)


def test_labels_do_not_change_under_the_symmetries_of_the_icosahedron(
    task: ModuleType, data: dict[str, NDArray[Any]]
) -> None:
    group = task.symmetries(task.points())
    assert len(np.unique(group, axis=0)) == 120
    lit, labels = task.patterns(), data["labels"]
    index = 1 << np.arange(12)
    for permutation in group:
        np.testing.assert_array_equal(labels[lit[:, permutation] @ index], labels)
    swapped = lit[:, [1, 0, *range(2, 12)]] @ index  # a permutation that is no symmetry
    assert (labels[swapped] != labels).any()


def test_no_hyperplane_separates_the_classes(task: ModuleType, data: dict[str, NDArray[Any]]) -> None:
    # The group is transitive: averaged over it, a separating hyperplane would depend on the number
    # of lit points alone. So one number of lit points with both labels rules every hyperplane out.
    n_lit = task.patterns().sum(axis=1)
    assert any(len(np.unique(data["labels"][n_lit == n])) == 2 for n in range(13))


def test_threshold_is_far_from_every_score(task: ModuleType) -> None:
    score = task.score(task.patterns(), task.points())
    assert np.abs(score - task.THRESHOLD).min() > 0.008


# The trainings


@pytest.mark.parametrize(("folder", "n_checkpoints"), [(TANH, 20), (RELU, 6)])
def test_checkpoints_and_metrics_agree_on_steps_and_epochs(folder: Path, n_checkpoints: int) -> None:
    rows = read_metrics(folder)
    names = [f"step-{int(row['step']):06d}.onnx" for row in rows]
    assert names == [path.name for path in sorted(folder.glob("step-*.onnx"))]
    assert len(names) == n_checkpoints
    for name, row in zip(names, rows, strict=True):
        assert int(row["step"]) == 13 * int(row["epoch"])
        properties = {p.key: p.value for p in onnx.load(folder / name).metadata_props}
        assert properties == {"step": row["step"], "epoch": row["epoch"]}


@pytest.mark.parametrize("path", CHECKPOINTS, ids=file_id)
def test_onnx_runtime_repeats_the_metrics(path: Path, data: dict[str, NDArray[Any]]) -> None:
    (row,) = (r for r in read_metrics(path.parent) if f"step-{int(r['step']):06d}" == path.stem)
    (logits,) = session(path).run(["logits"], {"x": data["inputs"]})
    wide, labels, train = logits.astype(np.float64), data["labels"], data["train"]
    loss = np.logaddexp(wide[:, 0], wide[:, 1]) - wide[np.arange(4096), labels]
    correct = logits.argmax(axis=1) == labels
    for part, mask in (("train", train), ("test", ~train)):
        assert correct[mask].mean() == pytest.approx(float(row[f"{part}_accuracy"]), abs=1e-3)
        assert loss[mask].mean() == pytest.approx(float(row[f"{part}_loss"]), rel=1e-3, abs=1e-6)


def test_both_networks_learn_the_task() -> None:
    for folder, test_accuracy in ((TANH, 0.99), (RELU, 0.95)):
        last = read_metrics(folder)[-1]
        assert float(last["train_accuracy"]) > 0.999
        assert float(last["test_accuracy"]) > test_accuracy


def test_last_hidden_layer_of_the_tanh_network_compresses_late(
    maker: ModuleType, data: dict[str, NDArray[Any]]
) -> None:
    fc5 = {row["epoch"]: binned_entropies(maker, TANH, row, data)[4] for row in read_metrics(TANH)}
    assert fc5["100"] > 7
    assert fc5["8000"] < 2


def test_last_hidden_layer_of_the_relu_network_does_not_compress(
    maker: ModuleType, data: dict[str, NDArray[Any]]
) -> None:
    fc5 = [binned_entropies(maker, RELU, row, data)[4] for row in read_metrics(RELU)]
    assert fc5[-1] == max(fc5)


@pytest.mark.parametrize("folder", [TANH, RELU])
def test_table_in_the_readme_is_that_of_the_files(
    maker: ModuleType, data: dict[str, NDArray[Any]], folder: Path
) -> None:
    readme = (folder / "README.md").read_text(encoding="utf-8")
    table = readme.split(maker.TABLE_BEGIN)[1].split(maker.TABLE_END)[0].splitlines()[2:]
    for line, row in zip(table, read_metrics(folder), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [row["step"], row["epoch"]]
        expected = binned_entropies(maker, folder, row, data)
        # A value on a bin's edge may fall on its other side with another math library.
        np.testing.assert_allclose([float(c) for c in cells[4:]], expected, atol=0.02)


def binned_entropies(
    maker: ModuleType, folder: Path, row: dict[str, str], data: dict[str, NDArray[Any]]
) -> list[float]:
    graph = onnx.load(folder / f"step-{int(row['step']):06d}.onnx").graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = tuple((arrays[f"fc{i}.weight"], arrays[f"fc{i}.bias"]) for i in range(1, 7))
    activation = "tanh" if folder == TANH else "relu"
    hidden = maker.forward(weights, data["inputs"], activation)[:-1]
    return [maker.binned_entropy(values) for values in hidden]


@pytest.mark.slow
def test_training_again_gives_the_same_early_checkpoints(maker: ModuleType) -> None:
    require("torch")
    n_compared = 0
    for run in maker.RUNS:
        for checkpoint in maker.train(run, maker.task.build()):
            if checkpoint.epoch > 4:
                break
            path = FIXTURES / run.folder / f"step-{checkpoint.step:06d}.onnx"
            made = maker.to_onnx(checkpoint, run.activation)
            pairs = zip(made.graph.initializer, onnx.load(path).graph.initializer, strict=True)
            for mine, stored in pairs:
                assert mine.name == stored.name
                again, before = (onnx.numpy_helper.to_array(tensor) for tensor in (mine, stored))
                np.testing.assert_allclose(again, before, rtol=0, atol=1e-5)
            n_compared += 1
    assert n_compared == 5  # epochs 0, 1, 2 and 4 with tanh, epoch 0 with ReLU
