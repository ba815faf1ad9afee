"""``repstat info``: what a bug report needs."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from repstat.cores import usable_cores
from repstat.naming import printable
from repstat.version import __version__

if TYPE_CHECKING:
    from repstat.discovery import FoundAdapter

PACKAGES = (
    "numpy",
    "scipy",
    "h5py",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "tensorflow",
    "keras",
)


@click.command("info", epilog="Example: repstat info > report.txt")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(as_json: bool) -> None:
    """Print versions, the adapters found (or why not), and the devices models can run on."""
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, text in value.items():
                click.echo(f"  {key}: {printable(str(text))}")
        else:
            click.echo(f"{name}: {value}")


def _facts() -> dict[str, object]:
    import h5py

    from repstat.discovery import find_adapters

    adapters = {adapter.name: _describe(adapter) for adapter in find_adapters()}
    return {
        "repstat": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "usable cores": usable_cores(),
        "packages": {name: _version(name) for name in PACKAGES},
        "HDF5": h5py.version.hdf5_version,
        "adapters": adapters or {"none": "reinstall repstat: no adapter is registered"},
    }


def _describe(adapter: "FoundAdapter") -> str:
    if adapter.module is None:
        return f"cannot be loaded: {adapter.problem}"
    try:
        return adapter.module.describe()
    except ImportError as error:
        return f"its framework cannot be loaded: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
