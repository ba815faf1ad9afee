"""Extract, die, fail, resume, damage, merge, open: in any order, against a model that is a set of steps."""

import errno
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from repstat import open_store
from repstat.errors import ResourceError, StoreDamagedError, UsageError
from repstat.store import merge, verify
from tests.store.disks import OPERATIONS, Faulty, Killed, Mortal, careless, through
from tests.store.making import LAYERS, flat, record, writer

STEPS = (0, 10, 200)
SOME = st.sets(st.sampled_from(STEPS), min_size=1).map(lambda steps: tuple(sorted(steps)))
MOMENT = st.integers(0, 330)


def full() -> None:
    raise OSError(errno.ENOSPC, "injected")


class Extraction(RuleBasedStateMachine):
    """A folder with `acts.h5`, its parts, and what the user was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.path = self.root / "acts.h5"
        self.parts = self.root / "acts.h5.parts"
        self.committed: set[int] = set()
        """In the store or its parts for certain."""
        self.stored: set[int] = set()
        """In the store itself for certain."""
        self.damaged: Path | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def extract(self, steps: tuple[int, ...], disk: Any) -> None:
        """Run `extract --resume`; what came to its end is promised."""
        with careless(), through(disk), writer(self.path, steps, resume=True) as into:
            for step in steps:
                if step not in into.done:
                    record(into, step)
                self.committed.add(step)
            into.finish()
            self.stored |= into.done

    @precondition(lambda self: self.damaged is None)
    @rule(steps=SOME)
    def resume(self, steps: tuple[int, ...]) -> None:
        self.extract(steps, Mortal(10**9))
        with open_store(self.path) as store:
            assert set(store.steps) >= {*steps, *self.committed}
        assert not list(self.root.glob("*.tmp-*"))

    @precondition(lambda self: self.damaged is None)
    @rule(steps=SOME, at=MOMENT)
    def die(self, steps: tuple[int, ...], at: int) -> None:
        with suppress(Killed):
            self.extract(steps, Mortal(at))

    @precondition(lambda self: self.damaged is None)
    @rule(steps=SOME, at=MOMENT)
    def fail(self, steps: tuple[int, ...], at: int) -> None:
        with suppress(ResourceError):
            self.extract(steps, Faulty(OPERATIONS, at, full))

    @precondition(lambda self: self.damaged is None and self.path.exists())
    @rule(steps=SOME)
    def be_refused(self, steps: tuple[int, ...]) -> None:
        """Made differently: refused, and nothing is touched."""
        before = {p: p.read_bytes() for p in self.root.rglob("*.h5")}
        with (
            pytest.raises(UsageError, match=r"was made differently: .*noise_std was 0.1, now 0.2"),
            careless(),
            writer(self.path, steps, resume=True, identity={"noise_std": 0.2}),
        ):
            pass
        assert {p: p.read_bytes() for p in self.root.rglob("*.h5")} == before

    @precondition(lambda self: self.damaged is None and any(self.root.rglob("step-*.h5")))
    @rule(bit=st.integers(0, 7), which=st.integers(0, 9))
    def damage(self, bit: int, which: int) -> None:
        """Flip one bit of the values of a part: the next writer names it and stops."""
        parts = sorted(self.root.rglob("step-*.h5"))
        self.damaged = parts[which % len(parts)]
        content = bytearray(self.damaged.read_bytes())
        content[content.index(flat(_step(self.damaged), LAYERS[0]).tobytes()) + 5] ^= 1 << bit
        self.damaged.write_bytes(content)

    @precondition(lambda self: self.damaged is not None)
    @rule(steps=SOME)
    def find_and_repair(self, steps: tuple[int, ...]) -> None:
        assert self.damaged is not None
        step = _step(self.damaged)
        with pytest.raises(StoreDamagedError, match=f"{self.damaged.name}: step {step}, layer L000"):
            self.extract(steps, Mortal(10**9))
        self.damaged.unlink()
        self.damaged = None
        # Only the user has taken it away.
        if step not in self.stored:
            self.committed.discard(step)

    @precondition(lambda self: self.damaged is None and len(self.stored) == 1)
    @rule()
    def merge_the_rest(self) -> None:
        """Another store of the other steps: the merged one is the union."""
        with open_store(self.path) as store:
            rest = [step for step in STEPS if step not in store.steps]
        if not rest:
            return
        with careless():
            with writer(self.root / "rest.h5", rest) as into:
                for step in rest:
                    record(into, step)
                into.finish()
            merge([self.path, self.root / "rest.h5"], self.path, overwrite=True)
        (self.root / "rest.h5").unlink()
        self.stored = self.committed = set(STEPS)

    @invariant()
    def promised_steps_are_there(self) -> None:
        found: dict[int, Path] = {}
        for path in [*self.root.rglob("step-*.h5"), *([self.path] if self.path.exists() else [])]:
            if path != self.damaged:
                assert verify(path) == []
                with open_store(path) as store:
                    found |= dict.fromkeys(store.steps, path)
        missing = self.committed - found.keys() - ({_step(self.damaged)} if self.damaged else set())
        assert not missing
        for step in self.stored:
            with open_store(self.path) as store:
                assert store.layers["L000"].at(step=step).read().tobytes() == flat(step, LAYERS[0]).tobytes()


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-").removesuffix(".h5"))


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Extraction,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_any_order_of_a_few() -> None:
    run(4, 8)


@pytest.mark.crash
def test_any_order() -> None:
    run(40, 20)
