"""The format as one table: which objects, of which type and shape (docs/store-format.md, section 3).

Reserved for a later minor version, and so far refused: /noise, /conditional, /layers/*/conditional.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from repstat.store.schema import LAYER_KEY, SCHEMA, SCHEMA_VERSION

SCALE_ATTRIBUTES = frozenset({"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"})
"""Of the HDF5 dimension scale specification: permitted on datasets, written for other tools, never read."""

SYMBOLS = {
    "n": "checkpoints", "R": "realizations", "m": "samples", "d": "units of the layer",
    "r": "rows", "k": "metrics", "l": "layers", "e": "edges", "b": "bins", "1": "entry",
}  # fmt: skip
"""Lengths that recur, in a store (first line) and in a results file."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """Type and shape (None: any length) of an attribute."""

    type: str = "S"
    shape: tuple[int | None, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Data:
    """Permitted types of a dataset, and its dimensions as symbols that stand for one length each."""

    types: tuple[str, ...]
    dims: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """Attributes of a group, its children by regular expression, and the lengths that are its own."""

    children: Mapping[str, "Group | Data"] = field(default_factory=dict)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    required: bool = True
    own: tuple[str, ...] = ()


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
LAYER = Group(
    own=("d",),
    attributes={
        **dict.fromkeys(("name", "op", "kind", "source_dtype", "signature"), _TEXT),
        "order": _INTEGER,
        "unit_shape": Attribute("i8", (None,), required=False),
    },
    children={
        "value": Data(("f2", "f4", "f8"), ("n", "R", "m", "d")),
        "unit": Data(("i8",), ("d",)),
        "sha256": Data(("S",), ("n",)),
        "n_nan": Data(("i8",), ("n",)),
        "n_inf": Data(("i8",), ("n",)),
    },
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
        "provenance": Group(children={"[0-9]{4,9}": Group(attributes={"record": _TEXT})}),
    },
)
STORE = Form(SCHEMA, SCHEMA_VERSION, ROOT, "store", "repstat extract", "extract it again")
