"""What must be known beside the numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import repstat
from repstat.caveats import notes


@pytest.fixture
def results(tmp_path: Path) -> repstat.Results:
    rng = np.random.default_rng(0)
    arrays = {step: {"L000": rng.standard_normal((20, 3)).astype(np.float32)} for step in (0, 1000, 2000)}
    store = repstat.import_arrays(arrays, store=tmp_path / "acts.h5")
    return repstat.analyze(store, estimators="binned")


def of(results: repstat.Results, *weights: str) -> list[str]:
    checkpoints = [
        {"step": step, "source": "", "sha256": "", "weights_sha256": w}
        for step, w in zip((0, 1000, 2000), weights, strict=True)
    ]
    return list(notes(replace(results, provenance={"checkpoints": checkpoints}), "nats"))


def test_a_checkpoint_that_is_there_twice_is_named(results: repstat.Results) -> None:
    said = "The weights at steps {} are the same: is one checkpoint there twice?"
    assert of(results, "a", "b", "a") == [said.format("0 and 2,000")]
    assert of(results, "a", "a", "a") == [said.format("0, 1,000 and 2,000")]
    assert of(results, "a", "b", "c") == []
    assert of(results, "", "", "") == []  # arrays from elsewhere have no weights
    assert list(notes(results, "nats")) == []
