"""Type a command at a file from somebody who means harm, and judge what comes of it."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPSTAT = [sys.executable, "-m", "repstat"]
SECONDS = 60.0


def snapshot(folder: Path, but: Sequence[str] = ()) -> Mapping[str, object]:
    """Return what is in a folder and above its parts, links not followed."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place) / name
            status = path.lstat()
            relative = str(path.relative_to(folder))
            if not any(relative == own or relative.startswith(f"{own}/") for own in but):
                found[relative] = (
                    (status.st_mode, status.st_size, status.st_mtime_ns) if name in files else status.st_mode
                )
    return found


def problems(folder: Path, words: Sequence[str], codes: Sequence[int], text: str = "") -> list[str]:
    """Run a command in `folder`, which has one folder around it; return what went wrong."""
    before = snapshot(folder.parent)
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [*REPSTAT, *words], cwd=folder, capture_output=True, timeout=SECONDS + 30, check=False
        )
    except subprocess.TimeoutExpired:
        return ["it did not end"]
    seconds = time.monotonic() - begun
    said = done.stderr.decode("utf-8", "replace")
    shown = done.stdout.decode("utf-8", "replace") + said
    found = []
    if done.returncode < 0:
        found.append(f"it died by signal {-done.returncode}")
    elif done.returncode not in codes:
        found.append(f"exit code {done.returncode}, expected {codes}")
    if seconds > SECONDS:
        found.append(f"it took {seconds:.0f} s")
    if "Traceback" in shown or "internal error" in shown:
        found.append("a traceback or an internal error")
    if any(not (c.isprintable() or c in "\n\t") for c in shown):
        found.append("control characters on the terminal")
    if done.returncode not in (0, 130, 143) and "repstat: error: " not in said and words[0] != "verify":
        found.append("no message")
    if done.returncode and text not in said:
        found.append(f"the message lacks {text!r}")
    # The time may be up just when the store has got its name, and an error that says so keeps it.
    keeps = not done.returncode or "keeps its finished checkpoints" in said
    own = [str((folder / "acts.h5").relative_to(folder.parent))] if keeps else []
    after = snapshot(folder.parent, own)
    if after != before:
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        found.append(f"files changed: {changed[:5]}")
    return [f"{one}\n{said[-600:]}" for one in found]
