"""Take one check away from the reader: the fuzz must notice (a test that cannot fail is none)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repstat.store import decode, gate, results_file, storefile, structure, values
from repstat.store.rules import Form


class _Any(str):
    """A hash that equals every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def without_process() -> None:
    """Let the reader's own process meet the file first."""

    def ask(path: Path, form: Form, verb: str) -> object:
        if verb == "judge":
            return structure.check_structure(path, form)
        try:
            with structure.open_for_reading(path) as file:
                return structure.schema_in(file)
        except structure.HDF5_ERRORS:
            return ""

    gate._ask = ask


def without_value_hashes() -> None:
    record = values.ValueTally.record

    def anything(self: values.ValueTally) -> values.ValueRecord:
        found = record(self)
        return values.ValueRecord(_Any(found.sha256), found.n_nan, found.n_inf)

    values.ValueTally.record = anything  # type: ignore[method-assign]


def without_metadata_hash() -> None:
    without_process()
    for module in (decode, results_file):
        module.metadata_digest = lambda file: _Any("")  # type: ignore[attr-defined]


def without_storage_rules() -> None:
    """Accept filters, virtual and external storage, and sizes that are not stored."""
    without_process()
    structure._Walk._storage = lambda *_: 0  # type: ignore[method-assign]


def with_every_error_let_through() -> None:
    """Turn only OSError into a message."""
    without_process()
    structure.HDF5_ERRORS = (OSError,)  # type: ignore[assignment]
    storefile.HDF5_ERRORS = (OSError,)  # type: ignore[assignment]


def with_links_followed() -> None:
    without_process()
    child = structure._Walk._child

    def any_link(self: Any, parent: Any, name: bytes, rule: Any, place: str) -> None:
        try:
            child(self, parent, name, rule, place)
        except structure.StoreDamagedError as error:
            if "link" not in error.why and "path" not in error.why:
                raise

    structure._Walk._child = any_link  # type: ignore[method-assign]


SABOTAGES: Mapping[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        without_process,
        without_value_hashes,
        without_metadata_hash,
        without_storage_rules,
        with_every_error_let_through,
        with_links_followed,
    )
}
