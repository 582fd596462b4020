"""A MONAI Label server, headless and offline, in an environment of its own."""

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
from contextlib import contextmanager
from pathlib import Path

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
        "transformers==5.23.0",
    ],
    ["--no-deps", "timeloop", "pydicom-seg", "jsonschema<4", "pyrsistent", "attrs", "six", "SimpleITK", "numpymaxflow"],
)  # fmt: skip
# MONAI Label and transformers import some names of torchvision that are never called here; the index has no CPU build.
STUBS = {
    "__init__.py": "__version__ = '0.0.0'\n",
    "utils.py": "def make_grid(*a, **k):\n    raise RuntimeError('not here')\n\n\nsave_image = make_grid\n",
    "io.py": "",
    "transforms/__init__.py": "import enum\n\nInterpolationMode = enum.Enum('InterpolationMode', "
    "'NEAREST NEAREST_EXACT BOX BILINEAR HAMMING BICUBIC LANCZOS')\n",
    "transforms/functional.py": "def pil_to_tensor(*a, **k):\n    raise RuntimeError('not here')\n",
}


def make_environment() -> Path:
    """Python of the environment; what it lacks is installed from the package index."""
    python, ready, made_of = PLACE / "bin" / "python", PLACE / "ready", f"{INSTALL} {STUBS}"
    if ready.is_file() and ready.read_text() == made_of:
        return python
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
    for words in INSTALL:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *words], check=True)
    where = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    if not list(packages.glob("torchvision-*")):
        for name, content in STUBS.items():
            (packages / "torchvision" / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / "torchvision" / name).write_text(content)
    ready.write_text(made_of)
    return python


@contextmanager
def serve(python: Path, work: Path, bundle: Path, name: str, **settings: str):
    """Start a server on the images in `WORK/studies` with a bundle under a name, and give its URL.

    Args:
        python: of the environment.
        work: folder of the server; its log is server.log.
        bundle: packed.
        name: MONAI Label takes the kind of task from it.
        settings: environment variables.
    """
    command = [str(python.parent / "monailabel")]
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": ""} | settings
    download = [*command, "apps", "--download", "--name", "monaibundle", "--output", str(work)]
    subprocess.run(download, check=True, env=environment, capture_output=True)
    shutil.copytree(bundle, work / "monaibundle" / "model" / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # any source but monaihosting keeps the server off the network, and sam2 would be a large download
    words = ["start_server", "--app", str(work / "monaibundle"), "--studies", str(work / "studies")]
    for key, value in (("models", name), ("zoo_source", "local"), ("sam2", "false")):
        words += ["--conf", key, value]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    with (work / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *words], cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                urllib.request.urlopen(f"{url}/info/").read()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (work / "server.log").read_text()[-3000:]
        else:
            raise TimeoutError((work / "server.log").read_text()[-3000:])
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def infer(url: str, name: str, image: str, output: str, params: dict) -> bytes:
    """POST /infer with parameters as a form field."""
    mark = uuid.uuid4().hex
    field = f'--{mark}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{json.dumps(params)}\r\n--{mark}--\r\n'
    query = urllib.parse.urlencode({"image": image, "output": output})
    request = urllib.request.Request(
        f"{url}/infer/{name}?{query}",
        field.encode(),
        {"Content-Type": f"multipart/form-data; boundary={mark}"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return response.read()
