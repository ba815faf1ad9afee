"""Clustering of activations: distances and angles between samples, within classes and between them."""

import sys
from types import ModuleType
from typing import Any

from repstat.clustering.diagnostics import Clustering, clustering
from repstat.clustering.duality import self_duality
from repstat.clustering.geometry import Geometry, geometry
from repstat.clustering.summary import DistanceSummary, distance_edges

__all__ = [
    "Clustering",
    "DistanceSummary",
    "Geometry",
    "clustering",
    "distance_edges",
    "geometry",
    "self_duality",
]


class _CallableModule(ModuleType):
    """Package and verb are both called `repstat.clustering`; importing one must not hide the other."""

    def __call__(self, *args: Any, **options: Any) -> Clustering:
        """Call `clustering`."""
        return clustering(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
