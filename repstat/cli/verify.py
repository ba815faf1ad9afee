"""``repstat verify``: whether a store or a results file is sound."""

import re

import click

from repstat.child import STORE_GATE
from repstat.cli import say
from repstat.cli.options import plural
from repstat.errors import StoreDamagedError
from repstat.naming import printable


@click.command("verify", epilog="Example: repstat verify acts.h5")
@click.argument("store")
def command(store: str) -> None:
    """Check every hash and every rule of STORE, or of a results file; list all problems, exit 4 if any."""
    STORE_GATE.start()
    from repstat.store import verify

    problems = verify(store)
    for problem in problems:
        click.echo(printable(problem))
    if problems:
        named = any(re.search(r": step \d+, layer ", problem) for problem in problems)
        raise StoreDamagedError(
            what=plural(len(problems), "problem"),
            path=store,
            why="it is not sound",
            fix="Extract the checkpoints named above again" if named else "See above for what to do",
        )
    say(f"{store}: sound")
