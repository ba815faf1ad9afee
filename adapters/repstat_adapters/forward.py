"""An adapter from one function: for frameworks that repstat does not know (docs/adapters.md).

A function that runs the network and calls `record` after every layer is enough; the rest of the contract
(`repstat.adapter.Adapter`) is here and in `repstat_adapters.shared`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from repstat.adapter import AdapterOptions, Array, InputSpec, LayerKind
from repstat.errors import DeviceUnavailableError, InputRefusedError, RepstatError, UsageError
from repstat_adapters.shared.base import BatchedAdapter, Forward, MisfitError
from repstat_adapters.shared.feeds import draw_probes
from repstat_adapters.shared.noise import BatchNoise
from repstat_adapters.shared.probing import Found, Placed, Plan, Prober
from repstat_adapters.shared.provenance import file_facts, run_facts


class Record:
    """What a network's function calls after every layer, in forward order."""

    def __init__(self, wanted: Set[str] | None = None, noise: Mapping[str, Array] | None = None) -> None:
        self.found: list[Found] = []
        self.values: dict[str, Array] = {}
        self.dtypes: dict[str, str] = {}
        self._wanted, self._noise = wanted, noise or {}

    def __call__(self, name: str, activation: Any, kind: LayerKind = "hidden", op: str = "") -> Any:
        """Take the activation of one layer, and return what the network is to compute on with.

        Parameters
        ----------
        name
            The layer's name; the same at every call.
        activation
            One axis holds the samples: a NumPy array, or what ``numpy.asarray`` and ``+`` understand.
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
        key = f"{letter}{sum(layer.key[0] == letter for layer in self.found):03d}"
        if array.ndim == 0:
            raise InputRefusedError(
                what="an activation has no samples",
                place=f"layer {key} ({name})",
                why="found a single number",
                fix="Record arrays of shape (samples, ...)",
            )
        self.dtypes[key] = array.dtype.name
        self.found.append(Found(key, name, op or name, kind, op or name, key))
        if self._wanted is None or key in self._wanted:
            self.values[key] = np.array(array, _stored_dtype(array.dtype, key, name), order="C")
        if key not in self._noise:
            return activation
        drawn = self._noise[key]
        if drawn.shape != array.shape:
            raise MisfitError(key, array.shape, drawn.shape)
        return activation + drawn.astype(array.dtype)


class ForwardAdapter(BatchedAdapter):
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
        super().__init__(Path(source) if isinstance(source, str | PathLike) else None)
        self._specs, self._function = tuple(inputs), forward
        self._framework, self._versions = framework, dict(versions or {"numpy": np.__version__})
        self._weights = dict(weights or {})
        self._threads = options.threads if options else None
        self._found: Sequence[Found] = ()
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

    def provenance(self) -> Mapping[str, Any]:
        """Return facts about the file, the weights, and how the model is run."""
        files = {self._path.name: self._path} if self._path is not None and self._path.is_file() else {}
        return {
            "framework": self._framework,
            "versions": self._versions,
            **file_facts(files),
            "weights_sha256": _hash(self._weights) if self._weights else "",
            "provider": "cpu",
            "threads": self._threads,
            **run_facts(self._plan),
        }

    def _make_plan(self, feeds: Mapping[str, Array] | None) -> Plan:
        first = self._first(feeds)
        self._found = first.found
        prober = Prober(
            run=lambda batch: self._pass(batch, Record()).values,
            found=first.found,
            dtypes=first.dtypes,
            specs=self._specs,
            path=self._path,
            runtime="the function",
        )
        return prober.plan(feeds)

    def _first(self, feeds: Mapping[str, Array] | None) -> Record:
        """Run the function once to see what it records."""
        failure: InputRefusedError | None = None
        for batch in [feeds] if feeds is not None else draw_probes(self._specs, 2):
            try:
                self._found = ()
                return self._pass(batch, Record())
            except InputRefusedError as error:
                failure = failure or error
        assert failure is not None  # there is always a batch to try
        raise failure

    def _forward(self, wanted: Mapping[str, Placed], noise: BatchNoise) -> Forward:
        def run(feeds: Mapping[str, Array], drawn: Mapping[str, Array]) -> Mapping[str, Array]:
            return self._pass(feeds, Record(wanted.keys(), drawn)).values

        return Forward(run, noise.layers.keys())

    def _pass(self, feeds: Mapping[str, Array], record: Record) -> Record:
        """Run the function once."""
        with threadpool_limits(self._threads) if self._threads else nullcontext():
            try:
                self._function(record, *(feeds[spec.name].copy() for spec in self._specs))
            except (RepstatError, MisfitError):
                raise
            except Exception as error:  # the function is a stranger's; what it raises concerns its model
                raise InputRefusedError(
                    what="the model fails on the samples",
                    path=self._path,
                    why=f"{type(error).__name__}: {' '.join(str(error).split())}",
                    fix="Check the shape and range of the samples",
                ) from error
        if self._found and record.found != self._found:
            have, want = (", ".join(f.name for f in found) or "none" for found in (record.found, self._found))
            raise InputRefusedError(
                what="the layers depend on the samples",
                path=self._path,
                why=f"found {have}, expected {want}",
                fix="Record the same layers for every batch",
            )
        return record


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
