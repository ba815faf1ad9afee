"""Extraction leaves a model, and the training it is in the middle of, as they were."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Noise
from repstat.errors import InputRefusedError
from tests.adapters.torch_models import normal
from tests.optional import require

torch = require("torch")
from tests.adapters import torch_models as nets  # noqa: E402 - it needs torch

BATCH = normal(7, 1, 6, 6)


def extract(model: Any, x: np.ndarray = BATCH) -> None:
    adapter = nets.opened(model)
    layers = adapter.layers({adapter.inputs()[0].name: x})
    noise = Noise({layer.key: 0.1 for layer in layers if layer.kind == "hidden"}, seed=3)
    for given in (None, noise):
        adapter.run({adapter.inputs()[0].name: x}, layers, samples=np.arange(len(x)), noise=given)
    adapter.provenance()
    adapter.close()


def fail(model: Any) -> None:
    with pytest.raises(InputRefusedError, match="the model fails on a batch"):
        nets.opened(model).layers({"x": normal(7, 3, 6, 6)})


def run_in_training_mode(model: Any) -> None:
    """A mutant: what one would write without thinking."""
    model(torch.from_numpy(BATCH))


def run_in_evaluation_mode(model: Any) -> None:
    """A mutant: modes are not restored."""
    model.eval()(torch.from_numpy(BATCH))


def leave_a_hook(model: Any) -> None:
    """A mutant."""
    model.c1.register_forward_hook(lambda *_: None)


def state(model: Any) -> dict[str, Any]:
    """All that extraction must not change."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "versions": {name: t._version for name, t in tensors.items()},
        "identities": {name: id(t) for name, t in tensors.items()},
        "grads": {n: None if t.grad is None else t.grad.clone() for n, t in tensors.items()},
        "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [len(h) for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
            for name, m in model.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1],  # noqa: NPY002 - models in training use it
        "settings": (
            torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.is_anomaly_enabled(),
            torch.get_float32_matmul_precision(), torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
            len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        ),
    }  # fmt: skip


def differs(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(differs(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return not torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return not np.array_equal(a, b)
    return bool(a != b)


def in_training() -> Any:
    """A network amid its training: modes mixed, gradients there, a parameter frozen, a user's hook."""
    model = nets.seeded(nets.Cnn).train()
    model.bn2.eval()
    model.c1.bias.requires_grad_(False)
    model.head.register_forward_hook(lambda module, args, out: None)
    model(torch.from_numpy(BATCH)).square().mean().backward()
    return model


def interrupt(model: Any) -> None:
    """Ctrl-C in the midst of a pass, of the first one and of a later one."""
    adapter = nets.opened(model)
    layers = adapter.layers({"x": BATCH})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "flatten", _pressed)
        for act in (
            lambda: adapter.run({"x": BATCH}, layers, samples=np.arange(7)),
            lambda: nets.opened(model).layers({"x": BATCH}),
        ):
            with pytest.raises(KeyboardInterrupt):
                act()


def _pressed(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("act", [extract, fail, interrupt])
def test_nothing_is_changed(act: Callable[[Any], None]) -> None:
    model = in_training()
    before = state(model)
    act(model)
    after = state(model)
    assert [key for key in before if differs(before[key], after[key])] == []


@pytest.mark.parametrize("act", [run_in_training_mode, run_in_evaluation_mode, leave_a_hook])
def test_the_check_sees_what_others_change(act: Callable[[Any], None]) -> None:
    model = in_training()
    before = state(model)
    act(model)
    assert differs(before, state(model))


@pytest.mark.parametrize("setting", ["autocast", "no_grad", "inference", "double", "anomaly"])
def test_what_is_around_stays_and_does_not_matter(setting: str) -> None:
    model = in_training()
    adapter = nets.opened(model)
    layers = adapter.layers()
    plain = adapter.run({"x": BATCH}, layers, samples=np.arange(7))
    around = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "double": lambda: _DefaultDtype(torch.float64),
        "anomaly": torch.autograd.detect_anomaly,
    }[setting]
    with _quiet(), around():
        before = state(model)["settings"]
        inside = adapter.run({"x": BATCH}, layers, samples=np.arange(7))
        assert state(model)["settings"] == before
    assert all(np.array_equal(plain[key], inside[key]) for key in plain)


class _DefaultDtype:
    def __init__(self, dtype: Any) -> None:
        self.dtype, self.before = dtype, torch.get_default_dtype()

    def __enter__(self) -> None:
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.before)


def _quiet() -> Any:
    import warnings

    catching = warnings.catch_warnings()
    warnings.simplefilter("ignore", UserWarning)  # anomaly mode says that it is slow
    return catching


def test_a_backward_pass_under_way_goes_on() -> None:
    grads = []
    for interrupted in (False, True):
        model = nets.seeded(nets.Cnn).train()
        torch.manual_seed(1)
        loss = model(torch.from_numpy(BATCH)).square().mean()
        if interrupted:
            extract(model)
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_training_with_and_without_extraction_ends_at_the_same_bit() -> None:
    """Dropout, batch normalisation, momentum, and data drawn from three generators."""
    ends = []
    for watched in (False, True):
        model = nets.seeded(nets.Cnn).train()
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002 - as people do
        random.seed(7)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(6):
            drawn = np.random.standard_normal((8, 1, 6, 6))  # noqa: NPY002 - as people do
            x = torch.from_numpy(drawn.astype(np.float32))
            target = torch.randint(0, 3, (8,)) if random.random() < 0.7 else torch.zeros(8, dtype=torch.long)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), target).backward()
            if watched:
                extract(model)
            optimizer.step()
        ends.append({name: t.clone() for name, t in model.state_dict().items()})
    assert not differs(*ends)


class Restless(torch.nn.Module):
    """Writes to a buffer and to a parameter, and keeps a tensor, in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.memory: Any = torch.zeros(5)
        self.seen = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        with torch.no_grad():
            self.fc.bias.add_(1.0)
        self.seen += 1
        here = torch.tanh(self.fc(x)) + self.memory + self.calls
        self.memory = here.mean(0)
        return self.out(here)


def test_a_model_that_writes_to_itself_is_put_back() -> None:
    model = nets.seeded(Restless)
    before = state(model)
    memory = model.memory
    adapter = nets.opened(model)
    layers = adapter.layers()
    runs = [adapter.run({"x": normal(5, 4)}, layers, samples=np.arange(5)) for _ in range(2)]
    assert all(np.array_equal(runs[0][key], runs[1][key]) for key in runs[0])
    after = state(model)
    changed = [key for key in before if differs(before[key], after[key])]
    assert changed == ["versions"]  # that is what the model itself does to them
    assert (model.memory is memory, model.seen) == (True, 0)


def test_a_compiled_model_may_be_extracted_and_stays_compiled() -> None:
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            calls.append(1)
            return graph.forward(*args)

        return run

    plain = nets.seeded(nets.Mlp).eval()
    want = nets.opened(plain)
    values = want.run({"x": normal(5, 4)}, want.layers(), samples=np.arange(5))
    wrapped, inside, own = (
        torch.compile(nets.seeded(nets.Mlp), backend=backend),
        nets.seeded(nets.Mlp),
        None,
    )
    inside.fc1 = torch.compile(inside.fc1, backend=backend)
    own = nets.seeded(nets.Mlp)
    own.compile(backend=backend)
    x = torch.from_numpy(normal(5, 4))
    for model in (wrapped, inside, own):
        model(x)
        n = len(calls)
        adapter = nets.opened(model)
        layers = adapter.layers()
        assert [x.name for x in layers] == ["fc1", "fc2", "out"]
        got = adapter.run({"x": normal(5, 4)}, layers, samples=np.arange(5))
        assert all(np.array_equal(got[key], values[key]) for key in values)
        assert len(calls) == n  # run op by op
        assert adapter.provenance()["weights_sha256"] == want.provenance()["weights_sha256"]
        model(x)
        assert len(calls) == n + 1  # and compiled again afterwards
