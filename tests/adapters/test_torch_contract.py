"""The PyTorch adapter keeps the contract on models of every shape."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Array
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
