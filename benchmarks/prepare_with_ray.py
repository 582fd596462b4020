"""200 virtual patients prepared by local processes and with Ray, a worker killed in the middle of each: same files?

    python benchmarks/prepare_with_ray.py [--n 200]

Needs the extra `cluster`. Prints one JSON line.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import signal
import tempfile
import threading
import time
from pathlib import Path

import psutil

from common.apps.run.prepare import prepare, prepare_virtual
from common.io.parallel import ENGINES

WORKERS = 2


def kill_one_worker(killed: list[int], out: Path, after: int, name: str, finished: threading.Event) -> None:
    """As soon as so many cases are done, kill a worker process below this one."""
    while not killed and not finished.is_set():
        time.sleep(0.02)
        if len(list(out.glob(".prepare/[!.]*"))) < after:
            continue
        for process in psutil.Process().children(recursive=True):
            words = " ".join(process.cmdline())  # Ray names a worker by its task, ray::<lambda>()
            if (words.startswith("ray::") and "lambda" in words) if name == "ray" else Path(__file__).name in words:
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
    if importlib.util.find_spec("ray") is None:
        return print(json.dumps({"name": "preparation with Ray", "not_run": "the extra `cluster` is not installed"}))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare_virtual(work / "series", "dicom", n=n, shape=(24, 64, 64), spacing=(6.0, 3.0, 3.0))
        prepare("dicom", work / "series" / "dicom", work / "one")
        seconds, killed = {}, {}
        for engine in ENGINES:
            killed[engine] = []
            finished = threading.Event()
            wanted = (killed[engine], work / engine, n // 3, engine, finished)
            thread = threading.Thread(target=kill_one_worker, args=wanted)
            thread.start()
            start = time.monotonic()
            prepare("dicom", work / "series" / "dicom", work / engine, workers=WORKERS, engine=engine)
            seconds[engine] = round(time.monotonic() - start, 1)
            finished.set()
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
