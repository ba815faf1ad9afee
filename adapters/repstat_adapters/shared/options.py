"""Options that mean the same for every framework that runs its models as they are."""

from pathlib import Path

from repstat.adapter import AdapterOptions
from repstat.cores import usable_cores
from repstat.errors import UsageError

MOST_THREADS = 1024


def check_plain_options(options: AdapterOptions, framework: str, path: Path | None) -> None:
    """Check the options for a framework that has no graph optimisation to choose.

    Raises
    ------
    UsageError
        An option has no meaning, or the threads are out of range.
    """
    if options.opt_level != "none":
        raise UsageError(
            what=f"opt level {options.opt_level!r} has no meaning for {framework}",
            path=path,
            why="the model is run op by op, as it is",
            fix="Leave --opt-level out",
        )
    if options.extra:
        raise UsageError(
            what=f"unknown options {', '.join(sorted(options.extra))}",
            why=f"the {framework} adapter has no further options",
            fix="Leave them out",
        )
    if options.threads is not None and not 1 <= options.threads <= MOST_THREADS:
        raise UsageError(
            what=f"cannot use {options.threads:,} threads",
            why=f"{usable_cores()} cores are usable",
            fix="Leave --threads out, or give the number of cores",
        )
