"""``repstat inspect``: what is in a store or a results file."""

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repstat.child import STORE_GATE
from repstat.cli.options import UNKNOWN_ENTROPY, plural
from repstat.naming import printable
from repstat.skipped import skipped_layers

if TYPE_CHECKING:
    from repstat.results import Results
    from repstat.store import Store


@click.command("inspect", epilog="Example: repstat inspect acts.h5")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(file: str, as_json: bool) -> None:
    """Say what is in FILE: an activation store (file or folder) or a results file."""
    STORE_GATE.start()
    facts = _facts(Path(file))
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    for name, value in facts.items():
        if isinstance(value, list) and value:
            click.echo(f"{name}:")
            for item in value:
                cells = "  ".join(f"{k} {v}" for k, v in item.items() if v not in (None, "", {}))
                click.echo(f"  {printable(cells)}")
        elif name == "input_entropy":
            known = f"{value:.4f} nats, the ceiling of I(X;T)" if value is not None else UNKNOWN_ENTROPY
            click.echo(f"{name}: {known}")
        elif value not in (None, "", {}, []):
            click.echo(f"{name}: {printable(str(value))}")


def _facts(path: Path) -> dict[str, Any]:
    from repstat.store import open_store
    from repstat.store.results_file import is_results, open_results

    if is_results(path):
        return _results_facts(path, open_results(path))
    with open_store(path) as store:
        return _store_facts(path, store)


def _store_facts(path: Path, store: "Store") -> dict[str, Any]:
    samples = store.samples
    labels = samples.labels
    classes = 0 if labels is None else len(set(labels.tolist()))
    return {
        "file": str(path),
        "kind": "activation store",
        "schema_version": ".".join(map(str, store.schema_version)),
        "samples": len(samples.index),
        "classes": classes,
        "inputs": samples.inputs_source,
        "inputs_sha256": samples.inputs_sha256,
        "input_entropy": samples.input_entropy,
        "synthetic": store.synthetic,
        "layers": [
            {
                "key": view.key,
                "name": view.name,
                "op": view.op,
                "kind": view.kind,
                "units": view.n_units,
                "dtype": view.dtype.name,
            }
            for view in store.layers.values()
        ],
        "skipped": skipped_layers(_adapters(store)),
        "checkpoints": [
            {
                "step": c.step,
                "epoch": c.epoch,
                "source": c.source,
                "metrics": {k: v if isfinite(v) else None for k, v in c.metrics.items()},
                "sha256": c.sha256,
            }
            for c in store.checkpoints
        ],
        **_noise_facts(store),
    }


def _adapters(store: "Store") -> Iterator[dict[str, Any]]:
    """Yield what the adapters said; what was imported has none."""
    for record in store.provenance:
        if isinstance(adapter := record.get("adapter"), dict):
            yield adapter


def _noise_facts(store: "Store") -> dict[str, Any]:
    if store.noise is None:
        return {}
    repeated = store.conditional
    facts = {
        "noise": [{"layer": key, "noise_std": std} for key, std in store.noise.noise_std.items()],
        "noise_seed": store.noise.seed,
        "realizations": store.n_realizations,
    }
    if repeated is not None:
        facts |= {
            "repeated_inputs": repeated.n,
            "realizations_of_each": repeated.n_realizations,
            "repeated_in": ", ".join(repeated.layers),
        }
    return facts


def _results_facts(path: Path, results: "Results") -> dict[str, Any]:
    statuses: dict[str, int] = {}
    for row in results.rows:
        statuses[row.status.value] = statuses.get(row.status.value, 0) + 1
    return {
        "file": str(path),
        "kind": "results",
        "rows": len(results.rows),
        "samples": results.n_samples,
        "classes": results.n_classes,
        "synthetic": results.synthetic,
        "steps": f"{plural(len(results.steps), 'checkpoint')}, {results.steps[0]} to {results.steps[-1]}",
        "quantities": ", ".join(dict.fromkeys(row.quantity for row in results.rows)),
        "statuses": ", ".join(f"{name} {count}" for name, count in statuses.items()),
        "layers": [{"key": key, "name": name} for key, name in results.layers.items()],
        "provenance": results.provenance,
    }
