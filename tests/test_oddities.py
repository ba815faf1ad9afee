"""What is said of activations while they are written, and of constant units in an analysis."""

from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import repstat
from repstat.arrays import ConstantUnits
from repstat.caveats import notes
from repstat.oddities import Oddities
from tests.adapters.onnx_models import Net
from tests.store.making import layer

N = 40
PLAIN = np.random.default_rng(3).standard_normal((N, 6)).astype(np.float32)


class Listener:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, description: str, total: int, unit: str) -> None: ...
    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


@given(
    rows=arrays(np.float32, (23, 5), elements=st.sampled_from([0.0, -0.0, 1.0, float("nan")])),
    cuts=st.lists(st.integers(0, 23), max_size=4),
)
def test_units_are_constant_where_all_values_are_equal(rows: np.ndarray, cuts: list[int]) -> None:
    rows[:, 0] = rows[0, 0]
    found = ConstantUnits()
    for block in np.split(rows, sorted(cuts)):
        found.add(block)
    assert found.count == sum(bool((unit == unit[0]).all()) for unit in rows.T)


def test_of_a_checkpoint_that_is_written_nothing_large_is_kept() -> None:
    oddities = Oddities([layer("L000", (6,))])
    with oddities.watch(0) as seen:
        seen["L000"].add(PLAIN)
        units = ref(seen["L000"])
    del seen
    assert units() is None


def imported(path: Path, checkpoints: dict[int, np.ndarray], **options: Any) -> list[str]:
    listener = Listener()
    named = {step: {"fc": values, "out": 2 * PLAIN + step} for step, values in checkpoints.items()}
    repstat.import_arrays(named, store=path, progress=listener, **options)
    return listener.notes


def test_a_layer_that_tells_nothing_is_named_when_it_is_written(tmp_path: Path) -> None:
    dead = np.zeros_like(PLAIN)
    said = (
        "L000 (fc) is the same for every sample at step {}: is the layer dead, or are the inputs all "
        "the same?"
    )
    assert imported(tmp_path / "a.h5", {0: PLAIN, 1000: dead}) == [said.format("1,000")]
    assert imported(tmp_path / "b.h5", {0: dead, 5: dead}) == [said.format("0 and at step 5")]
    assert imported(tmp_path / "c.h5", dict.fromkeys(range(3), dead)) == [
        said.format("0 and at 2 more checkpoints")
    ]
    partly = PLAIN.copy()
    partly[:, 1:] = 3.0
    assert imported(tmp_path / "d.h5", {0: PLAIN, 1: partly}) == []
    one = {0: {"fc": PLAIN[:1]}}
    listener = Listener()
    repstat.import_arrays(one, store=tmp_path / "e.h5", progress=listener)
    assert listener.notes == []


def test_values_that_are_not_finite_are_counted_when_they_are_written(tmp_path: Path) -> None:
    broken = PLAIN.copy()
    broken[3, 2], broken[4] = np.nan, np.inf
    assert imported(tmp_path / "a.h5", {0: PLAIN, 8: broken}) == [
        "L000 (fc) has 1 NaN and 6 infinite values at step 8: its statistics are undefined there"
    ]


def test_a_checkpoint_that_is_there_twice_is_named_when_it_is_written_and_analysed(tmp_path: Path) -> None:
    said = (
        "The activations at steps {} are the same in every layer: is one checkpoint there twice, or are the "
        "layers not trained?"
    )
    path, listener = tmp_path / "a.h5", Listener()
    same = {"fc": PLAIN, "out": 2 * PLAIN}
    several = {0: same, 7: {"fc": PLAIN, "out": PLAIN}, 1000: same}
    repstat.import_arrays(several, store=path, progress=listener)
    assert listener.notes == [said.format("0 and 1,000")]
    results = repstat.analyze(path, estimators="binned")
    assert list(notes(results, "nats")) == [said.format("0 and 1,000")]
    # Of the first layer alone the second checkpoint cannot be told apart either.
    results = repstat.analyze(path, estimators="binned", layers="fc")
    assert list(notes(results, "nats")) == [said.format("0, 7 and 1,000")]


def test_checkpoints_of_an_interrupted_run_are_compared_too(tmp_path: Path) -> None:
    same = {"fc": PLAIN}
    path = tmp_path / "acts"
    repstat.import_arrays({0: same}, store=path, folder=True)
    listener = Listener()
    repstat.import_arrays({0: same, 1: same}, store=path, folder=True, resume=True, progress=listener)
    assert listener.notes[0] == "resuming: 1 of 2 checkpoints are there"
    assert listener.notes[1].startswith("The activations at steps 0 and 1 are the same in every layer")


@pytest.mark.parametrize("noise", [{}, {"noise_std": 0.1, "realizations": 3, "conditional_samples": 0}])
def test_an_extraction_says_it_too(tmp_path: Path, noise: dict[str, Any]) -> None:
    """The first layer's bias holds it below zero; behind it only noise tells the samples apart."""
    net = Net()
    weight, bias = net.weight("dead.weight", 4, 5), net.const("dead.bias", [-1e3] * 5)
    hidden = net.op("Relu", net.op("Gemm", "x", weight, bias))
    model = net.build(net.linear(net.linear(hidden, 5, 3, "fc", act="Tanh"), 3, 2, "out"))
    listener = Listener()
    repstat.extract(model, PLAIN[:, :4], store=tmp_path / "a.h5", progress=listener, batch_size=7, **noise)
    constant = [
        note.split(" is the same for every sample")[0] for note in listener.notes if "dead, or" in note
    ]
    assert constant == (["L000 (dead)"] if noise else ["L000 (dead)", "L001 (fc)"])


def test_constant_units_are_counted_at_every_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((3, N, 8)).astype(np.float32)
    values[1, :, :2], values[2, :, 1:7] = 0.0, 4.0
    repstat.import_arrays(
        {10**step: {"relu": values[step], "out": PLAIN} for step in range(3)}, store=tmp_path / "a.h5"
    )
    results = repstat.analyze(tmp_path / "a.h5", estimators="clustering")
    rows = results.select(layer="L000", quantity="constant_units")
    assert [(row.step, row.value, row.std_error, row.ceiling) for row in rows] == [
        (1, 0.0, 0.0, 8.0), (10, 2.0, 0.0, 8.0), (100, 6.0, 0.0, 8.0)
    ]  # fmt: skip
    assert list(notes(results, "nats")) == [
        "Constant units in L000: 6 of 8 have one value for every sample at step 100."
    ]


def test_the_worst_of_several_layers_with_constant_units_is_named(tmp_path: Path) -> None:
    few, most = PLAIN.copy(), PLAIN[:, :3].copy()
    few[:, 0], most[:, 1:] = 1.0, 0.0
    repstat.import_arrays({2000: {"a": few, "b": most, "c": PLAIN}}, store=tmp_path / "a.h5")
    results = repstat.analyze(tmp_path / "a.h5", estimators="clustering")
    assert list(notes(results, "nats")) == [
        "Constant units in 2 layers, most in L001: 2 of 3 have one value for every sample at step 2,000."
    ]


def test_where_values_are_not_finite_or_alone_nothing_is_counted(tmp_path: Path) -> None:
    broken = PLAIN.copy()
    broken[3, 2] = np.nan
    repstat.import_arrays({0: {"fc": broken}}, store=tmp_path / "a.h5")
    repstat.import_arrays({0: {"fc": PLAIN[:1]}}, store=tmp_path / "b.h5")
    for name, reason in (
        ("a", "1 NaN and 0 infinite values in 1 of 40 samples"),
        ("b", "one sample has no other"),
    ):
        results = repstat.analyze(tmp_path / f"{name}.h5", estimators="clustering")
        (row,) = results.select(quantity="constant_units")
        assert (row.value, row.status.value, row.reason) == (None, "undefined", reason)
        assert not [note for note in notes(results, "nats") if "Constant" in note]
