"""Models that send samples different ways: what cannot be a layer is said, and PyTorch is not blamed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.errors import InputRefusedError
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch
from tests.adapters.torch_models import normal  # noqa: E402

nn = torch.nn
SKIPPED = r"skipped, and why: L001 experts\.0\.0: .*L002 experts\.1\.0"


class Routed(nn.Module):  # type: ignore[misc]
    """The sign of the first input sends each sample to one of two experts."""

    def __init__(self, guarded: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2))
        self.guarded = guarded

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.first(x))
        chosen, o = (x[:, 0] > 0).long(), torch.zeros_like(h)
        for i, expert in enumerate(self.experts):
            mine = chosen == i
            if not self.guarded or mine.any():
                o[mine] = expert(h[mine])
        return self.last(o)


class OneExpert(nn.Module):  # type: ignore[misc]
    """Every sample but those with a large first input goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.expert = nn.Linear(12, 8), nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        mine, h = x[:, 0] < 2.0, torch.relu(self.first(x))
        return h.index_copy(0, mine.nonzero()[:, 0], torch.relu(self.expert(h[mine])))


def samples(*signs: int) -> Any:
    """60 samples, the first of which have these signs."""
    x = normal(60, 12)
    x[: len(signs), 0] = signs
    return x


def test_experts_are_skipped_and_said(tmp_path: Path) -> None:
    model = nets.seeded(Routed)
    with pytest.warns(UserWarning, match=SKIPPED):
        path = repstat.extract(model, samples(-1, 1, -1), store=tmp_path / "acts.h5")
    with repstat.open_store(path) as store:
        assert list(store.layers) == ["L000"]
    with pytest.warns(UserWarning, match=f"{SKIPPED}.*no noise is added there"):
        repstat.extract(
            model, samples(-1, 1, -1), store=tmp_path / "noisy.h5", noise_std=0.1, conditional_samples=0
        )


def test_layers_that_depend_on_the_samples_are_no_fault_of_pytorch(tmp_path: Path) -> None:
    model = nets.seeded(lambda: Routed(guarded=True))
    with pytest.raises(InputRefusedError) as caught:
        repstat.extract(model, samples(1, 1, -1), store=tmp_path / "acts.h5")
    assert "the model takes another path for these samples" in str(caught.value)
    assert "sends samples different ways" in str(caught.value)
    assert "PyTorch alone" not in str(caught.value)


def test_an_expert_that_misses_some_samples_is_to_be_left_out(tmp_path: Path) -> None:
    x = normal(60, 12)
    x[:, 0] = np.where(np.arange(60) == 50, 3.0, 0.0)
    model = nets.seeded(OneExpert)
    with pytest.raises(InputRefusedError, match=r"does not see every sample: leave it out.*-L001"):
        repstat.extract(model, x, store=tmp_path / "acts.h5", layers=["all"])
    path = repstat.extract(model, x, store=tmp_path / "first.h5", layers=["all", "-L001"])
    with repstat.open_store(path) as store:
        assert list(store.layers) == ["L000"]
