"""Noise inside a network: known answers, statistics, and that a draw depends on where it goes only."""

import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import cos, log, pi, sin, sqrt
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import kstest

from repstat.adapter import Layer, Noise
from repstat.errors import InputRefusedError, UsageError
from repstat.noise import (
    BIT_GENERATOR,
    FARTHEST,
    FIRST_CONDITIONAL,
    _box_muller,
    check_noise,
    checksum,
    standard_normal,
)
from repstat.philox import Rows, philox

SAMPLES = np.array([5, 0, 3, 2**31, 2**32 + 5, 2**48 - 1, 7])

# Salmon et al. 2011: the known answers of Random123 for philox4x64 with ten rounds.
KNOWN = {
    "0": (
        "0 0 0 0",
        "0 0",
        "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
    ),
    "f": (
        "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff",
        "ffffffffffffffff ffffffffffffffff",
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    "pi": (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
}


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def draw(n: int, units: int, layer: str = "L000", realization: Any = 0, seed: int = 1) -> np.ndarray:
    return standard_normal(seed, layer, realization, np.arange(n), units)


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name: str) -> None:
    counter, key, words = (numbers(text) for text in KNOWN[name])
    found = philox([np.array([word], np.uint64) for word in counter], key)
    assert [int(word[0]) for word in found] == words


def test_known_answers_side_by_side() -> None:
    """Counters in one array do not touch each other."""
    counters = np.array([numbers(KNOWN[name][0]) for name in ("0", "f")], np.uint64)
    found = np.stack(philox(list(counters.T), [2**64 - 1] * 2), axis=1)
    assert found[1].tolist() == numbers(KNOWN["f"][2])


def test_a_stream_gives_the_same_words() -> None:
    first = np.concatenate([np.arange(1, 60), np.arange(2**48 - 30, 2**48)]).astype(np.uint64)
    second = np.repeat(np.array([2**63 + 5, 6], np.uint64), [50, 39])
    found = np.empty((3, len(first), 4), np.uint64)
    Rows([7, 2**64 - 1], first, second).draw(range(2**20, 2**20 + 3), found)
    blocks = np.arange(2**20, 2**20 + 3, dtype=np.uint64)[:, None]
    want = philox((first, second, blocks, np.zeros(1, np.uint64)), [7, 2**64 - 1])
    assert np.array_equal(found, np.stack(want, axis=-1))


@pytest.mark.parametrize("realization", [3 * 2**32 + 2, FIRST_CONDITIONAL + 7])
def test_numbers_come_from_the_words_as_documented(realization: int) -> None:
    """Key, counter and value written out once more, in plain numbers."""
    sample = 2**33 + 7
    key = np.random.SeedSequence(11, spawn_key=(0x72657073, 0x6E6F6973, ord("R"), 12)).generate_state(
        2, np.uint64
    )
    found = standard_normal(11, "R012", realization, np.array([sample]), 21)[0]
    for unit, value in enumerate(found.tolist()):
        counter = [sample + 1, realization, unit // 8, 0]
        if realization >= 2**40:
            counter = [realization + 1, sample + 2**63, unit // 8, 0]
        word = int(philox([np.array([c], np.uint64) for c in counter], key.tolist())[unit % 4][0])
        low, high = word % 2**32, word >> 32
        radius, angle = sqrt(-2 * log((low + 0.5) / 2**32)), pi * high / 2**31
        assert abs(value - radius * (sin(angle) if unit % 8 >= 4 else cos(angle))) < 2e-6


def test_the_values_are_these() -> None:
    """Frozen: stores written by one version are continued by the next."""
    want = [
        [-1.437677145, -0.3905461133, -0.03792295977, -2.3575417996, -0.8644959331, 1.7392549515],
        [-0.0151155144, -1.696632266, 0.6695210338, -0.4178958833, -0.08739688247, 0.9589968324],
    ]
    assert np.allclose(draw(2, 6, "L003", 1, seed=7), want, rtol=1e-5, atol=2e-6)
    repeated = [[1.6907832623, 0.6417484879, 1.02662003], [-2.7868261337, 1.2593187094, -0.00617964938]]
    assert np.allclose(draw(2, 3, "L003", FIRST_CONDITIONAL + 1, seed=7), repeated, rtol=1e-5, atol=2e-6)
    assert checksum(7, ["L000", "R001"]) == "6f14644ce1553f11c2db60051cef5c3037b351d491c2f0dc0950efe8ba266d80"
    assert BIT_GENERATOR == "philox4x64-10 box-muller"


# ---------------------------------------------------------------- statistics


def flaws(z: np.ndarray) -> list[str]:
    """Return in what numbers, ``(n, 8)``, differ from independent standard normal ones."""
    n, flat = z.size, z.ravel().astype(np.float64)
    found = {
        "mean": abs(flat.mean()) < 4 / np.sqrt(n),
        "variance": abs(flat.var() - 1) < 4 * np.sqrt(2 / n),
        "third moment": abs((flat**3).mean()) < 4 * np.sqrt(15 / n),
        "fourth moment": abs((flat**4).mean() - 3) < 4 * np.sqrt(96 / n),
        "distribution": kstest(flat, "norm").pvalue > 1e-4,
        "each unit": min(kstest(column, "norm").pvalue for column in z.T) > 1e-5,
    }
    for power in (1, 2):
        raised = z.astype(np.float64) ** power
        off = np.corrcoef(raised, rowvar=False) - np.eye(z.shape[1])
        found[f"units to the power {power}"] = np.abs(off).max() < 4.5 / np.sqrt(len(z))
    return [name for name, right in found.items() if not right]


def wrong_tails(parts: Iterable[np.ndarray]) -> list[str]:
    """Return which tails of numbers have too many or too few of them.

    Of 64 million, 2,027 are expected beyond 4 on either side and 18 beyond 5.
    """
    sides = [(sign, far) for sign in (-1, 1) for far in (4, 5)]
    n, counts = 0, np.zeros(4)
    for part in parts:
        n += part.size
        counts += [np.count_nonzero(sign * part > far) for sign, far in sides]
    want = np.array([n * ndtr(-far) for _, far in sides])
    wrong = np.abs(counts - want) > 4 * np.sqrt(want)
    return [f"{sign * far}" for (sign, far), bad in zip(sides, wrong, strict=True) if bad]


def words(n: int, key: int = 5) -> np.ndarray:
    """Words of blocks that follow one another, ``(n, 4)``."""
    return np.random.Philox(key=key).random_raw(4 * n).reshape(n, 4)


def transformed(words: np.ndarray) -> np.ndarray:
    """The numbers of blocks of words, ``(n, 8)``."""
    parts = (words[None, i : i + 8192] for i in range(0, len(words), 8192))
    return np.concatenate([np.concatenate(_box_muller(part), axis=-1)[0] for part in parts])


def test_moments_and_distribution() -> None:
    z = draw(125_000, 8)
    assert z.dtype == np.float32
    assert flaws(z) == []
    assert flaws(transformed(words(125_000))) == []


def test_tails() -> None:
    assert wrong_tails(draw(500_000, 8, realization=r) for r in range(16)) == []


def test_a_radius_of_16_bits_has_no_tail() -> None:
    short = (transformed(words(500_000, key) | np.uint64(2**16 - 1)) for key in range(16))
    assert wrong_tails(short) == ["-5", "5"]


LOW, HIGH = np.uint64(2**32 - 1), np.uint64(2**64 - 2**32)
MUTANTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "one half for both": (lambda w: (w & LOW) * np.uint64(2**32 + 1), "distribution"),
    "half of the circle": (lambda w: w & np.uint64(2**63 - 1), "mean"),
    "quarters of the circle": (lambda w: w | np.uint64(2**62), "units to the power 1"),
    "one radius": (lambda w: (w & HIGH) | (w[:, :1] & LOW), "units to the power 2"),
    "one word twice": (lambda w: w[:, [0, 1, 2, 0]], "units to the power 1"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_words_are_noticed(name: str) -> None:
    change, text = MUTANTS[name]
    assert text in flaws(transformed(change(words(125_000))))


def test_the_farthest_numbers() -> None:
    """The smallest and the largest radius, along both axes."""
    corners = [
        low + (high << 32) for low in (0, 1, 2**31, 2**32 - 1) for high in (0, 2**30, 2**31, 2**32 - 1)
    ]
    cosine, sine = _box_muller(np.array(corners, np.uint64).reshape(1, -1, 4))
    radius = np.hypot(cosine.astype(np.float64), sine)[0]
    want = [[sqrt(-2 * log((low + 0.5) / 2**32))] for low in (0, 1, 2**31)]
    assert np.allclose(radius[:3], want, rtol=1e-6)
    assert (radius[3] == 0).all()
    assert FARTHEST - 0.01 < radius.max() < FARTHEST


def test_layers_realizations_samples_units_and_seeds_are_independent() -> None:
    n, units = 2000, 50
    one = draw(n, units)
    others = {
        "layer": draw(n, units, layer="L001"),
        "join": draw(n, units, layer="R000"),
        "realization": draw(n, units, realization=1),
        "far realization": draw(n, units, realization=2**32),
        "seed": draw(n, units, seed=2),
        "sample": np.roll(one, 1, axis=0),
        "unit": np.roll(one, 1, axis=1),
        "half a block of units": np.roll(one, 4, axis=1),
        "block of units": np.roll(one, 8, axis=1),
        "repeated": draw(n, units, realization=FIRST_CONDITIONAL),
        "sample as realization": standard_normal(1, "L000", np.arange(n), np.zeros(n, int), units),
    }
    for name, other in others.items():
        # The first row of the last one is sample 0 of realization 0, which is the very same draw.
        a, b = one[1:].ravel(), other[1:].ravel()
        assert abs(np.mean(a * b)) < 4 / np.sqrt(a.size), name
        assert abs(np.mean((a**2 - 1) * (b**2 - 1))) < 8 / np.sqrt(a.size), name


def test_no_two_draws_are_the_same() -> None:
    parts = [
        draw(20, 10, layer, r) for layer in ("L000", "L001", "R000") for r in (0, 1, 2**32, 2**40, 2**40 + 1)
    ]
    far = standard_normal(1, "L000", 0, np.arange(20) + 2**32, 10)
    # A repeated input is not the sample and realization with which it shares the first words.
    swapped = standard_normal(1, "L000", np.arange(20), np.arange(20) + 2**40, 10)
    values = np.concatenate([*parts, far, swapped])
    assert len(np.unique(values[:, 0])) == len(values)


# ---------------------------------------------------------------- a draw depends on nothing else


def test_subsets_order_and_batches_do_not_matter() -> None:
    whole = standard_normal(3, "L002", 4, SAMPLES, 11)
    order = np.array([6, 2, 0, 1, 5, 4, 3])
    assert np.array_equal(standard_normal(3, "L002", 4, SAMPLES[order], 11), whole[order])
    for size in (1, 2, 3):
        parts = [
            standard_normal(3, "L002", 4, SAMPLES[i : i + size], 11) for i in range(0, len(SAMPLES), size)
        ]
        assert np.array_equal(np.concatenate(parts), whole)
    twice = standard_normal(3, "L002", 4, np.repeat(SAMPLES, 2), 11)
    assert np.array_equal(twice, np.repeat(whole, 2, axis=0))


@pytest.mark.parametrize("first", [0, 2**32 - 50, FIRST_CONDITIONAL - 50, 2**48 - 300])
@pytest.mark.parametrize("n_units", [1, 5, 8, 10, 20, 21, 22, 24])
def test_rows_that_follow_one_another_are_what_each_is_alone(first: int, n_units: int) -> None:
    """Long runs of samples or realizations are drawn as a stream, and others not."""
    rows, other = np.arange(300) + first, np.repeat([7, 3], 150)
    for samples, passes in ((rows, other), (other, rows), (rows, rows)):
        whole = standard_normal(3, "L002", passes, samples, n_units)
        for i in (0, 49, 50, 149, 150, 299):
            alone = standard_normal(3, "L002", int(passes[i]), samples[i : i + 1], n_units)
            assert np.array_equal(alone[0], whole[i])
        order = np.random.default_rng(0).permutation(300)
        assert np.array_equal(
            standard_normal(3, "L002", passes[order], samples[order], n_units), whole[order]
        )


def test_the_length_of_a_batch_does_not_matter() -> None:
    """Vector instructions treat the last numbers of an array apart."""
    whole = draw(5000, 30)
    for n in (*range(1, 80), 1023, 1024, 1025, 4999):
        assert np.array_equal(draw(n, 30), whole[:n])


def test_threads_do_not_touch_each_other() -> None:
    want = [draw(3000, 40, realization=r) for r in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda r: draw(3000, 40, realization=r), list(range(8)) * 4))
    assert all(np.array_equal(a, want[i % 8]) for i, a in enumerate(found))


def test_fewer_units_are_the_first_ones() -> None:
    whole = standard_normal(3, "L002", 4, SAMPLES, 70_000)
    for units in (0, 1, 3, 4, 5, 65_536, 65_537):
        assert np.array_equal(standard_normal(3, "L002", 4, SAMPLES, units), whole[:, :units])


def test_one_realization_per_sample() -> None:
    each = np.array([0, 1, 5, 2**40, 1, 0, 2])
    together = standard_normal(3, "L002", each, SAMPLES, 6)
    alone = [standard_normal(3, "L002", int(r), SAMPLES[i : i + 1], 6) for i, r in enumerate(each)]
    assert np.array_equal(together, np.concatenate(alone))


def test_the_number_in_the_key_counts_and_not_its_spelling() -> None:
    assert np.array_equal(draw(2, 3, "L001"), draw(2, 3, "L1"))
    assert draw(2, 3, "L1000").shape == (2, 3)
    assert draw(0, 3).shape == (0, 3)


def test_memory_stays_near_the_result() -> None:
    for n, units in ((2, 2_000_000), (400_000, 10)):
        tracemalloc.start()
        result = draw(n, units)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - result.nbytes < 20e6


def test_the_checksum_tells_seeds_and_layers_apart() -> None:
    sums = [checksum(seed, layers) for seed in (0, 1) for layers in (["L000"], ["R000"], ["L000", "L001"])]
    assert len(set(sums)) == 6
    assert checksum(0, ["L001", "L000"]) == checksum(0, ["L000", "L001", "L000"])


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layer": "fc1"}, "'fc1' is not the key of a layer.*letter L or R.*repstat layers"),
        ({"seed": -1}, "seed -1 of the noise is negative.*from 0"),
        ({"samples": np.array([0, -1])}, r"a sample .*out of range: found -1 to 0.*2\^48 - 1"),
        ({"samples": np.array([2**48])}, "a sample .*out of range: found 281474976710656"),
        ({"samples": np.array([0.5])}, "found numbers of type float64, expected integers"),
        ({"realization": -1}, r"a realization .*out of range: found -1 to -1"),
        ({"realization": np.arange(3)}, r"one realization, or one per sample: found .*\(3,\).*\(2,\)"),
    ],
)
def test_what_cannot_be_right(change: dict[str, Any], text: str) -> None:
    arguments: dict[str, Any] = {
        "seed": 0, "layer": "L000", "realization": 0, "samples": np.arange(2), "n_units": 3, **change
    }  # fmt: skip
    with pytest.raises(UsageError, match=text):
        standard_normal(**arguments)


LAYER = Layer("L000", "fc1", "Gemm", "hidden", (5,), np.dtype(np.float32), "float32", "linear", "t")
LAYERS = [
    LAYER,
    replace(LAYER, key="L001", source_dtype="float16"),
    replace(LAYER, key="L002", source_dtype="uint8"),
    replace(LAYER, key="R000", kind="residual"),
    replace(LAYER, key="L003", name="head", kind="output"),
]


def test_levels_come_back_in_forward_order_without_zeros() -> None:
    asked = Noise({"R000": 2, "L001": 0.0, "L000": 0.5}, seed=0, realization=np.arange(4))
    assert check_noise(asked, LAYERS, 4) == {"L000": 0.5, "R000": 2.0}


@pytest.mark.parametrize(
    ("stds", "error", "text"),
    [
        ({"L009": 0.1}, UsageError, "a layer 'L009' that .*m.onnx: its layers are L000.*Use the keys"),
        ({"L009": 0.0}, UsageError, "does not have"),
        ({"L003": 0.1}, UsageError, r"an output of the model in m.onnx: layer L003 \(head\).*Leave"),
        ({"L000": -0.1}, UsageError, r"noise_std -0.1 is not a number from 0 .*L000 \(fc1\).*deviation"),
        ({"L000": float("nan")}, UsageError, "noise_std nan is not a number from 0"),
        ({"L000": float("inf")}, UsageError, "noise_std inf is not a number from 0"),
        ({"L002": 0.1}, InputRefusedError, "not floating point .*L002.*uint8.*before it was quantised"),
        ({"L001": 2e4}, UsageError, "noise_std 20000.0 is out of range .*float16.*6.1e-05 to 6.6e"),
        ({"L001": 1e-6}, UsageError, "noise_std 1e-06 is out of range .*well inside"),
    ],
)  # fmt: skip
def test_noise_that_cannot_be_added(stds: dict[str, float], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_noise(Noise(stds, seed=0), LAYERS, 4, "m.onnx")


def test_realizations_must_be_as_many_as_samples() -> None:
    with pytest.raises(UsageError, match=r"one realization, or one per sample: .*shape \(3,\) for 4 samples"):
        check_noise(Noise({"L000": 1.0}, 0, np.arange(3)), LAYERS, 4)
