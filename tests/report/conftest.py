"""Results to report on, made once."""

from pathlib import Path

import pytest

from repstat.results import Results
from tests.report import making


@pytest.fixture(scope="session")
def training(
    tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path], data_file: Path, metrics_file: Path
) -> Results:
    """The fixture's training, all its checkpoints, on some of its samples."""
    return making.training(tmp_path_factory.mktemp("training"), trajectory, data_file, metrics_file)


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path], data_file: Path) -> Results:
    return making.noisy(tmp_path_factory.mktemp("noisy"), trajectory[::4], data_file)


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path], data_file: Path) -> Results:
    return making.unlabelled(tmp_path_factory.mktemp("unlabelled"), trajectory, data_file)
