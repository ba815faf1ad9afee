"""Fixtures that several test modules share."""

from pathlib import Path

import numpy as np
import pytest

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
