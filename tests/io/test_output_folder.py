import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.io.bad_input import BadInput
from common.io.output_folder import locked

HOLD = """
import os, sys, time
from pathlib import Path
from common.io.output_folder import locked
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
