"""Break stores in thousands of ways and type every command at each: ``make fuzz``.

Each command must refuse the file (exit 3 or 4, with a message), or find the numbers of the intact one. No
death by signal, no traceback, nothing that takes over a minute, nothing left behind, no control characters
on the terminal, and what `verify` calls sound must be so for all. File `i` of a seed is the same on every
machine with the same h5py: ``--only I`` makes it again and keeps it.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repstat import analyze
from repstat.child import Child, ChildDiedError
from tests.store.attacks import ATTACKS, LENIENT
from tests.store.fuzz_worker import hdf5_version
from tests.store.making import layer, write, write_noisy
from tests.store.mutations import MUTATIONS

SECONDS = 60.0
ATTACK_SHARE = 0.4
WORKER = "tests.store.fuzz_worker"
_DEATH = re.compile("in a process of its own, and (.*?)\\.")


@dataclass(frozen=True)
class Base:
    """An intact file, what kind it is, and another of the same shape to splice from."""

    name: str
    kind: str
    path: Path
    other: Path


@dataclass
class Tally:
    """What came out."""

    n: int = 0
    refused: int = 0
    equal: int = 0
    not_made: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)
    by_kind: Counter[str] = field(default_factory=Counter)
    died: Counter[str] = field(default_factory=Counter)


def make_bases(folder: Path) -> list[Base]:
    """Write the intact files: plain, noisy, with a large group, and results."""
    wide = tuple(layer(f"L{i:03d}") for i in range(10))
    a, b = write(folder / "plain.h5"), write(folder / "plain2.h5", (0, 11, 200))
    c, d = write_noisy(folder / "noisy.h5", (0, 10)), write_noisy(folder / "noisy2.h5", (0, 11))
    e, f = write(folder / "wide.h5", (0,), layers=wide), write(folder / "wide2.h5", (1,), layers=wide)
    g, h = (
        analyze(one, estimators="binned,clustering").save(folder / f"{one.stem}.results.h5") for one in (a, b)
    )
    return [
        Base("plain", "store", a, b),
        Base("noisy", "store", c, d),
        Base("wide", "store", e, f),
        Base("results", "results", g, h),
    ]


def plan(seed: int, index: int, bases: Sequence[Base]) -> tuple[Base, str]:
    """Draw which file is broken, and how."""
    rng = np.random.default_rng([seed, index])
    base = bases[int(rng.choice(len(bases), p=[0.4, 0.25, 0.15, 0.2]))]
    if base.kind == "store" and rng.random() < ATTACK_SHARE:
        return base, str(rng.choice(list(ATTACKS)))
    weights = np.array([weight for _, weight in MUTATIONS.values()], float)
    return base, str(rng.choice(list(MUTATIONS), p=weights / weights.sum()))


class Fuzz:
    """The bases, the two processes, and the answers for the intact files; a context manager."""

    def __init__(self, sabotage: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="repstat-fuzz-"))
        self._sabotage = sabotage
        self._maker, self._user = Child(WORKER, SECONDS), Child(WORKER, SECONDS)
        self.bases = make_bases(self._folder)
        self._fresh = True
        self._intact = {base.name: self._meet(base, base.path) for base in self.bases}

    def __enter__(self) -> "Fuzz":
        return self

    def __exit__(self, *_: object) -> None:
        self._maker.close()
        self._user.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, seed: int, indices: Sequence[int], keep: Path | None = None) -> Tally:
        """Break one file for each index and meet it."""
        tally = Tally()
        for index in indices:
            base, how = plan(seed, index, self.bases)
            place = self._folder / "mutant" / f"acts{'.results' * (base.kind == 'results')}.h5"
            shutil.rmtree(place.parent, ignore_errors=True)
            place.parent.mkdir()
            made = self._make(base, how, place, [seed, index, 1])
            if made is None:
                tally.not_made += 1
                continue
            tally.n += 1
            tally.by_kind[how] += 1
            begin = time.monotonic()
            found = [
                f"{how} of {base.name}, --seed {seed} --only {index}: {why}"
                for why in self._judge(base, place, tally, strict=made)
            ]
            tally.slowest = max(tally.slowest, time.monotonic() - begin)
            tally.wrong += found
            if keep is not None and (found or len(indices) == 1):
                keep.mkdir(exist_ok=True)
                shutil.copy(place, keep / f"{seed}-{index}-{place.name}")
        return tally

    def _make(self, base: Base, how: str, place: Path, seed: list[int]) -> bool | None:
        """Return whether what was made must be refused; None if nothing was."""
        question = {
            "verb": "make", "how": how, "source": str(base.path), "other": str(base.other),
            "target": str(place), "seed": seed,
        }  # fmt: skip
        try:
            answer = self._maker.ask(question)
        except ChildDiedError:
            return None  # h5py died while it made the file
        # One that h5py could not finish is broken as well, and a good one to try.
        if not place.exists() or place.read_bytes() == base.path.read_bytes():
            return None
        return how in ATTACKS and how not in LENIENT and bool(answer.get("made"))

    def _meet(self, base: Base, path: Path) -> dict[str, Any]:
        if self._fresh and self._sabotage:
            self._user.ask({"verb": "sabotage", "name": self._sabotage})
        self._fresh = False
        return self._user.ask({"verb": "meet", "path": str(path), "kind": base.kind})

    def _judge(self, base: Base, place: Path, tally: Tally, *, strict: bool) -> Iterator[str]:
        try:
            answer = self._meet(base, place)
        except ChildDiedError as error:
            self._fresh = True
            yield f"the user's process: {error}"
            return
        if "failed" in answer:
            yield f"an exception reached the user: {answer['failed']}"
            return
        yield from answer["wrong"]
        intact = self._intact[base.name]["outcomes"]
        codes: list[int] = []
        deaths: set[str] = set()
        for command, (code, numbers, err) in answer["outcomes"].items():
            codes.append(code)
            if code == 0 and numbers != intact[command][1]:
                yield f"SILENT: {command} gives other numbers than for the intact file"
            if code and (death := _DEATH.search(err)):
                deaths.add(death[1])
        if strict and 0 in codes:
            yield f"ACCEPTED: exit codes {codes} for what the format excludes"
        tally.died.update(deaths)
        tally.refused += any(codes)
        tally.equal += not any(codes)


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line; exit 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_400)
    parser.add_argument("--first", type=int, default=0, help="index of the first file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--how", default="", help="only this kind of damage")
    parser.add_argument("--only", type=int, help="make, try and keep this one")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--sabotage", default="", help="take a check away: the fuzz must fail")
    options = parser.parse_args(words)
    indices = range(options.first, options.first + options.count) if options.only is None else [options.only]
    begin = time.monotonic()
    total = Tally()
    with Fuzz(options.sabotage) as fuzz:
        for start in range(0, len(indices), 200):
            chosen = [
                index
                for index in indices[start : start + 200]
                if options.how in ("", plan(options.seed, index, fuzz.bases)[1])
            ]
            part = fuzz.run(options.seed, chosen, options.keep)
            for name in ("n", "refused", "equal", "not_made"):
                setattr(total, name, getattr(total, name) + getattr(part, name))
            total.slowest = max(total.slowest, part.slowest)
            total.wrong += part.wrong
            total.by_kind += part.by_kind
            total.died += part.died
            print(f"{total.n} files, {len(total.wrong)} wrong", file=sys.stderr)
            for line in part.wrong:
                print(f"  {line}", file=sys.stderr)
    print(
        f"{total.n:,} broken files (seed {options.seed}), every command at each: {total.refused:,} refused, "
        f"{total.equal:,} with the numbers of the intact file, {len(total.wrong)} wrong. "
        f"Slowest {total.slowest:.1f} s; {total.not_made:,} could not be made; "
        f"{time.monotonic() - begin:,.0f} s. {hdf5_version()}"
    )
    print(f"In the gate's process: {dict(total.died) or 'no death'}")
    print(json.dumps(dict(total.by_kind.most_common())))
    return 1 if total.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
