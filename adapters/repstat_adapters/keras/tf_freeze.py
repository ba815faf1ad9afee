"""A concrete function of TensorFlow as one graph: functions inlined, variables as constants."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repstat.errors import InputRefusedError
from repstat_adapters.keras.framework import first_line, quiet, without_log_lines
from repstat_adapters.keras.tf_graph import GraphReader, Traced
from repstat_adapters.keras.tf_ops import touches_files
from repstat_adapters.shared.scopes import without_model, without_op


def freeze(function: Any, path: Path | None, *, names: Sequence[str] = (), screened: bool = False) -> Traced:
    """Return a concrete function as one graph: functions inlined, variables as constants.

    Parameters
    ----------
    function
        The function.
    path
        The model, for messages.
    names
        Its arguments in the order of the inputs, if not as they are.
    screened
        Whether ops that touch files are refused.
    """
    convert = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    try:
        with quiet(), without_log_lines():
            frozen = convert.convert_variables_to_constants_v2(function, lower_control_flow=False)
            definition = frozen.graph.as_graph_def()
    except (ValueError, RuntimeError) as error:
        raise _unfrozen(path, first_line(error)) from None
    by_name = {tensor.op.name: tensor for tensor in frozen.inputs}
    feeds = list(frozen.inputs) if not names else [_named(by_name, function, n) for n in names]
    refuse = touches_files if screened else _nothing
    reader = GraphReader(frozen.graph, feeds, frozen.outputs, (), _name_of, path, refuse)
    graph, dtypes, nested = reader.read()
    return Traced(definition, tuple(t.name for t in feeds), {}, graph, dtypes, nested)


def _unfrozen(path: Path | None, why: str) -> InputRefusedError:
    """Return the error for functions that cannot be put into one graph."""
    if "expected resource" in why:
        return InputRefusedError(
            what="the model is not deterministic",
            path=path,
            why="it changes variables while it runs, as layers of random augmentation do; Keras exports them "
            f"switched on ({why})",
            fix="Save the model as .keras, where they are off outside of training",
        )
    return InputRefusedError(
        what="the model's functions cannot be put into one graph",
        path=path,
        why=why,
        fix="Save the model as .keras, or export it to ONNX",
    )


def _named(by_name: Mapping[str, Any], function: Any, name: str) -> Any:
    """Return the placeholder of an argument, whose op may be called otherwise."""
    if name in by_name:
        return by_name[name]
    order = list(function.structured_input_signature[1])
    return list(by_name.values())[order.index(name)]


def _name_of(op: Any, position: int) -> str:
    scope = without_model(without_op(op.name))
    return scope if scope != op.name else str(op.name.rpartition("/")[2])


def _nothing(op_type: str) -> bool:
    return False
