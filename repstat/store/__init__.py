"""The activation store: the only code that knows HDF5 paths. The format is docs/store-format.md.

`StoreWriter` writes one, `open_store` reads one, `merge` joins several, `verify` checks one.
Writing needs POSIX locks.
"""

from repstat.store.checkpoint import CheckpointWriter
from repstat.store.layout import predicted_bytes
from repstat.store.lock import OutputLock, output_lock
from repstat.store.merge import merge
from repstat.store.noise import Conditional, NoiseRecord
from repstat.store.parts import tidy_up
from repstat.store.reader import Store, open_store
from repstat.store.schema import Checkpoint, Samples
from repstat.store.values import ValueRecord
from repstat.store.verify import verify
from repstat.store.views import ActivationView, LayerView
from repstat.store.writer import StoreWriter

__all__ = [
    "ActivationView",
    "Checkpoint",
    "CheckpointWriter",
    "Conditional",
    "LayerView",
    "NoiseRecord",
    "OutputLock",
    "Samples",
    "Store",
    "StoreWriter",
    "ValueRecord",
    "merge",
    "open_store",
    "output_lock",
    "predicted_bytes",
    "tidy_up",
    "verify",
]
