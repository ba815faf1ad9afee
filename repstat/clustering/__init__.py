"""Clustering of activations: distances and angles between samples, within classes and between them."""

from repstat.clustering.diagnostics import Clustering, clustering
from repstat.clustering.summary import DistanceSummary, distance_edges

__all__ = ["Clustering", "DistanceSummary", "clustering", "distance_edges"]
