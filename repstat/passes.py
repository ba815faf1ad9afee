"""Which passes an extraction makes through each checkpoint of a noisy network, and what is recorded of them.

Every input goes through R times (the realizations of the store's `value`); some inputs go through C times
more, for the entropy of a layer given its input. All passes have noise of their own: the repeated ones have
realization numbers from `repstat.noise.FIRST_CONDITIONAL` on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from repstat.adapter import Adapter, Array, Layer, Noise
from repstat.arrays import random_rows
from repstat.errors import UsageError
from repstat.noise import BIT_GENERATOR, check_noise, checksum
from repstat.numbers import whole_number
from repstat.store import Conditional, NoiseRecord

REALIZATIONS = 10
"""By default: the marginal density of a layer is that of m x 10 activations."""

CONDITIONAL_SAMPLES = 256
"""By default: the mean over 256 inputs stands for that over all, with its error."""

CONDITIONAL_REALIZATIONS = 1000
"""By default: what h(T|X) of a few units needs for an error of some hundredths of a nat."""

CONDITIONAL_BYTES = 2**28
"""By default the repeated inputs take this much per checkpoint at most, and then fewer realizations."""

_PROBE_STD = 10.0
"""Noise that no layer behind it misses: in this much a rectified unit fires half of the time."""

_SUBSET_KEY = 0x72657074


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseOptions:
    """What a user asks for.

    Parameters
    ----------
    noise_std
        One standard deviation for every hidden layer, or one for each of some, by key or name. As text
        ``0.005`` or ``L001=0.005,fc2=0.01``. None for a network without noise.
    realizations, conditional_samples, conditional_realizations
        R, K and C; None for the default, and zero of the last two for no repeated inputs.
    """

    noise_std: float | str | Mapping[str, float] | None = None
    realizations: int | None = None
    conditional_samples: int | None = None
    conditional_realizations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """The passes through each checkpoint: once without noise, or as said here."""

    noise: NoiseRecord | None = None
    n_realizations: int = 1
    conditional: Conditional | None = None

    def n_samples(self, n: int) -> int:
        """Return how many samples go through a checkpoint, of `n` inputs."""
        repeated = self.conditional.n * self.conditional.n_realizations if self.conditional else 0
        return n * self.n_realizations + repeated

    def at(self, realization: int | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Noise | None:
        """Return the noise of one pass, or of one for each sample."""
        if self.noise is None:
            return None
        return Noise(self.noise.noise_std, self.noise.seed, realization)


def plan_passes(
    options: NoiseOptions,
    adapter: Adapter,
    found: Sequence[Layer],
    chosen: Sequence[Layer],
    probe: Mapping[str, Array],
    *,
    n_samples: int,
    seed: int,
) -> Passes:
    """Return the passes that `options` ask for.

    Parameters
    ----------
    options
        What the user said.
    adapter, found, chosen, probe
        The first model, all of its layers, those to be recorded, and a few samples.
    n_samples
        Inputs.
    seed
        Of the noise, and of the choice of repeated inputs.

    Raises
    ------
    UsageError
        Options contradict each other or the model.
    """
    if options.noise_std is None:
        _refuse_without_noise(options)
        return Passes()
    stds = {key: std for key, std in _by_key(options.noise_std, found).items() if std > 0.0}
    check_noise(Noise(stds, seed), found, 1)
    if not stds:
        raise UsageError(
            what="no layer gets noise",
            why="every noise_std is 0, or the model has no hidden layer",
            fix="Leave out --noise-std to record the network without noise",
        )
    record = NoiseRecord(stds, seed, BIT_GENERATOR, checksum(seed, stds))
    realizations = _count("realizations", options.realizations, REALIZATIONS, 1)
    conditional = None
    if noisy := _behind_noise(adapter, chosen, stds, probe, seed):
        conditional = _conditional(options, noisy, n_samples, seed)
        if conditional is None and realizations == 1:
            raise UsageError(
                what="a single noisy pass does not tell h(T|X)",
                why="no input is repeated and realizations is 1",
                fix="Ask for more realizations, or for repeated inputs",
            )
    return Passes(noise=record, n_realizations=realizations, conditional=conditional)


def _refuse_without_noise(options: NoiseOptions) -> None:
    for name in ("realizations", "conditional_samples", "conditional_realizations"):
        if getattr(options, name) is not None:
            raise UsageError(
                what=f"{name} without noise_std",
                why="without noise every pass of an input is the same",
                fix="Give --noise-std as well, or leave it out",
            )


def _by_key(noise_std: float | str | Mapping[str, float], found: Sequence[Layer]) -> dict[str, float]:
    """Return the standard deviation of each layer named, by key."""
    if isinstance(noise_std, str) and "=" in noise_std:
        words = [word.rpartition("=") for word in noise_std.split(",")]
        names = [name.strip() for name, _, _ in words]
        _refuse_twice(names)
        noise_std = {name: _number(std) for name, (_, _, std) in zip(names, words, strict=True)}
    if not isinstance(noise_std, Mapping):
        std = _number(noise_std)
        return {layer.key: std for layer in found if layer.kind == "hidden"}
    stds: dict[str, float] = {}
    for name, value in noise_std.items():
        keys = [layer.key for layer in found if name in (layer.key, layer.name)]
        if len(keys) != 1:
            raise UsageError(
                what=f"noise is asked for in a layer {name!r}",
                why=f"{len(keys)} layers of the model are called so; they are "
                + ", ".join(f"{layer.key} ({layer.name})" for layer in found),
                fix="Use a key that repstat layers lists",
            )
        _refuse_twice([*stds, keys[0]])
        stds[keys[0]] = _number(value)
    return stds


def _refuse_twice(names: Sequence[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(
            what=f"noise_std names the layer {twice[0]!r} twice",
            why="a layer has one noise",
            fix="Name it once, by its key or by its name",
        )


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not isfinite(number) or number < 0.0:
        raise UsageError(
            what=f"noise_std {value!r} is not a number from 0",
            why="it is a standard deviation in activation units",
            fix="Write for example 0.005, or L001=0.005,L002=0.01 for single layers",
        )
    return number


def _count(name: str, value: object, default: int, least: int) -> int:
    if value is None:
        return default
    return whole_number(name, value, least)


def _behind_noise(
    adapter: Adapter,
    chosen: Sequence[Layer],
    stds: Mapping[str, float],
    probe: Mapping[str, Array],
    seed: int,
) -> list[Layer]:
    """Return the layers that noise of earlier layers reaches: those that differ between two noisy passes."""
    n = max(len(array) for array in probe.values())
    loud = dict.fromkeys(stds, _PROBE_STD)
    first, second = (
        adapter.run(probe, chosen, samples=np.arange(n), noise=Noise(loud, seed, realization))
        for realization in (0, 1)
    )
    return [x for x in chosen if not np.array_equal(first[x.key], second[x.key], equal_nan=True)]


def _conditional(
    options: NoiseOptions, layers: Sequence[Layer], n_samples: int, seed: int
) -> Conditional | None:
    n_repeated = _count("conditional_samples", options.conditional_samples, CONDITIONAL_SAMPLES, 0)
    if options.conditional_samples is not None and n_repeated > n_samples:
        raise UsageError(
            what=f"cannot repeat {n_repeated} inputs", why=f"there are {n_samples}", fix="Ask for fewer"
        )
    n_repeated = min(n_repeated, n_samples)
    per_pass = n_repeated * sum(layer.n_units * layer.dtype.itemsize for layer in layers)
    affordable = max(REALIZATIONS, min(CONDITIONAL_REALIZATIONS, CONDITIONAL_BYTES // max(per_pass, 1)))
    count = _count("conditional_realizations", options.conditional_realizations, affordable, 0)
    if n_repeated == 0 or count == 0:
        return None
    samples = random_rows(n_samples, n_repeated, seed, (_SUBSET_KEY,))
    return Conditional(samples, count, tuple(layer.key for layer in layers))
