"""ONNX files whose ops are given what no sound model gives them: they crash runtimes."""

from typing import Any

from onnx import NodeProto

from tests.hostile.onnx_making import LITTLE, ONE, SECONDS, F, I, added, case, ints, node, plus, tensor

for _op in ("Div", "Mod"):
    case(f"{_op} by zero", 0, 3)(
        added(
            node("Cast", ["x"], ["i"], to=I), node("Sub", ["i", "i"], ["z"]), node(_op, ["i", "z"], ["d"]),
            node("Cast", ["d"], ["h"], to=F),
        )
    )  # fmt: skip
    case(f"{_op} of the smallest integer by -1", 0, 3)(
        added(
            node("Cast", ["x"], ["i"], to=I),
            node("Mul", ["i", "zero"], ["z"]),
            node("Add", ["z", "low"], ["l"]),
            node("Add", ["z", "minus"], ["m"]),
            node(_op, ["l", "m"], ["d"]),
            node("Cast", ["d"], ["h"], to=F),
            initializers=[ints("zero", 0), ints("low", -(2**63)), ints("minus", -1)],
        )
    )

PICTURE = tensor("picture", F, [1, 1, 4, 4], [1.0] * 16)
KERNEL = tensor("kernel", F, [1, 1, 2, 2], [1.0] * 4)
for _name, _node in {
    "conv group 0": node("Conv", ["picture", "kernel"], ["c"], group=0),
    "conv group -1": node("Conv", ["picture", "kernel"], ["c"], group=-1),
    "conv stride 0": node("Conv", ["picture", "kernel"], ["c"], strides=[0, 0]),
    "conv dilation 0": node("Conv", ["picture", "kernel"], ["c"], dilations=[0, 0]),
    "conv negative pads": node("Conv", ["picture", "kernel"], ["c"], pads=[-9] * 4),
    "conv kernel shape lies": node("Conv", ["picture", "kernel"], ["c"], kernel_shape=[9, 9]),
    "pool stride 0": node("MaxPool", ["picture"], ["c"], kernel_shape=[2, 2], strides=[0, 0]),
    "pool of nothing": node("MaxPool", ["picture"], ["c"], kernel_shape=[0, 0]),
    "pool larger than the world": node("AveragePool", ["picture"], ["c"], kernel_shape=[2**40, 2**40]),
    "pool negative": node("AveragePool", ["picture"], ["c"], kernel_shape=[-1, -1]),
    "lrn size 0": node("LRN", ["picture"], ["c"], size=0),
    "depth by block 0": node("DepthToSpace", ["picture"], ["c"], blocksize=0),
    "space by block 0": node("SpaceToDepth", ["picture"], ["c"], blocksize=0),
    "transpose out of range": node("Transpose", ["picture"], ["c"], perm=[9, 9, 9, 9]),
    "transpose twice the same": node("Transpose", ["picture"], ["c"], perm=[0, 0, 0, 0]),
    "softmax axis": node("Softmax", ["picture"], ["c"], axis=99),
    "flatten axis": node("Flatten", ["picture"], ["c"], axis=-99),
    "concat axis": node("Concat", ["picture", "kernel"], ["c"], axis=2**40),
    "gather behind the end": node("Gather", ["picture", "far"], ["c"], axis=3),
    "gather elements behind the end": node("GatherElements", ["picture", "far4"], ["c"], axis=0),
    "gather nd behind the end": node("GatherND", ["picture", "far4"], ["c"]),
    "scatter behind the end": node("ScatterND", ["picture", "far4", "one"], ["c"]),
    "slice step 0": node("Slice", ["picture", "far", "far", "far", "nil"], ["c"]),
    "top of more than there is": node("TopK", ["picture", "far"], ["c", "t"]),
    "one hot axis": node("OneHot", ["far", "far", "picture"], ["c"], axis=99),
    "reshape to minus two": node("Reshape", ["picture", "minus"], ["c"]),
    "einsum of nonsense": node("Einsum", ["picture"], ["c"], equation="ab->->..."),
    "einsum of repeated letters": node("Einsum", ["picture"], ["c"], equation="aaaa->aaaaaaaa"),
    "max unpool": node("MaxUnpool", ["picture", "far4"], ["c"], kernel_shape=[2, 2]),
    "roi align": node("RoiAlign", ["picture", "kernel", "far"], ["c"], sampling_ratio=-5),
    "grid sample": node("GridSample", ["picture", "kernel"], ["c"]),
    "batch norm of another shape": node("BatchNormalization", ["picture", "one", "one", "far", "one"], ["c"]),
    "dequantize by nothing": node("DequantizeLinear", ["picture", "one", "one"], ["c"], axis=77),
    "split into nothing": node("Split", ["picture"], ["c"], axis=99),
    "cumulative sum axis": node("CumSum", ["picture", "far"], ["c"]),
    "compress": node("Compress", ["picture", "far"], ["c"], axis=9),
    "reverse": node("ReverseSequence", ["picture", "far"], ["c"], batch_axis=9, time_axis=9),
    "boxes": node("NonMaxSuppression", ["picture", "picture", "far"], ["c"]),
    "attribute of another type": node("Softmax", ["picture"], ["c"], axis="one"),
    "an input too many": node("Relu", ["picture", "picture", "picture"], ["c"]),
    "an input too few": node("Conv", [], ["c"]),
    "a missing tensor": node("Relu", ["nowhere"], ["c"]),
    "its own input": node("Relu", ["c"], ["c"]),
}.items():
    case(f"op: {_name}", 0, 3, 6, options=LITTLE)(
        added(
            _node, node("Cast", ["c"], ["cf"], to=F), *plus("cf"),
            initializers=[
                PICTURE, KERNEL, ONE, ints("far", 10**9), tensor("far4", I, [1, 1, 1, 4], [10**9] * 4),
                ints("nil", 0), ints("minus", -2, -2),
            ],
        )
    )  # fmt: skip


def trees(**changed: Any) -> NodeProto:
    """Return a decision tree of three nodes, with some of its tables changed."""
    tables: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    } | changed
    return node("TreeEnsembleRegressor", ["x"], ["t"], domain="ai.onnx.ml", **tables)


BRANCHES = ["BRANCH_LEQ"] * 3
for _name, _tables in {
    "in a circle": {"nodes_modes": BRANCHES, "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0]},
    "of a feature far away": {"nodes_featureids": [10**12, 0, 0]},
    "of a negative feature": {"nodes_featureids": [-(10**12), 0, 0]},
    "without some nodes": {"nodes_truenodeids": [99, 0, 0]},
    "with short tables": {"nodes_values": [0.5]},
    "with a target far away": {"target_ids": [10**12, 10**12]},
    "with targets without weights": {"target_weights": [1.0]},
    "with many targets": {"n_targets": 2**62},
}.items():
    case(f"tree {_name}", 0, 3, 6, options=(*LITTLE, *SECONDS))(
        added(trees(**_tables), node("Add", ["x", "t"], ["h"]), imports=["ai.onnx.ml"])
    )

for _name, _node in {
    "vector machine": node(
        "SVMRegressor", ["x"], ["c"], domain="ai.onnx.ml", n_supports=10**9, coefficients=[1.0],
        support_vectors=[1.0], rho=[1.0], kernel_type="RBF", kernel_params=[1.0],
    ),
    "linear": node(
        "LinearRegressor", ["x"], ["c"], domain="ai.onnx.ml", coefficients=[1.0], intercepts=[1.0],
        targets=10**9
    ),
    "scaler": node("Scaler", ["x"], ["c"], domain="ai.onnx.ml", offset=[1.0] * 99, scale=[1.0]),
    "imputer": node("Imputer", ["x"], ["c"], domain="ai.onnx.ml", imputed_value_floats=[1.0] * 99),
    "extractor": node("ArrayFeatureExtractor", ["x", "far"], ["c"], domain="ai.onnx.ml"),
    "normalizer": node("Normalizer", ["x"], ["c"], domain="ai.onnx.ml", norm="L99"),
}.items():  # fmt: skip
    case(f"classical {_name}", 0, 3, 6, options=(*LITTLE, *SECONDS))(
        added(_node, *plus("c"), initializers=[ints("far", 10**12)], imports=["ai.onnx.ml"])
    )
