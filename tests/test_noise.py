"""Noise inside a network: known answers, statistics, and that a draw depends on where it goes only."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import kstest

from repstat.adapter import Layer, Noise
from repstat.errors import InputRefusedError, UsageError
from repstat.noise import BIT_GENERATOR, FARTHEST, check_noise, checksum, philox, standard_normal

SAMPLES = np.array([5, 0, 3, 2**31, 2**32 + 5, 2**48 - 1, 7])

# Salmon et al. 2011: the known answers of Random123 for philox4x32 with ten rounds.
KNOWN = {
    "0": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "f": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
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
    found = np.stack(philox(list(counters.T), [0xFFFFFFFF, 0xFFFFFFFF]), axis=1)
    assert found[1].tolist() == numbers(KNOWN["f"][2])


def test_numbers_come_from_the_words_as_documented() -> None:
    """Key, counter and value written out once more, in plain integers."""
    sample, realization, unit = 2**33 + 7, 3 * 2**32 + 2, 6
    key = np.random.SeedSequence(11, spawn_key=(0x72657073, 0x6E6F6973, ord("R"), 12)).generate_state(2)
    counter = [unit // 4, 7, 2, 2 + (3 << 16)]
    word = int(philox([np.array([c], np.uint64) for c in counter], key.tolist())[unit % 4][0])
    value = standard_normal(11, "R012", realization, np.array([sample]), 9)[0, unit]
    assert value == ndtri((word + 0.5) / 2**32)


def test_the_values_are_these() -> None:
    """Frozen: stores written by one version are continued by the next."""
    want = [
        [
            0.6976230144991,
            -0.2905938343478,
            0.2547008493559,
            1.2458471602723,
            -0.1915338982559,
        ],
        [
            -0.2362317067788,
            -0.3385428207993,
            -1.5588511566779,
            -0.3431031064485,
            0.8342321013462,
        ],
    ]
    assert np.allclose(draw(2, 5, "L003", 1, seed=7), want, rtol=1e-12, atol=0)
    assert checksum(7, ["L000", "R001"]) == "0ef0dafd292497d16eb76d258bd19fee218c7135d5cc6e585091653c48c15abd"
    assert BIT_GENERATOR == "philox4x32-10"


# ---------------------------------------------------------------- statistics


def test_moments_and_distribution() -> None:
    n = 1_000_000
    z = draw(n // 100, 100).ravel()
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    assert kstest(z, "norm").pvalue > 1e-4
    assert np.abs(z).max() < FARTHEST


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
        "block of units": np.roll(one, 4, axis=1),
        "sample as realization": standard_normal(1, "L000", np.arange(n), np.zeros(n, int), units),
    }
    for name, other in others.items():
        # The first row of the last one is sample 0 of realization 0, which is the very same draw.
        a, b = one[1:].ravel(), other[1:].ravel()
        assert abs(np.mean(a * b)) < 4 / np.sqrt(a.size), name
        assert abs(np.mean((a**2 - 1) * (b**2 - 1))) < 8 / np.sqrt(a.size), name


def test_no_two_draws_are_the_same() -> None:
    parts = [draw(20, 10, layer, r) for layer in ("L000", "L001", "R000") for r in (0, 1, 2**32)]
    far = standard_normal(1, "L000", 0, np.arange(20) + 2**32, 10)
    values = np.concatenate([*parts, far])
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
