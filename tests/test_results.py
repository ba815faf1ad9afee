"""Rows, units, the results file and xarray; long by the table of what can be wrong with a file."""

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import log
from pathlib import Path

import h5py
import numpy as np
import pytest

import repstat
from repstat.errors import LockedError, ResourceError, StoreDamagedError, UsageError
from repstat.results import Estimate, Histogram, Results, Row, Scatter, Status, saturates
from repstat.store.encode import put_texts, texts
from repstat.store.header import metadata_digest
from repstat.store.lock import OutputLock
from repstat.store.results_file import check_output
from repstat.store.schema import LIBVER
from tests.store.making import write

HOSTILE = "=cmd|' /C calc'!A0 <script>\u202e 💥 " + "x" * 300


def row(**changes: object) -> Row:
    fields: dict[str, object] = {
        "checkpoint": 0, "step": 10, "epoch": 0.5, "layer": "L000", "layer_name": HOSTILE,
        "quantity": "mi_input", "estimator": "noisy_mi", "value": log(2), "std_error": log(2) / 10,
        "lower_bound": 0.0, "upper_bound": 1.0, "ceiling": 2.0, "status": Status.OK, "units": "nats",
        "n_samples": 4, "n_units": 2, "noise_std": 0.1, "noise_model": "measurement",
        "params": {"noise": "0.1"},
    }  # fmt: skip
    return Row(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def results() -> Results:
    undefined = row(
        checkpoint=1, step=20, epoch=None, value=None, std_error=None,
        status=Status.UNDEFINED, reason="NaN in 3 samples",
    )  # fmt: skip
    auc = row(quantity="distance_auc", units="1", noise_std=None, noise_model="", params={}, value=0.75)
    return Results(
        rows=(row(), undefined, auc),
        histograms=(
            Histogram("L000", "distance", "within", np.array([0.0, 1.0, 2.0]), np.array([[1, 2], [3, 4]])),
        ),
        scatters=(
            Scatter(
                "L000",
                ("PC 1", "PC 2"),
                np.array([0, 2, 3]),
                np.array([1, 0, 1]),
                np.array([[[0.5, 1], [2, 3], [4, 5]], np.full((3, 2), np.nan)]),
                np.array([0.75, np.nan]),
            ),
        ),
        steps=(10, 20),
        epochs=(0.5, None),
        metrics={"train_loss": (1.5, float("nan"))},
        layers={"L000": HOSTILE},
        n_samples=4,
        n_classes=2,
        synthetic=True,
        provenance={"seed": 0, "store": "acts.h5"},
    )


def test_the_results_file_gives_back_what_was_saved(results: Results, tmp_path: Path) -> None:
    path = results.save(tmp_path / "r.h5")
    again = repstat.open_results(path)
    assert again.to_rows() == results.to_rows()
    assert again.layers == results.layers
    assert (again.steps, again.epochs) == (results.steps, results.epochs)
    assert again.metrics["train_loss"][0] == 1.5
    assert np.isnan(again.metrics["train_loss"][1])
    assert (again.synthetic, again.n_samples, again.n_classes) == (True, 4, 2)
    assert again.provenance == results.provenance
    np.testing.assert_array_equal(again.histograms[0].counts, results.histograms[0].counts)
    assert (again.histograms[0].relation, again.histograms[0].layer) == ("within", "L000")
    (scatter,), (was,) = again.scatters, results.scatters
    assert (scatter.layer, scatter.axes) == ("L000", ("PC 1", "PC 2"))
    for name in ("samples", "labels", "coordinates", "shown"):
        np.testing.assert_array_equal(getattr(scatter, name), getattr(was, name))
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]


def test_a_file_has_the_oldest_version_that_suffices(results: Results, tmp_path: Path) -> None:
    for found, version in ((results, [1, 1]), (replace(results, scatters=()), [1, 0])):
        with h5py.File(found.save(tmp_path / "r.h5", overwrite=True)) as file:
            assert file.attrs["schema_version"].tolist() == version
            assert ("scatters" in file) is (version == [1, 1])
    assert repstat.open_results(tmp_path / "r.h5").scatters == ()


def test_a_file_of_the_first_version_is_read() -> None:
    found = repstat.open_results(Path(__file__).parent / "store" / "archive" / "results-v1.0.h5")
    assert [row.value for row in found.rows] == [0.5, None]
    assert (found.steps, found.layers, found.scatters) == ((10, 20), {"L000": "fc1"}, ())
    assert found.histograms[0].counts.tolist() == [[1, 2], [3, 4]]


def test_bits_convert_information_and_nothing_else(results: Results) -> None:
    mi, _, auc = results.to_rows("bits")
    assert mi["value"] == pytest.approx(1.0)
    assert mi["std_error"] == pytest.approx(0.1)
    assert mi["ceiling"] == pytest.approx(2 / log(2))
    assert mi["noise_std"] == 0.1
    assert mi["units"] == "bits"
    assert (auc["value"], auc["units"]) == (0.75, "1")


def test_rows_are_json_without_nan(results: Results) -> None:
    lines = [json.dumps(each, allow_nan=False) for each in results.to_rows()]
    assert json.loads(lines[1])["value"] is None
    assert json.loads(lines[1])["reason"] == "NaN in 3 samples"


def test_xarray_has_the_trajectory(results: Results) -> None:
    dataset = results.to_xarray("bits")
    assert dataset["mi_input"].dims == ("layer", "checkpoint", "noise")
    np.testing.assert_allclose(dataset["mi_input"].sel(layer="L000", noise="0.1"), [1.0, np.nan])
    assert dataset["mi_input_status"].sel(noise="0.1").values.tolist() == [["ok", "undefined"]]
    assert dataset["distance_auc"].dims == ("layer", "checkpoint")
    assert dataset["step"].values.tolist() == [10, 20]
    assert dataset["metric_train_loss"].values[0] == 1.5
    assert dataset.attrs["units"] == "bits"


def test_rows_are_selected_by_field_or_parameter(results: Results) -> None:
    assert len(results.select(quantity="mi_input")) == 2
    assert len(results.select(quantity="mi_input", noise="0.1", step=10)) == 1
    assert results.select(layer="L001") == ()


def test_nothing_is_overwritten_unasked(results: Results, tmp_path: Path) -> None:
    path = results.save(tmp_path / "r.h5")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"results exist already in .*r.h5: nothing is overwritten unasked"):
        results.save(path)
    assert path.read_bytes() == before
    results.save(path, overwrite=True)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="will not overwrite a file that is not a results file"):
        results.save(tmp_path / "precious.txt", overwrite=True)
    (tmp_path / "link.h5").symlink_to(path)
    with pytest.raises(UsageError, match="it is a link"):
        results.save(tmp_path / "link.h5", overwrite=True)


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no results file .*nothing\.h5"):
        repstat.open_results(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreDamagedError, match=r"text\.h5 is not a results file: it begins with b'hello'"):
        repstat.open_results(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w", libver=LIBVER) as file:
        put_texts(file, schema="something else")
        file.attrs["schema_version"] = np.array([1, 0])
    with pytest.raises(StoreDamagedError, match="its schema is 'something else', not 'repstat/results'"):
        repstat.open_results(tmp_path / "other.h5")
    with pytest.raises(StoreDamagedError, match=r"not 'repstat/results': it is an activation store"):
        repstat.open_results(write(tmp_path / "acts.h5", (0,)))


def test_what_comes_back_is_said_otherwise_only_where_utf_8_has_no_form(
    results: Results, tmp_path: Path
) -> None:
    """The name of a store that is not UTF-8 reaches Python as lone surrogates."""
    name = os.fsdecode(b"na\xffme.h5")
    odd = replace(results, provenance={"store": name}, layers={"L000": f"{name}\0é"})
    path = tmp_path / os.fsdecode(b"na\xffme.results.h5")
    again = repstat.open_results(odd.save(path))
    assert again.provenance == {"store": name}
    assert again.layers == {"L000": "na\ufffdme.h5\ufffdé"}


@pytest.mark.parametrize(
    "missing", [("metrics",), ("rows", "histograms"), ("layers", "rows", "histograms", "scatters")]
)
def test_tables_without_rows(results: Results, tmp_path: Path, missing: tuple[str, ...]) -> None:
    without: dict[str, object] = {name: type(getattr(results, name))() for name in missing}
    path = replace(results, **without).save(tmp_path / "r.h5")
    again = repstat.open_results(path)
    assert {name: getattr(again, name) for name in missing} == without
    with h5py.File(path) as file:
        file.visititems(lambda _, item: isinstance(item, h5py.Group) or item.size or pytest.fail(item.name))


def test_the_file_is_what_its_specification_says(results: Results, tmp_path: Path) -> None:
    types = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found = [(f"{name}@{key}", item.attrs.get_id(key).get_type()) for key in item.attrs]
        types.update(found + ([(name, item.id.get_type())] if isinstance(item, h5py.Dataset) else []))

    with h5py.File(results.save(tmp_path / "r.h5")) as file:
        note("", file)
        file.visititems(note)
        text = bytes(file["provenance"][0]) + b"".join(file["rows/params"][...])
        digest = metadata_digest(file)
        assert file.attrs["metadata_sha256"].decode() == digest
    for name, found in types.items():
        if found.get_class() == h5py.h5t.STRING:
            assert found.get_cset() == h5py.h5t.CSET_UTF8, name
            assert not found.is_variable_str()
        else:
            assert found.equal(h5py.h5t.STD_I64LE) or found.equal(h5py.h5t.IEEE_F64LE), name
    assert {"@synthetic", "@schema", "rows/value", "checkpoints/metrics/value"} < set(types)
    assert text.isascii()


def test_saving_is_synced_renamed_and_synced(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file reaches the disk before its name does, and the folder after."""
    events: list[str] = []
    sync, rename = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        events.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    results.save(tmp_path / "r.h5")
    assert events == ["file", "r.h5", "folder"]


def test_what_is_read_back_must_be_what_was_written(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stores one bit otherwise, unnoticed by HDF5."""
    original, needle = os.pwrite, np.array([[1, 2], [3, 4]]).tobytes()

    def write_wrongly(descriptor: int, data: memoryview, position: int) -> int:
        content = bytearray(data)
        if needle in content:
            content[content.index(needle) + 5] ^= 1
        return original(descriptor, content, position)

    monkeypatch.setattr(os, "pwrite", write_wrongly)
    with pytest.raises(StoreDamagedError, match=r"histograms/0000/counts: it reads differently"):
        results.save(tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite", "fsync", "open"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_what_was_there(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, exists: bool
) -> None:
    path = tmp_path / "r.h5"
    if exists:
        results.save(path)
    before = {entry: entry.read_bytes() for entry in tmp_path.iterdir()}
    original = getattr(os, call)

    def full(*arguments: object, **options: object) -> object:
        if call == "open" and ".tmp-" not in str(arguments[0]):
            return original(*arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        ResourceError, match=r"the disk is full in .*r\.h5: No space left on device"
    ) as caught:
        results.save(path, overwrite=True)
    monkeypatch.undo()
    assert caught.value.exit_code == 6
    assert "The results were not saved. Free some space and run the same command again." in str(caught.value)
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_what_a_dead_process_left_is_removed(results: Results, tmp_path: Path) -> None:
    (tmp_path / f"r.h5.tmp-{os.getpid()}").write_text("half")
    (tmp_path / "r.h5.tmp-1").write_text("half")
    (tmp_path / "r.h5.tmp-notes").write_text("mine")
    results.save(tmp_path / "r.h5")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["r.h5", "r.h5.tmp-notes"]


def test_two_do_not_write_one_file(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    with OutputLock(path), pytest.raises(LockedError, match="another process is writing in"):
        check_output(path, overwrite=False)
    results.save(path)


@pytest.mark.parametrize("name", ["", "no/r.h5", "x" * 300, "a\0b"])
def test_paths_that_cannot_be_written(results: Results, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot write the results in"):
        results.save(tmp_path / name)
    with (
        pytest.raises(UsageError, match=r"there is no results file|cannot open")
        if name
        else (pytest.raises(StoreDamagedError, match="it is not a regular file"))
    ):
        repstat.open_results(tmp_path / name)


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a file and make its hash right again: only the rule in question can refuse it."""
    with h5py.File(path, "r+", libver=LIBVER) as file:
        change(file)
        with suppress(KeyError):  # of a link to nowhere
            put_texts(file, metadata_sha256=metadata_digest(file))


def replaced(name: str, values: object, **options: object) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def attribute(name: str, value: object, owner: str = "/") -> Callable[[h5py.File], object]:
    return lambda file: file[owner].attrs.create(name, value)


def linked(file: h5py.File) -> None:
    del file["rows/step"]
    file["rows/step"] = h5py.ExternalLink("/etc/other.h5", "/x")


METRICS = "checkpoints/metrics"
BREAKS = {
    "another major": (attribute("schema_version", [9, 7]), "found format 9.7, this repstat reads 1.0 to 1.1"),
    "newer minor": (attribute("schema_version", [1, 2]), "the results file has another version"),
    "link": (linked, "rows/step: it is a link to elsewhere"),
    "compressed": (replaced("rows/step", [1, 2, 3], compression="gzip"), "rows/step: it is filtered"),
    "dtype": (replaced("rows/step", [1.0, 2.0, 3.0]), "rows/step: its type is none of i8"),
    "unequal": (replaced("rows/step", [1, 2]), "rows/step: its shape is (2,), expected 3 rows"),
    "missing column": (lambda f: f.pop("rows/step"), "rows: step is missing"),
    "missing epochs": (lambda f: f.pop("checkpoints/epoch"), "checkpoints: epoch is missing"),
    "missing group": (lambda f: f.pop("layers"), "layers is missing"),
    "more": (lambda f: f.create_group("more"), "more: the format has nothing of this name"),
    "bool": (attribute("synthetic", True), "@synthetic: the attribute has another type than i8"),
    "synthetic": (attribute("synthetic", 2), "found 2, 4, 2"),
    "n_samples": (attribute("n_samples", -1), "found 1, -1, 2"),
    "status": (replaced("rows/status", texts(["ok", "fine", "ok"])), "rows/status: found 'fine'"),
    "noise model": (replaced("rows/noise_model", texts(["", "", "x"])), "rows/noise_model: found 'x'"),
    "layer": (replaced("rows/layer", texts(["L000", "L000", "L1"])), "rows/layer: found 'L1'"),
    "checkpoint": (replaced("rows/checkpoint", [0, 1, 2]), "rows/checkpoint: found '2'"),
    "negative": (replaced("rows/checkpoint", [0, 1, -1]), "rows/checkpoint: found '-1'"),
    "not UTF-8": (
        replaced("layers/name", np.array([b"\xff"], h5py.string_dtype("utf-8", 1))),
        "layers/name: it is not UTF-8",
    ),
    "JSON": (replaced("rows/params", texts(["{}", "{", "{}"])), "rows/params: it is not JSON"),
    "NaN in JSON": (replaced("provenance", texts(['{"a": NaN}'])), "provenance: it is not JSON"),
    "deep JSON": (replaced("provenance", texts(["[" * 50_000])), "provenance: it is not JSON"),
    "no object": (replaced("provenance", texts(["[1]"])), "provenance: expected a JSON object"),
    "two provenances": (replaced("provenance", texts(["{}", "{}"])), "its shape is (2,), expected 1 entry"),
    "metric names": (
        lambda f: (
            replaced(f"{METRICS}/name", texts(["a", "a"]))(f),
            replaced(f"{METRICS}/value", np.ones((2, 2)))(f),
        ),
        "name: a name occurs twice",
    ),
    "metric shape": (replaced(f"{METRICS}/value", np.ones((1, 3))), " checkpoints. Do not use it"),
    "edges": (replaced("histograms/0000/edges", np.arange(4.0)), "found 4 edges for counts of shape (2, 2)"),
    "scatter layer": (
        lambda f: put_texts(f["scatters/0000"], layer="L9"),
        "scatters/0000 @layer: there is no layer 'L9'",
    ),
    "scatter axes": (replaced("scatters/0000/axes", texts(["x"])), "axes: its shape is (1,), expected 2"),
    "scatter frames": (replaced("scatters/0000/shown", np.ones(3)), "shown: its shape is (3,)"),
    "scatter labels": (replaced("scatters/0000/labels", [1, 2]), "labels: its shape is (2,)"),
    "scatter too early": (attribute("schema_version", [1, 0]), "scatters: the format has nothing of this"),
    "histogram": (
        lambda f: put_texts(f["histograms/0000"], layer="L9"),
        "histograms/0000 @layer: there is no layer 'L9'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_broken_rules(results: Results, tmp_path: Path, name: str) -> None:
    path = results.save(tmp_path / "r.h5")
    change, text = BREAKS[name]
    edit(path, change)
    with pytest.raises(StoreDamagedError) as caught:
        repstat.open_results(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    results.save(path, overwrite=True)
    assert repstat.open_results(path).to_rows() == results.to_rows()


def test_an_edit_alone_is_sound(results: Results, tmp_path: Path) -> None:
    path = results.save(tmp_path / "r.h5")
    edit(path, replaced("rows/step", [10, 20, 10]))
    assert repstat.open_results(path).to_rows() == results.to_rows()


@pytest.mark.filterwarnings("ignore")
def test_no_damage_changes_a_number(results: Results, tmp_path: Path, rng: np.random.Generator) -> None:
    """500 random bit flips and truncations: each is noticed, or what is read is what was written."""
    path = results.save(tmp_path / "r.h5")
    original, expected = path.read_bytes(), repr(repstat.open_results(path))
    noticed = 0
    for number, position in enumerate(rng.integers(0, len(original), 500)):
        damaged = bytearray(original)
        if number % 5:
            damaged[position] ^= 1 << int(rng.integers(8))
        else:
            del damaged[position:]
        path.write_bytes(damaged)
        try:
            assert repr(repstat.open_results(path)) == expected
        except StoreDamagedError:
            noticed += 1
    assert noticed > 200


@pytest.mark.parametrize(
    ("value", "ceiling", "expected"),
    [
        (8.25, 8.3, True),
        (8.1, 8.3, False),
        (0.0, 0.0, False),
        (0.05, 0.1, False),
        (0.08, 0.1, True),
        (0.6, 0.693, True),
    ],
)
def test_saturation_is_a_tenth_of_a_nat(value: float, ceiling: float, expected: bool) -> None:
    assert saturates(value, ceiling) is expected


def test_every_status_says_what_to_change() -> None:
    assert {status.value for status in Status} == {
        "ok", "saturated", "undefined", "too_few_samples", "too_few_realizations", "tolerance_not_reached",
    }  # fmt: skip
    assert len({status.advice for status in Status}) == len(Status)
    assert Status.OK == "ok"


def test_an_undefined_estimate_has_a_reason_and_no_value() -> None:
    estimate = Estimate.undefined("all values are NaN", n_samples=3, n_units=2)
    assert (estimate.value, estimate.status, estimate.reason) == (
        None,
        Status.UNDEFINED,
        "all values are NaN",
    )
