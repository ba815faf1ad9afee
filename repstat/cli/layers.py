"""``repstat layers``: what can be recorded from a model."""

import json
import shlex
from dataclasses import asdict
from typing import Unpack

import click

from repstat.adapter import AdapterOptions
from repstat.cli import say
from repstat.cli.guard import watched
from repstat.cli.options import ModelOptions, given_options, limit_options, model_options, plural
from repstat.memory import default_limit
from repstat.naming import printable


@click.command("layers", epilog="Example: repstat layers model.onnx")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@limit_options
@model_options
def command(
    model: str,
    as_json: bool,
    timeout: float | None,
    max_memory: int | None,
    **model_choices: Unpack[ModelOptions],
) -> None:
    """List the layers of MODEL in forward order.

    One line per layer: key, kind, the ops that produce its activation, the shape of one sample's activation,
    and the name. `repstat extract` records the hidden ones.
    """
    from repstat.checkpoints import find_models
    from repstat.discovery import open_model
    from repstat.skipped import skipped_notes

    max_memory = max_memory or default_limit()
    watched(timeout, max_memory)
    options = AdapterOptions(**model_choices, max_memory=max_memory)
    adapter = open_model(find_models([model]).models[0], options)
    try:
        layers = adapter.layers()
        inputs = adapter.inputs()
        notes = list(skipped_notes(adapter.provenance()))
    finally:
        adapter.close()
    for note in notes:
        say(f"repstat: {note}")
    if as_json:
        for layer in layers:
            record = asdict(layer) | {"dtype": layer.dtype.name, "n_units": layer.n_units}
            click.echo(json.dumps(record, allow_nan=False))
        return
    from rich.table import Table
    from rich.text import Text

    from repstat.cli.console import PipeConsole

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "kind", "op", "units", "dtype", "name"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "units" else "left")
    for layer in layers:
        shape = "×".join(map(str, layer.unit_shape))
        table.add_row(
            *(
                Text(printable(text))
                for text in (layer.key, layer.kind, layer.op, shape, layer.source_dtype, layer.name)
            )
        )
    for spec in inputs:
        shape = ", ".join("?" if n is None else str(n) for n in spec.shape)
        say(f"input {spec.name}: {spec.dtype} ({shape})")
    PipeConsole(width=None if PipeConsole().is_terminal else 120).print(table)
    hidden = sum(layer.kind == "hidden" for layer in layers)
    same = shlex.join(["repstat", "extract", model, *given_options()])
    say(f"{plural(hidden, 'hidden layer')} would be recorded by: {same}")
