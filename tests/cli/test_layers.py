"""``repstat layers``: what it says to type next does work."""

import shlex
import signal
from pathlib import Path

import onnx
import pytest

from tests.adapters.onnx_models import mlp
from tests.cli.conftest import RunCli
from tests.optional import require


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], ""),
        (["--provider", "auto", "--threads", "1"], " --provider auto --threads 1"),
        (["--opt-level=basic", "--timeout", "60"], " --opt-level basic"),
        (["--max-memory", "4GB"], " --max-memory 4000000000"),
    ],
)
def test_the_hint_opens_the_model_as_it_was_opened(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "my model.onnx")
    outcome = run_cli("layers", "my model.onnx", *options)
    hint = outcome.err.splitlines()[-1].partition("would be recorded by: ")[2]
    assert hint == f"repstat extract 'my model.onnx'{said}"
    assert run_cli(*shlex.split(hint)[1:]).code == 0


def test_the_hint_names_the_factory_and_the_trust(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = require("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("hinted_nets.py").write_text(
        "from torch import nn\n\n\ndef seq():\n"
        "    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))\n"
    )
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    torch.save(net.state_dict(), "seq.pt")
    outcome = run_cli("layers", "seq.pt", "--model-factory", "hinted_nets:seq", "--trust-model")
    hint = outcome.err.splitlines()[-1].partition("would be recorded by: ")[2]
    assert hint == "repstat extract seq.pt --model-factory hinted_nets:seq --trust-model"
    assert run_cli(*shlex.split(hint)[1:]).code == 0


def test_a_program_that_runs_the_command_has_no_alarm_left(run_cli: RunCli, trajectory: list[Path]) -> None:
    before = signal.getsignal(signal.SIGALRM)
    assert run_cli("layers", trajectory[0], "--timeout", "60").code == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before
