"""Whether two headers are of one trajectory, and if not, why (docs/store-format.md, section 5)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer
from repstat.store.header import Header
from repstat.store.noise import Conditional, NoiseRecord
from repstat.store.schema import Samples, from_json, to_json, to_text

MAX_NAMED = 3
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two headers disagree on, as text."""

    name: str
    first: str
    second: str


def differences(first: Header, second: Header) -> tuple[Difference, ...]:
    """Compare key by key; empty if the two are of one trajectory."""
    return tuple(_differences(first, second))


def summary(found: Sequence[Difference], pattern: str) -> str:
    """Write some differences, each as `pattern` with the fields name, first and second."""
    named = [pattern.format(name=d.name, first=d.first, second=d.second) for d in found[:MAX_NAMED]]
    if len(found) > MAX_NAMED:
        named.append(f"and {len(found) - MAX_NAMED} more differences")
    return "; ".join(named)


def _differences(first: Header, second: Header) -> Iterator[Difference]:
    yield from _of_json("", _plain(first.identity), _plain(second.identity))
    if first.n_realizations != second.n_realizations:
        yield _difference("n_realizations", first.n_realizations, second.n_realizations)
    yield from _of_samples(first.samples, second.samples)
    yield from _of_layers(first.layers, second.layers)
    yield from _of_json("noise", _facts(first.noise), _facts(second.noise))
    yield from _of_conditional(first.conditional, second.conditional)


def _plain(identity: Mapping[str, Any]) -> Any:
    return from_json(to_json(identity, what="the identity"))


def _difference(name: str, first: Any, second: Any) -> Difference:
    return Difference(name, _short(first), _short(second))


def _short(value: Any) -> str:
    text = value if value == _MISSING else ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _of_json(name: str, first: Any, second: Any) -> Iterator[Difference]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            printable = key if key.isprintable() else ascii(key)
            below = f"{name}.{printable}" if name else printable
            yield from _of_json(below, first.get(key, _MISSING), second.get(key, _MISSING))
    elif isinstance(first, list) and isinstance(second, list):
        pairs = enumerate(zip_longest(first, second, fillvalue=_MISSING))
        for position, (one, other) in pairs:
            yield from _of_json(f"{name}[{position}]", one, other)
    elif first != second or isinstance(first, bool) is not isinstance(second, bool):
        yield _difference(name, first, second)


def _of_samples(first: Samples, second: Samples) -> Iterator[Difference]:
    if first.n != second.n:
        yield _difference("number of samples", first.n, second.n)
        return
    for name in ("inputs_sha256", "synthetic", "class_names"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            yield _difference(name, one, other)
    if not _close(first.input_entropy, second.input_entropy):
        yield _difference("input_entropy", first.input_entropy, second.input_entropy)
    yield from _of_arrays("index", first.index, second.index)
    if (first.labels is None) != (second.labels is None):
        yield _difference("labels", *("none" if s.labels is None else "some" for s in (first, second)))
    elif first.labels is not None and second.labels is not None:
        yield from _of_arrays("label", first.labels, second.labels)


def _close(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)


def _of_arrays(
    name: str, first: NDArray[np.int64], second: NDArray[np.int64], of: str = "sample"
) -> Iterator[Difference]:
    unequal = np.flatnonzero(first != second)
    if unequal.size:
        position = int(unequal[0])
        yield _difference(f"{name} of {of} {position}", first[position], second[position])


def _of_layers(first: Sequence[Layer], second: Sequence[Layer]) -> Iterator[Difference]:
    keys = [[layer.key for layer in layers] for layers in (first, second)]
    if keys[0] != keys[1]:
        yield from _of_json("layer keys", *keys)
        return
    for one, other in zip(first, second, strict=True):
        for name in ("kind", "unit_shape", "signature", "source_dtype", "dtype"):
            was, now = (_comparable(layer, name) for layer in (one, other))
            if was != now:
                yield _difference(f"{one.key} {name}", was, now)


def _facts(noise: NoiseRecord | None) -> Any:
    if noise is None:
        return _MISSING
    return {name: getattr(noise, name) for name in ("noise_std", "seed", "bit_generator", "checksum")}


def _of_conditional(first: Conditional | None, second: Conditional | None) -> Iterator[Difference]:
    if first is None or second is None:
        if first is not second:
            yield _difference("repeated inputs", *("none" if c is None else c.n for c in (first, second)))
        return
    if first.n_realizations != second.n_realizations:
        yield _difference("realizations of a repeated input", first.n_realizations, second.n_realizations)
    if first.n != second.n:
        yield _difference("number of repeated inputs", first.n, second.n)
    else:
        yield from _of_arrays("position", first.samples, second.samples, "repeated input")
    layers = [sorted(c.layers) for c in (first, second)]
    yield from _of_json("layers with realizations of repeated inputs", *layers)


def _comparable(layer: Layer, name: str) -> Any:
    value = getattr(layer, name)
    if name == "dtype":
        return np.dtype(value).newbyteorder("=").name
    return to_text(value) if isinstance(value, str) else tuple(value)
