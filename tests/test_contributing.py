"""The commands of CONTRIBUTING.md, followed word for word, give a bundle that keeps the contract."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_commands_that_add_a_bundle(tmp_path):
    for name in ("common", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    (tmp_path / "bundles").mkdir()
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = re.search(r"## How to add a bundle.*?```bash\n(.*?)```", text, re.DOTALL).group(1).splitlines()
    assert len(steps) > 5 and "test_contract.py" in steps[-1]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(tmp_path)}
    for step in steps:
        done = subprocess.run(step, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{step}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
