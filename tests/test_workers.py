"""Tasks in other processes: equal results, errors that keep their text, nothing left running."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import repstat
from repstat import analysis
from repstat.compute import Outcome
from repstat.errors import ResourceError, StoreDamagedError
from repstat.workers import process_pool


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, trajectory: list[Path]) -> Path:
    inputs = np.random.default_rng(3).choice([-1, 1], (200, 12)).astype(np.float32)
    path = tmp_path_factory.mktemp("workers") / "acts.h5"
    return repstat.extract(trajectory[:2], inputs, labels=np.arange(200) % 3, store=path)


def test_workers_change_nothing(store: Path) -> None:
    alone = repstat.analyze(store, noise_std=0.3)
    with ThreadPoolExecutor(2) as threads:
        threaded = repstat.analyze(store, noise_std=0.3, executor=threads)
    assert repstat.analyze(store, noise_std=0.3, workers=2).to_rows() == alone.to_rows()
    assert threaded.to_rows() == alone.to_rows()
    assert active_children() == []


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_threads_do_not_lift_each_other_s_limit(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compute(*arguments: Any) -> Outcome:
        outcome = real(*arguments)
        seen.append(
            {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
        )
        return outcome

    real, before = analysis.compute, blas_threads()
    monkeypatch.setattr(analysis, "compute", compute)
    with ThreadPoolExecutor(2) as threads:
        repstat.analyze(store, noise_std=0.3, executor=threads)
    assert len(seen) == 10
    assert seen == [{1}] * len(seen)
    assert blas_threads() == before


def test_a_layer_s_numbers_do_not_depend_on_the_others(store: Path) -> None:
    whole = repstat.analyze(store, noise_std=0.3, estimators=["noisy"])
    part = repstat.analyze(store, noise_std=0.3, estimators=["noisy"], layers="L003", steps=[13])
    expected = [row.value for row in whole.select(layer="L003", step=13)]
    assert [row.value for row in part.rows] == expected


def test_an_error_crosses_from_a_worker(store: Path) -> None:
    error = StoreDamagedError(what="bad hash", path="a.h5", place="L000", why="x", fix="Extract again")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is StoreDamagedError
    assert str(again) == str(error) == "bad hash in a.h5: L000: x. Extract again."
    assert again.exit_code == 4


def _die(_: int) -> None:
    import os

    os._exit(1)


def test_a_worker_that_dies_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "compute", _die)
    with pytest.raises(ResourceError, match="a worker process died: the system may have run out of memory"):
        repstat.analyze(store, noise_std=0.3, workers=2)
    assert active_children() == []


def test_an_interrupt_ends_the_workers() -> None:
    import time

    def interrupted() -> None:
        with process_pool(2) as pool:
            for _ in range(2):
                pool.submit(time.sleep, 60)
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert active_children() == []
    assert time.monotonic() - start < 50
