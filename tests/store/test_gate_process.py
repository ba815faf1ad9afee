"""The gate's process: whatever a file does to HDF5 in there, the reader lives and refuses the file."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repstat import child, open_results, open_store
from repstat.child import Child, ChildDiedError
from repstat.errors import ResourceError, StoreDamagedError
from repstat.store import gate, verify
from tests.store.making import write

MODULE = """
import os, signal, sys, time
from repstat.child import IDLE_SECONDS
def main():
    for line in sys.stdin:
        exec({action!r})
        print('{{"found": "%d"}}' % os.getpid(), flush=True)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "acts.h5")


@pytest.fixture
def acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return a function that puts a process which does `action` in the place of the gate's."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[Child] = []

    def make(action: str, seconds: float = 20.0) -> Child:
        name = f"acting_{len(made)}"
        (tmp_path / f"{name}.py").write_text(MODULE.format(action=action))
        made.append(Child(name, seconds))
        monkeypatch.setattr(gate, "STORE_GATE", made[-1])
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it ended by SIGSEGV"),
        ("os.abort()", "it ended by SIGABRT"),
        ("os._exit(3)", "it ended with exit code 3"),
        ("os._exit(0)", "it ended with exit code 0"),
        ("time.sleep(60)", "it took longer than 1 seconds"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", "it took longer than 1 seconds"),
        ("print('x' * 3000000, end='', flush=True); time.sleep(60)", "it answered more than"),
        ("print('no JSON', flush=True)", "it answered what is no answer"),
        ("import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 9))\nwhile True: pass", "processor time"),
    ],
)
def test_a_file_that_kills_or_stops_the_process_is_refused(acting, sound: Path, action, text) -> None:
    one = acting(action, 8.0 if "resource" in action else 1.0)
    begin = time.monotonic()
    with pytest.raises(StoreDamagedError, match=text) as caught:
        open_store(sound)
    assert caught.value.exit_code == 4
    assert time.monotonic() - begin < 12
    (problem,) = verify(sound)
    assert text in problem
    assert one._process is None


def test_results_pass_the_same_gate(acting, tmp_path: Path, sound: Path) -> None:
    import repstat

    saved = repstat.analyze(sound, estimators="binned").save(tmp_path / "r.h5")
    acting("os.abort()")
    with pytest.raises(StoreDamagedError, match=r"results file breaks a rule.*it ended by SIGABRT"):
        open_results(saved)


def test_one_process_serves_many_files_and_ends_when_idle(sound: Path, monkeypatch) -> None:
    started: list[str] = []
    launch = child._launch
    monkeypatch.setattr(child, "_launch", lambda module: started.append(module) or launch(module))
    one = Child("repstat.store.gate_child", 20.0)
    monkeypatch.setattr(gate, "STORE_GATE", one)
    for _ in range(5):
        open_store(sound).close()
    assert len(started) == 1
    assert one._process is not None
    one._process.send_signal(signal.SIGKILL)  # between two questions: nothing was asked, nothing is refused
    one._process.wait()
    open_store(sound).close()
    assert len(started) == 2
    one.close()
    assert one._process is None


def test_threads_share_it(sound: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(verify, [sound] * 20)) == [[]] * 20


def test_a_relative_path_means_the_present_folder(sound: Path, tmp_path: Path, monkeypatch) -> None:
    open_store(sound).close()
    monkeypatch.chdir(sound.parent)
    open_store(sound.name).close()
    (tmp_path / "acts.h5").write_bytes(sound.read_bytes()[:-1000])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreDamagedError, match=r"^the store breaks a rule of its format in acts\.h5: HDF5"):
        open_store("acts.h5")


def test_no_interpreter_is_a_resource_that_lacks(sound: Path, monkeypatch) -> None:
    monkeypatch.setattr(gate, "STORE_GATE", Child("repstat.store.gate_child", 20.0))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ResourceError, match="cannot start the process that checks files"):
        open_store(sound)


def test_a_module_in_the_stranger_s_folder_is_not_loaded(sound: Path, tmp_path: Path) -> None:
    shutil.copy(sound, tmp_path / "acts.h5")
    for name in ("numpy", "h5py", "json"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise SystemExit(9)\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "repstat", "verify", "acts.h5"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(child.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_replaced_while_it_is_judged(sound: Path, tmp_path: Path, monkeypatch) -> None:
    path = Path(shutil.copy(sound, tmp_path / "acts.h5"))
    other = write(tmp_path / "other.h5")
    with pytest.raises(StoreDamagedError, match="was replaced while it was open"):
        open_store(path, gate=lambda _: other.replace(path))


def test_no_child_is_left_behind(sound: Path) -> None:
    code = (
        "import sys, repstat; from repstat.child import STORE_GATE; "
        f"repstat.open_store({str(sound)!r}); print(STORE_GATE._process.pid); sys.stdout.flush(); {{}}"
    )
    for end in ("pass", "import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(end)], capture_output=True, text=True, check=False
        )
        pid = int(done.stdout)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and _runs(pid):
            time.sleep(0.05)
        assert not _runs(pid), end


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_limits_are_on_in_there(tmp_path: Path, monkeypatch) -> None:
    """The real process, asked to do what it must not be able to."""
    code = """
import resource
from repstat.store import gate_child
def main():
    def judge(path):
        try:
            with open(path + '.written', 'wb') as file:
                file.write(b'x')
                file.flush()
        except OSError:
            pass
        bytearray(2 ** 31)
    gate_child._schema = lambda path: judge(str(path))
    gate_child.main()
"""
    (tmp_path / "greedy.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    one = Child("greedy", 20.0)
    try:
        path = str(tmp_path / "acts.h5")
        answer = one.ask({"verb": "schema", "path": path, "folder": "", "schema": "repstat/results"})
        assert "takes more than 1.1 GB of memory" in answer["facts"]["why"]
        assert Path(f"{path}.written").stat().st_size == 0
    except ChildDiedError as error:
        assert "SIGXFSZ" in str(error)  # noqa: PT017
    finally:
        one.close()
