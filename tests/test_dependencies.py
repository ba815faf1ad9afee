"""Optional means optional: the main job runs where nothing but the base dependencies can be imported."""

import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = (
    "torch", "tensorflow", "keras", "tf2onnx", "onnxscript", "safetensors", "matplotlib", "plotly", "jinja2",
    "dask", "distributed", "xarray", "h5netcdf", "pandas", "sklearn", "hypothesis", "pytest", "psutil",
)  # fmt: skip
JOB = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Blocker())
import repstat, repstat_adapters
for module in pkgutil.walk_packages(repstat.__path__, "repstat."):
    # The figures themselves are drawn with matplotlib; asking for one says so.
    if not module.name.startswith("repstat.plots.") and not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
for module in pkgutil.iter_modules(repstat_adapters.__path__, "repstat_adapters."):
    importlib.import_module(module.name)
from repstat.cli import COMMANDS, _run
for command in COMMANDS:
    assert _run([command, "--help"]) == 0
assert _run(["extract", "{model}", "-o", "{folder}/a.h5"]) == 0
assert _run(["analyze", "{folder}/a.h5", "-o", "{folder}/r.h5"]) == 0
assert _run(["import", "{folder}/acts.safetensors", "-o", "{folder}/i.h5"]) == 0
assert _run(["info"]) == 0
loaded = {blocked}.intersection(name.partition(".")[0] for name in sys.modules)
assert not loaded, loaded
"""


def test_the_main_job_needs_the_base_dependencies_only(tmp_path: Path, trajectory: list[Path]) -> None:
    head = b'{"fc": {"dtype": "BF16", "shape": [8, 2], "data_offsets": [0, 32]}}'
    (tmp_path / "acts.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(32))
    code = JOB.format(blocked=set(OPTIONAL), model=trajectory[0], folder=tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_xarray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from repstat.errors import UsageError
    from repstat.results import Results

    monkeypatch.setitem(sys.modules, "xarray", None)
    empty = Results(
        rows=(),
        steps=(0,),
        epochs=(None,),
        layers={},
        n_samples=0,
        n_classes=0,
        synthetic=False,
        provenance={},
    )
    with pytest.raises(UsageError, match=r"xarray is not installed.* pip install 'repstat\[xarray\]'"):
        empty.to_xarray()
