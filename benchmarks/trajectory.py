"""A whole trajectory through `repstat.analyze`, by one process and by two: wall time and memory."""

import json
import subprocess
import sys
import time
from threading import Event, Thread
from typing import Any

import repstat
from benchmarks.cases import STORE, checkpoints
from benchmarks.measure import Settings
from benchmarks.report import Table, megabytes

NOISE = ["0.05x", "0.2x", "1x"]
QUICK_STEPS = 1


def analyse(store: str, workers: int, steps: list[int] | None) -> tuple[float, int]:
    """Return wall seconds of the analysis and the number of estimates it made."""
    start = time.perf_counter()
    results = repstat.analyze(store, noise_std=NOISE, binning="count:30", steps=steps, workers=workers)
    return time.perf_counter() - start, len(results.rows)


class Watch:
    """Notes the most memory that a process and its children hold at a time.

    Parameters
    ----------
    pid
        Of the process.
    """

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._over = Event()
        self._thread = Thread(target=self._look, args=(pid,), daemon=True)
        self._thread.start()

    def _look(self, pid: int) -> None:
        import psutil

        while not self._over.wait(0.1):
            try:
                parent = psutil.Process(pid)
                family = [parent, *parent.children(recursive=True)]
                self.most = max(self.most, sum(process.memory_info().rss for process in family))
            except psutil.Error:
                continue

    def stop(self) -> int:
        """Return the most that was seen, in bytes."""
        self._over.set()
        self._thread.join()
        return self.most


def run_apart(module: str, *words: str) -> tuple[Any, int]:
    """Run a module in a process of its own; return the JSON of its last line and the most memory it held."""
    command = [sys.executable, "-m", module, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = Watch(process.pid)
        output, _ = process.communicate()
        most = watch.stop()
    if process.returncode:
        msg = f"{' '.join([module, *words])} ended with status {process.returncode}"
        raise RuntimeError(msg)
    return json.loads(output.splitlines()[-1]), most


def table(settings: Settings) -> Table:
    """Measure the trajectory of the fixture."""
    steps = [int(path.stem.split("-")[1]) for path in checkpoints()]
    chosen = steps[:: len(steps) // QUICK_STEPS][:QUICK_STEPS] if settings.quick else None
    rows = []
    for workers in (1, 2):
        words = (str(STORE), str(workers), json.dumps(chosen))
        (wall, n_rows), most = run_apart("benchmarks.trajectory", *words)
        rows.append([str(workers), str(len(chosen or steps)), str(n_rows), f"{wall:.1f} s", megabytes(most)])
    before = f"""All layers of the fixture (n = 4,096) by `repstat.analyze` with noise_std
{", ".join(NOISE)}, binning count:30 and every estimator. Wall time without the start of Python; memory
is the most that the process and its workers held at a time, libraries included (shared pages counted
for each)."""
    return Table(
        "A whole trajectory", before, ("workers|", "checkpoints|", "rows|", "wall time|", "memory|"), rows
    )


if __name__ == "__main__":
    print(json.dumps(analyse(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))))
