"""Put weights from a file into a model that a factory built, all of them or none."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.keras.framework import Framework, first_line, quiet
from repstat_adapters.keras.hdf5 import Contents, read_contents
from repstat_adapters.keras.provenance import sha256_of
from repstat_adapters.keras.whole import on_cpu, suffixed
from repstat_adapters.shared.factory import Factory, build

_LISTED = 3
_SEED = 20_170_302


def build_model(factory: Factory, framework: Framework, path: Path) -> Any:
    """Build the model that weights belong to.

    Raises
    ------
    UsageError
        The factory fails, or returns something else than a model that has weights.
    """
    with quiet(), on_cpu(framework):
        model = build(factory)
    if not isinstance(model, framework.keras.Model):
        raise UsageError(
            what="the model factory did not return a Keras model",
            path=path,
            why=f"found {type(model).__module__}.{type(model).__qualname__}",
            fix="Return a keras.Model, built and not necessarily compiled",
        )
    if not is_built(model):
        raise UsageError(
            what="the model factory returned a model without weights",
            path=path,
            why="a subclassed model makes its weights when it is first called, and would have random ones",
            fix="Call it once in the factory before returning it: model(np.zeros((1, 784), np.float32))",
        )
    return model


def is_built(model: Any) -> bool:
    """Whether a model has its weights."""
    layers = [layer for layer in model._flatten_layers(include_self=False) if not layer.built]
    return bool(model.built) and not (layers and not model.weights)


def restore_weights(
    model: Any, path: Path, kind: str, framework: Framework, own: Contents | None = None
) -> Contents | None:
    """Read the weights of a ``.weights.h5``, ``.h5`` or ``.keras`` file into a model.

    Parameters
    ----------
    own
        What this returned for an earlier file, which tells what a file of this model holds. Without it, it is
        also tried that every weight comes from the file.

    Returns
    -------
    Contents or None
        What a file of this model holds; None for the older format, which is compared by its order.

    Raises
    ------
    InputRefusedError
        The file is damaged, or its weights are not exactly those of the model.
    """
    contents = read_contents(path)
    legacy = not any("vars" in array.path.split("/") for array in contents.arrays)
    if legacy:
        _check_legacy_order(model, contents, path)
    else:
        _check_same(own or own_contents(model, framework), contents, path)
    suffix = "h5" if legacy else ("keras" if kind == "keras" else "weights")
    with ExitStack() if own else nothing_kept(model, path):
        try:
            with suffixed(path, suffix) as named, quiet(), on_cpu(framework):
                model.load_weights(str(named))
        except Exception as error:  # Keras raises errors of many kinds
            raise misfit(path, first_line(error)) from error
    return None if legacy else contents


def own_contents(model: Any, framework: Framework) -> Contents:
    """Return what a file of the model's weights holds."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.weights.h5"
        with quiet():
            model.save_weights(str(path))
        return read_contents(path)


@contextmanager
def nothing_kept(model: Any, path: Path) -> Iterator[None]:
    """Fill the weights with random numbers first, and see that none are left.

    Raises
    ------
    InputRefusedError
        Some are: those weights were not in the file.
    """
    rng = np.random.default_rng(_SEED)
    before = {}
    for i, weight in enumerate(model.weights):
        if weight.shape and 0 in weight.shape:
            continue
        dtype = str(weight.dtype)
        if "float" in dtype:
            weight.assign(rng.standard_normal(weight.shape).astype(np.float32))
        elif "int" in dtype:
            weight.assign(rng.integers(0, 100, weight.shape))
        else:
            continue
        before[i] = sha256_of(array_of(weight))
    yield
    kept = [w.path for i, w in enumerate(model.weights) if before.get(i) == sha256_of(array_of(w))]
    if kept:
        raise misfit(path, f"it has nothing for {_some(kept)}")


def array_of(variable: Any) -> Any:
    """Return the values of a variable on either backend."""
    value = variable.value if hasattr(variable, "value") and not callable(variable.value) else variable
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def misfit(path: Path, why: str) -> InputRefusedError:
    """Return the error for weights that are not those of the model."""
    return InputRefusedError(
        what="the weights do not fit the model that the factory builds",
        path=path,
        why=why,
        fix="Build it with the same code that was trained; a partial restore would leave random weights",
    )


def _check_same(own: Contents, found: Contents, path: Path) -> None:
    """Compare places, shapes and the names of layers."""
    wanted = {array.path: array.shape for array in own.arrays}
    there = {array.path: array.shape for array in found.arrays}
    reasons = []
    if missing := [name for name in wanted if name not in there]:
        reasons.append(f"it lacks {_some(missing)}")
    if extra := [name for name in there if name not in wanted]:
        reasons.append(f"it has {_some(extra)} beyond the model's")
    if other := [name for name in wanted if name in there and there[name] != wanted[name]]:
        name = other[0]
        reasons.append(f"{name} has shape {there[name]} where the model has {wanted[name]}")
    shapes = {group: _shapes_in(own, group) for group in own.names}
    if exchanged := _exchanged(own.names, found.names, shapes):
        reasons.append(
            f"the layers are in another order: {exchanged} is {found.names[exchanged]!r} there and "
            f"{own.names[exchanged]!r} in the model"
        )
    if reasons:
        raise misfit(path, "; ".join(reasons))


def _check_legacy_order(model: Any, found: Contents, path: Path) -> None:
    """Older files are read by the order of layers; their names tell whether it is the model's."""
    layers = [layer for layer in model.layers if layer.weights]
    stored = list(found.names)
    if len(layers) != len(stored):
        raise misfit(path, f"it holds weights of {len(stored)} layers, and the model has {len(layers)}")
    ours = {str(place): layer.name for place, layer in enumerate(layers)}
    theirs = dict(zip(ours, stored, strict=True))
    shapes = {place: [tuple(w.shape) for w in layers[int(place)].weights] for place in ours}
    if exchanged := _exchanged(ours, theirs, shapes):
        raise misfit(
            path,
            f"the layers are in another order: found {theirs[exchanged]!r} where the model has "
            f"{ours[exchanged]!r}",
        )


def _shapes_in(contents: Contents, group: str) -> list[tuple[str, tuple[int, ...]]]:
    """Shapes of a layer's arrays, by their places in it."""
    start = f"{group}/"
    return [(a.path.removeprefix(start), a.shape) for a in contents.arrays if a.path.startswith(start)]


def _exchanged(ours: Mapping[str, str], theirs: Mapping[str, str], shapes: Mapping[str, Any]) -> str | None:
    """Return a place whose layer has changed places with others of one shape, or None.

    Then the names go round in a circle. Keras' own names are counted through a process, and those of a model
    that was not its first are all shifted: such a chain ends in a name that the model does not have.
    """
    often = Counter(ours.values())
    places = {name: place for place, name in ours.items() if often[name] == 1}
    for start in ours:
        circle = [start]
        while True:
            place = places.get(theirs.get(circle[-1], ""))
            if place is None or place in circle:
                break
            circle.append(place)
        if place == start and len(circle) > 1 and all(shapes[other] == shapes[start] for other in circle):
            return start
    return None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
