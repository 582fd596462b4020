"""Nothing of the user's is lost: full disks, changed bytes, inputs changed in place, SIGTERM, two runs in a folder.

From first to last through the command line, on a tiny refiner; the mechanisms have their tests in tests/io, engines ...
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.cli.main import main
from common.io.output_folder import locked

pytestmark = pytest.mark.filterwarnings("default")  # as on the command line
ROOT = Path(__file__).parents[2]
BUNDLE = "bundles/ct_slice_interpolation"
OPTIONS = {
    "scale": "real_cpu",
    "stages": "refiner",
    "virtual": "{'n': 4, 'shape': [60, 48, 48], 'spacing': [3.0, 3.0, 3.0], 'seed': 7}",
    "max_minutes": "null",
    "max_epochs": "2",
    "patches_per_epoch": "64",
    "patch_size": "[32,32]",
    "patch_ratios": "[2,3]",
    "batch_size": "8",
    "num_workers": "1",
    "val_interval": "60",
    "ckpt_interval": "1",
    "refiner_def#channels": "[8,16]",
    "refiner_def#blocks": "[1,1]",
}


def words(out: Path, **changed: str) -> list[str]:
    options = OPTIONS | {"output_dir": str(out)} | changed
    return ["run", BUNDLE, *(word for key, value in options.items() for word in (f"--{key}", value))]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "models" / "model.pt", weights_only=True)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(out: Path) -> str:
    return (out / "logs" / "train.log").read_text()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("durable") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(words(out)) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_flipped_byte_in_the_weights_ends_predict_with_their_name(run: Path, tmp_path: Path, capsys: Any) -> None:
    flip(run / "models" / "model.pt")
    call = ["predict", BUNDLE, "--input", str(run / "data" / "virtual" / "images"), "--mode", "refiner"]
    assert main([*call, "--ckpt_dir", str(run / "models"), "--output_dir", str(tmp_path / "out")]) == 1
    assert f"{run / 'models' / 'model.pt'} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_made_again_from_the_next_intact_checkpoint(run: Path, finished: Path, capsys: Any) -> None:
    newest, before = sorted((run / "refiner" / "checkpoints").glob("iteration_*.pt"))[:-3:-1]
    flip(run / "models" / "model.pt")
    flip(newest)
    finished_at = json.loads((run / "refiner" / "finished.json").read_text())["finished_at"]
    assert main(words(run)) == 0
    assert "model.pt is damaged (its checksum is another): made again from the last" in capsys.readouterr().out
    assert f"{newest} is damaged, the next intact checkpoint is used: {before.name}" in log(run)
    assert same(weights(run), weights(finished)) and (run / "models" / "model.pt.damaged").is_file()
    # The same result, so that stages after it would stay finished.
    assert json.loads((run / "refiner" / "finished.json").read_text())["finished_at"] == finished_at
    assert main(words(run)) == 0 and "skipped" in capsys.readouterr().out


def test_a_flipped_byte_in_a_stored_volume_is_noticed_and_the_volume_made_again(run: Path, finished: Path) -> None:
    shutil.rmtree(run / "cache")  # of another folder
    shutil.rmtree(run / "refiner")
    assert main(words(run)) == 0
    stored = sorted((run / "cache" / "volumes").glob("*.npy"))
    for path in stored[:2]:
        flip(path)
    os.truncate(stored[-1], 500)
    shutil.rmtree(run / "refiner")
    assert main(words(run)) == 0
    assert all(f"{path} is damaged" in log(run) for path in (*stored[:2], stored[-1]))
    assert log(run).count("is made again") == 3
    assert same(weights(run), weights(finished))


def test_an_image_changed_in_place_reruns_the_stage(run: Path, tmp_path: Path, capsys: Any) -> None:
    """Although it keeps its path, size and modification time, as a copy by `cp -p` does."""
    data, out = Path(shutil.copytree(run / "data" / "virtual", tmp_path / "data")), tmp_path / "out"
    raw = tmp_path / "raw"
    raw.mkdir()
    import nibabel as nib

    for path in sorted((data / "images").glob("*.nii.gz")):
        nib.save(nib.load(path), raw / path.name.removesuffix(".gz"))
    assert main(["prepare", "nifti", "--input", str(raw), "--output_dir", str(tmp_path / "prepared")]) == 0
    call = words(out, dataset_dir=str(tmp_path / "prepared"), virtual="null")
    assert main(call) == 0 and main(call) == 0 and "1 skipped" in capsys.readouterr().out
    first = weights(out)
    manifest = (tmp_path / "prepared" / "manifest.csv").read_text().splitlines()
    case = next(line for line in manifest if ",train," in line).split(",")[0]
    image = next(path for path in raw.iterdir() if path.name.startswith(case))
    stat = image.stat()
    with image.open("r+b") as file:
        file.seek(stat.st_size // 2)
        file.write(np.full(9000, 100, np.int16).tobytes())
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert image.stat().st_size == stat.st_size
    assert main(call) == 0 and "1 stages run, 0 skipped" in capsys.readouterr().out
    assert not same(weights(out), first)


def test_sigterm_is_no_success_and_the_same_command_goes_on(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    call = [sys.executable, "-u", "-m", "common", *words(out)]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "iterations in" in line:
                process.send_signal(signal.SIGTERM)
                break
        said = process.stdout.read()
    assert process.returncode == 143 and "asked to end, saved at iteration" in said
    assert not (out / "refiner" / "finished.json").exists() and not (out / ".lock").exists()
    assert main(words(out)) == 0
    assert same(weights(out), weights(finished))


def test_a_full_disk_is_named_and_nothing_half_written_left(tmp_path: Path) -> None:
    """On a disk of a few megabytes; what was written before is of use when there is room again."""
    script = (
        f"mount -t tmpfs -o size=1900k tmpfs {tmp_path} || exit 77\n"
        f'"$@" > /dev/null 2> {tmp_path.parent}/full.err; code=$?\n'
        f"find {tmp_path} -name '.*' ! -path {tmp_path} ! -name .place > {tmp_path.parent}/left.txt\n"
        f"find {tmp_path} -name '*.tmp' >> {tmp_path.parent}/left.txt; exit $code\n"
    )
    call = [sys.executable, "-m", "common", *words(tmp_path / "run")]
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script, "sh", *call], cwd=ROOT)
    if done.returncode == 77 or not (tmp_path.parent / "full.err").is_file():
        pytest.skip("a tmpfs cannot be mounted here")
    said = (tmp_path.parent / "full.err").read_text()
    assert done.returncode == 1 and "Traceback" not in said
    assert "cannot be written (No space left on device), expected room for it" in said.splitlines()[-1]
    assert (tmp_path.parent / "left.txt").read_text() == ""


@pytest.mark.parametrize("verb", ["predict", "evaluate", "prepare", "run"])
def test_two_runs_in_one_folder_are_refused(run: Path, tmp_path: Path, capsys: Any, verb: str) -> None:
    images, out = run / "data" / "virtual" / "images", tmp_path / "out"
    call = {
        "predict": [verb, BUNDLE, "--input", str(images), "--mode", "linear"],
        "evaluate": [verb, BUNDLE, "--input", str(images), "--ratio", "3"],
        "prepare": [verb, "nifti", "--input", str(images)],
        "run": words(out)[:-2],
    }[verb]
    start = time.monotonic()
    with locked(out):
        assert main([*call, "--output_dir", str(out)]) == 1
        assert list(path.name for path in out.iterdir() if path.name not in ("logs", ".prepare")) == [".lock"]
    said = capsys.readouterr().err
    assert f"{out}: is being written by process {os.getpid()} on {os.uname().nodename}" in said, start


def test_a_full_disk_makes_no_input_bad(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug: prepare listed what it had no room for as a bad file, and remembered that."""
    sizes = ["--n", "2", "--shape", "16,32,32", "--spacing", "9,10,11"]
    assert main(["prepare", "virtual", "--layout", "dicom", "--output_dir", str(tmp_path / "in"), *sizes]) == 0
    call = ["prepare", "dicom", "--input", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("common.io.output_folder.os.replace", full)
        assert main(call) == 1
    assert "cannot be written (No space left on device), expected room for it" in capsys.readouterr().err
    assert main(call) == 0
    assert "written" not in (tmp_path / "out" / "excluded.csv").read_text()
    assert len(list((tmp_path / "out" / "images").glob("*.nii.gz"))) == 2
