"""Environments for other people's packages that this project does not depend on."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.clients.label_server import make_environment

ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("THORAX_CLIENTS_VENV", ROOT / ".venv-clients"))
PACKAGES = ("mlflow==3.17.2", "onnx==1.23.2", "onnxscript==0.7.2")


@pytest.fixture(scope="session")
def clients_python():
    """Python of `.venv-clients` (THORAX_CLIENTS_VENV names another place): this environment's packages and `PACKAGES`.

    The first call makes it from the package index.
    """
    python = PLACE / "bin" / "python"
    if not (PLACE / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
        where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
        (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (PLACE / "ready").touch()
    return python


@pytest.fixture(scope="session")
def label_python():
    """Python of `.venv-label` (THORAX_LABEL_VENV names another place) with MONAI Label; made by the first call."""
    return make_environment()
