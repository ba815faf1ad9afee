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

_ELSEWHERE: Mapping[str, str] = {
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".pt2": "PyTorch",
    ".safetensors": "PyTorch",
    ".keras": "Keras",
    ".h5": "Keras",
    ".pb": "TensorFlow",
    ".index": "TensorFlow",
}
_EXPORT = {
    "PyTorch": "Export the model to ONNX with torch.onnx.export and extract from that",
    "Keras": 'Export the model to ONNX with model.export(path, format="onnx") and extract from that',
    "TensorFlow": "Convert the model to ONNX with tf2onnx and extract from that",
}


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
            fix=f"Name the checkpoints themselves, for example '{path}/*.onnx'",
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
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        return AdapterUnavailableError(
            what=f"cannot read a model of type {kind}", why=why, fix="Export it to an ONNX file"
        )
    framework = _ELSEWHERE.get(source.suffix.lower())
    if framework is None:
        fix = "Give an ONNX model; see `repstat info` for the adapters installed"
    else:
        why, fix = f"it looks like a {framework} file, and {why}", _EXPORT[framework]
    return AdapterUnavailableError(what="cannot read the model", path=source, why=why, fix=fix)
