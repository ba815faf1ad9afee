"""Turn what a user gives into a module that can be run: a live one, or one from a file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repstat.adapter import AdapterOptions, InputSpec
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.pytorch.exported import ExportedModule, declared_inputs, load_program
from repstat_adapters.pytorch.guard import quiet_random_states
from repstat_adapters.pytorch.script import load_script
from repstat_adapters.pytorch.sniff import Kind, is_in_pieces, kind_of
from repstat_adapters.pytorch.unpickle import load_checkpoint, read_safetensors
from repstat_adapters.pytorch.weights import (
    find_state_dict,
    fitted,
    load_weights,
    others_like,
    rounded,
    signature,
)
from repstat_adapters.shared.factory import build, name_of


@dataclass
class Source:
    """A module ready to run, and where it came from.

    Parameters
    ----------
    model
        The module.
    kind
        ``live``, ``weights``, ``pickle``, ``torchscript`` or ``exported``.
    path
        The file; None for a live model.
    live
        What was given, if it was not a file.
    specs
        Inputs that the model declares; None where they are to be guessed.
    trusted
        Whether the file was read with the power to run code.
    notes
        What a user should know.
    inside
        Where in a checkpoint its weights were: ``['model_state_dict']``.
    shapes
        Of weights from a checkpoint, by name.
    """

    model: nn.Module
    kind: str
    path: Path | None = None
    live: object = None
    specs: tuple[InputSpec, ...] | None = None
    trusted: bool = False
    notes: list[str] = field(default_factory=list)
    inside: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def root(self) -> nn.Module:
        """The module whose parameters have the model's names."""
        return self.model.program if isinstance(self.model, ExportedModule) else self.model


def read_source(source: object, options: AdapterOptions) -> Source:
    """Open a file, or take a live model.

    Raises
    ------
    UsageError
        The file does not exist, or a model factory is missing, fails, or has no meaning.
    InputRefusedError
        The file is damaged or would run code, or its weights are not the model's.
    """
    if not isinstance(source, str | PathLike):
        return _live(source, options)
    path = Path(fspath(source))
    _no_pieces(path)
    if not path.is_file():
        raise UsageError(
            what="model not found", path=path, why="there is no such file", fix="Check the spelling"
        )
    kind = kind_of(path)
    if kind in {"torchscript", "exported"}:
        _no_factory(options, path, "the file holds the whole model")
    if kind == "torchscript":
        script, trusted = load_script(path, trust=options.trust_model)
        return Source(script, "torchscript", path, trusted=trusted)
    if kind == "exported":
        program, trusted = load_program(path, trust=options.trust_model)
        return Source(
            ExportedModule(program), "exported", path, specs=declared_inputs(program, path), trusted=trusted
        )
    content, trusted = _content(path, kind, trust=options.trust_model)
    if (model := _module_in(content)) is not None:
        _no_factory(options, path, "the file holds the whole model, pickled")
        return Source(_usable(unwrapped(model), path), "pickle", path, trusted=trusted)
    return _from_weights(content, path, options, trusted=trusted)


def _state_of(path: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Return the weights in a file of weights, and what to know of them; None if it holds something else.

    Raises
    ------
    InputRefusedError
        It is damaged, or would run code.
    """
    kind = kind_of(path)
    if kind in {"torchscript", "exported"}:
        return None
    content = _content(path, kind, trust=False)[0]
    state, place = find_state_dict(content, path)
    return state, _chosen(content, place, state)


def take_over(source: Source, path: Path) -> bool:
    """Load the weights of another checkpoint into the model of `source`.

    Returns
    -------
    bool
        False, with nothing changed, if they are of another architecture.
    """
    found = _state_of(path) if source.kind == "weights" else None
    if found is None:
        return False
    own = source.model.state_dict()
    named = fitted(found[0], own)
    if signature(named) != source.shapes:
        return False
    load_weights(source.model, named, path, "the model factory")
    source.path = path
    source.notes = [note for note in [*found[1], rounded(named, own)] if note]
    return True


def _no_pieces(path: Path) -> None:
    """Refuse a checkpoint of ``torch.distributed.checkpoint``, whose tensors lie in pieces in a folder."""
    if is_in_pieces(path):
        raise InputRefusedError(
            what="the weights are in pieces",
            path=path,
            why="the folder is a checkpoint of torch.distributed.checkpoint, expected one file of weights",
            fix="Join it first: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, file)",
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return what ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` wrap."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in {"DataParallel", "DistributedDataParallel"}:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _live(source: object, options: AdapterOptions) -> Source:
    _no_factory(options, None, "the model is there already")
    if isinstance(source, nn.Module):
        return Source(_usable(unwrapped(source), None), "live", live=source)
    return Source(ExportedModule(source), "exported", live=source, specs=declared_inputs(source, None))


def _no_factory(options: AdapterOptions, path: Path | None, why: str) -> None:
    if options.model_factory is not None:
        raise UsageError(
            what="a model factory has no meaning here", path=path, why=why, fix="Leave out --model-factory"
        )


def _content(path: Path, kind: Kind, *, trust: bool) -> tuple[Any, bool]:
    if kind == "safetensors" or (not kind and path.suffix.lower() == ".safetensors"):
        return read_safetensors(path), False
    return load_checkpoint(path, legacy=kind == "legacy", trust=trust)


def _module_in(content: Any) -> nn.Module | None:
    """Return a module that was pickled whole, alone or in a mapping under ``model``."""
    inner = content.get("model") if isinstance(content, Mapping) else content
    return inner if isinstance(inner, nn.Module) else None


def _from_weights(content: Any, path: Path, options: AdapterOptions, *, trusted: bool) -> Source:
    state, place = find_state_dict(content, path)
    if options.model_factory is None:
        names = list(state)
        raise UsageError(
            what="there are only weights, and no model,",
            path=path,
            why=f"found {len(names)} tensors such as {', '.join(names[:3])}",
            fix="Give --model-factory package.module:function, where function() returns the model",
        )
    name = name_of(options.model_factory)
    with quiet_random_states():
        model = build(options.model_factory)
    if not isinstance(model, nn.Module):
        raise UsageError(
            what=f"the model factory {name} returns no torch.nn.Module",
            path=path,
            why=f"found {type(model).__module__}.{type(model).__qualname__}",
            fix="Let it return the model",
        )
    model = _usable(unwrapped(model), path)
    own = model.state_dict()
    loaded = load_weights(model, state, path, name)
    return Source(
        model,
        "weights",
        path,
        trusted=trusted,
        notes=[note for note in [*_chosen(content, place, state), rounded(loaded, own)] if note],
        inside=place,
        shapes=signature(loaded),
    )


def _chosen(content: Any, place: str, state: Mapping[str, Any]) -> list[str]:
    """Say which of several sets of weights in a checkpoint was taken."""
    others = ", ".join(others_like(content, place, state))
    return [f"the weights are those in {place}, and not those in {others}"] if others else []


def _usable(model: nn.Module, path: Path | None) -> nn.Module:
    for name, tensor in _all_tensors(model):
        if torch.nn.parameter.is_lazy(tensor):
            why, fix = f"{name} has no shape yet", "Run one batch through the model first"
        elif tensor.device.type == "meta":
            why, fix = f"{name} is on the meta device and holds no numbers", "Load the weights first"
        elif type(tensor).__name__ == "DTensor":
            why, fix = f"{name} is a shard of a distributed tensor", "Gather a state_dict and give that"
        else:
            continue
        raise InputRefusedError(what="the model has no weights yet", path=path, why=why, fix=fix)
    return model


def _all_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
