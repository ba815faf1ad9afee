"""Options and helpers that several commands share."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import click
from click.core import ParameterSource

from repstat.cli import say
from repstat.errors import UsageError
from repstat.memory import parse_bytes

if TYPE_CHECKING:
    _FloatType = click.ParamType[float]
    _IntType = click.ParamType[int]
else:  # before click 8.4 it takes no parameter
    _FloatType = _IntType = click.ParamType

UNKNOWN_ENTROPY = (
    "the inputs are unknown: the ceiling of I(X;T) is ln n, which is too high if samples repeat; then an "
    "estimate may be saturated without being marked"
)
"""What is said where nobody gave the samples that activations belong to."""

_LONGEST_SECONDS = 1e8
"""Three years: what the clock of the system takes."""

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


class _Seconds(_FloatType):
    """A time, which infinity and NaN are not."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds <= _LONGEST_SECONDS:
            self.fail(f"{value!r} is no number of seconds above 0", param, ctx)
        return seconds


class _Bytes(_IntType):
    """A size with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def limit_options(command: F) -> F:
    """Add what a model's run may take."""
    for option in (
        click.option(
            "--max-memory",
            type=_Bytes(),
            metavar="SIZE",
            help="Memory that the model's run may take, such as 4GB: what is predicted to need more is "
            "refused, and what takes more nevertheless is ended, with exit code 6 [default: 80 % of the "
            "machine's, or of its container's].",
        ),
        click.option(
            "--timeout",
            type=_Seconds(),
            metavar="SECONDS",
            help="End the command after this time, whatever the model does, with exit code 6. Finished "
            "checkpoints are kept [default: none].",
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


def given_options() -> list[str]:
    """Return what was typed of `model_options` and ``--max-memory``, for another command on the model."""
    context = click.get_current_context()
    words = list[str]()
    for option in context.command.params:
        name = option.name or ""
        opens = name in ModelOptions.__annotations__ or name == "max_memory"
        if opens and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return words


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


def output_option(command: F) -> F:
    """Add ``-o`` of the commands that write a store."""
    return click.option(
        "-o",
        "--output",
        default="acts.h5",
        show_default=True,
        help="Store to write; a name that ends in / keeps one file per checkpoint in a folder.",
    )(command)


def metrics_option(command: F) -> F:
    """Add ``--metrics``."""
    return click.option(
        "--metrics",
        "metrics_file",
        metavar="CSV",
        help="Losses and so on, with a column step, and epoch if there is one.",
    )(command)


def existing_output_options(command: F) -> F:
    """Add what to do where the output exists."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        click.option("--resume", is_flag=True, help="Complete the output if it exists."),
    ):
        command = option(command)
    return command


def announce_store(path: Path) -> None:
    """Print the store that was written, and what to type next."""
    click.echo(path)
    say(f"next: repstat analyze {shlex.quote(str(path))}")


def check_output(output: str, *, resume: bool, overwrite: bool) -> None:
    """Refuse an ``-o`` that names nothing, and options that contradict each other."""
    if not output.strip("/") or Path(output).name in {"", ".", ".."}:
        msg = f"-o {output!r} names no file; give for example -o acts.h5, or -o acts/ for a folder"
        raise click.UsageError(msg)
    if resume and overwrite:
        msg = "--resume and --overwrite contradict each other: choose one"
        raise click.UsageError(msg)


def plural(n: int, noun: str) -> str:
    """Return ``1 layer``, ``4,096 samples`` or ``10 passes``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}" + ("" if n == 1 else ending)


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return what the runs of results files are called: the files, with folders where these are alike."""
    short = [path.name.removesuffix(".h5").removesuffix(".results") for path in paths]
    if len(set(short)) == len(short):
        return short
    long = [str(path).removesuffix(".h5").removesuffix(".results") for path in paths]
    if len(set(long)) == len(long):
        return long
    raise UsageError(
        what="the same results twice", why=f"found {len(paths)} names", fix="Name each results file once"
    )
