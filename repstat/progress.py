"""How long work tells its caller where it is. The command line draws it; the library is silent by default."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of extraction or analysis."""

    def start(self, description: str, total: int, unit: str) -> None:
        """Begin `total` units of work."""

    def advance(self, amount: int) -> None:
        """Count `amount` units as done."""

    def note(self, text: str) -> None:
        """Tell the user something they should know."""


class Silent:
    """Tells nobody."""

    def start(self, description: str, total: int, unit: str) -> None:
        """Ignore it."""

    def advance(self, amount: int) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
