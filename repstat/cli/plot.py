"""``repstat plot``: a figure of one or more results, as PDF, SVG or PNG."""

from collections.abc import Sequence
from pathlib import Path

import click

from repstat.child import STORE_GATE
from repstat.cli import say
from repstat.cli.options import run_names
from repstat.plots import KINDS, WIDTH_INCHES, drawing_of, figure
from repstat.units import UNITS, Units

_KINDS = "\n".join(f"  {kind:<18} {text}" for kind, text in KINDS.items())

EPILOG = f"""\b
Kinds:
{_KINDS}

\b
Examples:
  repstat plot acts.results.h5 trajectories -o acts.pdf
  repstat plot acts.results.h5 scatter --layers L003,L004 --step 1300 -o acts.svg
  repstat plot tanh-1.results.h5 tanh-2.results.h5 trajectories -o seeds.png --width 7"""


@click.command("plot", epilog=EPILOG)
@click.argument("words", nargs=-1, metavar="RESULTS... KIND")
@click.option("-o", "--output", metavar="FILE", help="Figure to write: a name in .pdf, .svg or .png.")
@click.option("--overwrite", is_flag=True, help="Replace the figure if it exists.")
@click.option(
    "--layers",
    "selectors",
    multiple=True,
    metavar="SEL",
    help="Layers to draw, comma-separated; may be repeated: a key, a name, a glob, re:PATTERN (alone, as it "
    "may hold commas); -SEL leaves out [default: all].",
)
@click.option(
    "--step",
    type=int,
    help="Checkpoint of distances [default: last], scatter [default: first, middle and last] and "
    "noise-profile [default: some along the training].",
)
@click.option(
    "--level",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which noise level of each layer, for I(X;T) and I(Y;T): 0 is the first, of auto the finest.",
)
@click.option(
    "--units", type=click.Choice(UNITS), default="nats", show_default=True, help="Unit of information."
)
@click.option(
    "--width",
    type=float,
    default=WIDTH_INCHES,
    show_default=True,
    metavar="IN",
    help="Width in inches: 3.4 is one column of a paper, two are about 7.",
)
def command(
    words: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    selectors: tuple[str, ...],
    step: int | None,
    level: int,
    units: Units,
    width: float,
) -> None:
    """Draw a figure of KIND from RESULTS, the files that `repstat analyze` writes.

    Files whose names differ in a number at their end only (tanh-1, tanh-2, ...) are runs of one setting, and
    are shown with their mean and spread; others are laid over each other.
    """
    paths, kind = _read(words)
    drawing_of(kind)
    if output is None:
        msg = f"-o is missing: name the figure, for example -o {kind}.pdf"
        raise click.UsageError(msg)
    STORE_GATE.start()
    from repstat.plots.files import check_figure, save
    from repstat.store.results_file import open_results

    target = Path(output)
    check_figure(target, overwrite=overwrite)
    runs = [open_results(path) for path in paths]
    drawn = figure(
        kind,
        runs,
        names=run_names(paths),
        layers=_split(selectors),
        step=step,
        units=units,
        width=width,
        level=level,
    )
    save(drawn, target, overwrite=overwrite)
    say(f"wrote {target}")


def _read(words: Sequence[str]) -> tuple[list[Path], str]:
    """Tell the files from the kind, which comes last."""
    if not words:
        msg = "results and a kind are missing: repstat plot acts.results.h5 trajectories -o figure.pdf"
        raise click.UsageError(msg)
    *paths, kind = words
    if kind not in KINDS and (kind.endswith(".h5") or Path(kind).exists()):
        named = [word for word in paths if word in KINDS]
        hint = (
            f"write {named[0]} after the files" if named else f"add one after the files: {', '.join(KINDS)}"
        )
        msg = f"the kind of figure is missing, the last word is the file {kind}; {hint}"
        raise click.UsageError(msg)
    if kind in KINDS and not paths:
        msg = f"the results are missing: repstat plot acts.results.h5 {kind} -o figure.pdf"
        raise click.UsageError(msg)
    return [Path(path) for path in paths], kind


def _split(selectors: Sequence[str]) -> list[str] | None:
    found: list[str] = []
    for selector in selectors:
        found += [selector] if selector.lstrip("-").startswith("re:") else selector.split(",")
    return found or None
