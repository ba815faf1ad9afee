"""Layers that an adapter could not record are told wherever someone would miss them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import repstat
from repstat.errors import InputRefusedError
from repstat.progress import Silent
from repstat.skipped import skipped_layers, skipped_notes
from tests.adapters.onnx_models import Net
from tests.cli.conftest import RunCli

NOTE = "skipped, and why: L000 pooled: no axis grows with the number of samples"


def _model(folder: Path) -> str:
    """Save a model whose layer ``pooled`` is a mean over the batch."""
    net = Net()
    pooled = net.op("Tanh", net.bare(net.op("ReduceMean", "x", axes=[0], keepdims=1), 4, 5, "pooled"))
    hidden = net.op("Tanh", net.bare("x", 4, 5, "fc1"))
    path = folder / "model.onnx"
    onnx.save(net.build(net.bare(net.op("Add", hidden, pooled), 5, 2, "out")), path)
    return str(path)


def test_layers_extract_and_inspect_show_what_was_skipped(run_cli: RunCli, tmp_path: Path) -> None:
    model, store = _model(tmp_path), str(tmp_path / "acts.h5")
    assert f"repstat: {NOTE}\n" in run_cli("layers", model).err
    assert f"repstat: {NOTE}\n" in run_cli("extract", model, "-o", store).err
    assert "skipped:\n  layer L000  name pooled  why no axis grows" in run_cli("inspect", store).out
    facts = json.loads(run_cli("inspect", store, "--json").out)
    assert facts["skipped"] == [
        {"layer": "L000", "name": "pooled", "why": "no axis grows with the number of samples"}
    ]


def test_python_is_told_as_of_anything_else(tmp_path: Path) -> None:
    said = []

    class Hears(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    x = np.zeros((5, 4), np.float32)
    repstat.extract(_model(tmp_path), x, store=tmp_path / "a.h5", progress=Hears())
    assert NOTE in said


def test_a_model_without_layers_says_which_were_skipped(run_cli: RunCli, tmp_path: Path) -> None:
    net = Net()
    pooled = net.op("Tanh", net.bare(net.op("ReduceMean", "x", axes=[0], keepdims=1), 4, 5, "pooled"))
    onnx.save(net.build(net.bare(pooled, 5, 2, "out")), tmp_path / "m.onnx")
    with pytest.raises(InputRefusedError, match="the model has no hidden layer") as caught:
        repstat.extract(tmp_path / "m.onnx", np.zeros((5, 4), np.float32), store=tmp_path / "a.h5")
    (note,) = caught.value.__notes__
    assert note.startswith("Skipped, and why: L000 pooled, L001 out: no axis grows")


def test_nothing_is_said_where_nothing_was_skipped(
    run_cli: RunCli, trajectory: list[Path], tmp_path: Path
) -> None:
    model, store = trajectory[0], str(tmp_path / "acts.h5")
    assert "skipped" not in run_cli("extract", model, "-o", store).err + run_cli("layers", model).err
    assert "skipped" not in run_cli("inspect", store).out
    assert json.loads(run_cli("inspect", store, "--json").out)["skipped"] == []


def test_many_are_cut_and_it_is_said_where_all_are() -> None:
    record = {"skipped": [{"layer": "", "name": f"n{i}", "why": "it is in a loop"} for i in range(9)]}
    (note,) = skipped_notes(record)
    assert note == (
        "skipped, and why: n0, n1, n2, n3 and 5 more: it is in a loop (`repstat inspect STORE` lists all)"
    )


@pytest.mark.parametrize("skipped", [None, "x", 3, [1], [{}]])
def test_what_a_stranger_s_store_says_is_no_error(skipped: Any) -> None:
    assert skipped_layers([{"skipped": skipped}]) in ([], [{"layer": "", "name": "", "why": ""}])
