"""What other versions of PyTorch do differently, seen from the one that is installed."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import both_ways, furthest, normal  # noqa: E402

nn = torch.nn
X = normal(5, 4)


def test_programs_of_older_versions_have_no_guards_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ``ExportedProgram.module`` takes no option."""
    model = nets.seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))).eval()
    program = torch.export.export(model, (torch.from_numpy(X),))
    original = type(program).module
    monkeypatch.setattr(type(program), "module", lambda self: original(self, check_guards=False))
    ways = [both_ways(nets.opened(source), X, 0.0) for source in (model, program)]
    assert furthest(*ways) < 1e-6


def test_an_old_program_is_read_without_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the format before 2.8, PyTorch logs a traceback and reads it all the same."""
    program = torch.export.export(nets.seeded(lambda: nn.Linear(4, 2)).eval(), (torch.from_numpy(X),))
    torch.export.save(program, tmp_path / "old.pt2")
    log, load = logging.getLogger("torch.export"), torch.export.load
    said: list[logging.LogRecord] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", said.append)
    log.addHandler(listener)

    def old(path: str) -> Any:
        log.warning("Traceback (most recent call last)")
        return load(path)

    monkeypatch.setattr(torch.export, "load", old)
    level = log.level
    try:
        assert len(nets.opened(tmp_path / "old.pt2").layers()) == 1
    finally:
        log.removeHandler(listener)
    assert (said, log.level) == ([], level)
