import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.io.bad_input import BadInput, DiskFailure
from common.io.output_folder import _touch, atomic_path, locked, locks


def hidden(error: Exception, cause: Exception) -> Exception:
    """An error that a library raised while it handled another one."""
    error.__context__ = cause
    return error


HOLD = """
import os, sys, time
from pathlib import Path
from common.io.output_folder import _touch, atomic_path, locked, locks
with locked(Path(sys.argv[1])):
    if not os.fork():  # a worker, which lives on when its parent is killed, and must not hold the folder
        print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_one_run_writes_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        held = (tmp_path / ".lock").read_text()
        assert held.startswith(f"{os.getpid()} {socket.gethostname()} ")
        words = f"is being written by process {os.getpid()} on {socket.gethostname()}, expected one run per output"
        with pytest.raises(BadInput, match=words):
            with locked(tmp_path):
                pass
        assert (tmp_path / ".lock").read_text() == held  # who was refused has not taken it away
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_killed_run_does_not_hold_its_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("99999999 1234")  # as earlier versions left it
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        try:
            with pytest.raises(BadInput, match=f"is being written by process {process.pid} on "), locked(tmp_path):
                pass
            process.kill()
            process.wait()
            with locked(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x", "/other"),
        hidden(RuntimeError("file write failed"), OSError(errno.ENOSPC, "x")),
    ],
)
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "model.pt").write_text("before")
    with pytest.raises(
        DiskFailure, match=r"model.pt: cannot be written \((No space|Disk quota).*\), expected room for it"
    ):
        with atomic_path(tmp_path / "model.pt", sync=True) as part:
            part.write_text("half")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_text() == "before"


def test_an_error_that_says_nothing_is_one_of_the_disk_where_nothing_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a.png"):
            raise OSError("encoder error -2 when writing image file")

    with pytest.raises(OSError, match="encoder error"):
        write()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(DiskFailure, match="a.png: cannot be written .No space"):
        write()
    with pytest.raises(BadInput, match="b.nii: is damaged"), atomic_path(tmp_path / "a.png"):
        raise BadInput("b.nii", "is damaged")


def test_a_folder_replaces_another(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_path(tmp_path / "tokenizer") as part:
            part.mkdir()
            (part / content).write_text(content)
    assert [path.name for path in tmp_path.rglob("*")] == ["tokenizer", "new"]


def test_what_others_may_read_stays_so(tmp_path: Path) -> None:
    """https://github.com/NVIDIA/NVFlare/pull/5011: a file made by tempfile is its owner's alone."""
    with atomic_path(tmp_path / "a", sync=True) as part:
        part.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.io.output_folder._TOUCH_SECONDS", 0.02)
    monkeypatch.setattr("common.io.output_folder._LOOK_SECONDS", 0.05)
    monkeypatch.setattr("common.io.output_folder._LOOKS", 5)


def test_a_run_of_another_machine_holds_the_folder_as_long_as_it_touches_its_lock(
    tmp_path: Path, fast: None, capsys: Any
) -> None:
    """On a volume that keeps no locks between machines; the other one is a thread here."""
    lock, ended = tmp_path / ".lock", threading.Event()
    lock.write_text("77 node-b another-boot")
    other = threading.Thread(target=_touch, args=(lock, "77 node-b another-boot", ended))
    other.start()
    with pytest.raises(BadInput, match="is being written by process 77 on node-b, expected one run per output folder"):
        with locked(tmp_path):
            pass
    assert lock.read_text() == "77 node-b another-boot"
    ended.set()
    other.join()
    with locked(tmp_path):
        assert lock.read_text().startswith(f"{os.getpid()} ")
    assert "process 77 on node-b has not touched its lock and is taken for dead" in capsys.readouterr().out


def test_who_was_taken_for_dead_ends(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = threading.Event()
    monkeypatch.setattr("_thread.interrupt_main", interrupted.set)
    with locked(tmp_path):
        (tmp_path / ".lock").write_text("77 node-b another-boot")
        assert interrupted.wait(10)
    assert (tmp_path / ".lock").read_text() == "77 node-b another-boot"  # not ours to take away


def test_a_function_holds_its_folder(tmp_path: Path) -> None:
    @locks("output_dir")
    def work(input: str, output_dir: str, fails: bool = False) -> list[str]:
        if fails:
            raise KeyError
        return [path.name for path in Path(output_dir).iterdir()]

    assert work("in", str(tmp_path / "a")) == [".lock"]
    with pytest.raises(KeyError):
        work("in", fails=True, output_dir=tmp_path / "b")
    assert not (tmp_path / "b").exists()  # nothing came of it
    with locked(tmp_path / "a"), pytest.raises(BadInput, match="is being written by"):
        work("in", output_dir=tmp_path / "a")
