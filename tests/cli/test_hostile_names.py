"""Names from strangers are data, on the terminal, in CSV and in JSON; stdout may be anything."""

import csv
import json
import os
import subprocess
import sys
import unicodedata
from itertools import product
from pathlib import Path

import pytest

from tests.store.making import layer, samples, write

NAMES = (
    "=cmd|' /C calc'!A0\x1b[31m",
    "\u202egpj.exe\u2028\u200b",
    "[bold]<script>alert(1)</script>\nrepstat: error: all is well",
    "\uff0bSUM(1)\x9b2J",
    '\t@a,"b"',
)
REPSTAT = [sys.executable, "-m", "repstat"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    layers = tuple(layer(f"L{i:03d}", name=name, op=f"op{name}") for i, name in enumerate(NAMES))
    of = samples(inputs_source=NAMES[0], class_names=NAMES[:3])
    return write(tmp_path / "acts.h5", (0,), layers=layers, samples=of)


def hostile(text: str) -> set[str]:
    return {c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}}


def test_csv_holds_names_that_no_spreadsheet_runs(run_cli, store: Path) -> None:
    """What begins as a formula gets an apostrophe; numbers, negative ones too, are never touched."""
    outcome = run_cli("analyze", store, "--csv", "a.csv", "--estimators", "binned,clustering")
    assert outcome.code == 0, outcome.err
    with Path("a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    from repstat import open_results

    expected = open_results("acts.results.h5").to_rows()
    assert len(rows) == len(expected) == 80
    for found, row in zip(rows, expected, strict=True):
        assert not hostile("".join(found.values()))
        name = found["layer_name"]
        assert name.lstrip("'") == "".join(c if c.isprintable() else "\ufffd" for c in row["layer_name"])
        assert name.startswith("'") == (row["layer_name"][0] in "=\uff0b")
        for key in ("value", "std_error", "step", "lower_bound"):
            assert found[key] == ("" if row[key] is None else str(row[key]))
        assert json.loads(found["params"]) == row["params"]


def test_json_gives_the_names_exactly_and_in_ascii(run_cli, store: Path) -> None:
    outcome = run_cli("analyze", store, "--json", "--estimators", "binned")
    assert outcome.out.isascii()
    assert not hostile(outcome.out)
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert list(dict.fromkeys(row["layer_name"] for row in rows)) == list(NAMES)
    facts = json.loads(run_cli("inspect", store, "--json").out)
    assert [one["name"] for one in facts["layers"]] == list(NAMES)
    assert facts["inputs"] == NAMES[0]


@pytest.mark.parametrize("words", [["inspect"], ["analyze", "--estimators", "binned"], ["verify"]])
def test_the_terminal_gets_none_of_it(run_cli, store: Path, words: list[str]) -> None:
    outcome = run_cli(words[0], store, *words[1:])
    assert outcome.code == 0
    assert not hostile(outcome.out + outcome.err)
    assert "\nrepstat: error" not in outcome.out + outcome.err


def test_a_file_s_name_is_not_obeyed(run_cli, store: Path) -> None:
    path = store.rename(store.with_name("a\x1b[31m\nrepstat: error: lies\u202e.h5"))
    for words in (["verify", path], ["analyze", path, "--estimators", "binned"], ["inspect", f"{path}x"]):
        outcome = run_cli(*words)
        assert outcome.code == (2 if words[0] == "inspect" else 0), outcome.err
        assert not hostile(outcome.err)
        assert all(
            line.startswith(("repstat: error: there is no", "wrote ", "next: ", "/"))
            for line in outcome.err.splitlines()
        )


@pytest.mark.parametrize(
    ("redirection", "code", "text"),
    [
        ("| head -1", 0, ""),
        (">&-", 0, ""),
        ("2>&- >&-", 0, ""),
        ("<&-", 0, ""),
        ("> /dev/full", 6, "No space left on device"),
    ],
)
@pytest.mark.parametrize(
    "command", ["inspect acts.h5 --json", "analyze acts.h5 --estimators binned --overwrite"]
)
def test_whatever_stdout_is(store: Path, redirection: str, code: int, text: str, command: str) -> None:
    before = store.read_bytes()
    line = f"set -o pipefail; {' '.join(REPSTAT)} {command} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Exception" not in done.stderr
    assert "Traceback" not in done.stderr
    assert store.read_bytes() == before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_locale_will_do(store: Path, encoding: str) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    for words in (
        ["analyze", "acts.h5", "--estimators", "binned", "--overwrite", "--csv", "a.csv"],
        ["inspect", "acts.h5"],
    ):
        done = subprocess.run([*REPSTAT, *words], capture_output=True, env=os.environ | plain, check=False)
        assert done.returncode == 0, done.stderr
        assert "L003" in done.stdout.decode(encoding, "replace")


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        *product(["-o", "--csv"], ["link", "dangling", "fifo", "folder", "foreign", "store"]),
        ("--csv", "results"),  # with -o and --overwrite they are replaced
    ],
)
def test_an_output_that_is_something_else_is_left_alone(run_cli, store: Path, kind: str, option: str) -> None:
    target = Path("target")
    other = Path("other")
    other.write_text("precious")
    if kind == "link":
        target.symlink_to(other)
    elif kind == "dangling":
        target.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "foreign":
        target.write_text("precious")
    else:
        target = store if kind == "store" else Path("acts.results.h5")
    before = {path: path.lstat().st_mtime_ns for path in Path().iterdir()}
    for overwrite in ([], ["--overwrite"]):
        outcome = run_cli("analyze", store, option, target, "--estimators", "binned", *overwrite)
        assert outcome.code == 2, outcome.err
        assert "repstat: error: " in outcome.err
        assert {path: path.lstat().st_mtime_ns for path in Path().iterdir()} == before
    assert other.read_text() == "precious"


def test_a_csv_among_the_files_of_a_store_is_refused(run_cli, store: Path) -> None:
    folder = Path("acts")
    folder.mkdir()
    store.rename(folder / "step-000000000000.h5")
    outcome = run_cli("analyze", folder, "--csv", folder / "a.csv", "--estimators", "binned")
    assert outcome.code == 2
    assert "its folder is an activation store" in outcome.err
