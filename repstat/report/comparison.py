"""Several runs side by side: what falls in each, and whether they are read at the same scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repstat.findings import Fall, find
from repstat.naming import printable
from repstat.report.facts import amount_of
from repstat.report.methods import LABELS
from repstat.results import Results
from repstat.trajectories import group_of, trajectories
from repstat.units import Units

CLOSE = 1e-3
"""Noise levels that differ by less, relatively, are called the same."""


@dataclass(frozen=True, slots=True)
class ComparedLine:
    """One layer and quantity at one level: of each run the fall and its verdict, or nothing."""

    layer: str
    name: str
    quantity: str
    cells: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the page says of several runs together."""

    names: tuple[str, ...]
    warnings: tuple[str, ...]
    lines: tuple[ComparedLine, ...]


def compare(runs: Sequence[Results], names: Sequence[str], units: Units) -> Comparison | None:
    """Return the falls of several runs side by side; None for one."""
    if len(runs) < 2:
        return None
    falls = [_by_level(find(run).falls) for run in runs]
    titles = {key: name for run in reversed(runs) for key, name in run.layers.items()}
    lines = []
    for key in dict.fromkeys(key for found in falls for key in found):
        layer, quantity, _ = key
        cells = [(f.scale, amount_of(f, units), f.verdict.value) if f else ("", "", "")
                 for f in (found.get(key) for found in falls)]  # fmt: skip
        lines.append(ComparedLine(layer, printable(titles[layer]), LABELS[quantity], tuple(cells)))
    lines.sort(key=lambda line: line.layer)
    return Comparison(tuple(map(printable, names)), tuple(_warnings(runs, names)), tuple(lines))


def _by_level(falls: Sequence[Fall]) -> dict[tuple[str, str, int], Fall]:
    found: dict[tuple[str, str, int], Fall] = {}
    for fall in falls:
        level = sum(key[:2] == (fall.layer, fall.quantity) for key in found)
        found[fall.layer, fall.quantity, level] = fall
    return found


def _warnings(runs: Sequence[Results], names: Sequence[str]) -> Iterator[str]:
    """Yield what keeps the runs from being compared number by number."""
    layers = [tuple(run.layers) for run in runs]
    if len(set(layers)) > 1:
        yield "The runs have different layers; each is compared where it is found."
    if len({run.n_samples for run in runs}) > 1:
        yield "The runs have different numbers of samples, and so different ceilings."
    inputs = {run.provenance.get("inputs_sha256") for run in runs}
    if len(inputs) > 1:
        yield "The runs were recorded on different inputs."
    differing = [
        key for key in dict.fromkeys(key for run in runs for key in run.layers) if not _same_noise(runs, key)
    ]
    if differing:
        yield (
            f"The runs are read through different noise in {', '.join(differing)}: their information cannot "
            "be compared there. Analyse all with the same --noise-std, as a number."
        )
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)
    for group, members in groups.items():
        if len(members) > 1:
            yield (
                f"By their names, {printable(', '.join(members))} are taken as seeds of one setting, "
                f"{printable(group)}; the spread between them is not an error of estimation."
            )


def _same_noise(runs: Sequence[Results], layer: str) -> bool:
    levels = [
        [t.noise_std for t in trajectories(run, "mi_input", layer)] for run in runs if layer in run.layers
    ]
    first = levels[0]
    return all(
        len(first) == len(other)
        and all(
            (a is None and b is None) or (a is not None and b is not None and abs(a - b) <= CLOSE * abs(a))
            for a, b in zip(first, other, strict=True)
        )
        for other in levels[1:]
    )
