"""docs/adapters.md does what it says: its adapter is installed and used, its blocks are run."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import repstat
from repstat.adapter import Adapter, AdapterOptions
from repstat.errors import DeviceUnavailableError, InputRefusedError, UsageError
from repstat_adapters.forward import ForwardAdapter
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```([\w ]+)\n(.*?)^```$", PAGE, re.M | re.S))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installer leaves in site-packages: the module, and the entry point in its metadata."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads(BLOCKS["toml"])["project"]
    (group, points), *_ = project["entry-points"].items()
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = "".join(f"{name} = {module}\n" for name, module in points.items())
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    (site / f"{points['toy']}.py").write_text(BLOCKS["python adapter"])
    return site


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Type commands where the toy adapter is installed."""
    scripts = Path(sys.executable).parent
    path = os.pathsep.join([str(installed), str(ROOT), str(ROOT / "adapters")])
    variables = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": path, "COLUMNS": "132"}

    def typed(commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return typed


@pytest.fixture(scope="module")
def module(installed: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_adapter_page", installed / "toy_adapter.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def model(folder: Path, name: str = "model.toy") -> Path:
    done = subprocess.run([sys.executable, "-c", BLOCKS["python model"]], cwd=folder, check=True)
    assert done.returncode == 0
    return (folder / "model.toy").rename(folder / name)


def forward(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """The toy network by hand, in float64."""
    w = {name: array.astype(float) for name, array in np.load(path).items()}
    first = np.tanh(x @ w["w1"] + w["b1"])
    second = np.tanh(first @ w["w2"] + w["b2"])
    return {"L000": first, "L001": second, "L002": second @ w["w3"] + w["b3"]}


def test_the_adapter_is_about_ten_lines() -> None:
    lines = [line for line in BLOCKS["python adapter"].splitlines() if line.strip()]
    assert len(lines) <= 20
    inside = lines[[line.startswith("def open_model") for line in lines].index(True) + 1 :]
    assert len(inside) <= 8


def test_the_page_s_commands_run_through_the_entry_point(run, tmp_path: Path) -> None:
    model(tmp_path)
    done = run(BLOCKS["bash adapter"])
    assert done.returncode == 0, done.stderr
    assert "toy: toy networks, NumPy" in done.stdout
    assert "2 hidden layers would be recorded by: repstat extract model.toy" in done.stderr
    with repstat.open_store(tmp_path / "toy.h5") as store:
        assert [(v.key, v.name, v.unit_shape) for v in store.layers.values()] == [
            ("L000", "fc1", (8,)), ("L001", "fc2", (4,)),
        ]  # fmt: skip
        facts = store.provenance[0]["adapter"]
        assert (facts["framework"], facts["files"][0]["name"]) == ("toy", "model.toy")
    with repstat.open_store(tmp_path / "noisy-toy.h5") as store:
        assert store.n_realizations == 4
        assert store.noise is not None
        assert dict(store.noise.noise_std) == {"L000": 0.1, "L001": 0.1}


def test_what_is_extracted_is_what_the_network_computes(run, tmp_path: Path) -> None:
    path = model(tmp_path)
    x = np.random.default_rng(4).normal(size=(50, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = run("repstat extract model.toy --inputs x.npy --layers all -o acts.h5")
    assert done.returncode == 0, done.stderr
    with repstat.open_store(tmp_path / "acts.h5") as store:
        for key, want in forward(path, x).items():
            np.testing.assert_allclose(store.layers[key].at(step=0).read(), want, atol=2e-6)


def test_without_the_package_nobody_reads_the_model(tmp_path: Path) -> None:
    path = model(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "repstat", "layers", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "none of the installed adapters" in done.stderr


def test_the_page_s_import_runs(run, tmp_path: Path) -> None:
    for step in (0, 100):
        values = np.random.default_rng(step).normal(size=(40, 3)).astype(np.float32)
        np.savez(tmp_path / f"step-{step}.npz", fc1=values, labels=np.arange(40) % 2)
    done = run(BLOCKS["bash"])
    assert done.returncode == 0, done.stderr
    done = run(f"python -W error -c '{BLOCKS['python']}'")
    assert done.returncode == 0, done.stderr
    label = [line.split() for line in done.stdout.splitlines() if line.split()[2] == "mi_label"]
    assert [words[:2] for words in label] == [
        ["0", "fc1"],
        ["1000", "fc1"],
        ["0", "fc2"],
        ["1000", "fc2"],
    ] or (sorted(words[0] for words in label) == ["0", "0", "1000", "1000"])
    # Without class means nothing is known of the label; three sigma apart in three units nearly everything.
    assert all(float(words[3]) < 0.05 for words in label if words[0] == "0")
    assert all(float(words[3]) > 0.4 for words in label if words[0] == "1000")


class TestTheToyAdapterKeepsTheContract(AdapterContract):
    @pytest.fixture
    def case(self, module: ModuleType, tmp_path: Path) -> Case:
        path = model(tmp_path)
        x = np.random.default_rng(1).normal(size=(7, 12)).astype(np.float32)
        return Case(
            open=lambda: module.open_model(path, AdapterOptions()),
            feeds={"x": x},
            keys=("L000", "L001", "L002"),
            kinds=("hidden", "hidden", "output"),
            files=(path,),
            expected=forward(path, x),
        )


def adapter_of(function: Callable[..., object], **facts: object) -> Adapter:
    from repstat.adapter import InputSpec

    return ForwardAdapter("toy", [InputSpec("x", np.dtype("float32"), (None, 3))], function, **facts)  # type: ignore[arg-type]


X = {"x": np.ones((4, 3), np.float32)}


def everything(adapter: Adapter) -> dict[str, np.ndarray]:
    return adapter.run(X, adapter.layers(X), samples=np.arange(4))


def test_an_activation_that_is_changed_in_place_later_is_kept() -> None:
    def function(record, x) -> None:
        h = record("pre", x - 2)
        np.maximum(h, 0, out=h)
        x[:] = 0
        record("post", h)

    values = everything(adapter_of(function))
    assert (values["L000"] == -1).all()
    assert (values["L001"] == 0).all()
    assert (X["x"] == 1).all()


def test_residual_joins_have_keys_of_their_own_and_any_order_of_types() -> None:
    def function(record, x) -> None:
        h = record("fc1", x)
        h = record("join", x + h, kind="residual")
        record("codes", (h > 0), kind="output")

    adapter = adapter_of(function)
    assert [(x.key, x.kind, x.dtype.name, x.source_dtype) for x in adapter.layers()] == [
        ("L000", "hidden", "float32", "float32"),
        ("R000", "residual", "float32", "float32"),
        ("L001", "output", "float32", "bool"),
    ]


def test_bfloat16_is_widened() -> None:
    ml_dtypes = require("ml_dtypes")
    adapter = adapter_of(lambda record, x: record("fc", x.astype(ml_dtypes.bfloat16)))
    assert [(x.dtype.name, x.source_dtype) for x in adapter.layers()] == [("float32", "bfloat16")]
    assert (everything(adapter)["L000"] == 1).all()


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda record, x: record("fc", x @ np.ones((4, 2))), r"the model fails .* in toy: ValueError"),
        (lambda record, x: record("fc", x.sum()), r"layer L000 \(fc\): found a single number"),
        (lambda record, x: record("fc", x.astype(complex)), r"not real numbers: layer L000 \(fc\): found"),
        (lambda record, x: [record(f"fc{i}", x) for i in range(len(x))], "found fc0, expected fc0, fc1"),
    ],
)  # fmt: skip
def test_functions_that_break_the_contract_are_refused(function: Callable[..., object], text: str) -> None:
    adapter = adapter_of(function)
    with pytest.raises(InputRefusedError, match=text):
        adapter.run(X, adapter.layers(), samples=np.arange(4))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda record, x: record("fc", x[:1]), "no axis grows with the number of samples"),
        (
            lambda record, x: record("fc", np.ones((len(x), len(x)))),
            "its shape is (2, 2) for two samples and (3, 3) for three",
        ),
    ],
)
def test_layers_without_samples_are_left_out_with_the_reason(
    function: Callable[..., object], why: str
) -> None:
    adapter = adapter_of(function)
    assert adapter.layers() == ()
    assert adapter.provenance()["skipped"] == [{"layer": "L000", "name": "fc", "why": why}]


def test_samples_may_be_on_another_axis() -> None:
    adapter = adapter_of(lambda record, x: record("steps first", x.T[:, :, None] * [1, 2]))
    (layer,) = adapter.layers()
    assert (layer.unit_shape, layer.batch_axis) == ((3, 2), 1)
    assert everything(adapter)["L000"].shape == (4, 3, 2)


def test_options_that_a_function_does_not_have_are_refused() -> None:
    def function(record, x) -> None:
        record("fc", x)

    with pytest.raises(DeviceUnavailableError, match="no execution provider 'cuda' in toy: this numpy model"):
        adapter_of(function, options=AdapterOptions(provider="cuda"))
    with pytest.raises(UsageError, match="--opt-level all has no meaning here"):
        adapter_of(function, options=AdapterOptions(opt_level="all"))
    limited = adapter_of(function, options=AdapterOptions(threads=1))
    assert (everything(limited)["L000"] == 1).all()
    assert limited.provenance()["threads"] == 1
