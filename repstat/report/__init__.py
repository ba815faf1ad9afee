"""The report: results of one or more trainings as one HTML page that needs no network.

Words and tables (`facts`), what the charts draw (`data`), what to cite (`methods`), and the page they go into
(`page` and ``templates/``). The charts are plotly's, drawn by the page's own script.
"""

from repstat.report.page import render as render
from repstat.report.page import report as report

__all__ = ["render", "report"]
