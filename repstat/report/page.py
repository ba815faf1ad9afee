"""The page itself: its templates, filled, in one file."""

import json
from collections.abc import Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from repstat.errors import UsageError
from repstat.naming import printable
from repstat.outputs import check_output, write_output
from repstat.report.comparison import compare
from repstat.report.data import page_data
from repstat.report.facts import facts_of
from repstat.report.images import images
from repstat.results import Results
from repstat.units import Units
from repstat.version import __version__

MARK = b"<!doctype html><!-- repstat report -->"
"""How a report begins: nothing else is overwritten."""


def report(
    runs: Results | Sequence[Results],
    path: str | PathLike[str],
    *,
    names: Sequence[str] = (),
    units: Units = "nats",
    overwrite: bool = False,
) -> Path:
    """Write the report of one or more runs and return its path.

    Parameters
    ----------
    runs
        Results of one training, or of several to lay over each other.
    path
        HTML file to write.
    names
        What the runs are called; those that differ only in a number at their end are seeds of one setting,
        and are shown with their mean and spread.
    units
        Of information.

    Raises
    ------
    UsageError
        The file exists and `overwrite` is False, or is no report; plotly, jinja2 or matplotlib is missing.
    ResourceError
        The disk is full.
    """
    output = Path(path)
    check_output(output, _is_report, "report", overwrite=overwrite)
    text = render(runs, names=names, units=units)
    write_output(output, text.encode("utf-8"))
    return output


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK


def render(runs: Results | Sequence[Results], *, names: Sequence[str] = (), units: Units = "nats") -> str:
    """Return the page of one or more runs as HTML; parameters as of `report`."""
    every = [runs] if isinstance(runs, Results) else list(runs)
    if not every:
        raise UsageError(what="no results to report", fix="Give the results of at least one analysis")
    called = list(names) or (["results"] if len(every) == 1 else [f"run {i + 1}" for i in range(len(every))])
    if len(called) != len(every) or len(set(called)) != len(called):
        raise UsageError(
            what=f"{len(every)} runs are called {', '.join(called)}",
            why="each needs a name of its own",
            fix="Give one name for each",
        )
    template, plotly = _template()
    facts = [facts_of(run, name, units) for run, name in zip(every, called, strict=True)]
    methods = list(dict.fromkeys(method for run in facts for method in run.methods))
    cited = dict.fromkeys(reference for method in methods for reference in method.references)
    return str(
        template.render(
            runs=facts,
            comparison=compare(every, called, units),
            methods=methods,
            bibtex="\n\n".join(reference.bibtex for reference in cited),
            title=printable(", ".join(called)),
            units=units,
            version=__version__,
            data=_as_script(page_data(every, called, units)),
            plotly=plotly,
            style=_text("style.css"),
            script=_text("charts.js") + _text("page.js"),
            images=images(every, called, units),
        )
    )


def _template() -> tuple[Any, str]:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError(
            what=f"{error.name} is not installed",
            fix="Install what reports need: pip install 'repstat[plot]'",
        ) from None
    environment = Environment(
        loader=PackageLoader("repstat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html"), get_plotlyjs()


def _as_script(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _text(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
