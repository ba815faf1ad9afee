"""What the documentation shows is run, and the generated page is fresh."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.optional import require

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
NOT_RUN = {"make demo": "sets up a virtual environment; .ci/run and a clean clone do it"}
"""Blocks that are not run here, by their first words, each with the reason."""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [match["code"] for match in BLOCK.finditer(text) if match["language"] == language]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    return tmp_path


def environment() -> dict[str, str]:
    scripts = Path(sys.executable).parent
    return os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "132"}


def test_the_readme_s_commands_run(workplace: Path) -> None:
    shell = [code for code in blocks("README.md", "bash") if not code.startswith(tuple(NOT_RUN))]
    assert shell
    for code in shell:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=workplace, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_the_readme_starts_with_the_two_verbs() -> None:
    first = blocks("README.md", "bash")[0]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]
    done = subprocess.run(["make", "-n", "demo", "test"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("page", ["README.md", "docs/pitfalls.md", "docs/estimators.md"])
def test_python_blocks_run(workplace: Path, page: str) -> None:
    code = "\n".join(blocks(page, "python"))
    assert code or page != "README.md"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=workplace, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_command_line_page_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.page(), "run make docs"


def test_the_how_to_for_pytorch_runs(tmp_path: Path) -> None:
    require("torch")
    module, *rest = blocks("docs/pytorch.md", "python")
    (tmp_path / "nets.py").write_text(module)
    (commands,) = blocks("docs/pytorch.md", "bash")
    for command in (
        [sys.executable, "-W", "error", "-c", "\n".join(rest)],
        ["bash", "-euo", "pipefail", "-c", commands],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment() | {"PYTHONPATH": _with(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "L001" in done.stdout


def test_the_page_on_recording_runs(tmp_path: Path) -> None:
    require("torch")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks("docs/recording.md", "python"))],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "torch.h5").exists()


def _with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
