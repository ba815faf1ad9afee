"""Run a Keras model on the PyTorch backend: called eagerly, as it is, and watched."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from repstat.adapter import AdapterOptions, Array
from repstat.cores import usable_cores
from repstat.errors import DeviceUnavailableError, InputRefusedError, RepstatError, ResourceError
from repstat_adapters.keras.calls import Watch, losses_kept, watching
from repstat_adapters.keras.engine import Prepared
from repstat_adapters.keras.framework import Framework, first_line, quiet
from repstat_adapters.keras.inputs import Inputs
from repstat_adapters.keras.tf_device import Device
from repstat_adapters.keras.torch_events import Events, Functions, Recording, Running
from repstat_adapters.shared.feeds import draw_probes

_PROBED = 2


class TorchEngine:
    """Calls a ``keras.Model`` whose tensors are PyTorch's."""

    def __init__(
        self, model: Any, inputs: Inputs, framework: Framework, options: AdapterOptions, path: Path | None
    ) -> None:
        self._model, self._inputs, self._framework, self._path = model, inputs, framework, path
        self.device = _choose_device(model, framework.runner, options, path)
        self._prepared: Prepared | None = None

    def prepare(self, feeds: Mapping[str, Array] | None) -> Prepared:
        """See `Engine`."""
        if self._prepared is None or feeds is not None:
            failure: InputRefusedError | None = None
            for batch in [feeds] if feeds is not None else draw_probes(self._inputs.specs, _PROBED):
                try:
                    self._prepared = self._record(batch)
                    break
                except InputRefusedError as error:
                    failure = failure or error
            else:
                assert failure is not None
                raise failure
        assert self._prepared is not None
        return self._prepared

    def run(
        self, feeds: Mapping[str, Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """See `Engine`."""
        events = Running(self._framework, frozenset(targets), noise)
        self._call(feeds, events)
        if missing := [name for name in targets if name not in events.values]:
            raise InputRefusedError(
                what="a layer did not take part in the computation",
                path=self._path,
                place=missing[0],
                why="the model goes another way for these samples than for the probe",
                fix="Give samples that take the same way, or leave the layer out",
            )
        return events.values

    def refresh(self, path: Path | None) -> bool:
        """See `Engine`. The model itself is called, so there is nothing to take over."""
        self._path = path
        return True

    def close(self) -> None:
        """See `Engine`."""
        self._prepared = None

    def _record(self, feeds: Mapping[str, Array]) -> Prepared:
        events = Recording(self._framework)
        state = [(v, v.value.detach().clone()) for v in self._model.non_trainable_variables]
        outputs = self._call(feeds, events)
        changed = [v for v, before in state if not bool((v.value == before).all())]
        for v, before in state:
            if v in changed:
                v.assign(before)
        if changed:
            raise InputRefusedError(
                what="the model is not deterministic",
                path=self._path,
                place=f"variable {changed[0].path}",
                why="it changes its own state also outside of training",
                fix="Update variables only where training is true",
            )
        return events.prepared(outputs)

    def _call(self, feeds: Mapping[str, Array], events: Events) -> Any:
        torch, keras = self._framework.runner, self._framework.keras
        watch = Watch(keras, position=lambda: events.count, replace=events.layer)
        events.watch = watch
        with ExitStack() as stack:
            stack.enter_context(quiet())
            stack.enter_context(_settings(torch, self.device.threads))
            stack.enter_context(self._translated(watch))
            stack.enter_context(losses_kept(self._model))
            stack.enter_context(keras.device(self.device.name))
            stack.enter_context(torch.no_grad())
            tensors = [self._tensor(spec.name, feeds[spec.name]) for spec in self._inputs.specs]
            events.start(tensors)
            args, kwargs = self._inputs.pack(tensors)
            stack.enter_context(watching(watch))
            stack.enter_context(Functions(events))
            return self._model(*args, **kwargs, training=False)

    def _tensor(self, name: str, array: Array) -> Any:
        torch = self._framework.runner
        tensor = torch.tensor(array, device=self.device.name)
        wanted = self._inputs.dtypes.get(name)
        return tensor if wanted is None else tensor.to(getattr(torch, wanted))

    @contextmanager
    def _translated(self, watch: Watch) -> Iterator[None]:
        """Turn the errors of PyTorch and Keras into ours."""
        try:
            yield
        except RepstatError:
            raise
        except self._framework.runner.OutOfMemoryError as error:
            raise ResourceError(
                what="PyTorch ran out of memory",
                path=self._path,
                why=first_line(error),
                fix="Use a smaller --batch-size",
            ) from None
        except Exception as error:  # the user's own code may raise anything
            if watch.refusal is not None:
                raise watch.refusal from None
            raise InputRefusedError(
                what="Keras cannot run the model",
                path=self._path,
                why=f"{type(error).__name__}: {first_line(error)}",
                fix="Check that Keras alone can run the model on these samples",
            ) from error


@contextmanager
def _settings(torch: Any, threads: int) -> Iterator[None]:
    """Set the number of threads, and exact convolutions on a GPU, for one call."""
    before, inexact = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.allow_tf32 = inexact


def _choose_device(model: Any, torch: Any, options: AdapterOptions, path: Path | None) -> Device:
    """Choose among the devices that PyTorch finds; a live model stays where it is.

    Raises
    ------
    DeviceUnavailableError
        The device does not exist, or a live model is on another.
    """
    wanted = options.provider.lower()
    if wanted not in {"auto", "cpu", "cuda"}:
        raise DeviceUnavailableError(
            what=f"there is no provider {options.provider!r} for Keras models on PyTorch",
            why="they run on cpu and cuda",
            fix="Use --provider auto, cpu or cuda",
        )
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailableError(
            what="cuda cannot be used here",
            why="PyTorch finds no GPU",
            fix="Install PyTorch for CUDA and a driver, or use --provider cpu",
        )
    here = model.weights[0].value.device.type if model.weights else "cpu"
    chosen = here if wanted == "auto" else wanted
    if path is not None and wanted == "auto" and torch.cuda.is_available():
        chosen = "cuda"
    if chosen != here:
        if path is None:
            raise DeviceUnavailableError(
                what=f"the model is on {here}",
                why=f"{chosen} was asked for, and a live model is not moved",
                fix=f"Move it yourself, or use --provider {here}",
            )
        model.to(chosen)
    name = "cuda:0" if chosen == "cuda" else chosen  # to "cpu:0", PyTorch would copy every weight
    return Device(chosen, name, options.threads or usable_cores())
