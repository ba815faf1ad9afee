"""Packages that some tests need and an installation may lack."""

import importlib
import os
from types import ModuleType

import pytest


def require(name: str) -> ModuleType:
    """Import `name`; without it skip the test, or fail where REPSTAT_REQUIRE_ALL=1 promises everything."""
    if os.environ.get("REPSTAT_REQUIRE_ALL") == "1":
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module
