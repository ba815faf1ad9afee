"""``repstat extract``: activations of every hidden layer, of one or many checkpoints.

The command is long by its options, each of which is passed on once.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from repstat.adapter import AdapterOptions
from repstat.cli.guard import watched
from repstat.cli.options import (
    ModelOptions,
    announce_store,
    check_output,
    existing_output_options,
    layer_option,
    limit_options,
    metrics_option,
    model_options,
    output_option,
    plural,
)
from repstat.memory import default_limit
from repstat.units import format_bytes

if TYPE_CHECKING:
    from repstat.plan import Plan

EPILOG = """\b
Examples:
  repstat extract model.onnx
  repstat extract step-*.onnx --inputs data.npz -o acts.h5
  repstat extract model.onnx --inputs x.npy --labels y.npy --layers 'block.*'
  repstat extract step-*.onnx --inputs data.npz --noise-std 0.005"""


@click.command("extract", epilog=EPILOG)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@output_option
@click.option(
    "--inputs",
    "inputs_file",
    metavar="FILE",
    help=".npy, .npz (keys are input names, or inputs and labels), FILE.h5:DATASET or .csv "
    "[default: 1,024 synthetic samples].",
)
@click.option(
    "--labels",
    "labels_file",
    metavar="FILE",
    help="Class of each sample, same formats [default: labels in the .npz of --inputs].",
)
@metrics_option
@layer_option
@click.option(
    "--steps",
    metavar="LIST",
    help="Training step of each model, in the order given [default: from the file names].",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples per forward pass [default: from a budget of memory].",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the noise, of the choice of repeated samples, and of synthetic inputs.",
)
@click.option(
    "--noise-std",
    metavar="B|LAYER=B,...",
    help="Run the network with Gaussian noise of this standard deviation after every hidden layer, recorded "
    "or not; or after the layers named. Activations are recorded before their own layer's noise.",
)
@click.option(
    "--realizations",
    type=click.IntRange(min=1),
    metavar="R",
    help="Noisy passes of every sample: the density of T is estimated from samples x R activations "
    "[default: 10].",
)
@click.option(
    "--conditional-samples",
    type=click.IntRange(min=0),
    metavar="K",
    help="Samples, chosen at random, whose conditional density is estimated from passes of their own; the "
    "mean over them stands for all, with its error [default: 256, or all if fewer].",
)
@click.option(
    "--conditional-realizations",
    type=click.IntRange(min=0),
    metavar="C",
    help="Passes of each of these. Too few make I(X;T) too large; the analysis halves them to tell by how "
    "much [default: 1,000, or what fits into 256 MiB per checkpoint].",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "float64"]),
    help="Store activations in this dtype [default: the model's].",
)
@click.option(
    "--cast",
    is_flag=True,
    help="Convert integer inputs to floating point where the model wants it.",
)
@existing_output_options
@limit_options
@model_options
def command(
    models: tuple[str, ...],
    output: str,
    inputs_file: str | None,
    labels_file: str | None,
    metrics_file: str | None,
    selectors: tuple[str, ...],
    steps: str | None,
    batch_size: int | None,
    seed: int,
    noise_std: str | None,
    realizations: int | None,
    conditional_samples: int | None,
    conditional_realizations: int | None,
    dtype: str | None,
    cast: bool,
    resume: bool,
    overwrite: bool,
    timeout: float | None,
    max_memory: int | None,
    **model_choices: Unpack[ModelOptions],
) -> None:
    """Record the activations of every hidden layer of MODEL in an activation store.

    Several MODELs are checkpoints of one training. Run the same command again after an interruption: finished
    checkpoints are kept, and only what is missing is computed.
    """
    from repstat.cli.talk import Talk
    from repstat.discovery import OneModel
    from repstat.extraction import run_extraction
    from repstat.passes import NoiseOptions
    from repstat.plan import plan_extraction
    from repstat.steps import parse_steps
    from repstat.store import output_lock

    check_output(output, resume=resume, overwrite=overwrite)
    path = Path(output.rstrip("/"))
    max_memory = max_memory or default_limit()
    watched(timeout, max_memory, path)
    options = AdapterOptions(**model_choices, max_memory=max_memory)
    with output_lock(path) as lock, OneModel(options) as opened, Talk() as talk:
        plan = plan_extraction(
            models,
            inputs_file,
            labels=labels_file,
            layers=selectors,
            steps=parse_steps(steps) if steps is not None else None,
            metrics=metrics_file,
            batch_size=batch_size,
            dtype=dtype,
            cast=cast,
            noise=NoiseOptions(
                noise_std=noise_std,
                realizations=realizations,
                conditional_samples=conditional_samples,
                conditional_realizations=conditional_realizations,
            ),
            seed=seed,
            options=options,
            command=shlex.join(["repstat", *sys.argv[1:]]),
            opened=opened,
        )
        if plan.inputs.synthetic:
            talk.note(
                f"WARNING: no --inputs given: {plan.inputs.source} are used. The store is marked synthetic: "
                "what it shows is about the network's response to noise, not to your data"
            )
        for note in plan.notes:
            talk.note(note)
        talk.note(_size(plan))
        run_extraction(
            plan,
            path,
            folder=output.endswith("/") or Path(output).is_dir(),
            resume=resume,
            overwrite=overwrite,
            progress=talk,
            lock=lock,
            opened=opened,
        )
    announce_store(path)


def _size(plan: "Plan") -> str:
    """Say how much will be computed and written."""
    passes = plan.passes
    words = [plural(len(plan.layers), "layer"), plural(plan.inputs.n_samples, "sample")]
    if passes.noise is not None:
        words.append(plural(passes.n_realizations, "noisy pass"))
    words.append(plural(len(plan.models), "checkpoint"))
    text = f"{' × '.join(words)} = {format_bytes(plan.n_bytes)}"
    if passes.conditional is not None:
        text += (
            f", with {plural(passes.conditional.n, 'repeated sample')} × "
            f"{plural(passes.conditional.n_realizations, 'realization')} of "
            f"{plural(len(passes.conditional.layers), 'layer')}"
        )
    return text
