"""Run a model on one batch: place the samples, watch the ops, turn failures into messages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repstat.adapter import Array, InputSpec
from repstat.errors import InputRefusedError, RepstatError, ResourceError
from repstat_adapters.pytorch.exported import ExportedModule
from repstat_adapters.pytorch.guard import Place, named_constants, set_random_states, undisturbed
from repstat_adapters.pytorch.inputs import keyword_names
from repstat_adapters.pytorch.replay import Replay
from repstat_adapters.pytorch.tracing import StopForwardError, Trace, Tracer
from repstat_adapters.shared.feeds import differences

_LONGEST = 400


class ModelFailedError(InputRefusedError):
    """The model itself raises an error on a batch, which may be the batch's fault."""


class Runner:
    """Runs one module.

    Parameters
    ----------
    model
        The module that is called.
    root
        The module whose parameters have the model's names.
    place
        Where it runs.
    path
        The model, for messages.

    Attributes
    ----------
    second_axis
        Whether samples are put along the second axis of the model's inputs, as recurrent networks want.
    """

    def __init__(self, model: nn.Module, root: nn.Module, place: Place, path: Path | None) -> None:
        self.model, self.root, self.place, self.path = model, root, place, path
        self.second_axis = False
        self._keywords = keyword_names(model)
        floats = (p.dtype for p in root.parameters() if p.is_floating_point())
        self._half = next(floats, None) == torch.bfloat16

    def record(
        self, feeds: Mapping[str, Array], specs: Sequence[InputSpec], *, seed: int | None = None
    ) -> Trace:
        """Run a batch and return the pass as it was.

        With a seed, the generators are set to it first, so that two passes can be told apart.

        Raises
        ------
        InputRefusedError
            The model fails, or does what cannot be trusted in evaluation.
        """
        inputs = self._tensors(feeds)
        tracer = Tracer(named_constants(self.root), inputs)
        with undisturbed(self.root, self.place, tracer.trace.written), self._scopes(tracer.scope):
            if seed is not None:
                set_random_states(seed, self.place.device)
            returned = self._call(inputs, tracer, specs, feeds)
            if tracer.refusal:
                raise InputRefusedError(path=self.path, **tracer.refusal)
            return tracer.finish(returned)

    def replay(
        self,
        feeds: Mapping[str, Array],
        specs: Sequence[InputSpec],
        mode: Replay,
        written: Mapping[str, Tensor],
    ) -> None:
        """Run a batch under `mode`, and write back what the model is known to write to."""
        with undisturbed(self.root, self.place, written):
            self._call(self._tensors(feeds), mode, specs, feeds)

    def _tensors(self, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
        """Copy a batch to the device; a model that works in place must not reach the samples."""
        tensors = {}
        for name, array in feeds.items():
            moved = np.moveaxis(array, 0, 1) if self.second_axis and array.ndim > 1 else array
            tensor = torch.from_numpy(np.array(moved, order="C", copy=True)).to(self.place.device)
            tensors[name] = tensor.to(torch.bfloat16) if self._half and tensor.is_floating_point() else tensor
        return tensors

    def _call(
        self,
        inputs: Mapping[str, Tensor],
        mode: Tracer | Replay,
        specs: Sequence[InputSpec],
        feeds: Mapping[str, Array],
    ) -> Any:
        call: Callable[..., Any] = self.model
        try:
            with mode:
                keywords = {spec.name: inputs[spec.name] for spec in specs if spec.name in self._keywords}
                return call(*(inputs[s.name] for s in specs if s.name not in keywords), **keywords)
        except StopForwardError:
            return None
        except RepstatError:
            raise
        except Exception as error:  # a model may raise anything
            if mode.stopped:  # TorchScript makes an error of its own of it
                return None
            raise self._translated(error, specs, feeds) from None

    def _translated(
        self, error: Exception, specs: Sequence[InputSpec], feeds: Mapping[str, Array]
    ) -> RepstatError:
        text = " ".join(str(error).split())[:_LONGEST] or "no message"
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if exhausted or "can't allocate memory" in text:
            return ResourceError(
                what="memory ran out", path=self.path, why=text, fix="Use a smaller --batch-size"
            )
        hints = [hint for spec in specs for hint in differences(spec, feeds[spec.name])]
        fix = "Check the samples: the model must run on them in PyTorch by itself"
        if "does not require grad" in text or "does not have a grad_fn" in text:
            hints.append("its forward takes a gradient, and repstat runs models without gradients")
            fix = "Analyse a model without that part, or one that uses torch.func.grad"
        return ModelFailedError(
            what="the model fails on a batch",
            path=self.path,
            why="; ".join([f"{type(error).__name__}: {text}", *hints]),
            fix=fix,
        )

    @contextmanager
    def _scopes(self, scope: list[str]) -> Iterator[None]:
        """Keep in `scope` which module is running, by hooks that are taken away again."""
        handles = []

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: scope.append(name)

        def leave(*_: Any) -> None:
            scope.pop()

        exported = self.model if isinstance(self.model, ExportedModule) else None
        try:
            if exported is not None:
                exported.scope = scope
            for name, module in [] if exported is not None else self.model.named_modules():
                if name and not isinstance(module, torch.jit.ScriptModule):
                    handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
                    handles.append(module.register_forward_hook(leave, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            if exported is not None:
                exported.scope = None
