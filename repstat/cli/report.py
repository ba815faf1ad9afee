"""``repstat report``: one HTML page of what the trajectories of one or more trainings show."""

from pathlib import Path

import click

from repstat.child import STORE_GATE
from repstat.cli import say
from repstat.cli.options import run_names
from repstat.errors import UsageError
from repstat.units import UNITS, Units, format_bytes

EPILOG = """\b
Examples:
  repstat report acts.results.h5
  repstat report tanh-s1.results.h5 tanh-s2.results.h5 tanh-s3.results.h5 -o seeds.html"""

SUFFIX = ".results.h5"


@click.command("report", epilog=EPILOG)
@click.argument("results", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="HTML file to write [default: RESULTS with .report.html, for the first of several].",
)
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.option(
    "--units", type=click.Choice(UNITS), default="nats", show_default=True, help="Unit of information."
)
def command(results: tuple[str, ...], output: str | None, overwrite: bool, units: Units) -> None:
    """Explain what RESULTS show on one HTML page: findings, figures, every status, provenance.

    The page is one file that needs no network. Several RESULTS are laid over each other; those whose names
    differ only in a number at the end are taken as seeds of one setting: their mean and spread are shown.
    """
    STORE_GATE.start()
    from repstat.report import report
    from repstat.store.results_file import open_results

    paths = [Path(name) for name in results]
    path = Path(output) if output else _report_path(paths[0])
    if path.resolve() in {source.resolve() for source in paths}:
        raise UsageError(
            what="cannot write the report", path=path, why="it is one of the results", fix="Name another -o"
        )
    written = report(
        [open_results(source) for source in paths],
        path,
        names=run_names(paths),
        units=units,
        overwrite=overwrite,
    )
    say(f"wrote {written} ({format_bytes(written.stat().st_size)}); open it in a browser")


def _report_path(results: Path) -> Path:
    """Return ``acts.report.html`` for ``acts.results.h5``."""
    return results.with_name(results.name.removesuffix(".h5").removesuffix(".results") + ".report.html")
