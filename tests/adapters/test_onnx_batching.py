"""Where the samples are in a tensor, and how a model that takes so many at a time is run on others."""

import numpy as np
import onnx
import pytest

from repstat.adapter import Layer
from repstat.errors import InputRefusedError, UsageError
from tests.adapters.onnx_models import FLOAT, Net, layers_of, mlp, normal, opened, reference, values_of


def test_a_fixed_batch_is_padded_and_trimmed() -> None:
    x = {"x": normal(8, 4)}
    free = values_of(mlp(), x)
    for batch in (1, 3, 16):
        adapter = opened(mlp(batch=batch))
        values = adapter.run(x, adapter.layers(), samples=np.arange(8))
        assert all(np.allclose(values[key], free[key], atol=1e-6) for key in free)
        assert adapter.provenance()["run_batch"] == batch
        assert f"fixed at {batch}" in adapter.provenance()["run_batch_note"]


def test_a_baked_batch_is_run_one_by_one() -> None:
    """The model declares any batch, but a Reshape was exported for one sample."""
    net = Net()
    here = net.op("Reshape", net.bare("x", 4, 6, "fc1"), net.const("one", [1, 2, 3], np.int64))
    here = net.op("Tanh", net.bare(here, 3, 2, "fc2"))
    model = net.build(here)
    adapter = opened(model)
    layers = adapter.layers()
    assert [x.unit_shape for x in layers] == [(6,), (2, 2)]
    assert "fails on a batch of two" in adapter.provenance()["run_batch_note"]
    x = normal(3, 4)
    values = adapter.run({"x": x}, layers, samples=np.arange(3))["L001"]
    want = np.concatenate([reference(model, {"x": row[None]}, here)[0] for row in x])
    assert np.allclose(values, want, atol=1e-6)


def test_a_reshape_that_merges_the_batch_is_undone() -> None:
    net = Net()
    here = net.op("Reshape", net.bare("x", 4, 6, "fc1"), net.const("shape", [1, -1, 3], np.int64))
    model = net.build(net.bare(here, 3, 2, "fc2"))
    layer = layers_of(model)["L001"]
    assert (layer.unit_shape, layer.batch_axis) == ((1, 2, 2), 1)
    x = normal(3, 4)
    whole = reference(model, {"x": x}, layer.target)[0]
    assert np.allclose(values_of(model, {"x": x})["L001"], whole.reshape(3, 1, 2, 2), atol=1e-6)


@pytest.mark.parametrize("sample_major", [True, False])
def test_batch_and_time_on_one_axis(sample_major: bool) -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 5, 4))})
    here = "x" if sample_major else net.op("Transpose", "x", perm=[1, 0, 2])
    flat = net.op("Reshape", here, net.const("flat", [-1, 4], np.int64))
    model = net.build(net.op("Tanh", net.bare(flat, 4, 3, "fc1")))
    assert layers_of(model)["L000"].unit_shape == (5, 3)
    x = normal(6, 5, 4)
    want = np.tanh(x @ onnx.numpy_helper.to_array(model.graph.initializer[1]))
    assert np.allclose(values_of(model, {"x": x})["L000"], want, atol=1e-6)


def test_batch_and_time_whose_order_cannot_be_told_are_left_out() -> None:
    net = Net(inputs={"x": (FLOAT, ("N", 5, 4))})
    flat = net.op("Reshape", "x", net.const("flat", [-1, 4], np.int64))
    adapter = opened(net.build(net.bare(flat, 4, 3, "fc1")))
    assert adapter.layers({"x": np.zeros((3, 5, 4), np.float32)}) == ()
    assert "does not tell their order" in adapter.provenance()["skipped"][0]["why"]


def test_tensors_that_are_no_layers_are_left_out_and_reported() -> None:
    net = Net()
    mean = net.op("ReduceMean", "x", axes=[0], keepdims=1)
    pooled = net.op("Tanh", net.bare(mean, 4, 5, "pooled"))
    both = net.op("Add", net.bare("x", 4, 5, "fc1"), pooled)
    similar = net.op("MatMul", both, net.op("Transpose", both, perm=[1, 0]))
    adapter = opened(net.build(net.op("Add", net.op("ReduceSum", similar), net.const("zero", 0)), pooled))
    layers = adapter.layers()
    assert "L000" not in [x.key for x in layers]
    skipped = adapter.provenance()["skipped"]
    assert skipped[0] == {
        "layer": "L000",
        "name": "pooled",
        "why": "no axis grows with the number of samples",
    }


def test_a_layer_that_mixes_the_batch_is_run_one_by_one() -> None:
    net = Net()
    centred = net.op("Sub", "x", net.op("ReduceMean", "x", axes=[0], keepdims=1))
    mixed = net.op("Add", net.op("Tanh", net.bare(centred, 4, 5, "fc1")), net.const("c", 0.1))
    adapter = opened(net.build(net.bare(mixed, 5, 2, "out")))
    layers = adapter.layers()
    assert "values of L000 depend on the other samples" in adapter.provenance()["run_batch_note"]
    values = adapter.run({"x": normal(3, 4)}, layers, samples=np.arange(3))
    assert not values["L000"].any()  # one sample minus its own mean


def test_a_layer_that_mixes_a_fixed_batch_is_left_out() -> None:
    net = Net(inputs={"x": (FLOAT, (3, 4))})
    centred = net.op("Sub", "x", net.op("ReduceMean", "x", axes=[0], keepdims=1))
    model = net.build(net.bare(net.op("Tanh", net.bare(centred, 4, 5, "fc1")), 5, 2, "out"))
    adapter = opened(model)
    assert adapter.layers() == ()
    assert "depend on the other samples of the fixed batch" in adapter.provenance()["skipped"][0]["why"]


def test_a_length_other_than_the_probes_is_refused() -> None:
    net = Net(inputs={"x": (FLOAT, ("N", "T", 4))})
    adapter = opened(net.build(net.bare("x", 4, 3, "fc1")))
    layers = adapter.layers({"x": normal(3, 6, 4)})
    assert layers[0].unit_shape == (6, 3)
    with pytest.raises(InputRefusedError, match=r"found a tensor of shape \(3, 7, 3\), expected \(3, 6, 3\)"):
        adapter.run({"x": normal(3, 7, 4)}, layers, samples=np.arange(3))


@pytest.mark.parametrize("length", [7, 10])
def test_another_length_on_a_merged_axis_is_refused(length: int) -> None:
    """Ten steps would be cut into twice five, and half a sample pass for one."""
    net = Net(inputs={"x": (FLOAT, ("N", "T", 4))})
    flat = net.op("Reshape", "x", net.const("flat", [-1, 4], np.int64))
    adapter = opened(net.build(net.bare(flat, 4, 3, "fc1")))
    layers = adapter.layers({"x": normal(3, 5, 4)})
    with pytest.raises(
        InputRefusedError, match=rf"layer L000 \(fc1\): found .* \({3 * length}, 3\), expected \(15, 3\)"
    ):
        adapter.run({"x": normal(3, length, 4)}, layers, samples=np.arange(3))


def test_layers_may_come_from_another_checkpoint() -> None:
    other: tuple[Layer, ...] = tuple(opened(mlp()).layers())
    assert list(opened(mlp()).run({"x": normal(2, 4)}, other, samples=np.arange(2))) == [
        "L000",
        "L001",
        "L002",
    ]
    with pytest.raises(UsageError, match=r"L000 \(linear>tanh \(5,\)\).*its L000 is linear>relu"):
        opened(mlp(act="Relu")).run({"x": normal(2, 4)}, other, samples=np.arange(2))


def test_a_model_without_layers_has_none() -> None:
    net = Net()
    assert opened(net.build(net.op("Tanh", "x"))).layers() == ()
