"""A real MONAI Label server, headless and offline, on the packed bundle: thick slices in, thin slices out.

The server has its own environment, `.venv-label` in the repository (THORAX_LABEL_VENV names another place); the first
call makes it from the package index.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.clients.packed import make_packed
from tests.data.thin_ct import write_thin_ct

pytestmark = pytest.mark.client
ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("THORAX_LABEL_VENV", ROOT / ".venv-label"))
# MONAI Label pins old versions of packages that it works without, so its dependencies are named here.
INSTALL = (
    ["torch==2.13.0"],
    ["monai==1.6.1"],
    ["--no-deps", "monailabel==0.8.5"],
    [
        "nibabel", "scikit-image", "pillow", "itk", "tqdm", "psutil", "fire", "pytorch-ignite", "tensorboard",
        "uvicorn", "pydantic", "pydantic-settings", "python-dotenv", "fastapi", "python-multipart", "httpx",
        "schedule", "dicomweb-client", "expiringdict", "expiring_dict", "cachetools", "watchdog", "pydicom<3",
        "pynetdicom", "pynrrd", "girder-client", "einops", "pyyaml", "passlib", "pyjwt", "bcrypt", "shapely",
        "requests", "requests-toolbelt", "urllib3", "scikit-learn", "scipy", "google-auth", "safetensors", "matplotlib",
    ],
    ["--no-deps", "timeloop", "pydicom-seg", "jsonschema<4", "pyrsistent", "attrs", "six", "SimpleITK", "numpymaxflow"],
)  # fmt: skip
STUB = "def make_grid(*a, **k):\n    raise RuntimeError('not here')\n\n\nsave_image = make_grid\n"


@pytest.fixture(scope="session")
def label_python():
    """Python of an environment with MONAI Label."""
    python = PLACE / "bin" / "python"
    if not (PLACE / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
        for words in INSTALL:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *words], check=True)
        where = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
        packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
        if not (packages / "torchvision").exists():  # two of its names are imported and never called
            (packages / "torchvision").mkdir()
            (packages / "torchvision" / "__init__.py").write_text("__version__ = '0.0.0'\n")
            (packages / "torchvision" / "utils.py").write_text(STUB)
        (PLACE / "ready").touch()
    return python


@pytest.fixture(scope="module")
def server(label_python, tmp_path_factory):
    """URL of a server with one study, case_0, and the bundle."""
    work = tmp_path_factory.mktemp("label")
    (work / "bundle").mkdir()
    bundle = make_packed(work / "bundle")
    (work / "studies").mkdir()
    write_thin_ct(work / "studies" / "case_0.nii.gz", shape=(32, 28, 12), spacing=(1.5, 1.5, 5.0))
    command = [str(label_python.parent / "monailabel")]
    environment = os.environ | {"PATH": f"{label_python.parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    download = [*command, "apps", "--download", "--name", "monaibundle", "--output", str(work)]
    subprocess.run(download, check=True, env=environment, capture_output=True)
    shutil.copytree(bundle, work / "monaibundle" / "model" / bundle.name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # any source but monaihosting keeps the server off the network, and sam2 would be a large download
    words = ["start_server", "--app", str(work / "monaibundle"), "--studies", str(work / "studies")]
    for key, value in (("models", bundle.name), ("zoo_source", "local"), ("sam2", "false")):
        words += ["--conf", key, value]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    log = (work / "server.log").open("w")
    process = subprocess.Popen(
        [*command, *words], cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        time.sleep(1)
        try:
            urllib.request.urlopen(f"{url}/info/").read()
            break
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, (work / "server.log").read_text()[-3000:]
    yield url, work
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def infer(url, output, params):
    """POST /infer with parameters as a form field."""
    mark = uuid.uuid4().hex
    field = f'--{mark}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{json.dumps(params)}\r\n--{mark}--\r\n'
    query = urllib.parse.urlencode({"image": "case_0", "output": output})
    request = urllib.request.Request(
        f"{url}/infer/ct_slice_interpolation?{query}",
        field.encode(),
        {"Content-Type": f"multipart/form-data; boundary={mark}"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return response.read()


def test_the_model_is_offered(server):
    info = json.loads(urllib.request.urlopen(f"{server[0]}/info/").read())
    assert "ct_slice_interpolation" in info["models"]


def test_infer_gives_the_finer_grid(server, tmp_path):
    url, work = server
    content = infer(url, "image", {"device": "cpu", "result_extension": ".nii.gz", "result_dtype": "float32"})
    (tmp_path / "thin.nii.gz").write_bytes(content)
    thick, thin = nib.load(work / "studies" / "case_0.nii.gz"), nib.load(tmp_path / "thin.nii.gz")
    assert thin.shape == (32, 28, 60), (work / "server.log").read_text()[-3000:]
    assert thin.header.get_zooms()[2] == pytest.approx(1.0, abs=1e-3)
    # the same millimetres: the outer faces of the first and the last slice
    for end, index in ((-0.5, 0), (0.5, -1)):
        faces = [(image.affine @ [0, 0, (image.shape[2] - 1 if index else 0) + end, 1])[2] for image in (thick, thin)]
        assert faces[0] == pytest.approx(faces[1], abs=1e-3)
    means = thin.get_fdata().reshape(32, 28, 12, 5).mean(-1)
    assert np.abs(means - thick.get_fdata()).max() < 0.5
