"""For the `preexec_fn` of a process that a test interrupts."""

import signal


def hear_interrupts() -> None:
    """Undo that a script's background jobs ignore SIGINT, which a program started by one inherits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
