"""What PyTorch and the layers of Keras do in one call of a model, as events in their order.

Results of known layers of Keras count, and those of PyTorch's functions between them. A tensor's name is the
number of its event, which is the same in every call of one model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.overrides import TorchFunctionMode

from repstat.adapter import Array
from repstat.errors import InputRefusedError
from repstat_adapters.keras.calls import LayerCall, Watch
from repstat_adapters.keras.engine import Prepared
from repstat_adapters.keras.framework import Framework
from repstat_adapters.keras.tf_graph import Entry, index_entries, layer_entry
from repstat_adapters.keras.torch_ops import RANDOM, onnx_name
from repstat_adapters.shared.axes import order_of
from repstat_adapters.shared.base import MisfitError
from repstat_adapters.shared.graph import Call


class Functions(TorchFunctionMode):
    """Sees PyTorch's functions being called."""

    def __init__(self, events: "Events") -> None:
        super().__init__()
        self._events = events

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        tensor_class = self._events.framework.runner.Tensor
        tensors = [t for t in (*args, *given.values()) if isinstance(t, tensor_class)]
        before = [(t, t._version) for t in tensors if not t.is_inference()]  # which count no versions
        result = func(*args, **given)
        in_place = any(t is result and t._version != version for t, version in before)
        return self._events.function(func, (args, given), result, in_place)


@dataclass
class Events:
    """Numbers the tensors that a call makes."""

    framework: Framework
    count: int = 0
    watch: Watch | None = None
    busy: bool = False

    def start(self, tensors: Sequence[Any]) -> None:
        """Take the inputs."""

    def function(self, func: Any, given: Any, result: Any, in_place: bool) -> Any:
        """Note a function outside of known layers; return what takes the place of its result.

        What it did `in_place` is replaced in place: the code that called it may go on with its argument.
        """
        assert self.watch is not None
        name = getattr(func, "__name__", "")
        if self.busy or self.watch.inside:
            return result
        made = [t for t in (result if isinstance(result, list | tuple) else [result]) if self._is_tensor(t)]
        if not made or name == "__get__":
            return result
        self.busy = True
        try:
            numbers = self._take(len(made))
            new = self.note(func, given, dict(zip(numbers, made, strict=True)), in_place)
            if in_place and numbers[0] in new:
                return result.copy_(new[numbers[0]])
        finally:
            self.busy = False
        return new.get(numbers[0], result) if len(made) == 1 else result

    def layer(self, call: LayerCall, outputs: Any) -> Any:
        """Note a known layer; return what takes the place of its outputs."""
        self.busy = True
        try:
            numbers = self._take(len(call.outputs))
            made = dict(zip(numbers, call.outputs, strict=True))
            new = self.note_layer(call, made)
            if not new:
                return outputs
            by_id = {id(made[name]): tensor for name, tensor in new.items()}
            tree = self.framework.keras.tree
            return tree.map_structure(lambda leaf: by_id.get(id(leaf), leaf), outputs)
        finally:
            self.busy = False

    def note(self, func: Any, given: Any, made: Mapping[str, Any], in_place: bool) -> dict[str, Any]:
        """Return replacements by name."""
        return {}

    def note_layer(self, call: LayerCall, made: Mapping[str, Any]) -> dict[str, Any]:
        """Return replacements by name."""
        return {}

    def _is_tensor(self, value: Any) -> bool:
        return isinstance(value, self.framework.runner.Tensor)

    def _take(self, n: int) -> list[str]:
        first = self.count
        self.count += n
        return [f"event {i}" for i in range(first, self.count)]


class Running(Events):
    """Copies some tensors, and adds noise to some."""

    def __init__(self, framework: Framework, targets: frozenset[str], noise: Mapping[str, Array]) -> None:
        super().__init__(framework)
        self._targets, self._noise = targets, noise
        self.values: dict[str, Array] = {}

    def note(self, func: Any, given: Any, made: Mapping[str, Any], in_place: bool) -> dict[str, Any]:
        """See `Events`."""
        return self._exchange(made)

    def note_layer(self, call: LayerCall, made: Mapping[str, Any]) -> dict[str, Any]:
        """See `Events`."""
        return self._exchange(made)

    def _exchange(self, made: Mapping[str, Any]) -> dict[str, Any]:
        new = {}
        for name, tensor in made.items():
            if name in self._targets:
                self.values[name] = _copied(self.framework.runner, tensor)
            if name in self._noise:
                new[name] = self._with_noise(name, tensor)
        return new

    def _with_noise(self, name: str, tensor: Any) -> Any:
        torch, noise = self.framework.runner, self._noise[name]
        if tuple(tensor.shape) != noise.shape:
            assert self.watch is not None
            raise self.watch.refused(MisfitError(name, tuple(tensor.shape), noise.shape))
        added = torch.from_numpy(noise).to(tensor.device)
        if tensor.dtype == torch.bfloat16:
            return (tensor.float() + added).to(tensor.dtype)
        return tensor + added.to(tensor.dtype)


class Recording(Events):
    """Notes everything once, for the layer rule."""

    def __init__(self, framework: Framework) -> None:
        super().__init__(framework)
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no tensor gets the id of one before it
        self._inputs: list[str] = []
        self._entries: list[Entry] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}

    def start(self, tensors: Sequence[Any]) -> None:
        """See `Events`."""
        for i, tensor in enumerate(tensors):
            self._inputs.append(f"input {i}")
            self._name(tensor, f"input {i}")

    def note(self, func: Any, given: Any, made: Mapping[str, Any], in_place: bool) -> dict[str, Any]:
        """See `Events`."""
        assert self.watch is not None
        args, kwargs = given
        name = getattr(func, "__name__", "")
        if name in RANDOM and (name != "dropout" or kwargs.get("training", True)):
            refusal = InputRefusedError(
                what="the model is not deterministic",
                place=f"{name} in {self.watch.path or 'the model'}",
                why="it draws random numbers also outside of training, which depend on the order of runs",
                fix="Draw them only where training is true, or leave that part out of the model",
            )
            raise self.watch.refused(refusal)
        inputs = [self._name_of(t) for t in self._tensors(given)]
        fresh = {n: t for n, t in made.items() if in_place or id(t) not in self._names}
        if fresh and any(source in self._dtypes for source in inputs):
            call = Call(onnx_name(name), inputs, list(fresh), self.watch.path or f"{name}_{self.count}")
            order = self._order(func, args, kwargs) if call.op_type == "Transpose" else ()
            self._entries.append(Entry(self.count, call, order=order))
            for target, tensor in fresh.items():
                self._name(tensor, target)
        return {}

    def note_layer(self, call: LayerCall, made: Mapping[str, Any]) -> dict[str, Any]:
        """See `Events`."""
        inputs = [self._name_of(tensor) for tensor in call.inputs]
        entry, shapes = layer_entry(call, self.count, inputs, list(made))
        self._entries.append(entry)
        self._shapes |= shapes
        for target, tensor in made.items():
            self._name(tensor, target)
        return {}

    def prepared(self, outputs: Any) -> Prepared:
        """Return the graph of all that was seen."""
        wanted = [self._name_of(tensor) for tensor in self._tensors(outputs)]
        entries, needed = list[Entry](), set(wanted)
        for entry in reversed(self._entries):
            if needed & set(entry.call.output):
                needed |= set(entry.call.input)
                entries.insert(0, entry)
        if not needed & set(self._inputs):
            raise InputRefusedError(
                what="the model's outputs cannot be followed back to its inputs",
                why="on the way the values leave PyTorch, as in a lookup table for words or integers",
                fix="Cut the model behind its preprocessing and save that",
            )
        return Prepared(index_entries(entries, self._inputs, wanted, self._shapes), self._dtypes)

    def _order(self, func: Any, args: Any, kwargs: Any) -> tuple[int, ...]:
        """Return the order that a function puts axes in, told by the lengths of a tensor without data."""
        source = self._tensors((args, kwargs))[0]

        def reordered(shape: tuple[int, ...]) -> Any:
            like = self.framework.runner.empty(shape, device="meta")
            named = {name: like if value is source else value for name, value in kwargs.items()}
            return func(*(like if value is source else value for value in args), **named).shape

        return order_of(source.ndim, reordered)

    def _tensors(self, structure: Any) -> list[Any]:
        return [leaf for leaf in self.framework.keras.tree.flatten(structure) if self._is_tensor(leaf)]

    def _name(self, tensor: Any, name: str) -> None:
        self._names[id(tensor)] = name
        self._kept.append(tensor)
        self._dtypes[name] = str(tensor.dtype).removeprefix("torch.")

    def _name_of(self, tensor: Any) -> str:
        """Name of a tensor; one that nobody made is a constant."""
        if id(tensor) not in self._names:
            name = f"constant {len(self._names)}"
            self._names[id(tensor)] = name
            self._kept.append(tensor)
            self._shapes[name] = tuple(tensor.shape)
        return self._names[id(tensor)]


def _copied(torch: Any, tensor: Any) -> Array:
    """Copy a tensor into an array that owns its memory; types that a store does not hold are widened."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in {"float16", "float32", "float64"}:
        name = "float64" if "int" in name and tensor.dtype.itemsize >= 4 else "float32"
    array: Array = np.empty(tuple(tensor.shape), name)
    torch.from_numpy(array).copy_(tensor.detach())
    return array
