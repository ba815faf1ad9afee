"""Stores of one trajectory become one file; others are refused by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from repstat import merge, open_store
from repstat.errors import StoreDamagedError, UsageError
from repstat.store import verify
from tests.store.making import LAYERS, checkpoint, contents, flat, layer, samples, write, writer


def test_a_merge_is_an_uninterrupted_run(tmp_path: Path) -> None:
    late, early = write(tmp_path / "a.h5", (10, 30)), write(tmp_path / "b", (0, 20), folder=True)
    assert merge([late, early], tmp_path / "all.h5") == tmp_path / "all.h5"
    assert verify(tmp_path / "all.h5") == []
    whole = write(tmp_path / "whole.h5", (0, 10, 20, 30))
    with open_store(tmp_path / "all.h5") as merged, open_store(whole) as expected:
        assert contents(merged) == contents(expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "all.h5", "b", "whole.h5"]


def test_a_folder_becomes_a_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "acts", folder=True)
    merge([str(folder)], str(tmp_path / "acts.h5"))
    with open_store(folder) as one, open_store(tmp_path / "acts.h5") as other:
        assert contents(one) == contents(other)


def test_realizations_are_merged(tmp_path: Path) -> None:
    for step in (1, 2):
        with writer(tmp_path / f"{step}.h5", [step], n_realizations=2) as into:
            with into.checkpoint(checkpoint(step)) as part:
                for one in LAYERS:
                    for realization in (1, 0):
                        rows = flat(step + realization, one).reshape(-1, *one.unit_shape)
                        part.write(one.key, rows, realization=realization)
            into.finish()
    merge([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "all.h5")
    with open_store(tmp_path / "all.h5") as store:
        found = store.layers["L000"].at(step=2)
        assert found.shape == (2, 20, 3)
        np.testing.assert_array_equal(found[1], flat(3, LAYERS[0]))
        np.testing.assert_array_equal(found[:, 4:6, 1], [flat(2 + r, LAYERS[0])[4:6, 1] for r in (0, 1)])
        np.testing.assert_array_equal(found.read()[0], flat(2, LAYERS[0]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"identity": {}}, "layers is missing, expected"),
        ({"samples": samples(inputs_sha256="cd" * 32)}, "inputs_sha256 is 'cdcd.*, expected 'abab"),
        (
            {"layers": (layer("L000", signature="x"), LAYERS[1])},
            "L000 signature is 'x', expected 'linear>tanh'",
        ),
    ],
)
def test_another_trajectory_is_named(tmp_path: Path, options: dict[str, object], text: str) -> None:
    first, other = write(tmp_path / "a.h5", (1,)), write(tmp_path / "b.h5", (2,), **options)
    with pytest.raises(UsageError, match=text) as caught:
        merge([first, other], tmp_path / "all.h5")
    assert "b.h5 is not of the same trajectory as" in str(caught.value)
    folder = tmp_path / "folder"
    folder.mkdir()
    first.rename(folder / "a.h5")
    other.rename(folder / "b.h5")
    with pytest.raises(UsageError, match=text):
        open_store(folder)
    (problem,) = verify(folder)
    assert "is not of the same trajectory" in problem
    assert not (tmp_path / "all.h5").exists()


def test_a_step_must_not_occur_twice(tmp_path: Path) -> None:
    first, other = write(tmp_path / "a.h5", (1, 2)), write(tmp_path / "b.h5", (2, 3))
    with pytest.raises(UsageError, match=r"step 2 occurs twice: it is in .*a.h5 and in .*b.h5"):
        merge([first, other], tmp_path / "all.h5")
    shutil.copy(first, tmp_path / "c.h5")
    assert any("occurs twice" in problem for problem in verify(tmp_path))


def test_outputs(tmp_path: Path) -> None:
    first, other = write(tmp_path / "a.h5", (1,)), write(tmp_path / "b.h5", (2,))
    with pytest.raises(UsageError, match=r"a.h5 already exists"):
        merge([first, other], first)
    merge([first, other], first, overwrite=True)
    with open_store(first) as store:
        assert store.steps == (1, 2)
    with pytest.raises(UsageError, match="nothing to merge"):
        merge([], tmp_path / "all.h5")
    with pytest.raises(UsageError, match="there is no store"):
        merge([tmp_path / "none.h5"], tmp_path / "all.h5")


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_a_store_is_replaced(tmp_path: Path, overwrite: bool) -> None:
    first, other = write(tmp_path / "a.h5", (1,)), write(tmp_path / "b.h5", (2,))
    notes, folder, link = tmp_path / "notes.txt", tmp_path / "folder", tmp_path / "link.h5"
    notes.write_text("mine")
    folder.mkdir()
    link.symlink_to(first)
    refused = "it is not an activation store" if overwrite else "already exists"
    for output, text in ((notes, refused), (folder, "is a folder"), (link, "is a link")):
        with pytest.raises(UsageError, match=text):
            merge([first, other], output, overwrite=overwrite)
    assert notes.read_text() == "mine"
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5", "folder", "link.h5", "notes.txt"]


def test_damage_is_not_copied(tmp_path: Path) -> None:
    first, other = write(tmp_path / "a.h5", (1,)), write(tmp_path / "b.h5", (2,))
    content = bytearray(other.read_bytes())
    content[content.index(flat(2, LAYERS[0]).tobytes()) + 7] ^= 1
    other.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"in .*b.h5: step 2, layer L000: their SHA-256"):
        merge([first, other], tmp_path / "all.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]
