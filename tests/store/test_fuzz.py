"""A part of ``make fuzz``: broken stores and results, every command at each; and proof that it can fail."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from repstat.errors import StoreDamagedError
from repstat.store.structure import check_structure
from tests.store.attacks import ATTACKS, attack
from tests.store.fuzz import Fuzz
from tests.store.making import write
from tests.store.mutations import MUTATIONS, Material, checksummed, lookup3
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


CAUGHT_BY = {
    "without_process": (3, [1080, 6702, 7299]),
    "without_value_hashes": (7, [12, 20, 21]),
    "without_metadata_hash": (7, [226, 321, 781, 833]),
    "without_storage_rules": (7, [44, 59, 168]),
    "with_every_error_let_through": (7, [2, 5, 8]),
    "with_links_followed": (7, [1922, 2113, 2553]),
}
"""Seed and files that only the check in question refuses, found by ``fuzz.py --sabotage NAME``."""


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_reader_without_one_of_its_checks_is_caught(name: str) -> None:
    """The first needs files that crash HDF5 1.14: forged headers that divide by zero or point nowhere."""
    if name == "without_process" and h5py.version.hdf5_version_tuple >= (2, 0, 0):
        pytest.skip("this HDF5 survives these files")
    with Fuzz(name) as fuzz:
        assert fuzz.run(*CAUGHT_BY[name]).wrong != []


def test_the_same_files_are_refused_by_the_whole_reader(fuzz: Fuzz) -> None:
    tallies = [fuzz.run(*files) for files in CAUGHT_BY.values()]
    assert [tally.wrong for tally in tallies] == [[]] * len(tallies)
    assert all(tally.refused == tally.n > 0 for tally in tallies)


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


def test_forged_headers_get_past_the_checksums(tmp_path: Path) -> None:
    """Of 60 forged files HDF5 complains of most, and of a checksum only where a length was forged."""
    path = write(tmp_path / "acts.h5")
    material = Material.of(path, path)
    complaints = []
    for seed in range(60):
        path.write_bytes(MUTATIONS["forged"][0](material, np.random.default_rng([9, seed])))
        try:
            check_structure(path)
        except StoreDamagedError as error:
            complaints.append(str(error))
    assert len(complaints) > 20
    assert sum("checksum" in text for text in complaints) < 0.5 * len(complaints)
