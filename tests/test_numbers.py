"""What counts as a number, wherever it comes from."""

from typing import Any

import numpy as np
import pytest

from repstat.errors import InputRefusedError, UsageError
from repstat.numbers import metric_number, metrics_by_step, whole
from tests.optional import require


class Scalar:
    """A tensor of one number on a device, which has no ``__float__``."""

    def item(self) -> float:
        return 0.25


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_become_ints(value: Any) -> None:
    assert whole(value) == 3
    assert type(whole(value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None, np.array([3]), [3]])
def test_what_is_no_whole_number(value: Any) -> None:
    assert whole(value) is None


@pytest.mark.parametrize("value", [0.25, np.float32(0.25), np.array([[0.25]]), Scalar()])
def test_metrics_become_floats(value: Any) -> None:
    assert metric_number("loss", value) == 0.25
    (metrics,) = metrics_by_step({np.int64(5): {"loss": value}}).values()
    assert type(metrics["loss"]) is float


def test_metrics_may_be_tensors() -> None:
    torch = require("torch")
    loss = torch.tensor(0.25, requires_grad=True)
    assert metrics_by_step({torch.tensor(5): {"loss": loss}}) == {5: {"loss": 0.25}}
    with pytest.raises(InputRefusedError, match=r"found Tensor of shape \(2,\). Give a number, or a tensor"):
        metric_number("loss", torch.zeros(2))


@pytest.mark.parametrize("value", ["0.25", None, 1j, np.zeros(2), [0.25]])
def test_what_is_no_metric(value: Any) -> None:
    text = f"the metric 'loss' is not a number: found {type(value).__name__}"
    with pytest.raises(InputRefusedError, match=text):
        metric_number("loss", value)


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ([0.3], r"cannot read the metrics: found \[0.3\]. Give them by step"),
        ({5: 0.3}, r"cannot read the metrics: found \{5: 0.3\}"),
        ({"5": {}}, "step '5' is not a whole number from 0"),
    ],
)
def test_metrics_come_by_step(metrics: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        metrics_by_step(metrics)
