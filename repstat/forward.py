"""An adapter from one function: for frameworks that repstat does not know (docs/adapters.md).

A function that runs the network and calls `record` after every layer is enough; the rest of the contract
(`repstat.adapter.Adapter`) is here.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from repstat.adapter import AdapterOptions, Array, InputSpec, Layer, LayerKind, Noise
from repstat.errors import DeviceUnavailableError, InputRefusedError, RepstatError, UsageError
from repstat.noise import check_noise, standard_normal

FREE_LENGTH = 8
"""Length of a free axis while the layers are found without samples."""
_SEED = 0x666F7277


class Record:
    """What a network's function calls after every layer, in forward order."""

    def __init__(self, wanted: frozenset[str], noise: "_PassNoise | None" = None) -> None:
        self.layers: list[Layer] = []
        self.values: dict[str, Array] = {}
        self._wanted, self._noise = wanted, noise

    def __call__(self, name: str, activation: Any, kind: LayerKind = "hidden", op: str = "") -> Any:
        """Take the activation of one layer, and return what the network is to compute on with.

        Parameters
        ----------
        name
            The layer's name; the same at every call.
        activation
            Shape (n_samples, ...): a NumPy array, or what ``numpy.asarray`` and ``+`` understand.
        kind
            ``hidden``, ``residual`` (a join after a block) or ``output``.
        op
            What produces it, for people: ``linear+tanh``.

        Returns
        -------
        Any
            The activation itself; in a noisy pass of a noisy layer, the activation plus noise.
        """
        array = np.asarray(activation)
        letter = "R" if kind == "residual" else "L"
        key = f"{letter}{sum(layer.key[0] == letter for layer in self.layers):03d}"
        dtype = _stored_dtype(array.dtype, key, name)
        if array.ndim == 0:
            raise InputRefusedError(
                what="an activation has no samples",
                place=f"layer {key} ({name})",
                why="found a single number",
                fix="Record arrays of shape (samples, ...)",
            )
        layer = Layer(
            key=key, name=name, op=op or name, kind=kind, unit_shape=array.shape[1:], dtype=dtype,
            source_dtype=array.dtype.name, signature=op or name, target=name,
        )  # fmt: skip
        self.layers.append(layer)
        if key in self._wanted:
            self.values[key] = np.array(array, dtype, order="C")
        return activation if self._noise is None else self._noise.added(activation, array, key)


class _PassNoise:
    """The noise of one pass."""

    def __init__(self, stds: Mapping[str, float], noise: Noise, samples: NDArray[np.int64]) -> None:
        self._stds, self._noise, self._samples = stds, noise, samples

    def added(self, activation: Any, array: Array, key: str) -> Any:
        if key not in self._stds:
            return activation
        n_units = int(np.prod(array.shape[1:]))
        drawn = standard_normal(self._noise.seed, key, self._noise.realization, self._samples, n_units)
        return activation + (drawn * self._stds[key]).astype(array.dtype).reshape(array.shape)


class ForwardAdapter:
    """One model, run by a function. Implements `repstat.adapter.Adapter`, noise included.

    Parameters
    ----------
    source
        The model: a file, whose hash is recorded, or anything else.
    inputs
        What it takes, with the batch on `batch_axis`.
    forward
        ``forward(record, *inputs)``: runs a batch and calls ``h = record(name, h)`` after every layer, the
        same ones in the same order whatever the batch; see `Record`. The batch is a copy and may be changed.
    options
        As `open_model` got them. Only the CPU is known here, and no graph optimisation.
    framework, versions
        For the store's provenance.
    weights
        By name; their hash tells whether two files hold the same network.

    Raises
    ------
    DeviceUnavailableError, UsageError
        The options ask for what a plain function does not have.
    """

    def __init__(
        self,
        source: object,
        inputs: Sequence[InputSpec],
        forward: Callable[..., Any],
        *,
        options: AdapterOptions | None = None,
        framework: str = "numpy",
        versions: Mapping[str, str] | None = None,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        self._path = Path(source) if isinstance(source, str | PathLike) else None
        self._specs, self._forward = tuple(inputs), forward
        self._framework, self._versions = framework, dict(versions or {"numpy": np.__version__})
        self._weights = dict(weights or {})
        self._threads = options.threads if options else None
        self._layers: tuple[Layer, ...] | None = None
        self._closed = False
        if options and options.provider not in {"auto", "cpu"}:
            raise DeviceUnavailableError(
                what=f"no execution provider {options.provider!r}",
                path=self._path,
                why=f"this {framework} model runs on the CPU",
                fix="Pass --provider cpu",
            )
        if options and options.opt_level != "none":
            raise UsageError(
                what=f"--opt-level {options.opt_level} has no meaning here",
                path=self._path,
                why=f"this {framework} model is no graph",
                fix="Leave it out",
            )

    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the order of `forward`."""
        return self._specs

    def layers(self, probe: Mapping[str, Array] | None = None) -> Sequence[Layer]:
        """Return the layers in the order in which they are recorded, found by running the function.

        Raises
        ------
        UsageError
            The model was closed.
        InputRefusedError
            The probe does not fit, or the function fails on it.
        """
        self._require_open()
        feeds, n = self._checked(self._drawn() if probe is None else probe)
        if n == 0:
            raise InputRefusedError(what="the probe has no samples", path=self._path, fix="Give at least one")
        self._layers = tuple(self._pass(feeds, n, Record(frozenset())).layers)
        return self._layers

    def run(
        self,
        feeds: Mapping[str, Array],
        layers: Sequence[Layer],
        *,
        samples: NDArray[np.int64],
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        """Return the activations of one batch by layer key, each ``(n_samples, *unit_shape)``.

        Raises
        ------
        UsageError
            A layer is not one of this model's, or noise is asked for that cannot be.
        InputRefusedError
            The batch does not fit, or the function fails on it.
        """
        self._require_open()
        checked, n = self._checked(feeds)
        if len(samples) != n:
            raise InputRefusedError(
                what="the batch has another number of samples than it is said to have",
                why=f"found {n} samples and {len(samples)} indices",
                fix="Give one index per sample",
            )
        if self._layers is None:
            self.layers(feeds if n else None)
        known = {layer.key: layer for layer in self._layers or ()}
        for layer in layers:
            self._check_layer(layer, known.get(layer.key))
        stds = check_noise(noise, tuple(known.values()), n, self._path) if noise else {}
        wanted = tuple(dict.fromkeys(layer.key for layer in layers))
        if n == 0 or not wanted:
            return {key: np.empty((n, *known[key].unit_shape), known[key].dtype) for key in wanted}
        added = _PassNoise(stds, noise, np.asarray(samples)) if noise and stds else None
        record = self._pass(checked, n, Record(frozenset(wanted), added))
        for have, want in zip(record.layers, known.values(), strict=False):
            if (have.name, have.kind, have.unit_shape) != (want.name, want.kind, want.unit_shape):
                why = f"found {have.name} {have.unit_shape}, expected {want.name} {want.unit_shape}"
                raise self._other(why)
        if len(record.layers) != len(known):
            why = f"found {len(record.layers)} layers, expected {len(known)}"
            raise self._other(why)
        return {key: record.values[key] for key in wanted}

    def provenance(self) -> Mapping[str, Any]:
        """Return facts about the file, the weights, and how the model is run."""
        files = []
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files = [{"name": self._path.name, "bytes": self._path.stat().st_size, "sha256": digest}]
        return {
            "framework": self._framework,
            "versions": self._versions,
            "files": files,
            "sha256": files[0]["sha256"] if files else "",
            "weights_sha256": _hash(self._weights) if self._weights else "",
            "provider": "cpu",
            "threads": self._threads,
        }

    def close(self) -> None:
        """Forget the model."""
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(what="the model was closed", path=self._path, fix="Open it again")

    def _pass(self, feeds: Sequence[Array], n: int, record: Record) -> Record:
        """Run the function once."""
        with threadpool_limits(self._threads) if self._threads else nullcontext():
            try:
                self._forward(record, *feeds)
            except RepstatError:
                raise
            except Exception as error:  # the function is a stranger's; what it raises concerns its model
                raise InputRefusedError(
                    what="the model fails on the samples",
                    path=self._path,
                    why=f"{type(error).__name__}: {' '.join(str(error).split())}",
                    fix="Check the shape and range of the samples",
                ) from error
        for layer in record.layers:
            value = record.values.get(layer.key)
            if value is not None and len(value) != n:
                why = f"layer {layer.key} ({layer.name}) has {len(value)} samples, expected {n}"
                raise self._other(why)
        return record

    def _check_layer(self, layer: Layer, own: Layer | None) -> None:
        if own is None or (own.signature, own.unit_shape) != (layer.signature, layer.unit_shape):
            raise UsageError(
                what=f"layer {layer.key} ({layer.signature} {layer.unit_shape}) is not this model's",
                path=self._path,
                why=f"its {own.key} is {own.signature} {own.unit_shape}" if own else "it has no such layer",
                fix="Take the layers from layers() of this model, with a probe like the samples",
            )

    def _other(self, why: str) -> InputRefusedError:
        return InputRefusedError(
            what="the layers depend on the samples",
            path=self._path,
            why=why,
            fix="Record the same layers and shapes for every batch, the samples on the first axis",
        )

    def _drawn(self) -> dict[str, Array]:
        """Return two samples to find the layers with."""
        rng = np.random.default_rng(_SEED)
        feeds = {}
        for spec in self._specs:
            shape = [FREE_LENGTH if length is None else length for length in spec.shape]
            shape[spec.batch_axis] = 2
            drawn = rng.standard_normal(shape) if spec.dtype.kind == "f" else rng.integers(0, 2, shape)
            feeds[spec.name] = drawn.astype(spec.dtype)
        return feeds

    def _checked(self, feeds: Mapping[str, Array]) -> tuple[list[Array], int]:
        """Return copies of a batch in the order of the inputs, and its number of samples."""
        names = [spec.name for spec in self._specs]
        if set(feeds) != set(names):
            raise InputRefusedError(
                what="the inputs do not have the model's names",
                why=f"found {', '.join(map(repr, feeds)) or 'none'}, expected {', '.join(map(repr, names))}",
                fix="Use the model's input names",
            )
        checked, lengths = [], set()
        for spec in self._specs:
            array = np.asarray(feeds[spec.name])
            native = array.dtype.newbyteorder("=")
            if native != spec.dtype:
                raise InputRefusedError(
                    what=f"input {spec.name!r} has the wrong dtype",
                    why=f"found {native}, expected {spec.dtype}",
                    fix=f"Convert the samples to {spec.dtype}",
                )
            want = [None if axis == spec.batch_axis else k for axis, k in enumerate(spec.shape)]
            if array.ndim != len(want) or any(
                k not in (None, n) for k, n in zip(want, array.shape, strict=True)
            ):
                words = ["samples" if i == spec.batch_axis else str(k or "?") for i, k in enumerate(want)]
                raise InputRefusedError(
                    what=f"input {spec.name!r} has the wrong shape",
                    why=f"found {array.shape}, expected ({', '.join(words)})",
                    fix="Reshape the samples to what the model takes",
                )
            checked.append(np.array(array, native, order="C"))
            lengths.add(array.shape[spec.batch_axis])
        if len(lengths) > 1:
            raise InputRefusedError(
                what="the inputs differ in their number of samples",
                why=f"found {', '.join(map(str, sorted(lengths)))}",
                fix="Give every input the same samples",
            )
        return checked, lengths.pop() if lengths else 1


def _stored_dtype(dtype: np.dtype[Any], key: str, name: str) -> np.dtype[Any]:
    """Return the dtype in which activations are returned: their own, or one that HDF5 has."""
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return dtype.newbyteorder("=")
    if dtype.name.startswith(("bfloat16", "float8")) or (dtype.kind in "iub" and dtype.itemsize <= 2):
        return np.dtype(np.float32)
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    raise InputRefusedError(
        what="an activation is not real numbers",
        place=f"layer {key} ({name})",
        why=f"found dtype {dtype}",
        fix="Record floating-point arrays",
    )


def _hash(weights: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
