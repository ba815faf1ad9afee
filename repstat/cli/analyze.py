"""``repstat analyze``: estimates along the trajectory, as a table, a results file, JSON or CSV."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from repstat.child import STORE_GATE
from repstat.cli import say
from repstat.cli.options import UNKNOWN_ENTROPY, layer_option
from repstat.cores import usable_cores
from repstat.errors import UsageError
from repstat.units import UNITS, Units

if TYPE_CHECKING:
    from repstat.store import Store

CELL_SAMPLES_PER_WORKER = 100_000
"""Layers x checkpoints x samples that take a few times longer than starting a process (about a second)."""

EPILOG = """\b
Examples:
  repstat analyze acts.h5
  repstat analyze acts.h5 --noise-std 0.05,0.1 --binning width:0.07 --csv acts.csv
  repstat analyze acts.h5 --json | head -1"""


@click.command("analyze", epilog=EPILOG)
@click.argument("store")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Results file to write [default: STORE with .results.h5].",
)
@click.option("--overwrite", is_flag=True, help="Replace the results file and the CSV if they exist.")
@click.option("--csv", "csv_file", metavar="FILE", help="Also write every number as CSV.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print every number as JSON Lines instead of the table."
)
@click.option(
    "--noise-std",
    default="auto",
    show_default=True,
    metavar="LIST|auto",
    help="Noise levels, comma-separated: standard deviations in activation units, or 0.1x for a multiple "
    "of the layer's pooled standard deviation over the trajectory; auto picks two such multiples for each "
    "layer, the same for all checkpoints, at which it holds at most 0.8 and 0.4 of ln n.",
)
@click.option(
    "--binning",
    "binnings",
    multiple=True,
    default=("count:30",),
    show_default=True,
    metavar="SPEC",
    help="szt, width:W, count:N or quantile:N; may be repeated.",
)
@click.option(
    "--estimators",
    default="noisy,binned,clustering,profile",
    show_default=True,
    metavar="LIST",
    help="What to compute: I(X;T) and I(Y;T), binned entropies, distances and the geometry of classes, the "
    "number of clusters over noise scales.",
)
@layer_option
@click.option(
    "--steps",
    metavar="SEL",
    help="Checkpoints to analyse: 0,100 or a range 100:5000 [default: all].",
)
@click.option(
    "--units",
    type=click.Choice(UNITS),
    default="nats",
    show_default=True,
    help="Unit of information in table, JSON and CSV; the results file is always in nats.",
)
@click.option(
    "--tolerance",
    type=float,
    default=0.01,
    show_default=True,
    help="Standard error to reach, in nats.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that compute [default: one per usable core, fewer for small jobs].",
)
@click.option(
    "--conditional",
    type=click.Choice(["sampled", "linearised"]),
    default="sampled",
    show_default=True,
    help="For the store of a noisy network: h(T|X) from the density of its realizations, or from their "
    "covariance, which needs fewer of them and serves where noise is small.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the products of the noisy estimator run; cuda needs torch or cupy, and never falls back.",
)
def command(
    store: str,
    output: str | None,
    overwrite: bool,
    csv_file: str | None,
    as_json: bool,
    noise_std: str,
    binnings: tuple[str, ...],
    estimators: str,
    selectors: tuple[str, ...],
    steps: str | None,
    units: Units,
    tolerance: float,
    workers: int | None,
    conditional: Literal["sampled", "linearised"],
    seed: int,
    device: str,
) -> None:
    """Estimate what the layers in STORE know, checkpoint by checkpoint.

    I(X;T) and I(Y;T) through Gaussian noise, binned entropy, and how classes cluster; each number with its
    standard error, ceiling and status. The store itself is never changed.
    """
    STORE_GATE.start()
    from repstat.analysis import analyze
    from repstat.cli.csv_file import check_csv, write_csv
    from repstat.cli.table import print_findings, print_results
    from repstat.cli.talk import Talk
    from repstat.store import open_store
    from repstat.store.results_file import check_output

    path = Path(output) if output else _results_path(Path(store))
    with open_store(store) as opened:
        check_output(path, overwrite=overwrite)
        _check_place(path, Path(store))
        if csv_file is not None:
            _check_place(Path(csv_file), Path(store))
            check_csv(Path(csv_file), path, Path(store), overwrite=overwrite)
        with Talk() as talk:
            if opened.synthetic:
                talk.note("WARNING: the store was made from synthetic inputs, not from data")
            if opened.samples.input_entropy is None:
                talk.note(UNKNOWN_ENTROPY)
            results = analyze(
                opened,
                noise_std=noise_std,
                binning=binnings,
                estimators=[word.strip() for word in estimators.split(",")],
                layers=selectors or ("all",),
                steps=_select_steps(steps, opened.steps),
                tolerance=tolerance,
                seed=seed,
                conditional=conditional,
                workers=workers or (_default_workers(opened) if device == "cpu" else 1),
                device=device,
                progress=talk,
            )
    results.save(path, overwrite=overwrite)
    if csv_file is not None:
        write_csv(results, Path(csv_file), units)
    if as_json:
        for row in results.to_rows(units):
            click.echo(json.dumps(row, allow_nan=False))
    else:
        print_results(results, units)
    print_findings(results, units, to_stderr=as_json)
    for written in filter(None, (path, csv_file)):
        say(f"wrote {written}")
    say(f"next: {shlex.join(['repstat', 'report', str(path)])}")


def _default_workers(store: "Store") -> int:
    """Return one per usable core, but none for what is computed before a process has started."""
    cells = len(store.layers) * len(store.steps) * len(store.samples.index)
    return min(usable_cores(), max(1, cells // CELL_SAMPLES_PER_WORKER))


def _results_path(store: Path) -> Path:
    """Return ``acts.results.h5`` for ``acts.h5`` or the folder ``acts/``."""
    name = store.resolve().name
    beside = store if store.name not in {"", ".", ".."} else store.resolve()
    return beside.with_name(f"{name.removesuffix('.h5')}.results.h5")


def _check_place(path: Path, store: Path) -> None:
    """Refuse to write among the files of a folder store: it would hold a file that is none of its own."""
    if path.resolve().parent == store.resolve() or any(path.resolve().parent.glob(f"step-{'[0-9]' * 12}.h5")):
        raise UsageError(
            what="will not write results",
            path=path,
            why="its folder is an activation store",
            fix="Name a file elsewhere with -o",
        )


def _select_steps(text: str | None, steps: tuple[int, ...]) -> list[int] | None:
    """Read ``0,100`` or ``100:5000`` (both ends included, either may be missing)."""
    from repstat.steps import parse_steps

    if text is None:
        return None
    chosen: list[int] = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        if not colon:
            chosen += parse_steps(part)
            continue
        first = parse_steps(low)[0] if low else steps[0]
        last = parse_steps(high)[0] if high else steps[-1]
        found = [step for step in steps if first <= step <= last]
        if not found:
            msg = f"--steps {part} holds no checkpoint; the steps are {', '.join(map(str, steps))}"
            raise click.UsageError(msg)
        chosen += found
    return chosen
