"""Trace a Keras model as a TensorFlow graph. Nothing is computed, and the model stays as it is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repstat.errors import InputRefusedError
from repstat_adapters.keras.calls import Watch, losses_kept, watching
from repstat_adapters.keras.framework import Framework, first_line, quiet
from repstat_adapters.keras.inputs import Inputs
from repstat_adapters.keras.tf_freeze import freeze
from repstat_adapters.keras.tf_graph import Captured, GraphReader, Traced

_READS = frozenset({"ReadVariableOp", "Identity", "Cast"})


def trace(
    model: Any,
    inputs: Inputs,
    shapes: Sequence[tuple[tuple[int | None, ...], Any]],
    framework: Framework,
    path: Path | None,
) -> Traced:
    """Trace a model's inference.

    Parameters
    ----------
    model
        A ``keras.Model`` on the TensorFlow backend.
    inputs
        Its inputs.
    shapes
        Shape and dtype of each tensor to trace with.
    framework
        Keras and TensorFlow.
    path
        The model, for messages.

    Raises
    ------
    InputRefusedError
        The model cannot be traced, is random, or was never built.
    """
    tf, keras = framework.runner, framework.keras
    specs = [
        tf.TensorSpec(shape, dtype, name=f"repstat_input_{i}") for i, (shape, dtype) in enumerate(shapes)
    ]
    wanted = [inputs.dtypes.get(spec.name) for spec in inputs.specs]

    def forward(*tensors: Any) -> Any:
        cast = [t if w is None else tf.cast(t, w) for t, w in zip(tensors, wanted, strict=True)]
        args, kwargs = inputs.pack(cast)
        watch.position = _counter(tf)
        return model(*args, **kwargs, training=False)

    watch = Watch(keras, position=lambda: 0)
    before = len(model.variables)
    try:
        with quiet(), losses_kept(model), _inline(tf), watching(watch):
            concrete = tf.function(forward, autograph=False).get_concrete_function(*specs)
    except Exception as error:  # the user's own code may raise anything
        if watch.refusal is not None:
            raise watch.refusal from None
        whole = _with_own_functions(model, tf, forward, specs)
        if whole is None:
            raise _untraceable(error, path) from error
        traced = freeze(whole, path)
    else:
        traced = _read(concrete, len(specs), watch, path)
    if len(model.variables) != before:
        raise unbuilt(path)
    return traced


def _read(concrete: Any, n_inputs: int, watch: Watch, path: Path | None) -> Traced:
    graph = concrete.graph
    feeds = list(concrete.inputs[:n_inputs])
    reader = GraphReader(graph, feeds, concrete.outputs, watch.calls, _namer(watch, graph), path)
    calls, dtypes, nested = reader.read()
    names = tuple(tensor.name for tensor in feeds)
    return Traced(graph.as_graph_def(), names, _captures(graph, path), calls, dtypes, nested)


def _with_own_functions(model: Any, tf: Any, forward: Callable[..., Any], specs: Sequence[Any]) -> Any:
    """Trace again with the user's functions as TensorFlow makes them, which may convert Python conditions."""
    try:
        with quiet(), losses_kept(model):
            return tf.function(forward, autograph=False).get_concrete_function(*specs)
    except Exception:  # the first error tells more
        return None


def unbuilt(path: Path | None) -> InputRefusedError:
    """Return the error for a model whose weights do not exist yet."""
    return InputRefusedError(
        what="the model has no weights yet",
        path=path,
        why="a subclassed model, or a Sequential without an Input, makes them when it is first called, and "
        "they would be random",
        fix="Call it once on a batch of zeros where it is made, and load its weights after that",
    )


def _counter(tf: Any) -> Callable[[], int]:
    """Return what counts the ops of the graph being made."""
    graph = tf.compat.v1.get_default_graph()
    return lambda: len(graph.get_operations())


def _namer(watch: Watch, graph: Any) -> Callable[[Any, int], str]:
    """Return what names an op: the innermost layer in whose call it was made, its weight, or itself."""
    by_handle = {id(variable.handle): variable.name for variable in graph.variables}
    weights = {inner.op.name: by_handle.get(id(outer), "") for outer, inner in graph.captures}

    def name(op: Any, position: int) -> str:
        inner = next((path for path, start, stop in watch.paths if start <= position < stop), "")
        own = next((found for tensor in op.inputs if (found := _weight(tensor.op, weights))), "")
        return inner or own.partition(":")[0] or str(op.name.rpartition("/")[2])

    return name


def _weight(op: Any, weights: Mapping[str, str]) -> str:
    """Name of the variable that an op reads, or nothing."""
    while op.type in _READS and op.inputs:
        op = op.inputs[0].op
    return weights.get(op.name, "")


def _captures(graph: Any, path: Path | None) -> dict[str, Captured]:
    """Find the variables behind the placeholders of a graph."""
    by_handle = {id(variable.handle): variable for variable in graph.variables}
    found = {}
    for outside, placeholder in graph.captures:
        variable = by_handle.get(id(outside))
        if variable is not None:
            found[placeholder.name] = Captured(True, tuple(variable.shape), variable.dtype, variable.numpy)
        elif outside.dtype.is_numpy_compatible and outside.dtype.name not in {
            "resource",
            "variant",
            "string",
        }:
            found[placeholder.name] = Captured(False, tuple(outside.shape), outside.dtype, outside.numpy)
        else:
            raise InputRefusedError(
                what="the model uses something that is neither weight nor constant",
                path=path,
                place=str(placeholder.name),
                why=f"found a {outside.dtype.name}, such as a lookup table",
                fix="Cut the model behind its preprocessing and save that",
            )
    return found


@contextmanager
def _inline(tf: Any) -> Iterator[None]:
    """Trace functions of the user's into the one graph, so that the layers they call are seen."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _untraceable(error: Exception, path: Path | None) -> InputRefusedError:
    return InputRefusedError(
        what="the model cannot be traced as a graph",
        path=path,
        why=f"{type(error).__name__}: {first_line(error)}",
        fix="Its call must work on tensors of unknown batch size, without NumPy and without Python "
        "conditions on values, as for model.predict; give real samples if the shape was a guess",
    )
