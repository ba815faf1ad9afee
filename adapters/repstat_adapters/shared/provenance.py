"""Facts about where activations come from that every adapter states."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repstat_adapters.shared.probing import Plan


def file_facts(files: Mapping[str, Path]) -> dict[str, Any]:
    """Names, sizes and SHA-256 of the files of a model; ``sha256`` is that of the first one, if any."""
    facts = []
    for name, path in files.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts.append({"name": name, "bytes": path.stat().st_size, "sha256": digest})
    return {"files": facts, "sha256": facts[0]["sha256"] if facts else ""}


def run_facts(
    plan: Plan | None,
    *,
    batch: int | None = None,
    notes: Iterable[str] = (),
    unreachable: Iterable[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Return how samples are run and which layers are left out.

    Parameters
    ----------
    plan
        If the model was probed already.
    batch
        Samples per run that the model itself declares.
    notes
        What else a user should know.
    unreachable
        Layers, each with the reason, that are no candidates.
    """
    return {
        "run_batch": plan.batch if plan else batch,
        "run_batch_note": "; ".join(filter(None, [plan.note if plan else "", *notes])),
        "skipped": [*(plan.skipped if plan else ()), *unreachable],
    }
