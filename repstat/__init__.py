"""repstat: what the layers of a neural network know, while it learns.

Extract hidden activations over the checkpoints of a training, estimate mutual information under noise and by
binning, and measure how representations cluster; every number with its error, ceiling and status.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from repstat.version import __version__

if TYPE_CHECKING:
    from repstat.adapter import AdapterOptions as AdapterOptions
    from repstat.analysis import analyze as analyze
    from repstat.clustering import Clustering as Clustering
    from repstat.clustering import clustering as clustering
    from repstat.errors import RepstatError as RepstatError
    from repstat.estimators import BinnedMI as BinnedMI
    from repstat.estimators import Binning as Binning
    from repstat.estimators import NetworkMI as NetworkMI
    from repstat.estimators import NoisyMI as NoisyMI
    from repstat.estimators import binned_mi as binned_mi
    from repstat.estimators import noisy_mi as noisy_mi
    from repstat.estimators import pairwise_bounds as pairwise_bounds
    from repstat.estimators import sample_propagation_mi as sample_propagation_mi
    from repstat.extraction import extract as extract
    from repstat.importing import import_arrays as import_arrays
    from repstat.recording import Recorder as Recorder
    from repstat.results import Estimate as Estimate
    from repstat.results import Results as Results
    from repstat.results import Status as Status
    from repstat.store import Store as Store
    from repstat.store import open_store as open_store
    from repstat.store.merge import merge as merge
    from repstat.store.results_file import open_results as open_results
    from repstat.store.verify import verify as verify

# Names load on first use: `import repstat` stays cheap, and `repstat --help` needs no numpy.
_HOMES = {
    "AdapterOptions": "repstat.adapter",
    "BinnedMI": "repstat.estimators",
    "Binning": "repstat.estimators",
    "Clustering": "repstat.clustering",
    "Estimate": "repstat.results",
    "NetworkMI": "repstat.estimators",
    "NoisyMI": "repstat.estimators",
    "Recorder": "repstat.recording",
    "RepstatError": "repstat.errors",
    "Results": "repstat.results",
    "Status": "repstat.results",
    "Store": "repstat.store",
    "analyze": "repstat.analysis",
    "binned_mi": "repstat.estimators",
    "clustering": "repstat.clustering",
    "extract": "repstat.extraction",
    "import_arrays": "repstat.importing",
    "merge": "repstat.store",
    "noisy_mi": "repstat.estimators",
    "open_results": "repstat.store.results_file",
    "open_store": "repstat.store",
    "pairwise_bounds": "repstat.estimators",
    "sample_propagation_mi": "repstat.estimators",
    "verify": "repstat.store",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'repstat' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
