"""``repstat import``: activations made elsewhere.

The command is long by its options, each of which is passed on once.
"""

import shlex
import sys
from pathlib import Path

import click

from repstat.cli.options import (
    UNKNOWN_ENTROPY,
    announce_store,
    check_output,
    existing_output_options,
    layer_option,
    metrics_option,
    output_option,
    plural,
)
from repstat.units import format_bytes

EPILOG = """\b
Examples:
  repstat import activations.npz
  repstat import step-*.npz --labels y.npy --inputs x.npy -o acts.h5
  repstat import run/step-*/ --metrics metrics.csv     # folders of .npy, one per layer"""


@click.command("import", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@output_option
@click.option(
    "--inputs",
    "inputs_file",
    metavar="FILE",
    help="The samples: .npy, .npz, FILE.h5:DATASET or .csv. They are hashed and counted, not stored; without "
    "them the ceiling of I(X;T) is ln n, which is too high if samples repeat [default: inputs in the files].",
)
@click.option(
    "--labels",
    "labels_file",
    metavar="FILE",
    help="Class of each sample, same formats [default: labels in the .npz of --inputs, or in the files].",
)
@metrics_option
@layer_option
@click.option(
    "--steps",
    metavar="LIST",
    help="Training step of each FILE, in the order given [default: step in the files, or from their names].",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "float64"]),
    help="Store activations in this dtype [default: their own].",
)
@click.option("--cast", is_flag=True, help="Convert integers and booleans to floating point.")
@existing_output_options
def command(
    files: tuple[str, ...],
    output: str,
    inputs_file: str | None,
    labels_file: str | None,
    metrics_file: str | None,
    selectors: tuple[str, ...],
    steps: str | None,
    dtype: str | None,
    cast: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Put activations that were made elsewhere in an activation store, for repstat analyze.

    Each FILE is one checkpoint of a training of a network without noise: an .npz or .safetensors with one
    array per layer, (samples, ...), or a folder of .npy files; or a pattern of such, 'step-*.npz'. Every
    array is a hidden layer; they keep the order of an .npz, and are put in the order of their names in a
    folder or .safetensors.

    Not layers are: labels (or y, one integer per sample), inputs, step, epoch, and other single numbers,
    which become metrics.
    """
    from repstat.cli.talk import Talk
    from repstat.importing import run_import
    from repstat.importing.plan import plan_import
    from repstat.importing.recordings import as_checkpoints
    from repstat.steps import parse_steps

    check_output(output, resume=resume, overwrite=overwrite)
    with Talk() as talk:
        plan = plan_import(
            as_checkpoints(files),
            inputs=inputs_file,
            labels=labels_file,
            layers=selectors,
            steps=parse_steps(steps) if steps is not None else None,
            metrics=metrics_file,
            dtype=dtype,
            cast=cast,
            command=shlex.join(["repstat", *sys.argv[1:]]),
        )
        if plan.samples.input_entropy is None:
            talk.note(f"no --inputs given, so {UNKNOWN_ENTROPY}")
        for note in plan.notes:
            talk.note(note)
        names = ", ".join(f"{layer.key} {layer.name[:60]}" for layer in plan.layers[:12])
        more = f" and {len(plan.layers) - 12} more" if len(plan.layers) > 12 else ""
        talk.note(f"layers: {names}{more}; {'labels' if plan.samples.labels is not None else 'no labels'}")
        parts = [
            plural(len(plan.layers), "layer"),
            plural(plan.samples.n, "sample"),
            plural(len(plan.steps), "checkpoint"),
        ]
        talk.note(f"{' × '.join(parts)} = {format_bytes(plan.n_bytes)}")
        path = run_import(
            plan,
            output.rstrip("/"),
            folder=output.endswith("/") or Path(output).is_dir(),
            resume=resume,
            overwrite=overwrite,
            progress=talk,
        )
    announce_store(path)
