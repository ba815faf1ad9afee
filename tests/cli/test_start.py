"""Start-up: fast, no framework, helpful."""

import subprocess
import sys

import pytest

from repstat import __version__
from repstat.cli import COMMANDS, printable

HEAVY = ("torch", "tensorflow", "keras", "onnx", "onnxruntime", "scipy", "h5py", "numpy", "rich")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from repstat.cli import _run; code = _run(['--help']); "
        f"print(code, [m for m in {HEAVY} if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "0 []"


def test_the_public_names_load_no_framework() -> None:
    heavy = ("torch", "tensorflow", "keras", "onnx", "onnxruntime", "scipy.stats")
    code = (
        "import sys, repstat; [getattr(repstat, n) for n in repstat.__all__]; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert python(code) == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run_cli, command: str) -> None:
    outcome = run_cli(command, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: repstat {command}")
    assert "Example" in outcome.out


def test_the_version_is_the_package_s(run_cli) -> None:
    assert run_cli("--version").out == f"repstat, version {__version__}\n"


def test_a_misspelt_command_gets_a_suggestion(run_cli) -> None:
    outcome = run_cli("anlyze", "acts.h5")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "No such command 'anlyze'. Did you mean 'analyze'?" in outcome.err


def test_control_and_bidi_characters_do_not_reach_the_terminal() -> None:
    hostile = ("\x1b", "\u202e", "\n", "\x9b", "\u061c", "\u2028", "\u200b", "\udc80")
    assert printable("é[31m".join(hostile)) == "é[31m".join("\ufffd" * len(hostile))
