"""The PyTorch adapter keeps the contract on models of every shape."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Array
from repstat.errors import InputRefusedError
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch

N = 7
Made = tuple[Any, Mapping[str, Array], str]
"""Model, batch, and kinds of its layers (h, r, o)."""
normal = nets.normal


def plain() -> Made:
    return nets.seeded(nets.Mlp), {"x": normal(N, 4)}, "hho"


def functional() -> Made:
    return nets.seeded(nets.Functional), {"x": normal(N, 4)}, "hhho"


def in_place() -> Made:
    return nets.seeded(nets.InPlace), {"x": normal(N, 4)}, "hho"


def reused() -> Made:
    return nets.seeded(nets.Reused), {"x": normal(N, 4)}, "hhho"


def residual() -> Made:
    return nets.seeded(nets.Residual), {"x": normal(N, 4)}, "hhhro"


def several_outputs() -> Made:
    return nets.seeded(nets.Outputs), {"x": normal(N, 4)}, "hoo"


def two_inputs() -> Made:
    return nets.seeded(nets.TwoInputs), {"a": normal(N, 4), "b": normal(N, 3, seed=2)}, "hho"


def ids() -> Made:
    return nets.seeded(nets.Ids), {"ids": np.random.default_rng(3).integers(0, 16, (N, 3))}, "ho"


def double() -> Made:
    return nets.seeded(nets.Mlp).double(), {"x": normal(N, 4, dtype=np.float64)}, "hho"


def half() -> Made:
    return nets.seeded(nets.Mlp).half(), {"x": normal(N, 4, dtype=np.float16)}, "hho"


def brain() -> Made:
    return nets.seeded(nets.Mlp).bfloat16(), {"x": normal(N, 4)}, "hho"


def cnn() -> Made:
    return nets.seeded(nets.Cnn), {"x": normal(N, 1, 6, 6)}, "hho"


def channels_last() -> Made:
    model = nets.seeded(nets.Cnn).to(memory_format=torch.channels_last)
    return model, {"x": normal(N, 1, 6, 6)}, "hho"


def lstm() -> Made:
    return nets.seeded(nets.Lstm), {"x": normal(N, 8, 3)}, "ho"


def lstm_batch_first() -> Made:
    return nets.seeded(lambda: nets.Lstm(batch_first=True)), {"x": normal(N, 8, 3)}, "ho"


def training() -> Made:
    return nets.seeded(nets.Cnn).train(), {"x": normal(N, 1, 6, 6)}, "hho"


def compiled() -> Made:
    return torch.compile(nets.seeded(nets.Mlp), backend="eager"), {"x": normal(N, 4)}, "hho"


def exported() -> Made:
    model = nets.seeded(nets.Mlp).eval()
    batch = torch.export.Dim("batch", min=1)
    return (
        torch.export.export(model, (torch.zeros(3, 4),), dynamic_shapes=({0: batch},)),
        {"x": normal(N, 4)},
        "hho",
    )


def exported_fixed() -> Made:
    model = nets.seeded(nets.Residual).eval()
    return torch.export.export(model, (torch.zeros(3, 4),)), {"x": normal(N, 4)}, "hhhro"


def traced() -> Made:
    return torch.jit.trace(nets.seeded(nets.Residual).eval(), torch.zeros(2, 4)), {"x": normal(N, 4)}, "hhhro"


KINDS = {"h": "hidden", "r": "residual", "o": "output"}
MAKERS: list[Callable[[], Made]] = [
    plain, functional, in_place, reused, residual, several_outputs, two_inputs, ids, double, half, brain, cnn,
    channels_last, lstm, lstm_batch_first, training, compiled, exported, exported_fixed, traced,
]  # fmt: skip


def make_case(made: Made, source: Any = None, **options: Any) -> Case:
    model, feeds, kinds = made
    counts = {"L": 0, "R": 0}
    keys = []
    for letter in kinds:
        first = "R" if letter == "r" else "L"
        keys.append(f"{first}{counts[first]:03d}")
        counts[first] += 1
    source = model if source is None else source
    return Case(
        open=lambda: nets.opened(source, **options),
        feeds=feeds,
        keys=keys,
        kinds=[KINDS[letter] for letter in kinds],
        files=[source] if isinstance(source, Path) else [],
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
class TestTorch(AdapterContract):
    @pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return make_case(request.param())


# ------------------------------------------------------------ arguments of forward


class Arguments(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

    def of(self, x: Any, y: Any = 0.0) -> Any:
        return self.b(torch.tanh(self.a(x) + y))


class ByPosition(Arguments):
    def forward(self, x: Any, /) -> Any:
        return self.of(x)


class ByName(Arguments):
    def forward(self, x: Any, *, y: Any) -> Any:
        return self.of(x, y)


class OnlyByName(Arguments):
    def forward(self, *, y: Any, x: Any, scale: float = 1.0) -> Any:
        return self.of(x, y) * scale


class Starred(Arguments):
    def forward(self, *xs: Any, **options: Any) -> Any:
        return self.of(xs[0])


@pytest.mark.parametrize(
    ("make", "names"),
    [(ByPosition, ["x"]), (ByName, ["x", "y"]), (OnlyByName, ["y", "x"]), (Starred, ["xs"])],
)
def test_arguments_are_given_the_way_forward_takes_them(make: Any, names: list[str]) -> None:
    model, x = nets.seeded(make), normal(5, 4)
    arrays = {"x": x, "y": normal(5, 4, seed=2), "xs": x}
    adapter = nets.opened(model)
    assert [spec.name for spec in adapter.inputs()] == names
    feeds = {name: arrays[name] for name in names}
    values = adapter.run(feeds, adapter.layers(feeds), samples=np.arange(5))
    with torch.no_grad():
        y = torch.from_numpy(arrays["y"]) if "y" in names else 0.0
        want = model.of(torch.from_numpy(arrays["x"]), y)
    np.testing.assert_array_equal(values["L001"], want.numpy())


def test_a_forward_that_names_no_arguments_is_to_be_wrapped() -> None:
    class AllByName(Arguments):
        def forward(self, **given: Any) -> Any:
            return self.of(given["x"])

    with pytest.raises(InputRefusedError, match=r"AllByName names no arguments.*Wrap it in a module"):
        nets.opened(AllByName()).layers({"x": normal(5, 4)})
