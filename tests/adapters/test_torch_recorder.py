"""Recording a PyTorch training: the training ends as it would have, and the store holds what it was."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import repstat
from tests.optional import require

torch = require("torch")
from torch import nn  # noqa: E402 - it needs torch

from repstat_adapters.pytorch import Recorder  # noqa: E402 - it needs torch

PAGE = (Path(__file__).parents[2] / "docs" / "recording.md").read_text(encoding="utf-8")
N = 64


class Net(nn.Module):
    """With everything that a careless look would move: batch statistics, dropout, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.fc2, self.out = nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        h = self.drop(torch.relu_(self.bn(self.fc1(x))))
        return self.out(torch.tanh(self.fc2(h)))


def data() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=generator)
    return x, (x.sum(1) > 0).long()


def train(recorder: Any = None, steps: int = 12) -> tuple[Any, Any]:
    """Train with momentum on shuffled batches; random numbers come from the global generator."""
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = data()
    watch = None if recorder is None else recorder(model, x.numpy(), y.numpy())
    for step in range(steps):
        rows = torch.randperm(N)[:16]
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        if watch is not None:
            watch(step, loss)  # between backward and step: gradients must survive
        optimizer.step()
    return model, optimizer


def tensors(model: Any, optimizer: Any) -> list[Any]:
    slots = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    return [*model.state_dict().values(), *slots, torch.get_rng_state()]


def test_a_training_with_a_recorder_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    recorders = []

    def watch(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        recorder = Recorder(model, x, labels=y, store=tmp_path / "live.h5", every=3, noise_std=0.1)
        recorders.append(recorder)
        return lambda step, loss: recorder.record(step, metrics={"loss": loss.detach()})

    plain, watched = tensors(*train()), tensors(*train(watch))
    assert len(plain) == len(watched)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    recorders[0].close()
    with repstat.open_store(tmp_path / "live.h5") as store:
        assert store.steps == (0, 3, 6, 9)
        assert all(c.metrics["loss"] > 0 for c in store.checkpoints)
        assert len({c.weights_sha256 for c in store.checkpoints}) == 4


def test_the_check_sees_a_careless_recorder() -> None:
    """Mutants: evaluation that draws, that leaves the mode, that moves the batch statistics."""

    def forward_in_training(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        return lambda step, loss: model(torch.from_numpy(x))

    def evaluation_is_left_on(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        return lambda step, loss: model.eval()(torch.from_numpy(x))

    def draws(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        return lambda step, loss: torch.randn(3)

    plain = tensors(*train())
    for mutant in (forward_in_training, evaluation_is_left_on, draws):
        assert not all(torch.equal(a, b) for a, b in zip(plain, tensors(*train(mutant)), strict=True))


def test_what_is_recorded_is_what_a_saved_checkpoint_gives(tmp_path: Path) -> None:
    saved: dict[int, Path] = {}

    def watch(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        recorder = Recorder(model, x, store=tmp_path / "live.h5", steps=[2, 7])

        def look(step: int, loss: Any) -> None:
            if recorder.record(step):
                saved[step] = tmp_path / f"step-{step}.pt"
                torch.save(model.state_dict(), saved[step])
            if step == 11:
                recorder.close()

        return look

    train(watch)
    after = repstat.extract(
        list(saved.values()),
        data()[0].numpy(),
        store=tmp_path / "after.h5",
        options=repstat.AdapterOptions(model_factory=Net),
    )
    with repstat.open_store(tmp_path / "live.h5") as live, repstat.open_store(after) as store:
        assert live.steps == store.steps == (2, 7)
        for key, view in live.layers.items():
            for step in live.steps:
                assert np.array_equal(view.at(step=step).read(), store.layers[key].at(step=step).read())
        hashes = [[c.weights_sha256 for c in s.checkpoints] for s in (live, store)]
        assert hashes[0] == hashes[1]


def test_a_model_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the check before the training and all checkpoints together; and of saved ones."""
    from repstat_adapters.pytorch.adapter import TorchAdapter

    opened = []
    original = TorchAdapter.__init__

    def counted(self: Any, *args: Any) -> None:
        opened.append(1)
        original(self, *args)

    monkeypatch.setattr(TorchAdapter, "__init__", counted)
    x, model = data()[0].numpy(), Net()
    with Recorder(model, x, store=tmp_path / "live.h5") as recorder:
        recorder.record(0)
        recorder.record(1)
    assert len(opened) == 1
    paths = [tmp_path / f"step-{step}.pt" for step in range(3)]
    for path in paths:
        torch.save(Net().state_dict(), path)
    options = repstat.AdapterOptions(model_factory=Net)
    repstat.extract(paths, x, store=tmp_path / "saved.h5", options=options)
    assert len(opened) == 2
    with repstat.open_store(tmp_path / "saved.h5") as store:
        values = [store.layers["L000"].at(step=step).read() for step in store.steps]
    assert not np.array_equal(values[0], values[1])


def recipe(name: str) -> str:
    (code,) = re.findall(rf"^```python {name}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(code)


def test_the_recipe_for_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning is not installed here: its hooks are called as it calls them."""
    stub = ModuleType("lightning")
    stub.Callback = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", stub)
    space: dict[str, Any] = {}
    exec(recipe("lightning"), space)
    x, _ = data()
    model, callback = Net(), space["Record"](x.numpy(), store=tmp_path / "a.h5", every=2)
    trainer = SimpleNamespace(global_step=0, current_epoch=0)
    callback.on_train_start(trainer, model)
    for step in range(1, 6):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, model, None, None, step - 1)
    callback.on_train_end(trainer, model)
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (1, 2, 4)


def test_the_recipe_for_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("transformers")
    stub.TrainerCallback = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", stub)
    space: dict[str, Any] = {}
    exec(recipe("transformers"), space)
    x, _ = data()
    callback = space["Record"](x.numpy(), store=tmp_path / "a.h5", per_decade=1)
    state = SimpleNamespace(global_step=0, epoch=0.0)
    callback.on_train_begin(None, state, None, model=Net(), optimizer=None)
    for step in range(1, 12):
        state.global_step, state.epoch = step, step / 4
        callback.on_step_end(None, state, None, model=None)
    callback.on_train_end(None, state, None)
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (1, 10)
        assert [c.epoch for c in store.checkpoints] == [0.25, 2.5]
