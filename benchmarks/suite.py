"""All sections in order, and the page they make."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import kernels, network, overhead, pages, precision, safety, sidejobs, trajectory, traps
from benchmarks.cases import ROOT, fixture_store
from benchmarks.measure import FULL, QUICK, Settings, one_thread
from benchmarks.peers import absent, present
from benchmarks.report import Table, machine

SECTIONS: dict[str, Callable[[Settings], Table]] = {
    "precision": precision.table,
    "equal": kernels.equal_count,
    "variance": kernels.time_times_variance,
    "side": sidejobs.table,
    "trajectory": trajectory.table,
    "network": network.table,
    "safety": safety.table,
    "pages": pages.table,
    "overhead": overhead.table,
    "traps": lambda _: traps.table(),
}


def page(tables: list[Table], settings: Settings, spent: float) -> str:
    """Return the whole document."""
    missing = f" Not installed, and left out: {', '.join(absent())}." if absent() else ""
    quick = " **From a quick run: fewer cases, less precise.**" if settings.quick else ""
    head = f"""# Benchmarks

Written by `make bench` in {spent / 60:.1f} minutes; read the ratios.{quick} One run, one thread, CPU time
(wall time where said), best of {settings.repeats} interleaved, on {machine()}.

Peers: {", ".join(present())}.{missing} *numpy float64* is the best plain script we could write: centred,
scaled by the noise, products in blocks that fit the cache, a running maximum."""
    return "\n\n".join([head, *(table.markdown() for table in tables)]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Run the sections and write the page."""
    parser = argparse.ArgumentParser(description="Time, error and memory of repstat beside its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller settings")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else FULL
    start = time.monotonic()
    tables = []
    fixture_store()
    present()
    with one_thread():
        for name in options.only:
            begun = time.monotonic()
            tables.append(SECTIONS[name](settings))
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
            # After each section: an hour on a busy machine is not lost to what comes last.
            text = page(tables, settings, time.monotonic() - start)
            options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
