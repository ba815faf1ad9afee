"""Read the header of a file whose structure has been checked, and refuse what contradicts itself."""

import re
from itertools import pairwise
from math import isnan, prod
from pathlib import Path
from typing import Any, NoReturn, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer, LayerKind
from repstat.errors import InputRefusedError
from repstat.store.header import DIGEST, Header, Records, metadata_digest, raw_attribute
from repstat.store.noise import Conditional, NoiseRecord, check_noise
from repstat.store.schema import CONDITIONAL, LAYER_KINDS, Checkpoint, Samples, from_json
from repstat.store.structure import broken
from repstat.store.values import ValueRecord

_SHA256 = re.compile("[0-9a-f]{64}")


def read_header(path: Path, file: h5py.File) -> tuple[Header, Records]:
    """Read all but the activations. `path` is for messages.

    Raises
    ------
    StoreDamagedError
        If the metadata differ from their hash, or break a rule.
    """
    return _Decoder(path, file).header()


class _Decoder:
    """Reads one file; every complaint names the place."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path = path
        self._file = file

    def header(self) -> tuple[Header, Records]:
        found = metadata_digest(self._file)
        recorded = self._text(self._file, DIGEST)
        if found != recorded:
            self._refuse("metadata", f"their SHA-256 is {found[:12]}…, recorded is {recorded[:12]!a}…")
        layers = self._layers()
        samples = self._samples()
        checkpoints = self._checkpoints()
        n_realizations = len(self._file["realization"])
        header = Header(
            samples=samples,
            layers=layers,
            checkpoints=checkpoints,
            identity=self._object(self._file, "identity"),
            n_realizations=n_realizations,
            created_at=self._text(self._file, "created_at"),
            creator=self._text(self._file, "creator"),
            noise=self._noise(),
            conditional=self._conditional(layers),
        )
        self._check_noise(header)
        self._check_scale("checkpoint", np.array(header.steps))
        self._check_scale("realization", np.arange(n_realizations))
        self._check_scale("sample", samples.index)
        return header, {key: self._records(key) for key in header.tables}

    def _refuse(self, place: str, why: str) -> NoReturn:
        raise broken(self._path, place.lstrip("/"), why)

    def _text(self, item: Any, name: str) -> str:
        return self._decoded(raw_attribute(item, name).tobytes(), f"{item.name} @{name}")

    def _decoded(self, raw: bytes, place: str) -> str:
        try:
            return raw.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            self._refuse(place, "it is not UTF-8")

    def _json(self, item: Any, name: str) -> Any:
        try:
            return from_json(self._text(item, name))
        except ValueError as error:
            self._refuse(f"{item.name} @{name}", f"it is not JSON: {error}")

    def _object(self, item: Any, name: str) -> dict[str, Any]:
        value = self._json(item, name)
        if not isinstance(value, dict):
            self._refuse(f"{item.name} @{name}", "expected a JSON object")
        return value

    def _check_scale(self, name: str, expected: NDArray[Any]) -> None:
        if not np.array_equal(self._file[name][...], expected):
            self._refuse(name, "the dimension scale differs from what it is a scale of")

    def _samples(self) -> Samples:
        group = self._file["samples"]
        names = self._json(group, "class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._refuse("samples @class_names", "expected an array of strings")
        synthetic = int(group.attrs["synthetic"])
        if synthetic not in (0, 1):
            self._refuse("samples @synthetic", f"found {synthetic}, expected 0 or 1")
        entropy = group.attrs.get("input_entropy")
        try:
            return Samples(
                index=group["index"][...],
                labels=group["label"][...] if "label" in group else None,
                inputs_sha256=self._text(group, "inputs_sha256"),
                inputs_source=self._text(group, "inputs_source"),
                synthetic=bool(synthetic),
                class_names=tuple(names),
                input_entropy=None if entropy is None else float(entropy),
            )
        except InputRefusedError as error:
            self._refuse("samples", str(error))

    def _noise(self) -> NoiseRecord | None:
        if "noise" not in self._file:
            return None
        group = self._file["noise"]
        keys = self._texts(group["layer"])
        if len(set(keys)) < len(keys):
            self._refuse("noise/layer", "a layer occurs twice")
        try:
            return NoiseRecord(
                noise_std=dict(zip(keys, group["noise_std"][...].tolist(), strict=True)),
                seed=int(group.attrs["seed"]),
                bit_generator=self._text(group, "bit_generator"),
                checksum=self._text(group, "checksum"),
            )
        except InputRefusedError as error:
            self._refuse("noise", str(error))

    def _conditional(self, layers: tuple[Layer, ...]) -> Conditional | None:
        names = (CONDITIONAL, "conditional_sample", "conditional_realization")
        with_it = tuple(layer.key for layer in layers if CONDITIONAL in self._file["layers"][layer.key])
        missing = [name for name in names if name not in self._file]
        if len(missing) == len(names) and not with_it:
            return None
        if missing:
            self._refuse(missing[0], "it is missing, but other parts of repeated inputs are there")
        for key in with_it:
            group = self._file["layers"][key]
            if group["value"].dtype != group[CONDITIONAL]["value"].dtype:
                self._refuse(f"layers/{key}/{CONDITIONAL}/value", "its type is not that of the layer's value")
        n_realizations = len(self._file["conditional_realization"])
        try:
            return Conditional(self._file[CONDITIONAL]["position"][...], n_realizations, with_it)
        except InputRefusedError as error:
            self._refuse(CONDITIONAL, str(error))

    def _check_noise(self, header: Header) -> None:
        repeated = header.conditional
        try:
            check_noise(header.noise, repeated, header.samples.n, header.layers)
        except InputRefusedError as error:
            self._refuse(CONDITIONAL, str(error))
        if repeated is not None:
            self._check_scale("conditional_sample", header.samples.index[repeated.samples])
            self._check_scale("conditional_realization", np.arange(repeated.n_realizations))

    def _checkpoints(self) -> tuple[Checkpoint, ...]:
        group = self._file["checkpoints"]
        steps = group["step"][...].tolist()
        if steps[0] < 0 or any(a >= b for a, b in pairwise(steps)):
            self._refuse("checkpoints/step", "the steps do not increase from 0 or more")
        records = self._provenance(self._file["provenance"])
        ordinals = group["provenance"][...].tolist()
        if not all(0 <= ordinal < len(records) for ordinal in ordinals):
            self._refuse("checkpoints/provenance", f"there are {len(records)} records")
        columns = {name: self._texts(group[name]) for name in ("source", "sha256", "weights_sha256")}
        metrics = self._metrics(group["metrics"])
        epochs = group["epoch"][...].tolist()
        if any(np.isinf(epochs)):
            self._refuse("checkpoints/epoch", "an epoch is infinite")
        return tuple(
            Checkpoint(
                step=step,
                epoch=None if isnan(epochs[i]) else epochs[i],
                source=columns["source"][i],
                sha256=columns["sha256"][i],
                weights_sha256=columns["weights_sha256"][i],
                metrics={name: values[i] for name, values in metrics.items()},
                provenance=records[ordinals[i]],
            )
            for i, step in enumerate(steps)
        )

    def _provenance(self, group: h5py.Group) -> list[dict[str, Any]]:
        names = [f"{ordinal:04d}" for ordinal in range(len(group))]
        if not all(name in group for name in names):
            self._refuse("provenance", "the records are not numbered 0000, 0001, ...")
        return [self._object(group[name], "record") for name in names]

    def _metrics(self, group: h5py.Group) -> dict[str, list[float]]:
        table: dict[str, list[float]] = {}
        for dataset in group.values():
            name = self._text(dataset, "name")
            if name in table:
                self._refuse(dataset.name, f"the metric {name[:60]!r} occurs twice")
            table[name] = dataset[...].tolist()
        return table

    def _texts(self, dataset: h5py.Dataset) -> list[str]:
        return [self._decoded(bytes(raw), dataset.name) for raw in dataset[...]]

    def _layers(self) -> tuple[Layer, ...]:
        groups = list(self._file["layers"].values())
        if not groups:
            self._refuse("layers", "there are none")
        groups.sort(key=lambda group: int(group.attrs["order"]))
        if [int(group.attrs["order"]) for group in groups] != list(range(len(groups))):
            self._refuse("layers", "their orders are not 0, 1, 2, ...")
        return tuple(self._layer(group) for group in groups)

    def _layer(self, group: h5py.Group) -> Layer:
        kind = self._text(group, "kind")
        if kind not in LAYER_KINDS:
            self._refuse(f"{group.name} @kind", f"found {kind[:60]!r}")
        shape = tuple(group.attrs["unit_shape"].tolist()) if "unit_shape" in group.attrs else ()
        value = group["value"]
        n_units = value.shape[3]
        if any(length < 1 for length in shape) or prod(shape) != n_units:
            self._refuse(f"{group.name} @unit_shape", f"found {shape[:16]} for {n_units} units")
        if not np.array_equal(group["unit"][...], np.arange(n_units)):
            self._refuse(f"{group.name}/unit", "the dimension scale is not 0, 1, 2, ...")
        return Layer(
            key=group.name.rpartition("/")[2],
            name=self._text(group, "name"),
            op=self._text(group, "op"),
            kind=cast(LayerKind, kind),
            unit_shape=shape,
            dtype=value.dtype.newbyteorder("="),
            source_dtype=self._text(group, "source_dtype"),
            signature=self._text(group, "signature"),
            target="",
        )

    def _records(self, key: str) -> tuple[ValueRecord, ...]:
        group = self._file["layers"][key]
        hashes = self._texts(group["sha256"])
        if not all(_SHA256.fullmatch(text) for text in hashes):
            self._refuse(f"layers/{key}/sha256", "found something that is no SHA-256")
        counts = zip(hashes, group["n_nan"][...].tolist(), group["n_inf"][...].tolist(), strict=True)
        return tuple(ValueRecord(*count) for count in counts)
