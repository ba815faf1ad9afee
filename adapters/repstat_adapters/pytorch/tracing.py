"""Watch one forward pass at the dispatcher, below every way to spell an op, and write it down as a graph.

The dispatcher sees modules, functions, methods, operators and TorchScript alike, and under
``inference_mode`` it sees ``linear`` or ``lstm`` whole. What else writes through memory is followed: an op
that works in place makes a new tensor of the old one, and of every view of the same memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repstat_adapters.pytorch.aten import base_name, named_arguments, op_type, operands
from repstat_adapters.shared.axes import order_of
from repstat_adapters.shared.graph import Call

_BATCH_NORMS = frozenset(["batch_norm", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit"])


UNCOUNTED = frozenset({torch.ops.aten.detach.default, torch.ops.aten.detach_.default})
"""Called by PyTorch itself where somebody holds on to a new tensor, as the tracer does."""
UNSEEN = frozenset({"profiler"})
"""Namespaces of ops that compute nothing: ``torch.profiler.record_function`` names a part of the model."""


class StopForwardError(BaseException):
    """Leave the model's forward pass, past its own ``except Exception``."""


@dataclass(frozen=True)
class Outside:
    """A tensor that came into the pass from nowhere: neither a parameter or buffer, nor made by an op."""

    name: str
    value: Tensor


@dataclass
class Trace:
    """One forward pass.

    Parameters
    ----------
    calls
        The ops that make tensors, in order, each named by the module it was in; tensors are called ``17.0``,
        first output of the 18th op.
    path
        All ops in order, also those that only read.
    outputs
        Names of the tensors the model returned.
    shapes, dtypes
        Of all tensors by name.
    values
        Tensors by name, as they are at the end of the pass.
    written
        Parameters and buffers that the pass changes, by name, with their values before.
    random
        Ops that draw random numbers, and the modules they are in.
    outside
        Tensors of unknown origin.
    sequence_first
        Whether a recurrent op takes time before samples.
    orders
        By the first output of a call that reorders axes, the order.
    """

    calls: list[Call] = field(default_factory=list)
    path: list[Any] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    written: dict[str, Tensor] = field(default_factory=dict)
    random: list[str] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    sequence_first: bool = False
    orders: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a `Trace`.

    Parameters
    ----------
    constants
        Parameters and buffers by name.
    inputs
        The model's inputs by name.

    Attributes
    ----------
    scope
        Names of the modules that are running; whoever runs the model keeps it.
    refusal
        Why the pass was stopped, as an error says it: an op would do what cannot be undone or trusted.
    stopped
        Whether it was.
    """

    def __init__(self, constants: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.scope = [""]
        self.refusal = dict[str, str]()
        self.stopped = False
        self._names: dict[int, str] = {}
        self._sharing: dict[int, list[Tensor]] = {}
        backwards = list(constants.items())[::-1]  # of the names of one tensor the first is kept
        self._constants = {_memory(t): name for name, t in backwards}
        self._originals = dict(constants)
        for name, tensor in [*backwards, *inputs.items()]:
            self._enter(name, tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Have no wrapper around each op that imports the compiler, in a second: nothing is compiled here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note one op and run it."""
        kwargs = kwargs or {}
        if func.namespace in UNSEEN:
            return func(*args, **kwargs)
        if func in UNCOUNTED:
            result = func(*args, **kwargs)
            self._enter(self._name(args[0]), result)
            return result
        arguments = named_arguments(func, args, kwargs)
        self._check(func, arguments)
        ordinal = len(self.trace.path)
        self.trace.path.append(func)
        inputs = list(self._input_names(func, arguments, ordinal))
        written = _written(func, arguments)
        before = [self._name(t) for t in written]
        for tensor in written:
            self._keep(tensor)
        result = func(*args, **kwargs)
        self._note(func, arguments, inputs, result, list(zip(written, before, strict=True)), ordinal)
        return result

    def finish(self, returned: Any) -> Trace:
        """Note what the model returned, and give the trace."""
        self.trace.outputs = [self._name(t) for t in tensors_of(returned)]
        if not self.trace.outputs and self.trace.calls:
            self.trace.outputs = [name for name in self.trace.calls[-1].output if name]
        return self.trace

    def _check(self, func: Any, arguments: Mapping[str, Any]) -> None:
        name, place = base_name(func), self.scope[-1] or "the model"
        if name in _BATCH_NORMS and arguments.get("training"):
            self._refuse(
                f"batch normalisation in {place} takes the statistics of the batch even in evaluation, so "
                "that values depend on the other samples of the batch"
            )
        if (
            name == "instance_norm"
            and arguments.get("use_input_stats")
            and arguments.get("running_mean") is not None
        ):
            self._refuse(f"instance normalisation in {place} updates its running statistics in evaluation")
        if any(isinstance(value, torch.ScriptObject) for value in arguments.values()):
            self._refuse(
                f"{func} in {place} hides its weights in a packed object, as quantised models do",
                what="the weights of a layer cannot be seen",
                fix="Give the model from before the quantisation, or export it to ONNX",
            )
        if torch.Tag.nondeterministic_seeded in func.tags and _draws(name, arguments):
            self.trace.random.append(f"{func._schema.name.partition('::')[2]} in {place}")
        if arguments.get("batch_first") is False:
            self.trace.sequence_first = True

    def _refuse(
        self,
        why: str,
        what: str = "the model is not a function of single samples",
        fix: str = "Change the model so that evaluation mode settles it",
    ) -> None:
        self.refusal, self.stopped = {"what": what, "why": why, "fix": fix}, True
        raise StopForwardError

    def _keep(self, tensor: Tensor) -> None:
        """Keep the value of a parameter or buffer before an op changes it."""
        name = self._constants.get(_memory(tensor))
        if name is not None and name not in self.trace.written:
            self.trace.written[name] = self._originals[name].detach().clone()

    def _note(
        self,
        func: Any,
        arguments: Mapping[str, Any],
        inputs: list[str],
        result: Any,
        written: Sequence[tuple[Tensor, str]],
        ordinal: int,
    ) -> None:
        results = list(tensors_of(result))
        changed = {id(t) for t, _ in written}
        given = {id(t) for t in tensors_of(list(arguments.values()))}
        if not written and all(id(t) in given for t in results):
            return  # dropout in evaluation, .contiguous(), .to(): its input untouched
        made = [t for t in results if id(t) in changed or id(t) not in given]
        made += [t for t, _ in written if all(t is not other for other in made)]
        places = {id(t): str(k) for k, t in enumerate(results)}
        outputs = [f"{ordinal}.{places.get(id(t), f'written{k}')}" for k, t in enumerate(made)]
        old = [(t, name) for t in _unique(self._views(written)) if (name := self._names.get(id(t)))]
        kind = op_type(func, arguments)
        self._call(kind, inputs, outputs)
        if kind == "Transpose":
            self.trace.orders[outputs[0]] = _order(func, arguments)
        for name, tensor in zip(outputs, made, strict=True):
            self._enter(name, tensor)
        for number, (view, name) in enumerate(old):
            if self._names[id(view)] == name:  # a view of memory that another tensor was changed through
                alias = f"{ordinal}.alias{number}"
                whole = _same_elements(view, made[0])
                self._call("Reshape" if whole else "Alias", [*([] if whole else [name]), outputs[0]], [alias])
                self._enter(alias, view)

    def _call(self, op: str, inputs: list[str], outputs: list[str]) -> None:
        self.trace.calls.append(Call(op, inputs, outputs, self.scope[-1]))

    def _views(self, written: Sequence[tuple[Tensor, str]]) -> Iterator[Tensor]:
        for tensor, _ in written:
            yield from self._sharing.get(_memory(tensor), ())

    def _enter(self, name: str, tensor: Tensor) -> None:
        """Give a tensor a (new) name. It is held, so that no other takes its identity."""
        self._names[id(tensor)] = name
        sharing = self._sharing.setdefault(_memory(tensor), [])
        if all(tensor is not other for other in sharing):
            sharing.append(tensor)
        self.trace.values[name] = tensor
        self.trace.shapes[name] = tuple(tensor.shape)
        self.trace.dtypes[name] = str(tensor.dtype).removeprefix("torch.")

    def _name(self, tensor: Tensor) -> str:
        """Name of a tensor; one that no op made is an alias of what its memory holds, or from outside."""
        if (name := self._names.get(id(tensor))) is not None:
            return name
        if sharing := self._sharing.get(_memory(tensor)):
            source = self._names[id(sharing[-1])]
            name = f"{source}'{len(sharing)}"
            self._call("Identity", [source], [name])
        else:
            name = f"outside:{len(self.trace.outside)}"
            self.trace.outside.append(Outside(name, tensor.detach().clone()))
        self._enter(name, tensor)
        return name

    def _input_names(self, func: Any, arguments: Mapping[str, Any], ordinal: int) -> Iterator[str]:
        for number, value in enumerate(operands(func, arguments)):
            if isinstance(value, int | float) and op_type(func, arguments) in {"Add", "Sub", "Mul", "Div"}:
                name = f"{ordinal}.number{number}"
                self.trace.shapes[name] = ()
                yield name
            else:
                yield from (self._name(t) for t in tensors_of(value))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Tensors in nested lists, mappings and objects with fields, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_of(inner)
    elif isinstance(value, Mapping):
        yield from tensors_of(list(value.values()))
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_of([getattr(value, name, None) for name in value.__dataclass_fields__])


def _draws(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an op that can draw random numbers does so with these arguments."""
    if "attention" in name:
        return bool(arguments.get("dropout_p"))
    return bool(arguments.get("train", True)) and bool(arguments.get("p", 1))


def _order(func: Any, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the order that an op puts axes in, told by the lengths of a tensor without data."""
    (_, source), *others = arguments.items()

    def reordered(shape: tuple[int, ...]) -> Sequence[int]:
        made: Tensor = func(torch.empty(shape, device="meta"), **dict(others))
        return made.shape

    return order_of(source.ndim, reordered)


def _written(func: Any, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Tensors that an op writes to."""
    if not func._schema.is_mutable:
        return []
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return list(tensors_of([arguments.get(name) for name in names]))


def _memory(tensor: Tensor) -> int:
    """Identify the memory of a tensor; one without (sparse, on the meta device) is alone."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _same_elements(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same order, whatever their shapes."""
    if _memory(a) != _memory(b) or a.dtype != b.dtype or a.numel() != b.numel():
        return False
    return a.is_contiguous() and b.is_contiguous() and a.storage_offset() == b.storage_offset()


def _unique(tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    seen: set[int] = set()
    for tensor in tensors:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor
