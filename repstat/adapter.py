"""The contract between the core and a model framework.

An adapter turns one model (one checkpoint) into named hidden layers and runs batches through it. The core
finds adapters by entry point (`repstat.discovery`) and never imports one; an adapter imports this module,
`repstat.noise` and `repstat.errors` and nothing else of repstat.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LayerKind = Literal["hidden", "residual", "output"]


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Whether NumPy computes with a dtype by itself, as it does not with bfloat16 and its like."""
    return dtype.kind in "biufc" and dtype.isbuiltin != 2


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model: its name, NumPy dtype and shape (None where a length is free).

    Parameters
    ----------
    declared
        Whether the model itself says dtype and shape. Otherwise they are guessed from its weights, to draw
        synthetic samples; real ones may be of any shape and of any integer type.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    batch_axis: int = 0
    declared: bool = True

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample: the shape without its batch axis."""
        return self.shape[: self.batch_axis] + self.shape[self.batch_axis + 1 :]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a model whose activation can be recorded.

    Parameters
    ----------
    key
        `L003`: ordinal of the parameterised op, the only identity across checkpoints. `R001` for the
        second residual join.
    name
        The framework's spelling. Decoration: may repeat, may differ between checkpoints.
    op
        What produces the activation, as the model spells it: ``Gemm+Tanh``.
    kind
        ``hidden``, ``residual`` (a join after a block) or ``output``.
    unit_shape
        Shape of one sample's activation.
    dtype
        dtype of the recorded arrays (already widened where NumPy or HDF5 cannot hold the original).
    source_dtype
        dtype inside the model: ``bfloat16`` stays visible here.
    signature
        Canonical form compared across checkpoints; exporters that fuse, elide a zero bias or rename
        must produce equal signatures: ``linear>tanh``.
    target
        The adapter's own handle (an ONNX tensor name, a module path).
    batch_axis
        Axis of the batch in the framework's tensor; arrays returned by `Adapter.run` have it first.
    """

    key: str
    name: str
    op: str
    kind: LayerKind
    unit_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source_dtype: str
    signature: str
    target: str
    batch_axis: int = 0

    @property
    def n_units(self) -> int:
        """Number of scalar coordinates of one sample's activation."""
        return int(np.prod(self.unit_shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise inside the network: T_l = S_l + N(0, noise_std_l^2 I) after hidden layers.

    The network computes on with T_l; what `Adapter.run` returns of a layer is S_l, which holds the noise of
    the layers before it and not its own. The numbers are those of `repstat.noise.standard_normal`: fresh for
    every layer, realization, sample and unit (so for each position of a feature map, too), and the same
    whatever the batch, the framework or the device.

    Parameters
    ----------
    noise_std
        Standard deviation by layer key, in activation units, for each layer that gets noise, whether it is
        recorded or not. 0 leaves the layer as it is, to the bit. A residual join gets noise only where named.
    seed
        From 0.
    realization
        Which noisy pass this is, from 0 below 2^48; or one per sample of the batch, shape ``(n_samples,)``,
        so that several passes of the same samples fit into one batch.
    """

    noise_std: Mapping[str, float]
    seed: int
    realization: int | NDArray[np.int64] = 0


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """How a model is to be opened. Adapters refuse what they cannot honour.

    Parameters
    ----------
    provider
        ``auto``, ``cpu``, ``cuda`` or a framework's own name. Never a silent fallback except `auto`.
    threads
        CPU threads; None takes the number of usable cores.
    opt_level
        Graph optimisation: ``none`` (values never depend on which layers were asked for), ``basic``,
        ``extended`` or ``all``.
    trust_model
        Permit model files that run code.
    model_factory
        For files that hold weights only: what builds the model they belong to, ``package.module:function``
        or the function itself. It is called without arguments.
    max_memory
        Bytes that the model's run may take. Adapters that predict more refuse the model; none enforces it.
    """

    provider: str = "auto"
    threads: int | None = None
    opt_level: Literal["none", "basic", "extended", "all"] = "none"
    trust_model: bool = False
    model_factory: str | Callable[[], Any] | None = None
    max_memory: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Adapter(Protocol):
    """One opened model."""

    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the model's order."""

    def layers(self, probe: Mapping[str, Array] | None = None) -> Sequence[Layer]:
        """Layers in forward order. `probe` (a few samples) settles shapes the model leaves open."""

    def run(
        self,
        feeds: Mapping[str, Array],
        layers: Sequence[Layer],
        *,
        samples: NDArray[np.int64],
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        """Activations of one batch by layer key, each of shape ``(batch, *unit_shape)``.

        Returns exactly the requested keys or raises. Arrays own their memory, are C-contiguous,
        native-endian and batch first. Equal arguments give equal results, the answer does not depend on
        how samples are batched, and the model is never changed. `samples` are the global indices of the
        batch's samples, which key their noise.
        """

    def provenance(self) -> Mapping[str, Any]:
        """Return facts that JSON can hold.

        ``sha256`` of the model file, ``weights_sha256``, other files and their hashes, framework, versions,
        device really used, threads, options.
        """

    def close(self) -> None:
        """Release the framework's resources."""


@runtime_checkable
class Reloadable(Protocol):
    """An adapter that takes over the weights of further checkpoints, so that the model is prepared once."""

    def reload(self, source: object) -> bool:
        """Take over the weights of `source`, and its provenance.

        Returns
        -------
        bool
            False, with nothing changed, if `source` is not a checkpoint of the same kind and architecture;
            open it anew then.

        Raises
        ------
        RepstatError
            `source` is one, but cannot be read.
        """


@runtime_checkable
class Predicting(Protocol):
    """An adapter that knows from the model itself, without running it, what a batch needs."""

    def predicted_bytes(self, feeds: Mapping[str, Array]) -> int:
        """Return the bytes that a run with a batch takes at least, 0 if unknown; `layers` was called."""


class AdapterModule(Protocol):
    """What the entry point of an adapter names: a light module; frameworks load in `open_model` only."""

    def accepts(self, source: object) -> bool:
        """Whether this adapter reads `source`, judged by content and without importing its framework.

        A path may be a folder, or a prefix that several files share.
        """

    def open_model(self, source: object, options: AdapterOptions) -> Adapter:
        """Open `source`."""

    def describe(self) -> str:
        """Return the framework's version and the devices it can use, for ``repstat info``."""
