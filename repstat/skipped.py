"""What an adapter could not record of a model: its provenance lists it, and people are told."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from repstat.naming import by_reason

_FACTS = ("layer", "name", "why")


def skipped_layers(records: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return what would have been layers and could not be recorded, each once, with the reason.

    Parameters
    ----------
    records
        Provenances of adapters, perhaps from a file.
    """
    found: dict[tuple[str, ...], None] = {}
    for record in records:
        skipped = record.get("skipped")
        for one in skipped if isinstance(skipped, list | tuple) else ():
            if isinstance(one, Mapping):
                found[tuple(str(one.get(fact, "")) for fact in _FACTS)] = None
    return [dict(zip(_FACTS, facts, strict=True)) for facts in found]


def skipped_notes(record: Mapping[str, Any], *, noisy: bool = False) -> Iterator[str]:
    """Yield a note for people about the layers that were skipped, if any were.

    Parameters
    ----------
    record
        Provenance of an adapter.
    noisy
        Whether the other layers get noise.
    """
    skipped = skipped_layers([record])
    if skipped:
        said = [(f"{one['layer']} {one['name']}".strip(), one["why"]) for one in skipped]
        text = "; ".join(by_reason(said))
        more = "" if all(name in text for name, _ in said) else " (`repstat inspect STORE` lists all)"
        unlike = "; no noise is added there" if noisy else ""
        yield f"skipped, and why: {text}{more}{unlike}"
