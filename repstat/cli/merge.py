"""``repstat merge``: stores of one training become one."""

from pathlib import Path

import click

from repstat.child import STORE_GATE


@click.command("merge", epilog="Example: repstat merge first.h5 second.h5 -o all.h5")
@click.argument("stores", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="Store to write.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def command(stores: tuple[str, ...], output: str, overwrite: bool) -> None:
    """Join STORES with the same inputs and layers and disjoint steps into one."""
    STORE_GATE.start()
    from repstat.store import merge

    click.echo(merge([Path(store) for store in stores], Path(output), overwrite=overwrite))
