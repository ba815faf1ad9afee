"""Names, types and value objects of the activation store (docs/store-format.md, sections 2 and 3)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer
from repstat.errors import InputRefusedError

SCHEMA = "repstat/activation-store"
SCHEMA_VERSION = (1, 1)
"""The newest that is read. What is written has the oldest that suffices."""
RESULTS_SCHEMA = "repstat/results"
RESULTS_VERSION = (1, 1)
KINDS = {SCHEMA: "an activation store", RESULTS_SCHEMA: "a results file"}
LIBVER = ("v110", "v110")
SIGNATURE = b"\x89HDF\r\n\x1a\n"

VALUE_DTYPES = tuple(np.dtype(code) for code in ("<f2", "<f4", "<f8"))
LAYER_KEY = re.compile(r"[LR][0-9]{3,9}")
CONDITIONAL = "conditional"
"""Name of the groups of what belongs to repeated inputs."""
LAYER_KINDS = ("hidden", "residual", "output")
MAX_STEP = 2**63 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The inputs of a store: which ones, in which order, and what is known of them.

    Parameters
    ----------
    index
        Shape (samples,). Position of each sample in the inputs.
    labels
        Shape (samples,). Class of each sample, if known.
    inputs_sha256, inputs_source
        Hash and origin of the inputs.
    synthetic
        The inputs were drawn, not measured.
    class_names
        Names of the classes 0, 1, ...; empty if unknown.
    input_entropy
        H(X) in nats of the stored multiset of inputs, if known.

    Raises
    ------
    InputRefusedError
        If the arrays are not one-dimensional integers of one length, or the entropy is not finite.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    inputs_sha256: str = ""
    inputs_source: str = ""
    synthetic: bool = False
    class_names: tuple[str, ...] = ()
    input_entropy: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", as_integers("sample index", self.index))
        if self.labels is not None:
            object.__setattr__(self, "labels", as_integers("labels", self.labels))
            if len(self.labels) != len(self.index):
                raise InputRefusedError(
                    what="the labels do not fit the samples",
                    why=f"found {len(self.labels)} labels for {len(self.index)} samples",
                    fix="Give one label per sample.",
                )
        if len(self.index) == 0:
            raise InputRefusedError(what="there are no samples", fix="Give at least one sample.")
        if self.input_entropy is not None and not 0 <= self.input_entropy < float("inf"):
            raise InputRefusedError(
                what="the entropy of the inputs is not a finite number of nats",
                why=f"found {self.input_entropy}",
            )

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.index)


def as_integers(what: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return `values`, shape (values,), as int64.

    Raises
    ------
    InputRefusedError
        If they are not one row of integers of 64 bits.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputRefusedError(
            what=f"the {what} cannot be stored",
            why=f"found {array.dtype} of shape {array.shape}, expected one row of integers",
        )
    if array.size and (int(array.max()) > MAX_STEP or int(array.min()) < -MAX_STEP - 1):
        raise InputRefusedError(what=f"the {what} cannot be stored", why="it exceeds 64 bits")
    return np.ascontiguousarray(array, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One point of the trajectory.

    Parameters
    ----------
    step
        Optimizer updates so far, 0 or more.
    epoch
        None if unknown.
    source
        Where the checkpoint came from: a file's name.
    sha256, weights_sha256
        Hash of the model's file, and of its parameters alone; empty if unknown.
    metrics
        Loss, accuracy, ... by name. NaN is kept, and stands for "no value" in a store of several checkpoints.
    provenance
        How it was extracted, as a JSON object.

    Raises
    ------
    InputRefusedError
        If the step or a metric is no such number, or the provenance cannot be written as JSON.
    """

    step: int
    epoch: float | None = None
    source: str = ""
    sha256: str = ""
    weights_sha256: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", check_step(self.step))
        if self.epoch is not None and not isfinite(self.epoch):
            raise InputRefusedError(
                what=f"the epoch of step {self.step} is not a finite number",
                why=f"found {self.epoch}",
                fix="Leave it out where it is not known.",
            )
        to_json(self.provenance, what=f"the provenance of step {self.step}")
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise InputRefusedError(
                    what=f"the metric {name!r} of step {self.step} is not a number", why=f"found {value!r}"
                )


def metric_table(checkpoints: Sequence[Checkpoint]) -> dict[str, NDArray[np.float64]]:
    """Collect the metrics of all checkpoints by name, NaN where a checkpoint has none."""
    rows = [{to_text(name): value for name, value in c.metrics.items()} for c in checkpoints]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype="<f8") for name in names}


def check_step(step: Any) -> int:
    """Return `step` as an int.

    Raises
    ------
    InputRefusedError
        If it is not an integer from 0 to 2**63 - 1.
    """
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or not 0 <= step <= MAX_STEP:
        raise InputRefusedError(
            what=f"{step!r} is not a training step", why="expected an integer from 0 to 2**63 - 1"
        )
    return int(step)


def check_layers(layers: tuple[Layer, ...]) -> None:
    """Refuse layers that the format cannot hold.

    Raises
    ------
    InputRefusedError
        If there is none, a key is malformed or repeated, a layer has no units, or its dtype is not float16,
        float32 or float64.
    """
    if not layers:
        raise InputRefusedError(what="there are no layers to store", fix="Select at least one.")
    seen: set[str] = set()
    for layer in layers:
        why = _why_unfit(layer, seen)
        if why:
            raise InputRefusedError(what=f"layer {layer.key!r} cannot be stored", why=why)
        seen.add(layer.key)


def _why_unfit(layer: Layer, seen: set[str]) -> str:
    if not LAYER_KEY.fullmatch(layer.key):
        return "a key is L or R and three digits or more"
    if layer.key in seen:
        return "the key occurs twice"
    if layer.kind not in LAYER_KINDS:
        return f"its kind is {layer.kind!r}, expected one of {', '.join(LAYER_KINDS)}"
    if any(length < 1 for length in layer.unit_shape):
        return f"a sample's activation has the shape {layer.unit_shape}, which has no units"
    if np.dtype(layer.dtype).newbyteorder("<") not in VALUE_DTYPES:
        return (
            f"its dtype is {layer.dtype}, expected float16, float32 or float64; "
            "other floating-point types are to be widened to float32 first"
        )
    return ""


def to_text(text: str) -> str:
    """Return `text` as the format can hold it: U+0000 and lone surrogates become U+FFFD."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def to_json(value: Any, *, what: str) -> str:
    """Write a JSON object, keys sorted.

    Raises
    ------
    InputRefusedError
        If `value` holds anything that JSON has no form for, NaN and infinities among them.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputRefusedError(what=f"{what} cannot be written as JSON", why=str(error)) from error


def _plain(value: Any) -> Any:
    """Numbers and mappings that only look different from JSON's own."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"a value of type {type(value).__name__} has no form in JSON"
    raise TypeError(msg)


def from_json(text: str) -> Any:
    """Read JSON.

    Raises
    ------
    ValueError
        If it is not JSON, has NaN or infinities, or is nested absurdly deep.
    """

    def refuse(constant: str) -> Any:
        msg = f"{constant} is not JSON"
        raise ValueError(msg)

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        msg = "nested too deep"
        raise ValueError(msg) from error
