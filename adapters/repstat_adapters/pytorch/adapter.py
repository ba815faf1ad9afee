"""The PyTorch adapter: hidden layers of a module, which runs as it is, op by op."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repstat.adapter import AdapterOptions, Array, InputSpec
from repstat.cores import usable_cores
from repstat.errors import InputRefusedError
from repstat_adapters.pytorch.aten import PACKED
from repstat_adapters.pytorch.device import choose_device, device_of
from repstat_adapters.pytorch.graph import build_graph, layers_of
from repstat_adapters.pytorch.guard import Place, named_constants
from repstat_adapters.pytorch.inputs import guess_inputs, input_names
from repstat_adapters.pytorch.provenance import weights_sha256
from repstat_adapters.pytorch.replay import Mark, Replay, as_numpy
from repstat_adapters.pytorch.runner import ModelFailedError, Runner
from repstat_adapters.pytorch.source import Source, read_source, take_over, unwrapped
from repstat_adapters.pytorch.tracing import Trace
from repstat_adapters.shared.base import BatchedAdapter, Forward, MisfitError
from repstat_adapters.shared.factory import name_of
from repstat_adapters.shared.feeds import draw_probes, n_samples, take
from repstat_adapters.shared.layout import close
from repstat_adapters.shared.noise import BatchNoise
from repstat_adapters.shared.options import check_plain_options
from repstat_adapters.shared.probing import AnotherPathError, Found, Placed, Plan, Prober
from repstat_adapters.shared.provenance import file_facts, run_facts

_PROBED = 3
_MOST_PATHS = 8
"""Sequences of ops that one model may take, all with the same layers."""


@dataclass(frozen=True)
class _Path:
    """A recorded sequence of ops, its layers, its tensors by those of the first path, and what moves it."""

    trace: Trace
    found: Sequence[Found]
    targets: Mapping[str, str]
    moving: Sequence[str]


class TorchAdapter(BatchedAdapter):
    """One PyTorch model, opened.

    Implements `repstat.adapter.Adapter` and `Reloadable`. Activations are float16, float32 or float64;
    bfloat16 and float8 are widened to float32. The model runs in evaluation mode without gradients or
    autocast, and is afterwards what it was (`repstat_adapters.pytorch.guard`). It may take another path for
    some samples, as long as its layers stay the same; otherwise these samples are refused.

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
        self._paths = list[_Path]()

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
        weights = weights_sha256(self._source.root)
        files = file_facts({self._path.name: self._path} if self._path else {})
        kind = type(self._source.model)
        factory = self._options.model_factory
        return {
            "framework": "pytorch",
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            **files,
            "sha256": files["sha256"] or weights,
            "weights_sha256": weights,
            "model": f"{kind.__module__}.{kind.__qualname__}",
            "source": self._source.kind,
            "model_factory": None if factory is None else name_of(factory),
            "trust_model": self._source.trusted,
            "provider": _spelled(self._place.device),
            "threads": self._place.threads,
            "opt_level": "none",
            "weights_inside": self._source.inside,
            **run_facts(self._plan, notes=self._source.notes),
        }

    def close(self) -> None:
        """Let go of the model."""
        self._paths = []
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
        path = self._recorded(probe)
        trace, found = path.trace, path.found
        self._paths = [path]
        modules = self._source.model.modules()
        sequence_first = trace.sequence_first or any(
            getattr(module, "batch_first", None) is False for module in modules
        )
        targets = list(dict.fromkeys(f.target for f in found))
        prober = Prober(
            run=lambda rows: self._run(rows, targets, {}),
            found=found,
            dtypes={target: trace.dtypes[target] for target in targets},
            specs=specs,
            batch=batch,
            path=self._path,
            runtime="PyTorch",
        )
        plan = prober.plan(probe) if found else Plan({}, batch, ())
        if unseen := tuple(_unseen(path)):
            plan = replace(plan, skipped=[*plan.skipped, *unseen])
        return plan, sequence_first

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
        if not isinstance(failure, ModelFailedError):
            raise failure
        raise InputRefusedError(
            what="the model fails on a small batch",
            path=self._path,
            why=failure.why,
            fix="Give real samples with --inputs; the drawn ones may not be valid",
        ) from None

    def _recorded(self, probe: Mapping[str, Array]) -> _Path:
        """Record the model on a few samples, twice, and find its layers."""
        specs = self.inputs()
        length = n_samples(probe, specs)
        batch = specs[0].shape[specs[0].batch_axis] if specs[0].declared and specs[0].shape else None
        rows = [row % length for row in range(batch or min(length, _PROBED))]
        some = take(probe, specs, rows)
        trace, again = (self._runner.record(some, specs, seed=seed) for seed in (1, 2))
        moving = self._moving(trace, take(probe, specs, rows[::-1]))
        graph = build_graph(trace, self._names(), moving)
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
        return _Path(trace, found, {f.target: f.target for f in found}, moving)

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
        targets = list(dict.fromkeys(placed.layer.target for placed in wanted.values()))
        last = max(Mark.of(target).ordinal for target in targets)
        felt = {target for target in noise.layers if Mark.of(target).ordinal < last}
        return Forward(lambda feeds, drawn: self._run(feeds, targets, drawn), felt)

    def _run(
        self, feeds: Mapping[str, Array], targets: Sequence[str], noise: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Replay the path that the model takes for these samples, recording it first if it is a new one."""
        captured = next(
            (
                found
                for path in self._paths
                if (found := self._replay(path, feeds, targets, noise)) is not None
            ),
            None,
        )
        if captured is None:
            path = self._another_path(feeds)
            captured = self._replay(path, feeds, targets, noise)
            if captured is None:
                why = "it is not the same twice for the same samples"
                raise self._strayed(why)
            self._paths.append(path)
        return captured

    def _replay(
        self,
        path: _Path,
        feeds: Mapping[str, Array],
        targets: Sequence[str],
        noise: Mapping[str, Array],
    ) -> dict[str, Array] | None:
        """Return tensors by target, or None if the model leaves this path."""
        marks = [Mark.of(path.targets[target]) for target in targets]
        drawn = {path.targets[target]: array for target, array in noise.items()}
        mode = Replay(path.trace, marks, drawn, self._place.device)
        self._runner.replay(feeds, self.inputs(), mode, path.trace.written)
        if mode.failure is not None:
            have, want = mode.failure.have, mode.failure.want
            raise MisfitError(next(t for t in noise if path.targets[t] == mode.failure.target), have, want)
        if mode.strayed is not None or not mode.complete:
            return None
        return {t: mode.captured[mark.target] for t, mark in zip(targets, marks, strict=True)}

    def _another_path(self, feeds: Mapping[str, Array]) -> _Path:
        """Record the path of some samples; its layers must be those of the first one."""
        if len(self._paths) == _MOST_PATHS:
            why = f"it has taken {_MOST_PATHS} already"
            raise self._strayed(why)
        first = self._paths[0]
        trace = self._runner.record(feeds, self.inputs())
        found = layers_of(build_graph(trace, self._names(), first.moving), named_constants(self._source.root))
        have, want = ([(f.key, f.kind, f.signature) for f in layers] for layers in (found, first.found))
        if have != want:
            other = next((h for h, w in zip(have, want, strict=False) if h != w), None)
            why = f"it has {len(have)} layers instead of {len(want)}"
            raise self._strayed(f"its layers differ, from {other[0]} ({other[2]}) on" if other else why)
        targets = {old.target: new.target for old, new in zip(first.found, found, strict=True)}
        return _Path(trace, first.found, targets, first.moving)

    def _strayed(self, why: str) -> InputRefusedError:
        return AnotherPathError(
            what="the model takes another path for these samples",
            path=self._path,
            why=why,
            fix="Give samples of one length; a model that branches on its data, or sends samples different "
            "ways, has no layers of its own",
        )

    def _names(self) -> list[str]:
        return [spec.name for spec in self.inputs()]


def _unseen(path: _Path) -> Iterator[dict[str, str]]:
    """Say where layers may be that cannot be told: behind numbers from elsewhere, and of packed sequences."""
    for name in path.moving:
        what = f"a tensor of shape {path.trace.shapes[name]}"
        yield {"layer": "", "name": what, "why": "what the model computes outside PyTorch is not seen"}
    for call in path.trace.calls:
        if call.op_type.startswith(PACKED):
            why = "recurrent layers of packed sequences are not extracted, whose steps have no fixed place"
            yield {"layer": "", "name": call.name or call.op_type, "why": why}


def _equal(a: Tensor, b: Tensor, *, exactly: bool = True) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if exactly:  # NaN differs from itself, and is rare: the copies without it are made where it matters
        return torch.equal(a, b) or (
            a.is_floating_point() and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
        )
    return close(as_numpy(a), as_numpy(b))


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
