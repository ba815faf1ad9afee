"""Noise and repeated inputs that are refused: by the writer, between files, in a damaged file."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat import merge, open_store
from repstat.errors import InputRefusedError, StoreDamagedError, UsageError
from repstat.store import Conditional, NoiseRecord, verify
from tests.store.breaking import (
    Change,
    attribute,
    edit,
    named,
    one_byte_damages,
    refused,
    removed,
    replaced,
    text,
)
from tests.store.making import (
    LAYERS,
    NOISE,
    NOISY,
    NOISY_LAYERS,
    checkpoint,
    contents,
    record_noisy,
    record_some,
    repeats,
    write,
    write_noisy,
    writer,
)


def noise(**facts: Any) -> NoiseRecord:
    known = {"noise_std": NOISE.noise_std, "seed": 2**40, "bit_generator": "Philox", "checksum": "c0ffee"}
    return NoiseRecord(**(known | facts))


def repeated(positions: Any = (0, 3, 4, 11, 19), n: int = 4, layers: Any = ("L001", "L002")) -> Conditional:
    return Conditional(np.array(positions), n, layers)


DIFFERENCES = [
    ({"noise": noise(seed=8)}, "noise.seed was 1099511627776, now 8"),
    ({"noise": noise(bit_generator="PCG64")}, "noise.bit_generator was 'Philox', now 'PCG64'"),
    ({"noise": noise(checksum="")}, "noise.checksum was 'c0ffee', now ''"),
    ({"noise": noise(noise_std={"L000": 0.1, "L001": 0.3})},
     "noise.noise_std.L001 was 0.25, now 0.3; noise.noise_std.L007 was 1.0, now missing"),
    ({"noise": None, "conditional": None}, "noise was .*, now missing; repeated inputs was 5, now 'none'"),
    ({"conditional": None}, "repeated inputs was 5, now 'none'"),
    ({"conditional": repeated([0, 3, 5, 11, 19])}, "position of repeated input 2 was 4, now 5"),
    ({"conditional": repeated([0, 3])}, "number of repeated inputs was 5, now 2"),
    ({"conditional": repeated(n=5)}, "realizations of a repeated input was 4, now 5"),
    ({"conditional": repeated(layers=("L001",))},
     r"layers with realizations of repeated inputs\[1\] was 'L002', now missing"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text"), DIFFERENCES)
def test_other_noise_is_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with writer(tmp_path / "acts.h5", **NOISY) as into:
        record_noisy(into, 0)
    with pytest.raises(UsageError, match=text), writer(tmp_path / "acts.h5", **(NOISY | options)):
        pass
    same = {"noise": noise(noise_std=dict(reversed(NOISE.noise_std.items())))}
    same["conditional"] = repeated(layers=("L002", "L001"))
    with writer(tmp_path / "acts.h5", **(NOISY | same)) as into:
        assert into.done == {0}


ROWS = np.zeros((1, 2, 2, 2))
BATCHES = [
    ("L009", ROWS, "L009: the store has the layers L000, L001, L002"),
    ("L000", np.zeros((1, 3), "f4"), "L000: no realizations of repeated inputs were announced"),
    ("L001", ROWS.astype("f4"), "L001/conditional: found dtype float32, expected float64"),
    ("L001", ROWS[0], r"L001/conditional: found shape \(2, 2, 2\), expected \(batch, 2, 2, 2\)"),
    ("L001", np.zeros((21, 2, 2, 2)), "found 21 realizations of repeated inputs, expected 20"),
]


@pytest.mark.parametrize(("key", "array", "text"), BATCHES)
def test_batches_that_do_not_fit(tmp_path: Path, key: str, array: Any, text: str) -> None:
    with (
        writer(tmp_path / "acts.h5", **NOISY) as into,
        pytest.raises(InputRefusedError, match=f"step 0, layer .*{text}"),
        into.checkpoint(checkpoint(0)) as part,
    ):
        part.write_conditional(key, array)


def test_a_checkpoint_must_have_every_realization(tmp_path: Path) -> None:
    with writer(tmp_path / "acts.h5", (0,), **NOISY) as into:
        text = r"layer L001/conditional: got 7 of 20 realizations of repeated inputs"
        with pytest.raises(InputRefusedError, match=text):
            record_some(into, 0, NOISY_LAYERS)
        assert into.done == set()


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"noise_std": {}}, "no layer got any"),
        ({"noise_std": {"relu1": 0.1}}, "it names the layer 'relu1'; a key is L or R"),
        ({"noise_std": {"L001\n": 0.1}}, "a key is L or R"),
        (
            {"noise_std": {"L001": 0.0}},
            "its standard deviation in L001 is 0.0, expected a finite number above 0",
        ),
        ({"noise_std": {"L001": -1}}, "in L001 is -1"),
        ({"noise_std": {"L001": np.inf}}, "in L001 is inf"),
        ({"noise_std": {"L001": np.nan}}, "in L001 is nan"),
        ({"noise_std": {"L001": "much"}}, "in L001 is much"),
        ({"noise_std": {"L001": True}}, "in L001 is True"),
        ({"seed": 2**63}, "its seed is 9223372036854775808, expected an integer of 64 bits"),
        ({"seed": 1.5}, "its seed is 1.5"),
        ({"seed": False}, "its seed is False"),
    ],
)
def test_noise_that_cannot_be(facts: dict[str, Any], text: str) -> None:
    with pytest.raises(InputRefusedError, match=f"the noise cannot be stored: .*{text}"):
        noise(**facts)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"positions": np.array([], int)}, "there are none"),
        ({"positions": [0, 4, 4]}, "their positions do not increase from 0"),
        ({"positions": [-1, 4]}, "their positions do not increase from 0"),
        ({"positions": [0.5]}, "found float64 of shape"),
        ({"n": 0}, "found 0 realizations of each"),
        ({"n": 1.5}, "found 1.5 realizations of each"),
        ({"layers": ()}, "no layer has realizations of them"),
        ({"layers": ("L001", "L001")}, "a layer occurs twice"),
    ],
)
def test_repeated_inputs_that_cannot_be(facts: dict[str, Any], text: str) -> None:
    with pytest.raises(InputRefusedError, match=rf"repeated inputs cannot be stored: {text}"):
        repeated(**facts)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"noise": None}, "the network has no noise"),
        ({"conditional": repeated([0, 20])}, "one is at position 20 of 20 samples"),
        ({"conditional": repeated(layers=("L001", "L007"))}, "the store has no layer 'L007'"),
    ],
)
def test_repeated_inputs_that_do_not_fit_the_store(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputRefusedError, match=text):
        writer(tmp_path / "acts.h5", **(NOISY | options))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noisy(tmp_path_factory.mktemp("sound") / "acts.h5")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "acts.h5"))


VALUE = "layers/L001/conditional/value"
SHAPE = (3, 5, 4, 8)
HASHES = np.array([b"x" * 64] * 3, h5py.string_dtype("utf-8", 64))


def all_repeated_removed(*but: str) -> Change:
    """Remove every part of the repeated inputs but some."""
    names = ["conditional", "conditional_sample", "conditional_realization"]
    names += ["layers/L001/conditional", "layers/L002/conditional"]

    def change(file: h5py.File) -> None:
        for name in names:
            if name not in but:
                del file[name]

    return change


def keys(*names: bytes) -> Change:
    return replaced("noise/layer", data=np.array(names, h5py.string_dtype("utf-8", 4)))


def fewer_realizations(file: h5py.File) -> None:
    replaced("layers/L002/conditional/value", data=np.ones((3, 5, 3, 1), "<f2"))(file)


def positions(*found: int) -> Change:
    return replaced("conditional/position", data=np.array(found))


def soft_link(file: h5py.File) -> None:
    del file[VALUE]
    file[VALUE] = h5py.SoftLink("/layers/L001/value")


BREAKS = {
    "no noise": (removed("noise"), "noise is missing"),
    "no layer": (removed("noise/layer"), "noise: layer is missing"),
    "no noise_std": (removed("noise/noise_std"), "noise: noise_std is missing"),
    "no seed": (lambda f: f["noise"].attrs.pop("seed") and None, "noise: the attribute seed is missing"),
    "seed type": (attribute("noise", "seed", 7.0), "noise @seed: the attribute has another type than i8"),
    "more in noise": (named("/noise/more"), "noise/more: the format has nothing of this name"),
    "noise in a layer": (named("L000/noise"), "layers/L000/noise: the format has nothing of this name"),
    "attribute": (attribute("noise", "more", np.int64(1)), "the format has no attribute more"),
    "lengths": (replaced("noise/noise_std", data=np.ones(2)), "noise"),
    "std type": (replaced("noise/noise_std", data=np.ones(3, "<f4")), "noise_std: its type is none of f8"),
    "no std": (replaced("noise/noise_std", data=np.array([0.1, 0.0, 1.0])), "in L001 is 0.0"),
    "negative std": (replaced("noise/noise_std", data=np.array([0.1, 0.1, -1.0])), "in L007 is -1.0"),
    "NaN": (replaced("noise/noise_std", data=np.array([np.nan, 0.1, 1.0])), "in L000 is nan"),
    "infinite": (replaced("noise/noise_std", data=np.array([np.inf, 0.1, 1.0])), "in L000 is inf"),
    "key": (keys(b"L000", b"L001", b"X007"), "it names the layer 'X007'"),
    "key twice": (keys(b"L000", b"L001", b"L001"), "noise/layer: a layer occurs twice"),
    "checksum": (text("noise", "checksum", b"\xff"), "noise @checksum: it is not UTF-8"),
    "no position": (removed("conditional/position"), "conditional: position is missing"),
    "no conditional": (removed("conditional"), "conditional: it is missing, but other parts"),
    "no sample scale": (removed("conditional_sample"), "conditional_sample: it is missing"),
    "no realization scale": (removed("conditional_realization"), "conditional_realization: it is missing"),
    "scales alone": (all_repeated_removed("conditional_sample"), "conditional: it is missing"),
    "positions alone": (all_repeated_removed("conditional"), "conditional_sample: it is missing"),
    "a layer alone": (all_repeated_removed("layers/L001/conditional"), "conditional: it is missing"),
    "in no layer": (
        all_repeated_removed("conditional", "conditional_sample", "conditional_realization"),
        "no layer has realizations of them",
    ),
    "out of range": (positions(0, 3, 4, 11, 20), "one is at position 20 of 20 samples"),
    "negative": (positions(-1, 3, 4, 11, 19), "their positions do not increase from 0"),
    "not increasing": (positions(0, 4, 3, 11, 19), "their positions do not increase from 0"),
    "repeated twice": (positions(0, 3, 3, 11, 19), "their positions do not increase from 0"),
    "number of positions": (positions(0, 3, 4, 11), "5 repeated inputs"),
    "type of positions": (replaced("conditional/position", data=np.ones(5)), "its type is none of i8"),
    "sample scale": (replaced("conditional_sample", data=np.arange(5)), "conditional_sample: the dimension"),
    "realization scale": (
        replaced("conditional_realization", data=np.arange(1, 5)), "conditional_realization: the dimension",
    ),
    "no values": (removed(VALUE), "layers/L001/conditional: value is missing"),
    "no hash": (removed("layers/L001/conditional/sha256"), "layers/L001/conditional: sha256 is missing"),
    "no count": (removed("layers/L002/conditional/n_inf"), "layers/L002/conditional: n_inf is missing"),
    "checkpoints": (replaced(VALUE, data=np.ones((2, *SHAPE[1:]))), f"{VALUE}: its shape is (2, 5, 4, 8)"),
    "inputs": (replaced(VALUE, data=np.ones((3, 4, 4, 8))), "repeated inputs"),
    "realizations": (fewer_realizations, "realizations of a repeated input"),
    "units": (replaced(VALUE, data=np.ones((3, 5, 4, 7))), "units of the layer"),
    "rank": (replaced(VALUE, data=np.ones((3, 20, 8))), "expected 4 dimensions"),
    "type": (replaced(VALUE, data=np.ones(SHAPE, "<f4")), "its type is not that of the layer's value"),
    "integers": (replaced(VALUE, data=np.ones(SHAPE, "<i8")), "its type is none of f2, f4, f8"),
    "compressed": (replaced(VALUE, compression="gzip"), "it is filtered"),
    "extendible": (replaced(VALUE, maxshape=(None, *SHAPE[1:])), "it can be extended"),
    "link": (soft_link, f"{VALUE}: it is a link to elsewhere"),
    "never written": (replaced(VALUE, data=None, shape=SHAPE, dtype="<f8"), "3840 bytes and stores 0"),
    "more in conditional": (named("/layers/L001/conditional/unit"), "unit: the format has nothing"),
    "hash": (
        replaced("layers/L001/conditional/sha256", data=HASHES),
        "layers/L001/conditional/sha256: found something that is no SHA-256",
    ),
    "version 1.0": (attribute("/", "schema_version", np.array([1, 0])), "the format has nothing of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_broken_rules(copy: Path, name: str) -> None:
    change, text = BREAKS[name]
    edit(copy, change)
    message = refused(copy)
    assert text in message
    assert message.isprintable()


def test_a_store_without_noise_is_not_of_version_1_1(tmp_path: Path) -> None:
    path = write(tmp_path / "acts.h5", (0,))
    edit(path, attribute("/", "schema_version", np.array([1, 1])))
    assert "noise is missing" in refused(path)


def test_an_edit_alone_is_sound(copy: Path) -> None:
    edit(copy, replaced("noise/noise_std"))
    assert verify(copy) == []


@pytest.mark.parametrize("name", ["noise/noise_std", "conditional/position", "layers/L001/conditional/n_nan"])
def test_metadata_are_hashed(copy: Path, name: str) -> None:
    with h5py.File(copy, "r+") as file:
        file[name][2] += 1
    assert "metadata: their SHA-256 is" in refused(copy)


def test_a_flipped_bit_is_named(copy: Path, tmp_path: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[content.index(repeats(10, LAYERS[1]).tobytes()) + 555] ^= 64
    copy.write_bytes(content)
    place = "step 10, layer L001/conditional: their SHA-256 is"
    with open_store(copy) as store:
        view = store.layers["L001"].at(step=10)
        view.read()
        assert view.conditional is not None
        assert view.conditional[0, 0].shape == (8,)
        with pytest.raises(StoreDamagedError, match=place):
            view.conditional.read()
    (problem,) = verify(copy)
    assert place in problem
    with pytest.raises(StoreDamagedError, match=place):
        merge([copy], tmp_path / "all.h5")
    assert [entry.name for entry in tmp_path.iterdir()] == ["acts.h5"]


@pytest.mark.filterwarnings("ignore")
def test_no_damage_of_one_byte_changes_a_number(copy: Path, rng: np.random.Generator) -> None:
    """100 random bytes, seed of `rng`: each is noticed, or what is read is what was written."""
    with open_store(copy) as store:
        expected = contents(store)
    for _ in one_byte_damages(copy, rng):
        with open_store(copy) as store:
            assert contents(store) == expected


def test_wrong_counts_are_found(copy: Path) -> None:
    edit(copy, replaced("layers/L002/conditional/n_inf", data=np.array([0, 0, 1])))
    (problem,) = verify(copy)
    assert "step 200, layer L002/conditional: the counts of NaN or Inf are wrong" in problem


def test_a_part_that_was_damaged_is_not_taken_over(tmp_path: Path) -> None:
    with writer(tmp_path / "acts.h5", **NOISY) as into:
        record_noisy(into, 0)
    part = tmp_path / "acts.h5.parts" / "step-000000000000.h5"
    content = bytearray(part.read_bytes())
    content[content.index(repeats(0, LAYERS[1]).tobytes())] ^= 1
    part.write_bytes(content)
    with pytest.raises(StoreDamagedError, match="step 0, layer L001/conditional"):
        write_noisy(tmp_path / "acts.h5")
