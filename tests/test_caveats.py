"""What must be known beside the numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    "checkpoints", [None, "no list", 3, [None, "a"], [{"step": [1], "weights_sha256": "a"}] * 2, [{}, {}]]
)
@pytest.mark.parametrize("options", [None, "auto", {"noise_std": 3}, {"noise_std": None}])
def test_the_provenance_of_a_stranger_may_be_anything(
    results: repstat.Results, checkpoints: Any, options: Any
) -> None:
    noisy = tuple(replace(row, noise_model="measurement") for row in results.rows)
    strange = replace(results, rows=noisy, provenance={"checkpoints": checkpoints, "options": options})
    assert [note.split()[0] for note in notes(strange, "nats")] == ["Noise"]
