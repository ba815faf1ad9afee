"""Names of ops as TensorFlow scopes them, and the layer of Keras that they tell of."""

import re

_TAIL = re.compile(
    r"(/(ReadVariableOp|MatMul|Conv\dD|ExpandDims|Cast|Tensordot|BiasAdd|kernel|concat|convolution)(_\d+)?)+$"
)
_MODEL = re.compile(
    r"((StatefulPartitionedCall|PartitionedCall)/)*"
    r"(functional|sequential|model)(_\d+(?=_\d+/))?(?P<call>_\d+)?/"
)


def without_op(path: str) -> str:
    """Return the scope of an op: ``functional_1/fc1_1/MatMul`` is in ``functional_1/fc1_1``."""
    return _TAIL.sub("", path)


def without_model(path: str) -> str:
    """``functional_1/h1_1`` is Keras' layer ``h1``, traced a second time."""
    match = _MODEL.match(path)
    if match is None or match.end() == len(path):
        return path
    rest = path[match.end() :]
    return rest.removesuffix(match["call"]) if match["call"] else rest
