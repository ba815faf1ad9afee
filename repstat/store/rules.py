"""The format as one table: which objects, of which type and shape (docs/store-format.md, section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from repstat.store.schema import CONDITIONAL, LAYER_KEY, SCHEMA, SCHEMA_VERSION

SCALE_ATTRIBUTES = frozenset({"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"})
"""Of the HDF5 dimension scale specification: permitted on datasets, written for other tools, never read."""

SYMBOLS = {
    "n": "checkpoints", "R": "realizations", "m": "samples", "d": "units of the layer",
    "q": "noisy layers", "K": "repeated inputs", "C": "realizations of a repeated input",
    "r": "rows", "k": "metrics", "l": "layers", "e": "edges", "b": "bins", "1": "entry",
    "p": "points", "a": "axes",
}  # fmt: skip
"""Lengths that recur, in a store (first two lines) and in a results file (others)."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """Type and shape (None: any length) of an attribute."""

    type: str = "S"
    shape: tuple[int | None, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Data:
    """Permitted types of a dataset, and its dimensions as symbols that stand for one length each.

    `since` is the minor version that added it: a file of an earlier one must not have it.
    """

    types: tuple[str, ...]
    dims: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    required: bool = True
    since: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Attributes of a group, its children by regular expression, and the lengths that are its own.

    `since` as in `Data`.
    """

    children: Mapping[str, "Group | Data"] = field(default_factory=dict)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    required: bool = True
    own: tuple[str, ...] = ()
    since: int = 0


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file: what it calls itself, the newest version that is read, its rules, its maker."""

    schema: str
    version: tuple[int, int]
    root: Group
    short: str
    command: str
    remedy: str


_TEXT, _INTEGER = Attribute(), Attribute("i8")
_RECORDS = {"sha256": Data(("S",), ("n",)), "n_nan": Data(("i8",), ("n",)), "n_inf": Data(("i8",), ("n",))}
_VALUES = ("f2", "f4", "f8")
LAYER = Group(
    own=("d",),
    attributes={
        **dict.fromkeys(("name", "op", "kind", "source_dtype", "signature"), _TEXT),
        "order": _INTEGER,
        "unit_shape": Attribute("i8", (None,), required=False),
    },
    children={
        "value": Data(_VALUES, ("n", "R", "m", "d")),
        "unit": Data(("i8",), ("d",)),
        **_RECORDS,
        CONDITIONAL: Group(
            {"value": Data(_VALUES, ("n", "K", "C", "d")), **_RECORDS}, required=False, since=1
        ),
    },
)
NOISE = Group(
    attributes={"seed": _INTEGER, "bit_generator": _TEXT, "checksum": _TEXT},
    children={"layer": Data(("S",), ("q",)), "noise_std": Data(("f8",), ("q",))},
    since=1,
)
ROOT = Group(
    attributes={
        **dict.fromkeys(("schema", "created_at", "creator", "identity", "metadata_sha256"), _TEXT),
        "schema_version": Attribute("i8", (2,)),
    },
    children={
        "checkpoint": Data(("i8",), ("n",)),
        "realization": Data(("i8",), ("R",)),
        "sample": Data(("i8",), ("m",)),
        "samples": Group(
            attributes={
                **dict.fromkeys(("inputs_sha256", "inputs_source", "class_names"), _TEXT),
                "synthetic": _INTEGER,
                "input_entropy": Attribute("f8", required=False),
            },
            children={"index": Data(("i8",), ("m",)), "label": Data(("i8",), ("m",), required=False)},
        ),
        "checkpoints": Group(
            children={
                "step": Data(("i8",), ("n",)),
                "epoch": Data(("f8",), ("n",)),
                "source": Data(("S",), ("n",)),
                "sha256": Data(("S",), ("n",)),
                "weights_sha256": Data(("S",), ("n",)),
                "provenance": Data(("i8",), ("n",)),
                "metrics": Group(
                    children={"M[0-9]{3,9}": Data(("f8",), ("n",), {"name": _TEXT}, required=False)}
                ),
            }
        ),
        "layers": Group(children={LAYER_KEY.pattern: LAYER}),
        "noise": NOISE,
        CONDITIONAL: Group({"position": Data(("i8",), ("K",))}, required=False, since=1),
        "conditional_sample": Data(("i8",), ("K",), required=False, since=1),
        "conditional_realization": Data(("i8",), ("C",), required=False, since=1),
        "provenance": Group(children={"[0-9]{4,9}": Group(attributes={"record": _TEXT})}),
    },
)
STORE = Form(SCHEMA, SCHEMA_VERSION, ROOT, "store", "repstat extract", "extract it again")
