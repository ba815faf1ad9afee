"""Run the command line inside the test process, as `main` does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from repstat.cli import _run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


RunCli = Callable[..., Outcome]


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]) -> RunCli:
    """Type a command; stdout and stderr are captured at the file descriptors, where C libraries write."""

    def run(*words: str | Path) -> Outcome:
        code = _run([str(word) for word in words])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run
