"""The two processes of the fuzz: one makes broken files, the other is the user who meets them.

Each runs as a `repstat.child.Child`, so that a crash is seen and the next file goes to a new one.
"""

import hashlib
import io
import json
import os
import resource
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from repstat import open_results, open_store
from repstat.cli import _run
from repstat.errors import RepstatError
from tests.store import sabotage
from tests.store.attacks import attack
from tests.store.making import contents
from tests.store.mutations import MUTATIONS, Material

MEMORY_BYTES = 4 * 2**30
REFUSED = (3, 4)
_HOSTILE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_COPIES = ("layer_name",)
_ANALYSE = ("analyze", "{path}", "-o", "{folder}/out.results.h5", "--json", "--workers", "1")
COMMANDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "store": (
        ("inspect", "{path}", "--json"),
        ("inspect", "{path}"),
        ("verify", "{path}"),
        (*_ANALYSE, "--estimators", "binned"),
        ("merge", "{path}", "-o", "{folder}/merged.h5"),
        ("API",),
    ),
    "results": (("inspect", "{path}", "--json"), ("inspect", "{path}"), ("API",)),
}


def main() -> None:
    """Answer questions, one JSON line each."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.RLIM_INFINITY))
    materials: dict[str, Material] = {}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if question["verb"] == "make":
                answer = _make(question, materials)
            elif question["verb"] == "sabotage":
                sabotage.SABOTAGES[question["name"]]()
                answer = {}
            else:
                answer = _meet(Path(question["path"]), question["kind"])
        except BaseException as error:
            answer = {"failed": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer).encode() + b"\n")


def _make(question: Mapping[str, Any], materials: dict[str, Material]) -> dict[str, Any]:
    source, target = Path(question["source"]), Path(question["target"])
    rng = np.random.default_rng(question["seed"])
    if question["how"] not in MUTATIONS:
        return {"made": attack(source, target, question["how"], rng)}
    if question["source"] not in materials:
        materials[question["source"]] = Material.of(source, Path(question["other"]))
    mutate, _ = MUTATIONS[question["how"]]
    content = mutate(materials[question["source"]], rng)
    target.write_bytes(content)
    return {"made": content != materials[question["source"]].content}


def _meet(path: Path, kind: str) -> dict[str, Any]:
    """Type every command; say what each did, and what no command may ever do."""
    outcomes: dict[str, Any] = {}
    wrong: list[str] = []
    before = _look(path)
    for words in COMMANDS[kind]:
        name = " ".join(words[:1] + words[2:3] if words[0] == "inspect" else words[:1])
        listing = set(path.parent.iterdir())
        code, out, err = _typed([word.format(path=path, folder=path.parent) for word in words], path, kind)
        wrong += [f"{name}: {why}" for why in _never(code, out, err, as_json="--json" in words)]
        made = set(path.parent.iterdir()) - listing
        if code and made:
            wrong.append(f"{name}: exit {code} and left {sorted(one.name for one in made)}")
        if not code and name == "merge":
            out = _numbers_of_store(path.parent / "merged.h5")
        for one in made:
            one.unlink()
        numbers = hashlib.sha256(_numbers(name, out).encode()).hexdigest() if code == 0 else ""
        outcomes[name] = [code, numbers, err[-300:]]
        if _look(path) != before:
            wrong.append(f"{name}: the file was changed")
    codes = {name: code for name, (code, *_) in outcomes.items()}
    if kind == "store" and codes["verify"] == 0 and any(codes.values()):
        wrong.append(f"verify finds it sound, others do not: {codes}")
    return {"outcomes": outcomes, "wrong": wrong}


def _typed(words: list[str], path: Path, kind: str) -> tuple[int, str, str]:
    if words == ["API"]:
        try:
            return 0, _numbers_of_store(path) if kind == "store" else _numbers_of_results(path), ""
        except RepstatError as error:
            return error.exit_code, "", f"repstat: error: {error}"
    with _captured() as streams:
        code = _run(words)
    return code, *(stream.getvalue() for stream in streams)


@contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    before = sys.stdout, sys.stderr
    streams = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = streams
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = before


def _never(code: int, out: str, err: str, *, as_json: bool) -> Iterator[str]:
    if code and code not in REFUSED:
        yield f"exit {code}: {err[-300:]}"
    if code and "repstat: error: " not in err:
        yield f"exit {code} without a message"
    if "Traceback" in err or "error: internal error" in err:
        yield f"a traceback or internal error: {err[-300:]}"
    for stream in (out, err):
        if found := {c for c in stream if c != "\n" and unicodedata.category(c) in _HOSTILE}:
            yield f"control characters {sorted(map(ascii, found))}"
    if as_json:
        for line in filter(None, out.strip("\n").split("\n")):
            json.loads(line, parse_constant=lambda text: [][len(text)])


def _numbers(name: str, out: str) -> str:
    """Return what is to equal that of the intact file: all of stdout, without names and paths."""
    if name == "analyze":
        rows = [json.loads(line) for line in filter(None, out.strip("\n").split("\n"))]
        return json.dumps([{k: v for k, v in row.items() if k not in _COPIES} for row in rows])
    if name == "inspect --json":
        facts = json.loads(out)
        return json.dumps({k: facts.get(k) for k in ("samples", "classes", "synthetic", "rows", "noise")})
    return "" if name == "inspect" else out


def _numbers_of_store(path: Path) -> str:
    with open_store(path) as store:
        found = contents(store)
        return repr(
            [
                found["steps"],
                found["samples"][:2],
                [(key, kind, shape, dtype) for key, _, _, kind, shape, dtype, *_ in found["layers"]],
                found["noise"],
                found["repeated"],
                found["values"],
                found["conditional"],
            ]
        )


def _numbers_of_results(path: Path) -> str:
    rows = [{k: v for k, v in row.items() if k not in _COPIES} for row in open_results(path).to_rows()]
    return json.dumps(rows)


def _look(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns, status.st_size


def hdf5_version() -> str:
    """Return the versions that a run was made with."""
    return f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
