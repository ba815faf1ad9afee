"""Where TensorFlow runs, and on how many threads: what was asked for, or an error."""

from dataclasses import dataclass
from typing import Any

from repstat.adapter import AdapterOptions
from repstat.cores import usable_cores
from repstat.errors import DeviceUnavailableError, UsageError


@dataclass(frozen=True)
class Device:
    """The device chosen.

    Parameters
    ----------
    provider
        ``cpu`` or ``cuda``.
    name
        As the backend calls it.
    threads
        CPU threads within one op.
    """

    provider: str
    name: str
    threads: int


def choose_tf_device(tf: Any, options: AdapterOptions) -> Device:
    """Choose among the devices that TensorFlow finds, and set its threads if it has not started yet.

    Raises
    ------
    DeviceUnavailableError
        The device does not exist.
    UsageError
        TensorFlow has started with another number of threads.
    """
    threads = _set_threads(tf, options.threads)
    wanted = options.provider.lower()
    if wanted not in {"auto", "cpu", "cuda"}:
        raise DeviceUnavailableError(
            what=f"there is no provider {options.provider!r} for Keras models",
            why="TensorFlow runs on cpu and cuda",
            fix="Use --provider auto, cpu or cuda",
        )
    found = bool(tf.config.list_physical_devices("GPU"))
    if wanted == "cuda" and not found:
        raise DeviceUnavailableError(
            what="cuda cannot be used here",
            why="TensorFlow finds no GPU (its wheel needs the extra 'and-cuda' and a driver)",
            fix="Install them, or use --provider cpu",
        )
    on_gpu = found and wanted != "cpu"
    return Device("cuda" if on_gpu else "cpu", "/GPU:0" if on_gpu else "/CPU:0", threads)


def _set_threads(tf: Any, threads: int | None) -> int:
    threading = tf.config.threading
    if threads is not None:
        try:
            threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:
            running = threading.get_intra_op_parallelism_threads() or usable_cores()
            if running != threads:
                raise UsageError(
                    what=f"TensorFlow cannot use {threads} threads any more",
                    why=f"it has started with {running}, and keeps them for the life of the process",
                    fix="Set threads before anything runs in TensorFlow, or leave them out",
                ) from None
    return int(threading.get_intra_op_parallelism_threads()) or usable_cores()
