"""The how-to of the Keras page is run from its first block to its last."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import repstat
from tests.optional import require
from tests.test_docs import BLOCK, ROOT

PAGE = ROOT / "docs" / "keras.md"


def environment(folder: Path) -> dict[str, str]:
    """Where an installation is older than the adapter, register it for this run."""
    paths = [str(ROOT), str(ROOT / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not any(point.name == "tensorflow" for point in entry_points(group="repstat.adapters")):
        info = folder / "registered" / "repstat_keras-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: repstat-keras\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[repstat.adapters]\ntensorflow = repstat_adapters.keras\n")
        paths.append(str(info.parent))
    scripts = Path(sys.executable).parent
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "132"}


@pytest.mark.slow
def test_the_how_to_runs(tmp_path: Path) -> None:
    require("tensorflow")
    work = tmp_path / "work"
    work.mkdir()
    script = ["import subprocess"]
    for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        code = match["code"]
        if match["language"] == "python":
            script.append(code)
        else:
            script.append(f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {code!r}], check=True)")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=work,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "fc1" in done.stdout
    assert (work / "acts.results.h5").exists()
    assert "Traceback" not in done.stderr
    with repstat.open_store(work / "mc.h5") as store:
        assert [(one.step, one.epoch) for one in store.checkpoints] == [(1, 1), (2, 2)]
        named = sorted((work / "mc").iterdir())
        losses = [f"{one.metrics['val_loss']:.3f}" for one in store.checkpoints]
        assert [path.name for path in named] == [f"e{i}-{loss}.keras" for i, loss in enumerate(losses, 1)]
