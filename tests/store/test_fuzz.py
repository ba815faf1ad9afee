"""A part of ``make fuzz``: broken stores and results, every command at each; and proof that it can fail."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.store.attacks import ATTACKS, attack
from tests.store.fuzz import Fuzz
from tests.store.making import write
from tests.store.mutations import MUTATIONS, checksummed, lookup3
from tests.store.sabotage import SABOTAGES

N_FILES = 250


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzz]:
    with Fuzz() as fuzz:
        yield fuzz


def test_no_broken_file_is_believed(fuzz: Fuzz) -> None:
    """Seed 2018, 250 files: refused, or the numbers of the intact file. Nearly all kinds of damage occur."""
    tally = fuzz.run(2018, range(N_FILES))
    assert tally.wrong == []
    assert tally.n > 0.9 * N_FILES
    assert tally.refused > 0.6 * N_FILES
    assert tally.equal > 10
    assert len(tally.by_kind) > 0.8 * (len(MUTATIONS) + len(ATTACKS))
    assert tally.slowest < 60


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_reader_without_one_of_its_checks_is_caught(name: str) -> None:
    """Seed 7, files that only the check in question refuses."""
    with Fuzz(name) as fuzz:
        assert fuzz.run(7, CAUGHT_BY[name]).wrong != []


CAUGHT_BY = {
    "without_process": [],
}


def test_the_checksum_is_that_of_hdf5(tmp_path: Path) -> None:
    """Forged metadata must reach the library: nearly every object header is found, with its checksum."""
    content = write(tmp_path / "acts.h5").read_bytes()
    places = checksummed(content)
    headers = [start for start, _ in places if content[start : start + 4] == b"OHDR"]
    assert len(headers) == content.count(b"OHDR") > 20
    assert content[44:48] == lookup3(content[:44]).to_bytes(4, "little")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_changes_the_file(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "acts.h5")
    made = 0
    for seed in range(8):
        target = tmp_path / f"{seed}.h5"
        attack(source, target, name, np.random.default_rng([5, seed]))
        made += target.read_bytes() != source.read_bytes()
    assert made >= 5


def test_a_forged_header_gets_past_the_checksums(tmp_path: Path) -> None:
    """The root group called a dataset, say: HDF5 reads the message, and the reader refuses what it says."""
    path = write(tmp_path / "acts.h5")
    content = bytearray(path.read_bytes())
    start, end = next((s, e) for s, e in checksummed(bytes(content)) if content[s : s + 4] == b"OHDR")
    content[start + 5] ^= 1  # flags: another width of a length
    content[end : end + 4] = lookup3(bytes(content[start:end])).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises((OSError, KeyError, RuntimeError)) as caught, h5py.File(path) as file:
        file["/"].attrs["schema"]
    assert "checksum" not in str(caught.value)
