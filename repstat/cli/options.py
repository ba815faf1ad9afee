"""Options and helpers that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

import click

UNKNOWN_ENTROPY = (
    "the inputs are unknown: the ceiling of I(X;T) is ln n, which is too high if samples repeat; then an "
    "estimate may be saturated without being marked"
)
"""What is said where nobody gave the samples that activations belong to."""

F = TypeVar("F", bound=Callable[..., Any])


def model_options(command: F) -> F:
    """Add the options that say how a model is opened."""
    for option in (
        click.option(
            "--trust-model",
            is_flag=True,
            help="Permit model files that run code when they are opened. Only for files you made yourself.",
        ),
        click.option(
            "--model-factory",
            metavar="PKG.MOD:FN",
            help="Function without arguments that builds the model, for files that hold weights only.",
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: usable cores]."),
        click.option(
            "--opt-level",
            type=click.Choice(["none", "basic", "extended", "all"]),
            default="none",
            show_default=True,
            help="Graph optimisation. Anything but none is faster, and lets the values of a layer depend on "
            "which other layers are recorded.",
        ),
        click.option(
            "--provider",
            default="auto",
            show_default=True,
            metavar="auto|cpu|cuda|NAME",
            help="Where the model runs. Never falls back silently.",
        ),
    ):
        command = option(command)
    return command


class ModelOptions(TypedDict):
    """What the options of `model_options` give, which are the fields of `AdapterOptions`."""

    provider: str
    opt_level: Literal["none", "basic", "extended", "all"]
    threads: int | None
    model_factory: str | None
    trust_model: bool


def layer_option(command: F) -> F:
    """Add ``--layers``."""
    return click.option(
        "--layers",
        "selectors",
        multiple=True,
        metavar="SEL",
        help="Layers to use; may be repeated: auto (hidden layers, the default), blocks (and residual "
        "joins), all (and the output), a key, a name, a glob, re:PATTERN, type:OP; -SEL leaves out.",
    )(command)


def check_output(output: str, *, resume: bool, overwrite: bool) -> None:
    """Refuse an ``-o`` that names nothing, and options that contradict each other."""
    if not output.strip("/") or Path(output).name in {"", ".", ".."}:
        msg = f"-o {output!r} names no file; give for example -o acts.h5, or -o acts/ for a folder"
        raise click.UsageError(msg)
    if resume and overwrite:
        msg = "--resume and --overwrite contradict each other: choose one"
        raise click.UsageError(msg)


def usable_cores() -> int:
    """Return the cores this process may use, which a container's or a scheduler's mask may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plural(n: int, noun: str) -> str:
    """Return ``1 layer``, ``4,096 samples`` or ``10 passes``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}" + ("" if n == 1 else ending)
