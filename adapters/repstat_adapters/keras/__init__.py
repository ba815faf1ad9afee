"""Keras and TensorFlow models: the light entry point. Frameworks are imported by `open_model`, not before."""

import sys
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repstat.adapter import Adapter, AdapterOptions
from repstat.errors import AdapterUnavailableError
from repstat_adapters.keras.sniff import kind_of

if TYPE_CHECKING:
    from repstat_adapters.keras.callback import RecordActivations
    from repstat_adapters.keras.noise_layer import ActivationNoise

__all__ = ["ActivationNoise", "RecordActivations", "accepts", "describe", "open_model"]


def __getattr__(name: str) -> Any:
    """Import what needs Keras when it is asked for: the layer and the callback for training."""
    if name == "ActivationNoise":
        from repstat_adapters.keras.noise_layer import ActivationNoise

        return ActivationNoise
    if name == "RecordActivations":
        from repstat_adapters.keras.callback import RecordActivations

        return RecordActivations
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def accepts(source: object) -> bool:
    """Whether `source` is a Keras model in memory, or a file or folder that Keras or TensorFlow wrote.

    Judged by content. Files called ``*.keras`` and ``*.weights.h5`` are accepted whatever they hold, so that
    a damaged one is refused with its reason. A checkpoint of ``tf.train.Checkpoint`` is named by its prefix,
    ``ckpt-100``, or by its index, ``ckpt-100.index``.
    """
    if isinstance(source, str | PathLike):
        return bool(kind_of(Path(fspath(source))))
    keras = sys.modules.get("keras")
    model = getattr(keras, "Model", None)
    return model is not None and isinstance(source, model)


def open_model(source: object, options: AdapterOptions) -> Adapter:
    """Open a model file, a folder, a checkpoint, or a live model.

    Raises
    ------
    UsageError
        The path does not exist, or an option has no meaning here.
    InputRefusedError
        The model is damaged, unsafe or random, or its weights are not all there.
    DeviceUnavailableError
        The device cannot be used here.
    AdapterUnavailableError
        Keras or TensorFlow is not installed.
    """
    from repstat_adapters.keras.adapter import KerasAdapter

    return KerasAdapter(source, options)


def describe() -> str:
    """Return the versions, the backend of Keras and the devices it can use, for ``repstat info``."""
    from repstat_adapters.keras.framework import import_keras

    try:
        return import_keras().described()
    except AdapterUnavailableError as error:
        return str(error)
