"""What each number of a report is, in a sentence, and what to cite for it."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

LABELS = {
    "mi_input": "I(X;T)",
    "mi_label": "I(Y;T)",
    "mi_input_linearised": "I(X;T), linearised",
    "mi_input_rise": "I(X;T) less that of the layer before",
    "conditional_entropy": "h(T|X) - h(Z)",
    "binned_mi_input": "H(Bin) = I(X;Bin)",
    "binned_mi_label": "I(Y;Bin)",
    "within_class_distance": "distance within classes",
    "between_class_distance": "distance between classes",
    "mean_distance": "mean distance",
    "distance_ratio": "distance within / between",
    "distance_auc": "AUC of distances",
    "within_class_cosine": "cosine within classes",
    "between_class_cosine": "cosine between classes",
    "mean_cosine": "mean cosine",
    "nc1": "NC1",
    "nc2_equinorm": "NC2, equinorm",
    "nc2_equiangularity": "NC2, equiangularity",
    "nc2_simplex": "NC2, simplex",
    "nc4": "NC4",
    "knn_agreement": "10-NN agreement",
    "silhouette": "silhouette",
    "participation_ratio": "participation ratio",
    "constant_units": "constant units",
    "effective_clusters": "effective clusters",
}
"""How a quantity is called where a person reads it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An entry of ``references.bib``."""

    bibtex: str

    def field(self, name: str) -> str:
        """Return a field of the entry; empty without it."""
        found = re.search(rf"^  {name}\s*= {{(.*)}},?$", self.bibtex, re.MULTILINE)
        return found.group(1) if found else ""

    @property
    def link(self) -> str:
        """Where the work is found: its DOI, or its arXiv number."""
        doi = self.field("doi")
        return f"https://doi.org/{doi}" if doi else f"https://arxiv.org/abs/{self.field('eprint')}"

    @property
    def identifier(self) -> str:
        """The DOI, or the arXiv number, as it is cited."""
        doi = self.field("doi")
        return f"doi:{doi}" if doi else f"arXiv:{self.field('eprint')}"

    @property
    def text(self) -> str:
        """The work on one line: authors, year, title, where it appeared."""
        people = [person.split(",")[0] for person in self.field("author").split(" and ")]
        who = people[0] if len(people) == 1 else " and ".join(people) if len(people) == 2 else ""
        where = self.field("journal") or self.field("booktitle") or "preprint"
        return f"{who or people[0] + ' et al.'} {self.field('year')}. {self.field('title')}. {where}."


@dataclass(frozen=True, slots=True)
class Method:
    """One estimator or diagnostic: which quantities it gives, what they are, and what to cite."""

    title: str
    quantities: frozenset[str]
    text: str
    keys: tuple[str, ...]
    noise_model: str = ""

    @property
    def references(self) -> tuple[Reference, ...]:
        """The works to cite."""
        return tuple(references()[key] for key in self.keys)


METHODS = (
    Method(
        "Information through measurement noise",
        frozenset({"mi_input", "mi_label"}),
        "The network is deterministic; T is the activation plus Gaussian noise of standard deviation "
        "noise_std, added for the measurement alone. X is uniform on the stored samples. I(X;T) then "
        "says how many samples can be told apart at that scale. It never exceeds ln n. The shaded "
        "bounds hold without sampling.",
        ("goldfeld2019estimating", "goldfeld2020convergence", "kolchinsky2017estimating"),
        "measurement",
    ),
    Method(
        "Information of a noisy network (sample propagation)",
        frozenset({"mi_input", "mi_label", "conditional_entropy", "mi_input_linearised", "mi_input_rise"}),
        "The network computes with Gaussian noise in every hidden layer, and T is a layer with its "
        "own. Densities are mixtures over noisy passes; too few passes bias I(X;T) upward, which the "
        "status tells.",
        ("goldfeld2019estimating", "goldfeld2020convergence"),
        "network",
    ),
    Method(
        "Binned entropy",
        frozenset({"binned_mi_input", "binned_mi_label"}),
        "Each unit is cut into bins; H(Bin) is the entropy of the cells that samples fall into. Exact "
        "for the stored samples. In a deterministic network it measures clustering at the scale of a "
        "bin.",
        ("shwartzziv2017opening", "saxe2019information"),
    ),
    Method(
        "Pair distances",
        frozenset({"distance_auc", "distance_ratio", "within_class_distance", "mean_distance"}),
        "Euclidean distances of pairs of samples of one class and of two; AUC is the probability that "
        "a pair of two classes is farther apart than one within a class.",
        ("goldfeld2019estimating",),
    ),
    Method(
        "Neural collapse",
        frozenset({"nc1", "nc2_equinorm", "nc2_equiangularity", "nc2_simplex", "nc4"}),
        "NC1: variance within classes over that of the class means. NC2: whether the means form a "
        "simplex. NC4: how often the nearest class mean disagrees with the network.",
        ("papyan2020prevalence",),
    ),
    Method(
        "Neighbours",
        frozenset({"knn_agreement"}),
        "Share of a sample's own class among its 10 nearest others.",
        ("cover1967nearest",),
    ),
    Method(
        "Silhouette",
        frozenset({"silhouette"}),
        "How much nearer a sample is to its own class than to the next.",
        ("rousseeuw1987silhouettes",),
    ),
    Method(
        "Dimension",
        frozenset({"participation_ratio"}),
        "Over how many directions the variance is spread.",
        ("litwinkumar2017optimal",),
    ),
    Method(
        "Constant units",
        frozenset({"constant_units"}),
        "How many units have one value for every sample: dead rectifiers, and what sees only padding.",
        (),
    ),
    Method(
        "Noise-scale profile",
        frozenset({"effective_clusters"}),
        "exp I(X;T) over noise scales: how many groups of samples can be told apart at each. A "
        "plateau is a number of clusters.",
        ("goldfeld2019estimating", "hill1973diversity"),
    ),
)

SCATTER = Method(
    "Scatter",
    frozenset(),
    "Some samples in axes that all checkpoints share: the units themselves if there are three or "
    "fewer, else two principal components of the pooled checkpoints.",
    ("jolliffe2016principal",),
)
RANKS = Method(
    "Rank correlation",
    frozenset(),
    "Of two series along the trajectory, beside the interval in which it would lie by chance.",
    ("spearman1904proof",),
)


def used(kinds: Collection[tuple[str, str]], *, scatter: bool) -> tuple[Method, ...]:
    """Return the methods behind some (quantity, noise model) pairs."""
    found = [
        method
        for method in METHODS
        if any(
            quantity in method.quantities and method.noise_model in ("", model) for quantity, model in kinds
        )
    ]
    return (*found, *([SCATTER] if scatter else []), RANKS)


@cache
def references() -> dict[str, Reference]:
    """Return the entries of ``references.bib`` by key."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in text.split("\n\n")]
    return {entry[entry.index("{") + 1 : entry.index(",")]: Reference(entry) for entry in entries}
