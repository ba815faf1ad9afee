"""Fixtures that several test modules share."""

from pathlib import Path

import numpy as np
import pytest

from repstat.results import Results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def trajectory() -> list[Path]:
    """The checkpoints of the tanh network, in the order of their steps."""
    return sorted((ROOT / "fixtures" / "twelve_bit").glob("step-*.onnx"))


@pytest.fixture(scope="session")
def data_file() -> Path:
    return ROOT / "fixtures" / "twelve_bit" / "data.npz"


@pytest.fixture(scope="session")
def metrics_file() -> Path:
    return ROOT / "fixtures" / "twelve_bit" / "metrics.csv"


@pytest.fixture(scope="session")
def models() -> Path:
    return ROOT / "fixtures" / "models"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20181018)


@pytest.fixture(scope="session")
def training(
    tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path], data_file: Path, metrics_file: Path
) -> Results:
    """Results of the fixture's training: all its checkpoints, on some of its samples."""
    from tests.report import making

    return making.training(tmp_path_factory.mktemp("training"), trajectory, data_file, metrics_file)


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path], data_file: Path) -> Results:
    """Results of some of its checkpoints with noise in their layers."""
    from tests.report import making

    return making.noisy(tmp_path_factory.mktemp("noisy"), trajectory[::4], data_file)


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path], data_file: Path) -> Results:
    """Results of its last checkpoint, of which nobody knows the classes."""
    from tests.report import making

    return making.unlabelled(tmp_path_factory.mktemp("unlabelled"), trajectory, data_file)
