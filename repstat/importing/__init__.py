"""Activations that were made elsewhere: read, checked, and written to a store."""

from repstat.importing.run import import_arrays, run_import

__all__ = ["import_arrays", "run_import"]
