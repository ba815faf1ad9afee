"""Run a model that belongs to somebody, perhaps in the middle of its training, and leave no trace of it."""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Place:
    """Where and with how many CPU threads a model runs."""

    device: torch.device
    threads: int


@contextmanager
def undisturbed(model: nn.Module, place: Place, written: Mapping[str, Tensor]) -> Iterator[None]:
    """Evaluate the model inside this context: deterministic kernels, full precision, no gradients.

    Afterwards the random states of Python, NumPy and PyTorch, the modes and attributes of every module, and
    the settings of PyTorch are what they were. Parameters and buffers are not copied: `written` are those
    the model is known to write to, by name, with their values. Whatever a model keeps elsewhere (a list it
    appends to, a file) is its own affair.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states(place.device))
        stack.enter_context(_settings(place.threads))
        stack.callback(_write_back, model, written)  # behind the attributes, which say where to write
        stack.enter_context(evaluating(list(model.modules())))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import would take seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            # the optimiser of TorchScript changes the ops from the second run on
            jit: Any = torch.jit
            stack.enter_context(jit.optimized_execution(False))
        for kind in {"cpu", place.device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode())
        yield


@contextmanager
def quiet_random_states() -> Iterator[None]:
    """Restore the random states of Python, NumPy and PyTorch (on the CPU) afterwards."""
    with _random_states(torch.device("cpu")):
        yield


@contextmanager
def _random_states(device: torch.device) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the model may draw from it
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - see above
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def set_random_states(seed: int, device: torch.device) -> None:
    """Put the generators into a state that is a function of `seed`, but those of no other device."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the model may draw from it
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """Set threads, full precision, deterministic kernels; no fused encoder layers, which hide their ops."""
    before = torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode, and restore all attributes afterwards.

    Flags are set one by one, since `train` may be overridden, for instance to merge weights.
    """
    scripts = [
        (m, bool(m.training))
        for m in modules
        if isinstance(m, torch.jit.ScriptModule) and hasattr(m, "training")  # a frozen one has no mode
    ]
    plain = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    kept = [(m, dict(vars(m)), [dict(vars(m)[table]) for table in _TABLES]) for m in plain]
    try:
        for script, _ in scripts:
            script.eval()
        for module in plain:
            module.training = False
        yield
    finally:
        for script, training in scripts:
            script.train(training)
        for module, attributes, tables in kept:
            vars(module).clear()
            vars(module).update(attributes)
            for table, entries in zip(_TABLES, tables, strict=True):
                attributes[table].clear()
                attributes[table].update(entries)


def _write_back(model: nn.Module, written: Mapping[str, Tensor]) -> None:
    """Restore values without a new version of the tensor, which would break a backward pass under way."""
    if written:
        current: dict[str, Any] = named_constants(model)
        for name, value in written.items():
            current[name].data.copy_(value)


def named_constants(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, the non-persistent ones and each name of a shared one included."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return {**found, **dict(model.named_buffers(remove_duplicate=False))}
