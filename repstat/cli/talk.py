"""What the command line says on stderr: notes, warnings, and a progress bar where there is a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from repstat.cli import say
from repstat.naming import printable


class Talk:
    """A `repstat.progress.Progress` on stderr; a context manager that takes the bar away at the end."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}, {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, description: str, total: int, unit: str) -> None:
        """Show a bar for `total` units."""
        self._task = self._bar.add_task(description, total=total, unit=unit, rate="")

    def advance(self, amount: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._bar.advance(self._task, amount)
        speed = self._bar.tasks[self._task].speed
        self._bar.update(
            self._task, rate=f"{speed:,.0f}/s" if speed and speed >= 10 else f"{speed or 0:.2g}/s"
        )

    def note(self, text: str) -> None:
        """Say something above the bar."""
        if self._bar.disable:
            say(f"repstat: {text}")
        else:
            self._bar.console.print(f"repstat: {printable(text)}", markup=False, highlight=False)
