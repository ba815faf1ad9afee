"""A rich console that leaves a closed stdout to `repstat.cli`, which knows that it is no error."""

from typing import NoReturn

from rich.console import Console


class PipeConsole(Console):
    """A console on which ``| head -1`` raises instead of exiting with code 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise it again."""
        raise BrokenPipeError
