"""Clocks, memory, and how much of everything a run takes."""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

Job = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much a run takes.

    Parameters
    ----------
    quick
        Whether cases are left out too.
    repeats
        Of short measurements, interleaved.
    peer_seconds
        CPU time of a peer in one measurement, about.
    run_seconds, truth_seconds
        CPU time of repstat's run for the smaller standard error, and of the run that serves as the truth.
    equal_draws
        Samples of repstat where samples are counted.
    seeds
        Runs of repstat from which its variance is measured.
    """

    quick: bool
    repeats: int
    peer_seconds: float
    run_seconds: float
    truth_seconds: float
    equal_draws: int
    seeds: int


FULL = Settings(False, 2, 0.3, 10.0, 5.0, 2**21, 8)
QUICK = Settings(True, 1, 0.1, 1.5, 1.0, 2**18, 4)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit every library that is loaded to one thread."""
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


def cpu_seconds(job: Job) -> tuple[Any, float]:
    """Return the job's result and its CPU seconds, of all threads of this process."""
    start = time.process_time()
    result = job()
    return result, time.process_time() - start


def interleaved(jobs: Sequence[Job], repeats: int) -> list[float]:
    """Return the best CPU seconds of each job; the jobs take turns, so that a busy minute hits all alike."""
    best = [float("inf")] * len(jobs)
    for _ in range(repeats):
        for i, job in enumerate(jobs):
            best[i] = min(best[i], cpu_seconds(job)[1])
    return best


def reset_peak() -> int:
    """Forget the peak memory of this process so far and return its present memory in bytes.

    Where the system offers no such reset the peak so far is returned.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    # Not `ru_maxrss` first: a child inherits that of the process that started it.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
