"""200 virtual patients prepared by local processes and with Ray, a worker killed in the middle of each: same files?

    python benchmarks/prepare_with_ray.py [--n 200]

Needs the extra `cluster`. Prints one JSON line.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import tempfile
import threading
import time
from pathlib import Path

import psutil

from common.apps.prepare import prepare, prepare_virtual

WORKERS = 2


def kill_one_worker(killed: list[int], after: float, name: str) -> None:
    """After some seconds, kill a worker process below this one."""
    time.sleep(after)
    for process in psutil.Process().children(recursive=True):
        words = " ".join(process.cmdline())
        if (name in words) and process.cpu_percent(0.2) > 20:
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)
            return


def content(folder: Path) -> str:
    """Hash of all that the preparation gives, paths of the folder itself left out."""
    digest = hashlib.sha256()
    for name in ("manifest.csv", "excluded.csv", "prepare.json"):
        digest.update((folder / name).read_bytes().replace(str(folder).encode(), b"OUT"))
    for path in sorted((folder / "images").glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=200)
    n = parser.parse_args().n
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare_virtual(work / "series", "dicom", n=n, shape=(24, 64, 64), spacing=(6.0, 3.0, 3.0))
        prepare("dicom", work / "series" / "images", work / "one")
        seconds, killed = {}, {}
        for engine, name in (("local", "prepare_with_ray"), ("ray", "ray::")):
            killed[engine] = []
            thread = threading.Thread(target=kill_one_worker, args=(killed[engine], 6.0, name))
            thread.start()
            start = time.monotonic()
            prepare("dicom", work / "series" / "images", work / engine, workers=WORKERS, engine=engine)
            seconds[engine] = round(time.monotonic() - start, 1)
            thread.join()
        hashes = [content(work / name) for name in ("one", "local", "ray")]
        line = {
            "name": f"{n} DICOM series prepared by one process, {WORKERS} local ones and Ray, a worker killed in each",
            "input": "virtual patients of 24x64x64",
            "ours": len(set(hashes)),
            "reference": 1,
            "unit": "different results",
            "workers_killed": {engine: len(found) for engine, found in killed.items()},
            "seconds": seconds,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
