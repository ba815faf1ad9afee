"""Lay out a new store file: every object of docs/store-format.md section 3, activations still to come."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer
from repstat.store.header import DIGEST, Header, Records, Table, metadata_digest
from repstat.store.layout import chunk_shape, conditional_chunk_shape
from repstat.store.noise import NoiseRecord
from repstat.store.schema import CONDITIONAL, SCHEMA, metric_table, to_json, to_text

_REFERENCES = np.dtype([("dataset", h5py.ref_dtype), ("dimension", np.int32)])


def write_header(file: h5py.File, header: Header) -> dict[str, h5py.Dataset]:
    """Write all of `header` and make room for the activations.

    Returns
    -------
    dict
        By key of a table, its dataset ``value`` of shape (checkpoint, realization, sample, unit), or
        (checkpoint, repeated input, realization, unit).
    """
    file.attrs["schema_version"] = np.array(header.schema_version, dtype="<i8")
    created_at = header.created_at or datetime.now(UTC).isoformat(timespec="seconds")
    put_texts(
        file,
        schema=SCHEMA,
        created_at=created_at,
        creator=header.creator,
        identity=to_json(header.identity, what="the identity"),
    )
    scales = _Scales()
    checkpoint = scales.add(file, "checkpoint", header.steps)
    realization = scales.add(file, "realization", np.arange(header.n_realizations))
    sample = scales.add(file, "sample", header.samples.index)
    _write_samples(file.create_group("samples"), header, scales, sample)
    records = _write_provenance(file.create_group("provenance"), header)
    _write_checkpoints(file.create_group("checkpoints"), header, records, scales, checkpoint)
    if header.noise is not None:
        _write_noise(file.create_group("noise"), header.noise, scales)
    repeated = _write_conditional(file, header, scales)
    values = {}
    layers = file.create_group("layers")
    for order, layer in enumerate(header.layers):
        group = layers.create_group(layer.key)
        _write_layer(group, layer, order)
        unit = scales.add(group, "unit", np.arange(layer.n_units))
        table = header.values_of(layer)
        chunks = chunk_shape(header.samples.n, layer.n_units, layer.dtype.itemsize)
        values[table.key] = _make_room(group, table, chunks, scales, (checkpoint, realization, sample, unit))
        extra = header.conditional_of(layer)
        if extra is not None:
            chunks = conditional_chunk_shape(*extra.shape, layer.n_units, layer.dtype.itemsize)
            below = group.create_group(CONDITIONAL)
            values[extra.key] = _make_room(below, extra, chunks, scales, (checkpoint, *repeated, unit))
    scales.write_back()
    return values


def write_records(file: h5py.File, records: Records) -> None:
    """Complete the file with what is known only when all activations are written."""
    for key, of_table in records.items():
        group = file["layers"][key]
        group["sha256"][...] = texts([record.sha256 for record in of_table])
        group["n_nan"][...] = [record.n_nan for record in of_table]
        group["n_inf"][...] = [record.n_inf for record in of_table]
    put_texts(file, **{DIGEST: metadata_digest(file)})


def _write_samples(group: h5py.Group, header: Header, scales: "_Scales", sample: h5py.Dataset) -> None:
    samples = header.samples
    put_texts(
        group,
        inputs_sha256=samples.inputs_sha256,
        inputs_source=samples.inputs_source,
        class_names=to_json(list(samples.class_names), what="the class names"),
    )
    group.attrs["synthetic"] = np.array(int(samples.synthetic), dtype="<i8")
    if samples.input_entropy is not None:
        group.attrs["input_entropy"] = np.array(samples.input_entropy, dtype="<f8")
    scales.attach(group.create_dataset("index", data=samples.index.astype("<i8")), sample)
    if samples.labels is not None:
        scales.attach(group.create_dataset("label", data=samples.labels.astype("<i8")), sample)


def _write_noise(group: h5py.Group, noise: NoiseRecord, scales: "_Scales") -> None:
    group.attrs["seed"] = np.array(noise.seed, dtype="<i8")
    put_texts(group, bit_generator=noise.bit_generator, checksum=noise.checksum)
    layer = scales.make(group.create_dataset("layer", data=texts(list(noise.noise_std))), "layer")
    noise_std = np.array(list(noise.noise_std.values()), dtype="<f8")
    scales.attach(group.create_dataset("noise_std", data=noise_std), layer)


def _write_conditional(file: h5py.File, header: Header, scales: "_Scales") -> tuple[h5py.Dataset, ...]:
    """Write which inputs were repeated; return the scales of (repeated input, realization)."""
    repeated = header.conditional
    if repeated is None:
        return ()
    # The labels that the same inputs have along `sample`, so that xarray selects one by the other.
    sample = scales.add(file, "conditional_sample", header.samples.index[repeated.samples])
    realization = scales.add(file, "conditional_realization", np.arange(repeated.n_realizations))
    positions = file.create_group(CONDITIONAL).create_dataset("position", data=repeated.samples.astype("<i8"))
    scales.attach(positions, sample)
    return sample, realization


def _write_provenance(group: h5py.Group, header: Header) -> list[int]:
    """Write each distinct record once; return the ordinal of each checkpoint's."""
    texts = [to_json(c.provenance, what=f"provenance of step {c.step}") for c in header.checkpoints]
    ordinals = {text: ordinal for ordinal, text in enumerate(dict.fromkeys(texts))}
    for text, ordinal in ordinals.items():
        put_texts(group.create_group(f"{ordinal:04d}"), record=text)
    return [ordinals[text] for text in texts]


def _write_checkpoints(
    group: h5py.Group,
    header: Header,
    records: Sequence[int],
    scales: "_Scales",
    checkpoint: h5py.Dataset,
) -> None:
    found = header.checkpoints
    epochs = [np.nan if c.epoch is None else c.epoch for c in found]
    columns: dict[str, Any] = {
        "step": np.array(header.steps, dtype="<i8"),
        "epoch": np.array(epochs, dtype="<f8"),
        "source": texts([c.source for c in found]),
        "sha256": texts([c.sha256 for c in found]),
        "weights_sha256": texts([c.weights_sha256 for c in found]),
        "provenance": np.array(records, dtype="<i8"),
    }
    for name, data in columns.items():
        scales.attach(group.create_dataset(name, data=data), checkpoint)
    metrics = group.create_group("metrics")
    for ordinal, (name, values) in enumerate(metric_table(found).items()):
        dataset = metrics.create_dataset(f"M{ordinal:03d}", data=values)
        put_texts(dataset, name=name)
        scales.attach(dataset, checkpoint)


def _write_layer(group: h5py.Group, layer: Layer, order: int) -> None:
    group.attrs["order"] = np.array(order, dtype="<i8")
    if layer.unit_shape:
        group.attrs["unit_shape"] = np.array(layer.unit_shape, dtype="<i8")
    put_texts(
        group,
        name=layer.name,
        op=layer.op,
        kind=layer.kind,
        source_dtype=layer.source_dtype,
        signature=layer.signature,
    )


def _make_room(
    group: h5py.Group,
    table: Table,
    chunks: tuple[int, ...],
    scales: "_Scales",
    along: tuple[h5py.Dataset, ...],
) -> h5py.Dataset:
    """Make the dataset of the values and those of their records."""
    checkpoint, *_ = along
    shape = (len(checkpoint), *table.shape, table.layer.n_units)
    value = group.create_dataset("value", shape, table.layer.dtype.newbyteorder("<"), chunks=chunks)
    scales.attach(value, *along)
    for dataset in _make_records(group, len(checkpoint)):
        scales.attach(dataset, checkpoint)
    return value


def _make_records(group: h5py.Group, n: int) -> tuple[h5py.Dataset, ...]:
    return (
        group.create_dataset("sha256", data=texts(["0" * 64] * n)),
        group.create_dataset("n_nan", data=np.zeros(n, dtype="<i8")),
        group.create_dataset("n_inf", data=np.zeros(n, dtype="<i8")),
    )


def texts(values: Sequence[str]) -> NDArray[Any]:
    """Return text as it is stored, shape (values,)."""
    encoded = [to_text(text).encode() for text in values]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def put_texts(owner: Any, **attributes: str) -> None:
    """Write text attributes of a group or dataset."""
    for name, text in attributes.items():
        value = texts([text])[0]
        owner.attrs.create(name, value, dtype=h5py.string_dtype("utf-8", max(1, len(value))))


class _Scales:
    """Dimension scales, as the HDF5 library would write them but in linear time.

    `H5DSattach_scale` rewrites all of a scale's references with every call: 11 s for 300 layers.
    """

    def __init__(self) -> None:
        self._references: dict[h5py.Dataset, list[tuple[h5py.Reference, int]]] = {}

    def add(self, group: h5py.Group, name: str, values: Any) -> h5py.Dataset:
        return self.make(group.create_dataset(name, data=np.asarray(values, dtype="<i8")), name)

    def make(self, scale: h5py.Dataset, name: str) -> h5py.Dataset:
        scale.make_scale(name)
        self._references[scale] = []
        return scale

    def attach(self, dataset: h5py.Dataset, *scales: h5py.Dataset) -> None:
        forward = np.empty(len(scales), dtype=object)
        for dimension, scale in enumerate(scales):
            forward[dimension] = np.array([scale.ref], dtype=h5py.ref_dtype)
            self._references[scale].append((dataset.ref, dimension))
        dataset.attrs.create("DIMENSION_LIST", forward, dtype=h5py.vlen_dtype(h5py.ref_dtype))

    def write_back(self) -> None:
        for scale, references in self._references.items():
            scale.attrs.create("REFERENCE_LIST", np.array(references, dtype=_REFERENCES))
