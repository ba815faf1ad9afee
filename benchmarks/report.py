"""Tables in Markdown, and what they were measured on."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "tensorflow", "onnxruntime", "jax", "pykeops")


@dataclass(frozen=True, slots=True)
class Table:
    """One table and the sentences around it.

    Parameters
    ----------
    title
        Heading.
    before
        What is measured, and how.
    columns
        Headers; a name that ends in ``|`` is aligned to the right.
    rows
        Cells as text.
    after
        What follows the table, such as a summary.
    """

    title: str
    before: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    after: str = ""

    def markdown(self) -> str:
        """Return the section as Markdown."""
        return "\n\n".join(filter(None, [f"## {self.title}", self.before, self.grid(), self.after]))

    def grid(self) -> str:
        """Return the table alone."""
        for row in self.rows:
            if len(row) != len(self.columns):
                msg = f"{self.title!r}: found {len(row)} cells, expected {len(self.columns)}: {row}"
                raise ValueError(msg)
        head = _line([column.rstrip("|") for column in self.columns])
        rule = "|" + "|".join("---:" if column.endswith("|") else "---" for column in self.columns) + "|"
        return "\n".join([head, rule, *(_line(row) for row in self.rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def seconds(value: float) -> str:
    """Return a time in the unit that suits it."""
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if value < 1.0:
        return f"{value * 1e3:.3g} ms"
    if value < 600.0:
        return f"{value:.3g} s"
    if value < 7200.0:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.3g} h"


def ratio(value: float) -> str:
    """Return a ratio with two or three digits."""
    return f"{value:.1f}×" if value < 10 else f"{value:,.0f}×"


def count(value: float) -> str:
    """Return a large number with its prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def megabytes(n_bytes: float) -> str:
    """Return a size in MB."""
    return f"{n_bytes / 1e6:.0f} MB"


def machine() -> str:
    """Return the processor, its cores, and the versions of what was measured."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{model}, {os.cpu_count()} cores; {', '.join(found)}"
