"""One small network in ONNX, PyTorch and Keras, with the same weights; and a plain forward pass of each.

Three convolutions of 32, 64 and 64 channels with 3 x 3 kernels on images of 32 x 32 x 3, the first two with
pooling, and a hidden layer of 64 units: 16 MFLOP and 213 kB of hidden activations per image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import SEED

SIDE, COLOURS, FILTERS, HIDDEN, CLASSES = 32, 3, (32, 64, 64), 64, 10
LAST_SIDE = SIDE // 4
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """A model for repstat, how the framework runs one batch by itself, and whether channels come last.

    Parameters
    ----------
    model
        Live model.
    forward
        Takes a batch and returns its logits, as a user of the framework would compute them.
    channels_last
        Of the images.
    as_adapter
        The same without what repstat leaves out, if it leaves out something.
    """

    model: Any
    forward: Callable[[Floats], Any]
    channels_last: bool = False
    as_adapter: Callable[[Floats], Any] | None = None


def images(n: int) -> Floats:
    """Return random images, ``(n, colours, side, side)``."""
    return np.random.default_rng([SEED, n]).standard_normal((n, COLOURS, SIDE, SIDE)).astype(np.float32)


def weights() -> list[tuple[Floats, Floats]]:
    """Return kernels ``(out, in, 3, 3)`` or ``(out, in)`` with their biases, in the order of the layers."""
    rng = np.random.default_rng([SEED, 32])
    shapes: list[tuple[int, ...]] = [
        (out, n_in, 3, 3) for n_in, out in zip((COLOURS, *FILTERS), FILTERS, strict=False)
    ]
    shapes += [(HIDDEN, FILTERS[-1] * LAST_SIDE**2), (CLASSES, HIDDEN)]
    found = []
    for shape in shapes:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        kernel = (rng.standard_normal(shape) * scale).astype(np.float32)
        found.append((kernel, np.zeros(shape[0], np.float32)))
    return found


def onnx_network() -> Network:
    """Build the ONNX model; onnxruntime runs it optimised, as by default, and as the adapter does, not."""
    import onnxruntime as ort
    from onnx import TensorProto, helper
    from onnx.numpy_helper import from_array

    nodes, constants, last = [], [], "x"
    for i, (kernel, bias) in enumerate(weights()):
        constants += [from_array(kernel, f"{i}.weight"), from_array(bias, f"{i}.bias")]
        given = [last, f"{i}.weight", f"{i}.bias"]
        if i < len(FILTERS):
            nodes.append(helper.make_node("Conv", given, [f"c{i}"], kernel_shape=[3, 3], pads=[1] * 4))
        else:
            if i == len(FILTERS):
                nodes.append(helper.make_node("Flatten", [last], ["flat"]))
                given[0] = "flat"
            nodes.append(helper.make_node("Gemm", given, [f"c{i}"], transB=1))
        last = f"c{i}"
        if i <= len(FILTERS):
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
        if i < 2:
            pool = helper.make_node("MaxPool", [last], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2])
            nodes.append(pool)
            last = f"p{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small_cnn",
        [value("x", TensorProto.FLOAT, ["n", COLOURS, SIDE, SIDE])],
        [value(last, TensorProto.FLOAT, ["n", CLASSES])],
        constants,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])

    def runner(level: Any) -> Callable[[Floats], Any]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = level
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, {"x": batch})[0]

    levels = ort.GraphOptimizationLevel
    return Network(model, runner(levels.ORT_ENABLE_ALL), as_adapter=runner(levels.ORT_DISABLE_ALL))


def torch_network() -> Network:
    """Build the PyTorch model, which runs under ``inference_mode``."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    parts: list[Any] = []
    for i, (kernel, bias) in enumerate(weights()):
        conv = i < len(FILTERS)
        if i == len(FILTERS):
            parts.append(nn.Flatten())
        layer: Any = (
            nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
            if conv
            else nn.Linear(kernel.shape[1], kernel.shape[0])
        )
        layer.load_state_dict({"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(bias)})
        parts.append(layer)
        if i <= len(FILTERS):
            parts.append(nn.ReLU())
        if i < 2:
            parts.append(nn.MaxPool2d(2))
    model = nn.Sequential(*parts).eval()

    def forward(batch: Floats) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(batch)).numpy()

    return Network(model, forward)


def keras_network() -> Network:
    """Build the Keras model on TensorFlow, which runs as a ``tf.function``."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras

    x = h = keras.Input((SIDE, SIDE, COLOURS), name="x")
    for i, (kernel, bias) in enumerate(weights()):
        kind = "relu" if i <= len(FILTERS) else None
        layer: Any
        if i < len(FILTERS):
            layer = keras.layers.Conv2D(len(kernel), 3, padding="same", activation=kind)
            own = kernel.transpose(2, 3, 1, 0)
        else:
            if i == len(FILTERS):
                h = keras.layers.Flatten()(h)
                grid = kernel.reshape(HIDDEN, FILTERS[-1], LAST_SIDE, LAST_SIDE)
                kernel = grid.transpose(0, 2, 3, 1).reshape(HIDDEN, -1)
            layer, own = keras.layers.Dense(len(kernel), activation=kind), kernel.T
        h = layer(h)
        layer.set_weights([own, bias])
        if i < 2:
            h = keras.layers.MaxPooling2D()(h)
    model = keras.Model(x, h)
    function = tf.function(lambda batch: model(batch, training=False))
    return Network(model, lambda batch: function(tf.constant(batch)).numpy(), channels_last=True)


NETWORKS: dict[str, Callable[[], Network]] = {
    "ONNX": onnx_network,
    "PyTorch": torch_network,
    "Keras": keras_network,
}
