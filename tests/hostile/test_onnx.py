"""Hostile ONNX files, typed at `extract` and `layers`: refused by text, in time, and nothing is touched."""

from pathlib import Path

import pytest

from tests.hostile.onnx_files import CASES
from tests.hostile.running import problems


@pytest.mark.parametrize("name", CASES)
def test_extract(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = tmp_path / "theirs"
    folder.mkdir()
    case.make(folder)
    words = ["extract", "model.onnx", "-o", "acts.h5", *case.options]
    assert problems(folder, words, case.codes, case.text) == []


@pytest.mark.parametrize("name", [*CASES][::4])
def test_layers(name: str, tmp_path: Path) -> None:
    """The same files, every fourth: what does not matter before the model runs may pass."""
    case = CASES[name]
    folder = tmp_path / "theirs"
    folder.mkdir()
    case.make(folder)
    assert problems(folder, ["layers", "model.onnx", *case.options], (0, *case.codes)) == []
