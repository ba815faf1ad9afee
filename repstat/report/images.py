"""The figures of a page as images, for readers without JavaScript."""

import base64
from collections.abc import Sequence
from io import BytesIO

from repstat.errors import UsageError
from repstat.results import Results
from repstat.units import Units

WIDTH_INCHES = 7.0
DOTS_PER_INCH = 110


def images(runs: Sequence[Results], names: Sequence[str], units: Units) -> dict[str, str]:
    """Return each kind of figure as a data URI; one that these results cannot show is left out."""
    from repstat.plots import KINDS, figure
    from repstat.plots.style import context

    found = {}
    for kind in KINDS:
        try:
            drawn = figure(kind, runs, names=names, units=units, width=WIDTH_INCHES)
        except UsageError:
            continue  # without labels there is no information plane, and the page says so
        buffer = BytesIO()
        with context():
            drawn.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        found[kind] = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return found
