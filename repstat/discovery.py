"""Find the adapter that reads a model, by entry point.

Adapters register in the group ``repstat.adapters``; the value is a light module with `accepts` and
`open_model` (`repstat.adapter.AdapterModule`). A broken plugin is set aside with its reason and never hides
the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self, cast

from repstat.adapter import Adapter, AdapterModule, AdapterOptions, Reloadable
from repstat.errors import AdapterUnavailableError, UsageError

GROUP = "repstat.adapters"

_TORCH, _KERAS = ("PyTorch", "torch"), ("Keras or TensorFlow", "tensorflow")
_FRAMEWORKS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys((".pt", ".pth", ".pt2", ".safetensors"), _TORCH),
    **dict.fromkeys((".keras", ".h5", ".hdf5", ".pb", ".index"), _KERAS),
}
"""By suffix, who writes such files, and the adapter of repstat that reads them, which is also its extra."""
_HDF5 = (
    "it is no model and no weights that Keras wrote",
    "Give the model itself; an activation store goes to `repstat analyze`",
)
_TENSORFLOW = "it is no checkpoint that tf.train.Checkpoint wrote"
_WHOLE_CHECKPOINT = "Name the checkpoint by its prefix, ckpt-100, with --model-factory"
_UNREAD: Mapping[str, tuple[str, str]] = {
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".pb": (
        "it is one file of a SavedModel, or a frozen graph",
        "Name the folder of the SavedModel; convert a frozen graph to ONNX with tf2onnx",
    ),
    ".index": (_TENSORFLOW, _WHOLE_CHECKPOINT),
    ".data": ("it is one shard of a TensorFlow checkpoint", _WHOLE_CHECKPOINT),
}
"""What a file is that has the suffix of an adapter, and yet is none of its models; and what to give."""
_ANOTHER = "Export it to ONNX, write an adapter, or import its activations (docs/adapters.md)"


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """One registered adapter: its module, or why it cannot be loaded."""

    name: str
    distribution: str
    module: AdapterModule | None
    problem: str = ""


def find_adapters() -> tuple[FoundAdapter, ...]:
    """All registered adapters in the order of their names, broken ones included with the reason."""
    found = {point.name: _load(point) for point in sorted(entry_points(group=GROUP), key=str)}
    return tuple(found[name] for name in sorted(found))


def _load(point: EntryPoint) -> FoundAdapter:
    distribution = point.dist.name if point.dist else "unknown"
    try:
        module = point.load()
    except Exception as error:  # a stranger's module may raise anything; it must not hide the others
        return FoundAdapter(point.name, distribution, None, f"{type(error).__name__}: {error}")
    missing = [
        verb for verb in ("accepts", "open_model", "describe") if not callable(getattr(module, verb, None))
    ]
    if missing:
        return FoundAdapter(
            point.name, distribution, None, f"{point.value} has no {' and no '.join(missing)}"
        )
    return FoundAdapter(point.name, distribution, cast(AdapterModule, module))


def open_model(source: object, options: AdapterOptions | None = None) -> Adapter:
    """Open `source` with the adapter that accepts it.

    Parameters
    ----------
    source
        Path of a model (a file, or a folder or common prefix of files that an adapter reads as one), or a
        live model that an adapter knows.
    options
        How to open it; defaults to `AdapterOptions()`.

    Raises
    ------
    UsageError
        There is no such file, or it is a folder that is not a model.
    AdapterUnavailableError
        No installed adapter reads it.
    """
    if isinstance(source, str | PathLike):
        source = existing_model(Path(fspath(source)))
    found = find_adapters()
    module = reader_of(source, found)
    if module is None:
        raise _nobody(source, found)
    return module.open_model(source, options or AdapterOptions())


class OneModel:
    """The model that is open, which takes over the weights of the next checkpoint where it can."""

    def __init__(self, options: AdapterOptions) -> None:
        self._options = options
        self._adapter: Adapter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self, model: Any) -> Adapter:
        """Return `model`, open until the next one is asked for."""
        last: object = self._adapter
        if self._adapter is None or not (isinstance(last, Reloadable) and last.reload(model)):
            self.close()
            self._adapter = open_model(model, self._options)
        return self._adapter

    def close(self) -> None:
        """Close it; another may be opened."""
        if self._adapter is not None:
            self._adapter.close()
        self._adapter = None


def reader_of(source: object, found: Sequence[FoundAdapter] | None = None) -> AdapterModule | None:
    """Return the first adapter that accepts `source`, of those found if they were looked for already."""
    among = find_adapters() if found is None else found
    modules = (adapter.module for adapter in among if adapter.module is not None)
    return next((module for module in modules if module.accepts(source)), None)


def existing_model(path: Path) -> Path:
    """Return `path` if it is a regular file, or one that an adapter accepts; otherwise say what it is."""
    return path if not path.is_file() and reader_of(path) is not None else _existing_file(path)


def _existing_file(path: Path) -> Path:
    if path.is_dir():
        raise UsageError(
            what="model is a folder",
            path=path,
            why="a model file was expected",
            fix="Name a checkpoint in it; `repstat extract` takes a folder of checkpoints",
        )
    if not path.exists():
        raise UsageError(
            what="model not found",
            path=path,
            why="there is no such file",
            fix="Check the spelling and the working directory",
        )
    if not path.is_file():
        raise UsageError(
            what="model is not a regular file", path=path, why="a device, socket or pipe was found",
            fix="Name a model file",
        )  # fmt: skip
    return path


def _nobody(source: object, found: tuple[FoundAdapter, ...]) -> AdapterUnavailableError:
    broken = "; ".join(f"adapter {a.name} failed to load ({a.problem})" for a in found if a.problem)
    working = ", ".join(a.name for a in found if a.module is not None)
    if not found:
        why = "no adapter is registered, so repstat is not installed completely"
        fix = "Reinstall it with pip install --force-reinstall repstat"
        return AdapterUnavailableError(what="cannot read the model", why=why, fix=fix)
    why = "; ".join(filter(None, [f"none of the installed adapters ({working}) reads it", broken]))
    if not isinstance(source, Path):
        return _nobody_live(source, why)
    suffix = source.suffix.lower()
    framework, extra = _FRAMEWORKS.get(suffix, ("", ""))
    if framework and all(a.name != extra or a.module is None for a in found):
        why = f"it looks like a file of {framework}, and {why}"
        fix = f"Install its adapter with pip install --force-reinstall 'repstat[{extra}]'"
    else:
        kind, fix = _UNREAD.get(suffix.partition("-")[0], ("", f"{_ANOTHER}; see `repstat info`"))
        why = f"{kind}, and {why}" if kind else why
    return AdapterUnavailableError(what="cannot read the model", path=source, why=why, fix=fix)


def _nobody_live(source: object, why: str) -> AdapterUnavailableError:
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    fix = _ANOTHER
    if isinstance(source, Mapping):
        fix = "Give the model that has these weights, or import activations with repstat.import_arrays"
    return AdapterUnavailableError(what=f"cannot read a model of type {kind}", why=why, fix=fix)
