"""Samples and labels: what is accepted, what is converted, what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from repstat.adapter import InputSpec
from repstat.errors import InputRefusedError, RepstatError, UsageError
from repstat.files import read_arrays, read_labels, read_metrics
from repstat.inputs import as_arrays, check_inputs, synthetic_inputs, with_labels
from tests.optional import require

FLOAT = InputSpec("x", np.dtype(np.float32), (None, 4))
IDS = InputSpec("ids", np.dtype(np.int64), (None, None))
SEQUENCE_FIRST = InputSpec("s", np.dtype(np.float32), (7, None, 2), batch_axis=1)


def samples(dtype: str = "float32", n: int = 5) -> np.ndarray:
    return np.arange(n * 4, dtype=dtype).reshape(n, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4", ">f8"])
def test_floats_are_converted_and_native_in_a_batch(dtype: str) -> None:
    inputs = check_inputs({"inputs": samples(dtype)}, [FLOAT], source="x.npy")
    batch = inputs.batch([FLOAT], 1, 3)["x"]
    assert batch.dtype == np.float32
    assert batch.dtype.isnative
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch, samples()[1:3])


def test_fortran_order_is_made_contiguous() -> None:
    inputs = check_inputs({"x": np.asfortranarray(samples())}, [FLOAT], source="x.npy")
    assert inputs.batch([FLOAT], 0, 5)["x"].flags.c_contiguous


@pytest.mark.parametrize("n", [5, 6])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_is_not_taken_for_several_inputs(kind: type, n: int) -> None:
    """Arrays of one shape would be stacked, which is no error of NumPy's."""
    with pytest.raises(InputRefusedError) as caught:
        as_arrays(kind([samples(), samples(n=n)]), "arrays", ["left", "right"])
    assert str(caught.value) == (
        f"the inputs have no names in arrays: found a {kind.__name__} of 2, and the model has 2 inputs. "
        "Pass a dictionary of arrays by input name, {'left': ..., 'right': ...}."
    )
    assert as_arrays(samples().tolist(), "arrays", ["x"])["inputs"].shape == (5, 4)


class Framed:
    """As data sets of frameworks are, whose base class tells where they are from."""

    def __iter__(self):
        raise AssertionError("data sets may be endless")


@pytest.mark.parametrize(
    ("module", "fix"),
    [
        (
            "tensorflow.python.data.ops.batch_op",
            "np.concatenate([x for x, y in dataset.as_numpy_iterator()])",
        ),
        ("torch.utils.data.dataloader", "np.concatenate([x.numpy() for x, y in loader])"),
        ("torch.utils.data.dataset", "np.stack([x for x, y in dataset])"),
        ("keras.src.trainers.data_adapters.py_dataset_adapter", "np.concatenate([dataset[i][0] for i in"),
        ("datasets.arrow_dataset", "np.asarray(dataset.with_format('numpy')"),
    ],
)
def test_data_sets_are_refused_in_words(module: str, fix: str) -> None:
    base = type("Base", (Framed,), {"__module__": module})
    dataset = type("Mine", (base,), {"__module__": "my.own"})()
    for call in (
        lambda: as_arrays(dataset, "arrays"),
        lambda: as_arrays({"x": dataset}, "arrays"),
        lambda: with_labels(check_inputs({"x": samples()}, [FLOAT], source="x"), dataset),
    ):
        with pytest.raises(InputRefusedError) as caught:
            call()
        assert "is a data set, not an array in " in str(caught.value)
        assert "found my.own.Mine, and data sets and loaders are not read." in str(caught.value)
        assert f"Pass an array of all samples, in one order with the labels: {fix}" in str(caught.value)


def test_a_generator_is_refused_in_words() -> None:
    with pytest.raises(InputRefusedError, match=r"found builtins.generator, .* np.stack\(list\(samples\)\)"):
        as_arrays((x for x in samples()), "arrays")


def test_real_data_sets_of_pytorch_are_told() -> None:
    torch = require("torch")
    dataset = torch.utils.data.TensorDataset(torch.zeros(3, 4))
    for given in (dataset, torch.utils.data.DataLoader(dataset)):
        with pytest.raises(InputRefusedError, match="data sets and loaders are not read"):
            as_arrays(given, "arrays")
    assert as_arrays(torch.zeros(3, 4), "arrays")["inputs"].shape == (3, 4)


def test_a_conversion_is_noted() -> None:
    notes = check_inputs({"x": samples("float64")}, [FLOAT], source="x").notes
    assert notes == ("input 'x' was converted from float64 to float32",)


def test_the_batch_axis_is_put_where_the_model_wants_it() -> None:
    array = np.arange(3 * 7 * 2, dtype=np.float32).reshape(3, 7, 2)
    inputs = check_inputs({"s": array}, [SEQUENCE_FIRST], source="x")
    np.testing.assert_array_equal(inputs.batch([SEQUENCE_FIRST], 0, 2)["s"], np.moveaxis(array[:2], 0, 1))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (samples("int64"), r"wrong dtype in x.npy: found int64, expected float32. Pass --cast"),
        (samples()[:, :3], r"wrong shape in x.npy: found \(5, 3\), expected \(samples, 4\)"),
        (samples().ravel(), r"wrong shape in x.npy: found \(20,\)"),
        (samples()[:0], "there are no samples in x.npy: found 0"),
        (samples().astype(complex), "found complex128, expected float32"),
        (samples().astype(str), "found <U"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(array: np.ndarray, text: str) -> None:
    with pytest.raises(InputRefusedError, match=text):
        check_inputs({"x": array}, [FLOAT], source="x.npy")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        samples().astype(object), samples().astype("S4"), samples().astype("M8[s]"), samples().view("V2"),
        samples().astype(np.dtypes.StringDType()),
    ],
    ids=lambda array: str(array.dtype),
)  # fmt: skip
def test_what_is_no_number_is_refused_also_where_the_model_declares_nothing(
    array: np.ndarray, declared: bool
) -> None:
    spec = InputSpec("x", np.dtype(np.float32), (None, 4), declared=declared)
    with pytest.raises(InputRefusedError, match=r"wrong dtype in x.npy: found .*, expected float32\. Save"):
        check_inputs({"x": array}, [spec], source="x.npy")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_numbers_that_numpy_does_not_know_are_refused_by_name(
    name: str, declared: bool, tmp_path: Path
) -> None:
    """From a file they come as bytes without a name."""
    spec = InputSpec("x", np.dtype(np.float32), (None, 4), declared=declared)
    array = samples().astype(getattr(require("ml_dtypes"), name))
    with pytest.raises(
        InputRefusedError, match=f"wrong dtype in x: found {name}, expected float32. Save the"
    ):
        check_inputs({"x": array}, [spec], source="x")
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputRefusedError, match=r"x\.npy: found .*, expected float32|cannot read the arrays"):
        check_inputs(read_arrays(str(tmp_path / "x.npy")), [spec], source="x.npy")


def test_what_cannot_be_read_as_an_array_is_refused() -> None:
    torch = require("torch")
    tensor = torch.zeros(5, 4)
    assert as_arrays(tensor, "x")["inputs"].shape == (5, 4)
    for value in (tensor.requires_grad_(), torch.zeros(5, 4, dtype=torch.bfloat16), [[1.0], [2.0, 3.0]]):
        with pytest.raises(
            InputRefusedError, match=r"'inputs' cannot be read as an array in x: .*detach\(\)"
        ):
            as_arrays(value, "x")
    masked = np.ma.masked_array(samples(), samples() > 3)
    with pytest.raises(InputRefusedError, match="input 'x' is masked in x: a model does not see the mask"):
        as_arrays({"x": masked}, "x")


def test_integers_become_floats_only_when_asked() -> None:
    inputs = check_inputs({"x": samples("uint8")}, [FLOAT], source="x", cast=True)
    np.testing.assert_array_equal(inputs.batch([FLOAT], 0, 5)["x"], samples())


def test_ids_out_of_range_are_refused() -> None:
    spec = InputSpec("x", np.dtype(np.int32), (None, 4))
    big = samples("int64") + 2**40
    with pytest.raises(InputRefusedError, match="found int64, expected int32"):
        check_inputs({"x": big}, [spec], source="x")


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"ids": samples("int64"), "y": samples()}, r"found 'ids', 'y', expected 'x', 'ids'"),
        ({"X1": samples(), "ids": samples("int64")}, r"found 'X1', 'ids'"),
        ({"x": samples(), "ids": samples("int64", 4)}, r"x has 5, ids has 4"),
    ],
)
def test_names_and_lengths_must_fit(arrays: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(InputRefusedError, match=text):
        check_inputs(arrays, [FLOAT, IDS], source="x.npz")


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        (np.array([2, 0, 0, 1, 2], np.uint8), [2, 0, 0, 1, 2], ()),
        (np.array([1.0, 0.0, 0.0, 1.0, 2.0]), [1, 0, 0, 1, 2], ()),
        (np.array([[1], [0], [0], [1], [2]]), [1, 0, 0, 1, 2], ()),
        (np.array([True, False, False, True, True]), [1, 0, 0, 1, 1], ()),
        (["dog", "cat", "cat", "dog", "=ant"], [2, 1, 1, 2, 0], ("=ant", "cat", "dog")),
    ],
)
def test_labels(labels: np.ndarray, classes: list[int], names: tuple[str, ...]) -> None:
    inputs = with_labels(check_inputs({"x": samples()}, [FLOAT], source="x"), labels)
    assert inputs.labels is not None
    assert inputs.labels.tolist() == classes
    assert inputs.class_names == names


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.arange(4), "found 4 labels for 5 samples"),
        (np.eye(5), r"found \(5, 5\), expected \(5,\).* argmax"),
        (np.array([0.5, 1, 2, 3, 4]), "labels are not classes in y.npy: found float64 values"),
        (np.array([np.nan, 1, 2, 3, 4]), "labels are not classes"),
        (np.array([0, 1e30, 2, 3, 4]), r"found float64 values of 2\^53 and above"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, text: str) -> None:
    inputs = check_inputs({"x": samples()}, [FLOAT], source="x")
    with pytest.raises(InputRefusedError, match=text):
        with_labels(inputs, labels, "y.npy")


def test_synthetic_inputs_are_seeded_and_standard_normal() -> None:
    inputs = synthetic_inputs([FLOAT, IDS], seed=3)
    again, other = synthetic_inputs([FLOAT, IDS], seed=3), synthetic_inputs([FLOAT, IDS], seed=4)
    assert inputs.synthetic
    assert inputs.n_samples == 1024
    assert inputs.digest() == again.digest()
    assert inputs.digest()[0] != other.digest()[0]
    # n = 4096 normal values: the mean has standard error 1/64, the standard deviation 1/90.
    assert abs(inputs.arrays["x"].mean()) < 4 / 64
    assert abs(inputs.arrays["x"].std() - 1) < 4 / 90
    assert inputs.arrays["ids"].min() >= 0
    assert "free lengths of input 'ids'" in inputs.notes[0]


def test_duplicates_lower_the_input_entropy() -> None:
    array = samples()[[0, 0, 1, 2, 3, 3, 3, 4]]
    entropy = check_inputs({"x": array}, [FLOAT], source="x").digest()[1]
    p = np.array([2, 1, 1, 3, 1]) / 8
    assert entropy == pytest.approx(float(-(p * np.log(p)).sum()), abs=1e-12)
    distinct = check_inputs({"x": samples()}, [FLOAT], source="x").digest()[1]
    assert distinct == pytest.approx(np.log(5), abs=1e-12)


def test_the_digest_sees_values_not_byte_order_or_layout() -> None:
    digests = {
        check_inputs({"x": array}, [FLOAT], source="x").digest()[0]
        for array in (samples(), samples(">f4"), np.asfortranarray(samples()))
    }
    assert len(digests) == 1
    changed = samples()
    changed[4, 3] += 1
    assert check_inputs({"x": changed}, [FLOAT], source="x").digest()[0] not in digests


def test_formats_are_read_alike(tmp_path: Path) -> None:
    expected = samples("float64")
    np.save(tmp_path / "x.npy", expected)
    np.savez(tmp_path / "x.npz", inputs=expected, labels=np.arange(5))
    np.savetxt(tmp_path / "x.csv", expected, delimiter=",", header="a,b,c,d", comments="")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data/x"] = expected
    for name in ("x.npy", "x.npz", "x.csv", "x.h5:data/x"):
        np.testing.assert_array_equal(read_arrays(str(tmp_path / name))["inputs"], expected)
    assert read_labels(str(tmp_path / "x.npz")).tolist() == [0, 1, 2, 3, 4]


def test_labels_from_csv_may_be_words(tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("cat\ndog\ncat\n")
    assert read_labels(str(tmp_path / "y.csv")).tolist() == ["cat", "dog", "cat"]
    (tmp_path / "z.csv").write_text("class\n1\n2\n")
    assert read_labels(str(tmp_path / "z.csv")).tolist() == [1, 2]


def bad_file(folder: Path, kind: str) -> str:
    path = folder / f"x{'.npz' if kind == 'not-npz' else '.npy'}"
    if kind == "missing":
        return str(folder / "nothing.npy")
    if kind == "empty":
        path.touch()
    elif kind == "truncated":
        np.save(path, samples())
        path.write_bytes(path.read_bytes()[:-8])
    elif kind == "pickle":
        np.save(path, np.array([{}, None], dtype=object), allow_pickle=True)
    elif kind == "not-npz":
        path.write_text("hello")
    elif kind == "suffix":
        path = folder / "x.dat"
        path.write_text("1,2")
    elif kind == "dataset":
        path = folder / "x.h5"
        with h5py.File(path, "w") as file:
            file["data"] = samples()
        return f"{path}:daat"
    elif kind == "ragged":
        path = folder / "x.csv"
        path.write_text("1,2\n3\n")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("missing", UsageError, "array file not found in .*nothing.npy: there is no such file"),
        ("empty", InputRefusedError, "the file is empty"),
        ("truncated", InputRefusedError, "cannot read the arrays in .*x.npy"),
        ("pickle", InputRefusedError, "it holds Python objects"),
        ("not-npz", InputRefusedError, "cannot read the arrays in .*x.npz"),
        ("suffix", UsageError, r"its suffix is '.dat', expected .npy, .npz"),
        (
            "dataset",
            UsageError,
            r"no such dataset in .*x.h5: found data. Write for example x.h5:data",
        ),
        ("ragged", InputRefusedError, "cannot read the arrays in .*x.csv"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, kind: str, error: type[RepstatError], text: str) -> None:
    with pytest.raises(error, match=text):
        read_arrays(bad_file(tmp_path, kind))


def test_metrics_are_read_by_step(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,epoch,loss\n0,0,1.5\n10,1,\n")
    assert read_metrics(path) == {0: {"epoch": 0, "loss": 1.5}, 10: {"epoch": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss\n2\n",
            "no column 'step' in .*found the columns 'loss'. Give a header with step and one column",
        ),
        (
            "epoch,loss\n0,2\n",
            "no column 'step' in .*found the columns 'epoch', 'loss', and epochs are not taken for steps: "
            "one logger counts them from 0, another from 1. Add a column step with the steps of the "
            r"checkpoints; of Keras' CSVLogger, whose epochs begin at 0, it is epoch \+ 1 for files that "
            r"ModelCheckpoint named by \{epoch\}, which begins at 1\.",
        ),
        ("step,loss\n1,x\n", "a cell is not a number in .*line 2"),
        ("step,loss\n1,2\n1,3\n", "step 1 comes twice in .*line 3"),
        ("", "no column 'step'"),
    ],
)
def test_bad_metrics_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputRefusedError, match=message):
        read_metrics(path)
