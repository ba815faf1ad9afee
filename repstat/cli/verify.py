"""``repstat verify``: whether a store is sound."""

import click

from repstat.cli import printable
from repstat.cli.options import plural
from repstat.errors import StoreDamagedError


@click.command("verify", epilog="Example: repstat verify acts.h5")
@click.argument("store")
def command(store: str) -> None:
    """Check every hash and every rule of STORE; list all problems, exit 4 if there is one."""
    from repstat.store import verify

    problems = verify(store)
    for problem in problems:
        click.echo(printable(problem))
    if problems:
        raise StoreDamagedError(
            what=plural(len(problems), "problem"),
            path=store,
            why="the store is not sound",
            fix="Extract the checkpoints named above again",
        )
    click.echo(f"{printable(store)}: sound", err=True)
