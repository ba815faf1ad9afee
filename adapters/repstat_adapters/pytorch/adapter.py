"""The PyTorch adapter: hidden layers of a module, which runs as it is, op by op."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repstat.adapter import AdapterOptions, Array, InputSpec
from repstat.errors import InputRefusedError
from repstat_adapters.pytorch.device import choose_device, device_of
from repstat_adapters.pytorch.graph import build_graph, layers_of
from repstat_adapters.pytorch.guard import Place, named_constants
from repstat_adapters.pytorch.inputs import guess_inputs, input_names
from repstat_adapters.pytorch.provenance import file_facts, weights_sha256
from repstat_adapters.pytorch.recorder import Trace
from repstat_adapters.pytorch.replay import Mark, Replay
from repstat_adapters.pytorch.runner import Runner
from repstat_adapters.pytorch.source import Source, read_source, take_over, unwrapped
from repstat_adapters.shared.base import BatchedAdapter, Forward
from repstat_adapters.shared.factory import name_of
from repstat_adapters.shared.feeds import draw_probes, n_samples, take
from repstat_adapters.shared.layout import close
from repstat_adapters.shared.noise import BatchNoise
from repstat_adapters.shared.options import check_plain_options, usable_cores
from repstat_adapters.shared.probing import Found, Placed, Plan, Prober

_PROBED = 3
_WIDENED = {torch.int64: torch.float64, torch.int32: torch.float64}


class TorchAdapter(BatchedAdapter):
    """One PyTorch model, opened.

    Implements `repstat.adapter.Adapter` and `Reloadable`. Activations are float16, float32 or float64;
    bfloat16 and float8 are widened to float32. The model runs in evaluation mode without gradients or
    autocast, and is afterwards what it was (`repstat_adapters.pytorch.guard`). Its ops must be the same for
    every batch: one that chooses its path by the data is refused where it strays from the recorded one.

    Parameters
    ----------
    source
        Path of the file, a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``.
    options
        Device, threads, model factory, trust.

    Raises
    ------
    UsageError, InputRefusedError, DeviceUnavailableError
        See `repstat_adapters.pytorch.open_model`.
    """

    def __init__(self, source: object, options: AdapterOptions) -> None:
        path = Path(fspath(source)) if isinstance(source, str | PathLike) else None
        super().__init__(path)
        check_plain_options(options, "PyTorch", path)
        self._options = options
        self._source = read_source(source, options)
        self._place = Place(self._device(), options.threads or usable_cores())
        self._runner = Runner(self._source.model, self._source.root, self._place, path)
        self._specs = self._source.specs
        self._trace = Trace()

    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the order of ``forward``: those without a default, or the first one.

        Types and shapes are guessed from the weights unless the model was exported. Samples come first, also
        where the model takes time first.
        """
        if self._specs is None:
            names = input_names(self._source.model, self._path)
            self._specs = guess_inputs(self._source.model, names, self._runs)
        return self._specs

    def reload(self, source: object) -> bool:
        """Take over the weights of another checkpoint of the same architecture (`Reloadable`).

        A live model is taken as it is now.
        """
        self._require_open()
        if isinstance(source, str | PathLike):
            done = self._source.live is None and take_over(self._source, Path(fspath(source)))
            if done:
                self._path = self._runner.path = Path(fspath(source))
        else:
            done = source is self._source.live and (
                not isinstance(source, torch.nn.Module) or unwrapped(source) is self._source.model
            )
            done = done and self._device() == self._place.device
        self._plan = None if done else self._plan
        return done

    def provenance(self) -> Mapping[str, Any]:
        """JSON-able facts about files, weights, versions and how the model is run."""
        plan, model = self._plan, self._source.root
        weights = weights_sha256(model)
        kind = type(self._source.model)
        factory = self._options.model_factory
        return {
            "framework": "pytorch",
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "sha256": weights,
            **file_facts(self._path),
            "weights_sha256": weights,
            "model": f"{kind.__module__}.{kind.__qualname__}",
            "source": self._source.kind,
            "model_factory": None if factory is None else name_of(factory),
            "trust_model": self._source.trusted,
            "provider": _spelled(self._place.device),
            "threads": self._place.threads,
            "opt_level": "none",
            "run_batch": plan.batch if plan else None,
            "run_batch_note": plan.note if plan else "",
            "notes": list(self._source.notes),
            "skipped": list(plan.skipped) if plan else [],
        }

    def close(self) -> None:
        """Let go of the model."""
        self._trace = Trace()
        super().close()

    def _device(self) -> torch.device:
        wanted = self._options.provider
        if self._source.kind == "live":
            return device_of(self._source.model, wanted, self._path)
        device = choose_device(wanted)
        if device.type != "cpu" and self._source.kind == "exported":
            return _moved(self._source, device)
        self._source.model.to(device)
        return device

    def _runs(self, specs: Sequence[InputSpec], feeds: Mapping[str, Array]) -> bool:
        try:
            self._runner.record(feeds, specs)
        except InputRefusedError:
            return False
        return True

    def _make_plan(self, feeds: Mapping[str, Array] | None) -> Plan:
        specs = self.inputs()
        batch = (
            specs[0].shape[specs[0].batch_axis] if specs and specs[0].declared and specs[0].shape else None
        )
        self._runner.second_axis = False
        plan, sequence_first = self._plan_as_placed(feeds, batch)
        if not (plan.batch == 1 or plan.skipped) or batch is not None or not sequence_first:
            return plan
        self._runner.second_axis = True
        try:
            other, _ = self._plan_as_placed(feeds, batch)
        except InputRefusedError:
            other = plan
        if other.batch is None and len(other.skipped) <= len(plan.skipped):
            return replace(other, note="samples are put along the second axis of the model's inputs")
        self._runner.second_axis = False
        return self._plan_as_placed(feeds, batch)[0]

    def _plan_as_placed(self, feeds: Mapping[str, Array] | None, batch: int | None) -> tuple[Plan, bool]:
        """Record the model with the samples where they are now, and find them in its layers."""
        specs = self.inputs()
        probe = self._probe(feeds, batch)
        self._trace, found = self._recorded(probe)
        modules = self._source.model.modules()
        sequence_first = self._trace.sequence_first or any(
            getattr(module, "batch_first", None) is False for module in modules
        )
        marks = [Mark.of(target) for target in dict.fromkeys(f.target for f in found)]
        prober = Prober(
            run=lambda rows: self._run(rows, marks, {}),
            found=found,
            dtypes={f.target: self._trace.dtypes[f.target] for f in found},
            specs=specs,
            batch=batch,
            path=self._path,
            runtime="PyTorch",
        )
        return prober.plan(probe if found else None) if found else Plan({}, batch, ()), sequence_first

    def _probe(self, feeds: Mapping[str, Array] | None, batch: int | None) -> Mapping[str, Array]:
        """Return samples on which the model runs."""
        specs = self.inputs()
        if feeds is not None:
            return feeds
        failure: InputRefusedError | None = None
        for drawn in draw_probes(specs, batch or _PROBED):
            try:
                self._runner.record(drawn, specs)
            except InputRefusedError as error:
                failure = failure or error
            else:
                return drawn
        assert failure is not None  # there is always one probe
        raise InputRefusedError(
            what=failure.what if "batch" not in failure.what else "the model fails on a small batch",
            path=self._path,
            why=failure.why,
            fix=failure.fix if "batch" not in failure.what else "Give real samples with --inputs",
        ) from None

    def _recorded(self, probe: Mapping[str, Array]) -> tuple[Trace, tuple[Found, ...]]:
        """Record the model on a few samples, twice, and find its layers."""
        specs = self.inputs()
        length = n_samples(probe, specs)
        batch = specs[0].shape[specs[0].batch_axis] if specs[0].declared and specs[0].shape else None
        rows = [row % length for row in range(batch or min(length, _PROBED))]
        some = take(probe, specs, rows)
        trace, again = (self._runner.record(some, specs, seed=seed) for seed in (1, 2))
        moving = self._moving(trace, take(probe, specs, rows[::-1]))
        graph = build_graph(trace, [spec.name for spec in specs], moving)
        self._check_repeats(trace, again, [name for call in graph.nodes for name in call.output])
        found = layers_of(graph, named_constants(self._source.root))
        for layer in found:
            if trace.dtypes[layer.target].startswith("complex"):
                raise InputRefusedError(
                    what="a layer has complex activations",
                    path=self._path,
                    place=f"layer {layer.key} ({layer.name})",
                    why=f"its tensor is {trace.dtypes[layer.target]}",
                    fix="Analyse a model with real activations",
                )
        return trace, found

    def _moving(self, trace: Trace, other: Mapping[str, Array]) -> list[str]:
        """Tensors from outside PyTorch that change with the samples."""
        if not trace.outside:
            return []
        there = {one.name: one.value for one in self._runner.record(other, self.inputs()).outside}
        return [o.name for o in trace.outside if o.name not in there or not _equal(o.value, there[o.name])]

    def _check_repeats(self, first: Trace, second: Trace, names: Sequence[str]) -> None:
        """Refuse a model that gives other values for the same batch."""
        same = first.path == second.path and all(
            _equal(first.values[name], second.values[name], exactly=self._place.device.type == "cpu")
            for name in names
        )
        if same:
            return
        culprits = ", ".join(dict.fromkeys([*first.random, *second.random])) or "an op of its own"
        raise InputRefusedError(
            what="the model is random in evaluation mode",
            path=self._path,
            why=f"the same batch gives other values the second time; random numbers are drawn by {culprits}",
            fix="Let dropout depend on self.training, as nn.Dropout does; noise comes from --noise-std",
        )

    def _forward(self, wanted: Mapping[str, Placed], noise: BatchNoise) -> Forward:
        marks = [Mark.of(target) for target in dict.fromkeys(p.layer.target for p in wanted.values())]
        last = max(mark.ordinal for mark in marks)
        felt = {target for target in noise.layers if Mark.of(target).ordinal < last}
        return Forward(lambda feeds, drawn: self._run(feeds, marks, drawn), felt)

    def _run(
        self, feeds: Mapping[str, Array], marks: Sequence[Mark], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        trace = self._trace
        mode = Replay(trace, marks, noise, self._place.device)
        self._runner.replay(feeds, self.inputs(), mode, trace.written)
        if mode.failure is not None:
            raise mode.failure
        if mode.strayed is not None or not mode.complete:
            raise InputRefusedError(
                what="the model takes another path for these samples",
                path=self._path,
                why=f"op {mode.strayed} is not the one of the first batch"
                if mode.strayed is not None
                else "it ended before every layer was there",
                fix="Give samples of one length; a model that branches on its data has no layers of its own",
            )
        return {target: _as_numpy(value) for target, value in mode.captured.items()}


def _as_numpy(value: Tensor) -> Array:
    """Return an activation as NumPy holds it; memory may be shared."""
    value = value.detach().resolve_conj().resolve_neg()
    if value.is_quantized:
        value = value.dequantize()
    if value.dtype not in {torch.float16, torch.float32, torch.float64}:
        value = value.to(_WIDENED.get(value.dtype, torch.float32))
    array: Array = value.to("cpu").numpy()
    return array


def _equal(a: Tensor, b: Tensor, *, exactly: bool = True) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if exactly:
        return (
            bool(torch.equal(a.nan_to_num(), b.nan_to_num())) if a.is_floating_point() else torch.equal(a, b)
        )
    return close(_as_numpy(a), _as_numpy(b))


def _moved(source: Source, device: torch.device) -> torch.device:
    from torch.export.passes import move_to_device_pass

    from repstat_adapters.pytorch.exported import ExportedModule, load_program

    program: Any = source.live or load_program(source.path, trust=source.trusted)[0]  # type: ignore[arg-type]
    source.model = ExportedModule(move_to_device_pass(program, device))
    return device


def _spelled(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
