"""Checkpoints are found by what they are, and what is left out is said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import repstat
from repstat import discovery
from repstat.checkpoints import find_models
from repstat.errors import UsageError
from repstat.naming import natural_key

Put = Callable[..., Path]


def counted(function: Callable[..., object], calls: list[int]) -> Callable[..., object]:
    def count(**options: object) -> object:
        calls.append(1)
        return function(**options)

    return count


@pytest.fixture
def put(tmp_path: Path, trajectory: list[Path]) -> Put:
    """Put a checkpoint of the trajectory under a name."""

    def copy(name: str, number: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trajectory[number], path)
        return path

    return copy


def test_a_folder_is_its_checkpoints_in_natural_order_and_the_rest_is_said(tmp_path: Path, put: Put) -> None:
    wanted = [put(f"run/step-{step}.onnx") for step in (0, 9, 10, 100)]
    put("run/no_suffix_but_onnx-200")
    put("run/latest.onnx")
    for name in ("optimizer.pt", "scheduler_3.bin", "rng_state_0.pth", "notes.txt", ".hidden", "a.onnx.data"):
        (tmp_path / "run" / name).write_text("text")
    found = find_models([tmp_path / "run"])
    assert list(found.models) == [tmp_path / "run" / "no_suffix_but_onnx-200", *wanted]
    said = "\n".join(found.notes)
    assert f"skipped in the folder {tmp_path / 'run'}: notes.txt: no installed adapter reads it" in said
    assert "optimizer.pt: it is named as the state of something else (optimizer)" in said
    assert "scheduler_3.bin: it is named as the state of something else (scheduler)" in said
    assert "rng_state_0.pth: it is named as the state" in said
    assert "latest.onnx: there is no step in its name" in said
    assert "hidden" not in said
    assert "onnx.data" not in said  # belongs to a model


def test_folders_that_hold_one_checkpoint_each(tmp_path: Path, put: Put) -> None:
    late, early = put("hf/checkpoint-1000/model.onnx", 1), put("hf/checkpoint-500/model.onnx")
    (tmp_path / "hf" / "checkpoint-500" / "optimizer.pt").write_text("")
    put("hf/two/1.onnx")
    put("hf/two/2.onnx")
    found = find_models([tmp_path / "hf"])
    assert list(found.models) == [early, late]
    assert any("two: it holds 2 model files, expected one" in note for note in found.notes)
    store = repstat.extract(tmp_path / "hf", np.zeros((3, 12), np.float32), store=tmp_path / "a.h5")
    with repstat.open_store(store) as opened:
        assert opened.steps == (500, 1000)


def test_a_pattern_is_expanded_where_the_shell_did_not(tmp_path: Path, put: Put) -> None:
    wanted = [put(f"ckpt-{step}.onnx") for step in (2, 11)]
    put("other.onnx")
    assert list(find_models([str(tmp_path / "ckpt-*.onnx")]).models) == wanted
    assert list(find_models([str(tmp_path / "ckpt-[0-9].onnx")]).models) == wanted[:1]
    odd = put("ckpt-[7].onnx")
    assert list(find_models([odd]).models) == [odd]  # a file may be called like a pattern


def test_names_are_sorted_as_a_person_does_whatever_their_digits() -> None:
    names = ["step-10", "step-9", "step-1²2", "step-1", "step-٣"]
    assert sorted(names, key=natural_key) == ["step-1", "step-1²2", "step-9", "step-10", "step-٣"]


def test_adapters_are_looked_for_once_for_a_folder(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "repstat.checkpoints.find_adapters", lambda: calls.append(1) or discovery.find_adapters()
    )
    monkeypatch.setattr("repstat.discovery.entry_points", counted(discovery.entry_points, calls))
    for step in range(5):
        put(f"run/step-{step}.onnx")
    assert len(find_models([tmp_path / "run"]).models) == 5
    assert len(calls) == 2


def test_unnumbered_models_stay_where_none_has_a_number(tmp_path: Path, put: Put) -> None:
    only = put("export/model.onnx")
    assert find_models([tmp_path / "export"]).models == (only,)


def test_live_models_pass(put: Put) -> None:
    live = object()
    assert find_models([live, put("a.onnx")]).models[0] is live


def test_nothing_to_extract_says_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pattern").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    cases = {
        tmp_path / "empty": "no checkpoint in the folder .*: it is empty",
        tmp_path / "texts": r"a.txt: no installed adapter reads it.*repstat info",
        tmp_path / "step-*": "no checkpoint in the pattern .*: nothing matches it",
        tmp_path / "pattern": "no checkpoint in the folder .*pattern: it is empty",
        tmp_path / "none.onnx": "model not found",
    }
    for path, text in cases.items():
        with pytest.raises(UsageError, match=text):
            find_models([path])
