"""A Keras model: live, or loaded from one of the formats; and how it takes over further checkpoints."""

import json
import re
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from repstat.adapter import AdapterOptions
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.keras import checkpoint
from repstat_adapters.keras.framework import Framework
from repstat_adapters.keras.hdf5 import Contents, damaged, read_contents
from repstat_adapters.keras.restore import array_of, build_model, is_built, restore_weights
from repstat_adapters.keras.sniff import Kind, kind_of
from repstat_adapters.keras.tf_trace import unbuilt
from repstat_adapters.keras.whole import check_release, load_whole

_VOLATILE = frozenset({"shared_object_id", "compile_config", "build_config"})


def locate(source: object) -> tuple[Path | None, Kind]:
    """Return the path of a model and what it is; None for a live one.

    Raises
    ------
    UsageError
        There is no such file.
    InputRefusedError
        It is none of the formats.
    """
    if not isinstance(source, str | PathLike):
        return None, ""
    path = Path(fspath(source))
    kind = kind_of(path)
    if kind and (path.exists() or kind == "checkpoint"):
        return path, kind
    if not path.exists():
        raise UsageError(
            what="model not found",
            path=path,
            why="there is no such file, nor a checkpoint with that prefix",
            fix="Check the spelling and the working directory",
        )
    raise InputRefusedError(
        what="not a Keras model",
        path=path,
        why="its content is none of .keras, .h5, .weights.h5, SavedModel and tf.train.Checkpoint",
        fix="Save it again with model.save(path) or model.save_weights(path)",
    )


class ModelSource:
    """A ``keras.Model`` and where its weights come from.

    Parameters
    ----------
    source
        A path, or the model itself.
    options
        Factory and trust.
    framework
        Keras.

    Raises
    ------
    UsageError, InputRefusedError
        See `repstat_adapters.keras.open_model`.
    """

    def __init__(self, source: object, options: AdapterOptions, framework: Framework) -> None:
        self._framework = framework
        self._trust, self._factory = options.trust_model, options.model_factory
        self._root: str | None = None
        self._own: Contents | None = None
        self._config: Any = None
        self.path, self.kind = locate(source)
        self.model = self._open(source)
        if not is_built(self.model):
            raise _uncalled(self.model, self.path, framework) or unbuilt(self.path)

    @property
    def files(self) -> Mapping[str, Path]:
        """Files of the checkpoint, by the name to report."""
        if self.path is None:
            return {}
        return checkpoint.files_of(self.path) if self.kind == "checkpoint" else {self.path.name: self.path}

    def weights(self) -> list[tuple[str, Any]]:
        """Names and values of the weights, in the model's order."""
        return [(weight.path, array_of(weight)) for weight in self.model.weights]

    def reload(self, source: object) -> bool:
        """Take over the weights of another checkpoint; see `repstat.adapter.Reloadable`."""
        if not isinstance(source, str | PathLike):
            return source is self.model
        if self.path is None:
            return False
        path = Path(fspath(source))
        kind = kind_of(path)
        if kind != self.kind:
            return False
        if self._factory is None:
            if _config(path, kind) != self._config:
                return False
            check_release(path, self._framework, trust=self._trust)
        self._restore(path, kind)
        self.path = path
        return True

    def _open(self, source: object) -> Any:
        if self.path is None:
            if self._factory is not None:
                raise UsageError(what="a live model needs no model factory", fix="Leave model_factory out")
            return source
        if self._factory is not None:
            model = build_model(self._factory, self._framework, self.path)
            self.model = model
            self._restore(self.path, self.kind)
            return model
        if self.kind in {"weights", "checkpoint"}:
            named = "a checkpoint of TensorFlow" if self.kind == "checkpoint" else "a file of weights"
            raise UsageError(
                what="the file holds weights and no model",
                path=self.path,
                why=f"{named} does not say what computes with them",
                fix="Name the function that builds the model: --model-factory package.module:function",
            )
        self._config = _config(self.path, self.kind)
        return load_whole(self.path, self.kind, self._framework, trust=self._trust)

    def _restore(self, path: Path, kind: Kind) -> None:
        if kind == "checkpoint":
            if self._framework.backend != "tensorflow":
                raise UsageError(
                    what="checkpoints of tf.train.Checkpoint need Keras on TensorFlow",
                    path=path,
                    why=f"it runs on {self._framework.backend}",
                    fix="Set KERAS_BACKEND=tensorflow before Python starts",
                )
            self._root = checkpoint.restore_checkpoint(self.model, path, self._framework, self._root)
        else:
            self._own = restore_weights(self.model, path, kind, self._framework, self._own)


def _uncalled(model: Any, path: Path | None, framework: Framework) -> InputRefusedError | None:
    """Return the error for a model that cannot be called, such as a GAN that only has a `train_step`."""
    if type(model).call is not framework.keras.Model.call:
        return None
    parts = [layer.name for layer in model.layers if isinstance(layer, framework.keras.Model)]
    return InputRefusedError(
        what="the model cannot be called",
        path=path,
        why=f"{type(model).__name__} has no call of its own; it only holds {', '.join(parts) or 'layers'}",
        fix="Give one of the models that it holds, or write a call",
    )


def _config(path: Path, kind: Kind) -> Any:
    """Architecture of a whole model, without what differs between copies of it.

    Raises
    ------
    InputRefusedError
        The file is damaged.
    """
    try:
        if kind == "keras":
            with ZipFile(path) as archive:
                text = archive.read("config.json").decode("utf-8")
        else:
            text = read_contents(path).config
        config = json.loads(text)
    except InputRefusedError:
        raise
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise damaged(path, f"its architecture cannot be read ({error})") from None
    names: dict[str, str] = {}
    _automatic(config, names)
    return _plain(config, names)


def _automatic(value: Any, names: dict[str, str]) -> None:
    """Collect the names that Keras counted up, which differ between copies of a model: ``dense_3``."""
    if isinstance(value, dict):
        kind, inner = value.get("class_name"), value.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        if isinstance(kind, str) and isinstance(name, str) and _counted(kind, name):
            names.setdefault(name, f"#{len(names)}")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _automatic(part, names)


def _counted(class_name: str, name: str) -> bool:
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", class_name)).lower()
    return re.fullmatch(f"{re.escape(snake)}(_[0-9]+)?", name) is not None


def _plain(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner, names) for key, inner in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_plain(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
