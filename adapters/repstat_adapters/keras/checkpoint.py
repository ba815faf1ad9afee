"""Checkpoints of ``tf.train.Checkpoint``: find the model among what was saved, and restore it whole."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repstat.errors import InputRefusedError
from repstat_adapters.keras.framework import Framework, first_line, quiet
from repstat_adapters.keras.hdf5 import damaged
from repstat_adapters.keras.restore import misfit, nothing_kept
from repstat_adapters.keras.sniff import index_of
from repstat_adapters.keras.whole import on_cpu

_PREFERRED = "model"
_NOT_MODELS = frozenset({"save_counter", "optimizer"})
_NOT_OF_THE_MODEL = frozenset(
    {"optimizer", "loss_tracker", "_loss_tracker", "_metrics", "_compile_metrics", "_seed_generators"}
)
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: a graph of objects, and which of its root's children there are."""

    prefix: str
    path: Path
    objects: Any

    @property
    def roots(self) -> dict[str, int]:
        """Names under which something was saved, with its node; an empty name is the whole."""
        children = {child.local_name: child.node_id for child in self.objects.nodes[0].children}
        own = {name: i for name, i in children.items() if not name.startswith("_") and i != 0}
        return {"": 0, **{n: i for n, i in own.items() if n not in _NOT_MODELS and self.variables_below(i)}}

    def variables_below(self, node: int) -> int:
        """Count variables of a model below a node, without those of an optimizer or metric."""
        seen, todo, found = set[int](), [node], 0
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            found += any(a.name == "VARIABLE_VALUE" for a in self.objects.nodes[here].attributes)
            children = self.objects.nodes[here].children
            todo += [child.node_id for child in children if child.local_name not in _NOT_OF_THE_MODEL]
        return found


def restore_checkpoint(model: Any, path: Path, framework: Framework, root: str | None = None) -> str:
    """Restore a model, and return the name under which it was saved.

    Parameters
    ----------
    root
        That name, if another checkpoint of the same training told it; otherwise all names are tried.

    Raises
    ------
    InputRefusedError
        The checkpoint is damaged, or does not hold every weight of the model.
    """
    tf = framework.runner
    saved = _read(path, tf)
    if root is not None and root in saved.roots:
        _restore(model, saved, root, framework)
        return root
    fitting, failures = list[str](), dict[str, str]()
    for name in saved.roots:
        try:
            _restore(model, saved, name, framework)
        except InputRefusedError as error:
            failures[name] = error.why
        else:
            fitting.append(name)
    if not fitting:
        raise _nothing_fits(saved, failures)
    if len(fitting) > 1 and _PREFERRED not in fitting:
        raise InputRefusedError(
            what="cannot tell which model of the checkpoint is meant",
            path=path,
            why=f"{' and '.join(map(repr, fitting))} both fit the model that the factory builds",
            fix=f"Save the one that is meant as tf.train.Checkpoint({_PREFERRED}=...)",
        )
    chosen = _PREFERRED if _PREFERRED in fitting else fitting[0]
    _restore(model, saved, chosen, framework)
    return chosen


def files_of(path: Path) -> dict[str, Path]:
    """Return the index and the shards of a checkpoint, by the name to report."""
    index = index_of(path)
    shards = sorted(index.parent.glob(f"{_escaped(index.stem)}.data-*-of-*"))
    return {file.name: file for file in (index, *shards)}


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _read(path: Path, tf: Any) -> Saved:
    index = index_of(path)
    prefix = str(index.with_suffix(""))
    protos = importlib.import_module("tensorflow.core.protobuf.trackable_object_graph_pb2")
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        if _OBJECT_GRAPH not in names:
            raise InputRefusedError(
                what="the checkpoint is of TensorFlow 1",
                path=path,
                why="it names its variables and not the objects that they belong to",
                fix="Load it with the code that wrote it and save a .weights.h5 file",
            )
        objects = protos.TrackableObjectGraph()
        objects.ParseFromString(reader.get_tensor(_OBJECT_GRAPH))
    except InputRefusedError:
        raise
    except Exception as error:  # TensorFlow's errors share no base class with protobuf's
        raise damaged(path, first_line(error)) from None
    return Saved(prefix, path, objects)


def _restore(model: Any, saved: Saved, root: str, framework: Framework) -> None:
    tf = framework.runner
    extra = saved.variables_below(saved.roots[root]) - len(model.weights)
    if extra > 0:
        raise misfit(saved.path, f"it holds {extra} variables beyond the model's {len(model.weights)}")
    with nothing_kept(model, saved.path), quiet(), on_cpu(framework):
        try:
            checkpoint = tf.train.Checkpoint(**{root: model}) if root else tf.train.Checkpoint(model)
            status = checkpoint.read(saved.prefix)  # `restore` would want a counter of saves
            status.expect_partial()
            status.assert_existing_objects_matched()
        except AssertionError as error:
            raise misfit(saved.path, _unmatched(error)) from None
        except Exception as error:  # TensorFlow raises errors of many kinds
            raise misfit(saved.path, first_line(error)) from None
        for layer in model._flatten_layers():
            if isinstance(layer, framework.keras.layers.Normalization):
                layer.finalize_state()  # it computes with copies of its variables, which nobody else renews


def _unmatched(error: AssertionError) -> str:
    text = first_line(error)
    if counted := re.match(r"Found (\d+) Python objects that were not bound", text):
        return f"it has nothing for {counted[1]} of the model's variables"
    return text.partition(":")[0] if len(text) > 200 else text


def _nothing_fits(saved: Saved, failures: dict[str, str]) -> InputRefusedError:
    names = [name for name in saved.roots if name]
    keys = list(_children(saved))
    if any(name.startswith("layer_with_weights-") for name in keys):
        return InputRefusedError(
            what="the checkpoint was written by Keras 2",
            path=saved.path,
            why="its layers are numbered in another way than those of Keras 3",
            fix="Load it with tf_keras, and save the model as ONNX or its weights as .h5",
        )
    best = next((n for n in (_PREFERRED, *names) if n in failures), "")
    error = misfit(saved.path, failures[best])
    return InputRefusedError(
        what=error.what,
        path=saved.path,
        why=f"it holds {', '.join(names) or 'one object'}, and for {best or 'that'} {error.why}",
        fix=error.fix,
    )


def _children(saved: Saved) -> Iterator[str]:
    for node in saved.objects.nodes:
        for child in node.children:
            yield child.local_name
