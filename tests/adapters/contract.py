"""What every adapter must do, whatever its framework: subclass `AdapterContract` and give it cases."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Adapter, Array, InputSpec, Layer, Noise
from repstat.errors import InputRefusedError, RepstatError, UsageError

ROUNDING = 1e-6
"""Allowed between batch sizes, relative to the largest activation (float16 models: 1e-3)."""


@dataclass(frozen=True)
class Case:
    """One model and a batch for it; `expected` holds activations computed without the framework."""

    open: Callable[[], Adapter]
    feeds: Mapping[str, Array]
    keys: Sequence[str]
    kinds: Sequence[str]
    files: Sequence[Path] = ()
    expected: Mapping[str, Array] = field(default_factory=dict)


def n_samples(case: Case, specs: Sequence[InputSpec]) -> int:
    return int(case.feeds[specs[0].name].shape[specs[0].batch_axis])


def rows(feeds: Mapping[str, Array], specs: Sequence[InputSpec], index: Sequence[int]) -> dict[str, Array]:
    return {s.name: np.take(feeds[s.name], list(index), axis=s.batch_axis) for s in specs}


def hashes(files: Sequence[Path]) -> list[tuple[str, int]]:
    return [(hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files]


class AdapterContract:
    """Subclass, and override the fixture `case`."""

    @pytest.fixture
    def case(self) -> Case:
        raise NotImplementedError

    @pytest.fixture
    def adapter(self, case: Case) -> Iterator[Adapter]:
        adapter = case.open()
        yield adapter
        adapter.close()

    def run(
        self,
        adapter: Adapter,
        case: Case,
        layers: Sequence[Layer],
        index: Sequence[int] | None = None,
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        specs = adapter.inputs()
        index = range(n_samples(case, specs)) if index is None else index
        samples = np.asarray(index, dtype=np.int64)
        return adapter.run(rows(case.feeds, specs, index), layers, samples=samples, noise=noise)

    def noise(self, layers: Sequence[Layer], std: float = 0.5, seed: int = 5, realization: Any = 0) -> Noise:
        """Noise in every hidden layer."""
        return Noise({layer.key: std for layer in layers if layer.kind == "hidden"}, seed, realization)

    def close_to(self, have: Array, want: Array) -> bool:
        relative = 1e-3 if have.dtype == np.float16 else ROUNDING
        return bool(np.abs(have - want).max() <= relative * max(1.0, float(np.abs(want).max())))

    def test_is_an_adapter(self, adapter: Adapter) -> None:
        assert isinstance(adapter, Adapter)

    def test_inputs_describe_the_batch(self, adapter: Adapter, case: Case) -> None:
        specs = adapter.inputs()
        assert [spec.name for spec in specs] == list(case.feeds)
        for spec in specs:
            array = case.feeds[spec.name]
            assert array.dtype == spec.dtype
            rest = array.shape[: spec.batch_axis] + array.shape[spec.batch_axis + 1 :]
            assert all(w in (None, h) for h, w in zip(rest, spec.sample_shape, strict=True))

    def test_layers_have_the_expected_keys_and_kinds(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        assert [layer.key for layer in layers] == list(case.keys)
        assert [layer.kind for layer in layers] == list(case.kinds)
        for layer in layers:
            assert re.fullmatch(r"[LR]\d{3,}", layer.key)
            assert layer.name
            assert layer.signature
            assert layer.dtype.kind == "f"

    def test_layers_are_the_same_with_a_probe_and_twice(self, adapter: Adapter, case: Case) -> None:
        without = adapter.layers()
        probe = rows(case.feeds, adapter.inputs(), [0, 1, 2])
        assert adapter.layers(probe) == without
        assert adapter.layers(rows(probe, adapter.inputs(), [0])) == without
        assert adapter.layers() == without

    def test_run_returns_owned_contiguous_native_arrays_batch_first(
        self, adapter: Adapter, case: Case
    ) -> None:
        layers = adapter.layers()
        values = self.run(adapter, case, layers)
        assert list(values) == [layer.key for layer in layers]
        for layer in layers:
            value = values[layer.key]
            assert type(value) is np.ndarray
            assert value.shape == (n_samples(case, adapter.inputs()), *layer.unit_shape)
            assert value.dtype == layer.dtype
            assert value.dtype.isnative
            assert value.flags.owndata
            assert value.flags.c_contiguous
            assert value.flags.writeable
            assert np.isfinite(value).all()

    def test_values_are_those_computed_by_hand(self, adapter: Adapter, case: Case) -> None:
        values = self.run(adapter, case, adapter.layers())
        for key, want in case.expected.items():
            assert self.close_to(values[key], want), key

    def test_equal_arguments_give_equal_results(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        first = self.run(adapter, case, layers)
        kept = {key: value.copy() for key, value in first.items()}
        for value in first.values():
            value[...] = 0  # a result may be overwritten without harm
        again = self.run(adapter, case, layers)
        reopened = case.open()
        elsewhere = self.run(reopened, case, reopened.layers())
        reopened.close()
        for key, value in kept.items():
            assert np.array_equal(value, again[key])
            assert np.array_equal(value, elsewhere[key])

    def test_answer_does_not_depend_on_the_batches(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        whole = self.run(adapter, case, layers)
        n = n_samples(case, adapter.inputs())
        for size in (1, 3, n - 1):
            parts = [self.run(adapter, case, layers, range(s, min(s + size, n))) for s in range(0, n, size)]
            for key, value in whole.items():
                assert self.close_to(np.concatenate([part[key] for part in parts]), value)

    def test_samples_follow_their_order(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        n = n_samples(case, adapter.inputs())
        order = [*range(1, n), 0]
        whole, rolled = self.run(adapter, case, layers), self.run(adapter, case, layers, order)
        for key, value in whole.items():
            assert self.close_to(rolled[key], value[order])
            assert not np.array_equal(rolled[key], value)  # samples do differ, in every layer

    def test_a_layer_is_the_same_whatever_else_is_asked_for(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        together = self.run(adapter, case, layers)
        for layer in layers:
            alone = self.run(adapter, case, [layer])
            assert list(alone) == [layer.key]
            assert np.array_equal(alone[layer.key], together[layer.key])

    def test_no_layers_and_repeated_layers(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        assert self.run(adapter, case, []) == {}
        values = self.run(adapter, case, [layers[-1], layers[0], layers[-1]])
        assert list(values) == list(dict.fromkeys([layers[-1].key, layers[0].key]))

    def test_a_probe_without_samples_is_refused(self, adapter: Adapter, case: Case) -> None:
        with pytest.raises(InputRefusedError, match="the probe has no samples"):
            adapter.layers(rows(case.feeds, adapter.inputs(), []))

    def test_no_samples(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        for layer, value in zip(layers, self.run(adapter, case, layers, []).values(), strict=True):
            assert value.shape == (0, *layer.unit_shape)

    def test_byte_and_memory_order_do_not_matter(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        whole = self.run(adapter, case, layers)
        strange = {
            name: np.asfortranarray(array.astype(array.dtype.newbyteorder(">")))
            for name, array in case.feeds.items()
        }
        backwards = {
            name: np.ascontiguousarray(array[..., ::-1])[..., ::-1] if array.ndim else array
            for name, array in case.feeds.items()
        }
        for feeds in (strange, backwards):
            for key, value in self.run(adapter, replace(case, feeds=feeds), layers).items():
                assert np.array_equal(value, whole[key])

    def test_an_unknown_layer_is_an_error(self, adapter: Adapter, case: Case) -> None:
        layer = adapter.layers()[0]
        for stranger in (replace(layer, key="L999"), replace(layer, unit_shape=(12345,))):
            with pytest.raises(UsageError, match=f"layer {stranger.key} .* is not this model's"):
                self.run(adapter, case, [stranger])

    def test_bad_batches_are_refused_with_what_was_expected(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        specs = adapter.inputs()
        n, spec = n_samples(case, specs), specs[0]
        good, first = dict(case.feeds), case.feeds[spec.name]
        other = "float64" if spec.dtype != np.float64 else "float32"
        bad: dict[str, tuple[dict[str, Any], int]] = {
            f"found {other}, expected {spec.dtype}": ({**good, spec.name: first.astype(other)}, n),
            f"expected '{spec.name}'": ({f"{spec.name}_": first}, n),
            "found .*'nobody'": ({**good, "nobody": first}, n),
            f"found {n} samples and 1 ind": (good, 1),
        }
        if spec.declared or spec.dtype.kind == "f":  # ids that nobody declared may be of any shape
            text = r"wrong shape: found \(.*\), expected \(.*samples"
            bad[text] = ({**good, spec.name: first[..., None]}, n)
        for text, (feeds, length) in bad.items():
            with pytest.raises(RepstatError, match=text):
                adapter.run(feeds, layers, samples=np.arange(length))
        assert list(self.run(adapter, case, layers)) == list(case.keys)

    def test_the_model_is_never_changed(self, case: Case) -> None:
        before = hashes(case.files)
        folders = {f.parent: sorted(f.parent.iterdir()) for f in case.files}
        adapter = case.open()
        clean = self.run(adapter, case, adapter.layers())
        self.run(adapter, case, adapter.layers(), noise=self.noise(adapter.layers()))
        for key, value in self.run(adapter, case, adapter.layers()).items():
            assert np.array_equal(value, clean[key])
        with pytest.raises(RepstatError):
            adapter.run({}, adapter.layers(), samples=np.arange(1))
        adapter.close()
        assert hashes(case.files) == before
        assert {f.parent: sorted(f.parent.iterdir()) for f in case.files} == folders

    def test_the_batch_is_never_changed(self, adapter: Adapter, case: Case) -> None:
        before = {name: array.copy() for name, array in case.feeds.items()}
        frozen = {name: array.copy() for name, array in case.feeds.items()}
        for array in frozen.values():
            array.setflags(write=False)
        samples = np.arange(n_samples(case, adapter.inputs()))
        adapter.run(frozen, adapter.layers(frozen), samples=samples)
        assert all(np.array_equal(frozen[name], array) for name, array in before.items())

    def test_provenance_is_json_and_complete(self, adapter: Adapter, case: Case) -> None:
        adapter.layers()
        facts = json.loads(json.dumps(dict(adapter.provenance()), allow_nan=False))
        needed = {"framework", "versions", "files", "sha256", "weights_sha256", "provider", "threads"}
        assert needed <= facts.keys()
        assert [f["sha256"] for f in facts["files"]] == [digest for digest, _ in hashes(case.files)]
        assert re.fullmatch("[0-9a-f]{64}", facts["weights_sha256"])

    def test_a_closed_model_says_so(self, case: Case) -> None:
        adapter = case.open()
        layers = adapter.layers()
        adapter.close()
        with pytest.raises(UsageError, match="the model was closed"):
            self.run(adapter, case, layers)

    def test_stdout_stays_silent(self, case: Case, capfd: pytest.CaptureFixture[str]) -> None:
        adapter = case.open()
        self.run(adapter, case, adapter.layers())
        adapter.close()
        assert capfd.readouterr().out == ""

    # ------------------------------------------------------------ noise inside the network

    def test_no_noise_is_the_clean_network_to_the_bit(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        clean = self.run(adapter, case, layers)
        for noise in (self.noise(layers, std=0.0), Noise({}, seed=5)):
            for key, value in self.run(adapter, case, layers, noise=noise).items():
                assert np.array_equal(value, clean[key])

    def test_a_layer_has_the_noise_of_the_layers_before_and_not_its_own(
        self, adapter: Adapter, case: Case
    ) -> None:
        layers = adapter.layers()
        clean = self.run(adapter, case, layers)
        noisy = self.run(adapter, case, layers, noise=self.noise(layers))
        assert np.array_equal(noisy[layers[0].key], clean[layers[0].key])
        last = layers[-1].key
        moved = np.abs(noisy[last] - clean[last]).reshape(len(noisy[last]), -1).max(axis=1)
        assert (moved > 1e-2).all()  # every sample
        for layer in layers:
            assert noisy[layer.key].dtype == layer.dtype
            assert np.isfinite(noisy[layer.key]).all()

    def test_noise_does_not_depend_on_batches_order_or_subset(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        noise = self.noise(layers)
        whole = self.run(adapter, case, layers, noise=noise)
        n = n_samples(case, adapter.inputs())
        for size in (1, 3):
            cuts = [range(s, min(s + size, n)) for s in range(0, n, size)]
            parts = [self.run(adapter, case, layers, cut, noise) for cut in cuts]
            for key, value in whole.items():
                assert self.close_to(np.concatenate([part[key] for part in parts]), value)
        order = [n - 1, 0, 2]
        for key, value in self.run(adapter, case, layers, order, noise).items():
            assert self.close_to(value, whole[key][order])

    def test_equal_noise_gives_equal_results_and_another_does_not(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        first = self.run(adapter, case, layers, noise=self.noise(layers))
        reopened = case.open()
        again = self.run(reopened, case, reopened.layers(), noise=self.noise(layers))
        reopened.close()
        assert all(np.array_equal(first[key], again[key]) for key in first)
        last = layers[-1].key
        others = [self.noise(layers, seed=6), self.noise(layers, realization=1), self.noise(layers, std=0.4)]
        for other in others:
            value = self.run(adapter, case, layers, noise=other)[last]
            assert not np.isclose(value, first[last]).reshape(len(value), -1).all(axis=1).any()

    def test_layers_not_asked_for_get_their_noise(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        noise = self.noise(layers)
        together = self.run(adapter, case, layers, noise=noise)
        for layer in layers:
            alone = self.run(adapter, case, [layer], noise=noise)
            assert list(alone) == [layer.key]
            assert np.array_equal(alone[layer.key], together[layer.key])

    def test_each_sample_has_its_own_noise(self, adapter: Adapter, case: Case) -> None:
        """The same input thrice: noise differs between samples, and agrees for the same sample."""
        layers, last = adapter.layers(), adapter.layers()[-1].key
        feeds = rows(case.feeds, adapter.inputs(), [0, 0, 0])
        noise = self.noise(layers)
        value = adapter.run(feeds, layers, samples=np.array([4, 9, 4]), noise=noise)[last]
        assert self.close_to(value[2], value[0])
        assert not np.isclose(value[1], value[0]).all()

    def test_a_realization_for_each_sample_is_as_many_calls(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        n = n_samples(case, adapter.inputs())
        index, passes = [*range(n), *range(n)], np.repeat([3, 8], n)
        together = self.run(adapter, case, layers, index, self.noise(layers, realization=passes))
        for half, number in enumerate((3, 8)):
            alone = self.run(adapter, case, layers, noise=self.noise(layers, realization=number))
            for key, value in alone.items():
                assert self.close_to(together[key][half * n :][:n], value)

    def test_noise_that_cannot_be_is_refused(self, adapter: Adapter, case: Case) -> None:
        layers = adapter.layers()
        hidden = next(layer.key for layer in layers if layer.kind == "hidden")
        output = next(layer.key for layer in layers if layer.kind == "output")
        bad = {
            "in a layer 'L999' that the model does not have.*its layers are L000": Noise({"L999": 0.1}, 0),
            f"in an output of the model.*layer {output} .*Leave the layer out": Noise({output: 0.1}, 0),
            "noise_std -1.0 is not a number from 0.*standard deviation": Noise({hidden: -1.0}, 0),
            "noise_std inf is not a number from 0": Noise({hidden: float("inf")}, 0),
            "one realization, or one per sample.*found": Noise({hidden: 0.1}, 0, np.arange(99)),
        }
        for text, noise in bad.items():
            with pytest.raises(UsageError, match=text):
                self.run(adapter, case, layers, noise=noise)
        for seed, realization, text in ((-1, 0, "the seed -1"), (0, -1, "a realization of the noise")):
            with pytest.raises(UsageError, match=text):
                self.run(adapter, case, layers, noise=self.noise(layers, 0.5, seed, realization))
