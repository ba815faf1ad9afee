"""Watch which layers of a Keras model are called, in one call of the model that is ours."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from repstat.errors import InputRefusedError
from repstat_adapters.keras.kinds import Kind, kind_of

_WATCHING = threading.RLock()
"""`keras.layers.Layer.__call__` is one for the process; two watchers at once would not undo each other."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer that is one op in the graph.

    Parameters
    ----------
    kind
        Which op.
    path
        Names of the layers from the model down to this one, ``encoder/dense``.
    inputs, outputs
        Its tensors, flat.
    shape
        Shape of its first weight.
    start, stop
        Where it was among the calls that the backend counts.
    """

    kind: Kind
    path: str
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass
class Watch:
    """What is seen while a model is called.

    Parameters
    ----------
    position
        Counts what the backend has done so far.
    replace
        Returns what takes the place of a layer's outputs, given its call.
    paths
        Where composite layers and unknown ones were called: path, start, stop; inner ones first.
    refusal
        Why the model is refused: Keras wraps what is raised inside a call into errors of its own.
    """

    keras: Any
    position: Callable[[], int]
    replace: Callable[[LayerCall, Any], Any] = lambda call, outputs: outputs
    calls: list[LayerCall] = field(default_factory=list)
    paths: list[tuple[str, int, int]] = field(default_factory=list)
    refusal: Exception | None = None
    _stack: list[str] = field(default_factory=list)
    _inside: int = 0

    @property
    def inside(self) -> bool:
        """Whether a layer that is one op is being computed."""
        return self._inside > 0

    @property
    def path(self) -> str:
        """Path of the layer being called."""
        return "/".join(self._stack[1:])

    def call(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        """Call a layer and note it."""
        if self._inside:
            return original(layer, *args, **kwargs)
        kind = kind_of(layer, self.keras.layers)
        start = self.position()
        self._stack.append(layer.name)
        self._inside += kind is not None
        try:
            outputs = original(layer, *args, **kwargs)
            path = self.path
        finally:
            self._inside -= kind is not None
            self._stack.pop()
        if kind is None:
            self.paths.append((path, start, self.position()))
            return outputs
        if kind.op_type == "BatchNormalization" and kwargs.get("training") and layer.trainable:
            raise self.refused(
                InputRefusedError(
                    what="the model is not deterministic",
                    place=f"layer {path}",
                    why="it calls batch normalisation with training=True, so its values depend on the batch",
                    fix="Pass the model's own training argument on to the layer",
                )
            )
        return self._note(kind, path, layer, (args, kwargs), outputs, start)

    def refused(self, error: Exception) -> Exception:
        """Keep an error that is to be raised inside a call."""
        self.refusal = error
        return error

    def _note(self, kind: Kind, path: str, layer: Any, given: Any, outputs: Any, start: int) -> Any:
        tensors = self._tensors(given)
        made = self._tensors(outputs)
        if any(out is tensor for out in made for tensor in tensors):
            return outputs  # it hands on what it was given: no op
        shape = tuple(layer.weights[0].shape) if kind.weighted and layer.weights else ()
        call = LayerCall(kind, path, tensors, made, shape, start, self.position())
        self.calls.append(call)
        return self.replace(call, outputs)

    def _tensors(self, structure: Any) -> list[Any]:
        flat = self.keras.tree.flatten(structure)
        return [leaf for leaf in flat if self.keras.ops.is_tensor(leaf)]


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Watch the calls of this thread; `keras.layers.Layer.__call__` is restored whatever happens."""
    layer_class = watch.keras.layers.Layer
    me = threading.get_ident()

    def patched(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != me:
            return original(layer, *args, **kwargs)
        return watch.call(original, layer, args, kwargs)

    with _WATCHING:
        original = layer_class.__call__
        layer_class.__call__ = patched
        try:
            yield watch
        finally:
            layer_class.__call__ = original


@contextmanager
def losses_kept(model: Any) -> Iterator[None]:
    """Keep what a model noted of its last call: losses that layers added."""
    layers = list(model._flatten_layers())
    kept = [(layer, list(layer._losses)) for layer in layers if hasattr(layer, "_losses")]
    called = [(layer, layer._called) for layer in layers if hasattr(layer, "_called")]
    try:
        yield
    finally:
        for layer, losses in kept:
            layer._losses[:] = losses
        for layer, value in called:
            layer._called = value


def numbered(paths: Sequence[str]) -> list[str]:
    """Tell apart calls of one layer: ``shared#0``, ``shared#1``."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        number = seen.setdefault(path, 0)
        seen[path] += 1
        names.append(f"{path}#{number}" if paths.count(path) > 1 else path)
    return names
