"""Exact resume, the hard way: `python -m common run` killed 25 times, preempted, on a full disk, with another config.

Trains a small refiner on virtual patients, with a worker process of the data loader and a checkpoint every
iteration, so that many kills fall into the writing of one; or, with `--bundle mdfnet_cxr` or `xr2text`, stages on a few
virtual patients, killed ten times, in each of them. Prints one JSON line per check:

    python benchmarks/resume_kills.py [--bundle mdfnet_cxr] [--kills 25] [--folder DIR]
"""

import argparse
import json
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

OPTIONS = {
    "scale": "real_cpu",
    "virtual": "{'n': 4, 'shape': [60, 64, 64], 'spacing': [3.0, 3.0, 3.0], 'seed': 7}",
    "max_minutes": "null",
    "max_epochs": "6",
    "patches_per_epoch": "480",
    "patch_size": "[32,32]",
    "patch_ratios": "[2,3,4]",
    "batch_size": "8",
    "num_workers": "1",
    "val_interval": "60",
    "ckpt_interval": "1",
    "refiner_def#channels": "[16,32]",
    "refiner_def#blocks": "[1,1]",
}


# Of each bundle of several stages: how many kills each stage gets of ten, and the options of the run.
STAGES = {
    "mdfnet_cxr": {"encoders": 3, "features": 3, "stage1": 2, "stage2": 2},
    "xr2text": {
        "vision": 1,
        "language": 1,
        "features": 1,
        "warmup": 1,
        "easy": 2,
        "medium": 1,
        "hard": 1,
        "finetune": 2,
    },
}
SHAPES = {
    "virtual#n": "48",
    "virtual#shape": "[24,48,48]",
    "virtual#spacing": "[6,4,4]",
    "image_size": "64",
    "batch_size": "8",
    "ckpt_interval": "1",
    "eval_batch_size": "2",
}
RECIPES = {
    "mdfnet_cxr": SHAPES
    | {"scale": "demo", "stages": ",".join(STAGES["mdfnet_cxr"]), "max_epochs": "8", "warmup_epochs": "1"},
    "xr2text": SHAPES
    | {
        "scale": "demo+smoke",
        "last_epochs": '{"warmup": 3, "easy": 6, "medium": 9, "hard": 12, "finetune": 15}',
        "num_epochs": "15",
        "n_texts": "200",
    },
}


def command(out: Path, bundle: str = "ct_slice_interpolation", **changed: str) -> list[str]:
    options = RECIPES.get(bundle, OPTIONS) | {"output_dir": str(out)} | changed
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return [sys.executable, "-u", "-m", "common", "run", f"bundles/{bundle}", *words]


def start(out: Path, **changed: str) -> subprocess.Popen:
    """Start a run and wait until it trains."""
    process = subprocess.Popen(command(out, **changed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "iterations in" in line:
            break
    return process


def finish(out: Path, **changed: str) -> str:
    done = subprocess.run(command(out, **changed), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "models" / "model.pt", weights_only=True)


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> int:
    return sum(not same_bits(a[name], b[name]) for name in a) + len(a.keys() ^ b.keys())


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Also where a label is not known, NaN, which is equal to nothing."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def report(name: str, **facts: object) -> None:
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({"name": name, **facts, **machine}), flush=True)


def kills(folder: Path, count: int, expected: dict[str, torch.Tensor]) -> None:
    out, choose, moments, half_written = folder / "killed", random.Random(0), [], 0
    for _ in range(count):
        process = start(out)
        delay = choose.uniform(0, 0.7)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        checkpoints = out / "refiner" / "checkpoints"
        half_written += bool(list(checkpoints.glob(".part*")))
        moments.append(
            max((int(path.name.split("_")[1][:9]) for path in checkpoints.glob("iteration_*.pt")), default=0)
        )
    log = finish(out)
    report(
        f"weights after {count} SIGKILLs against an uninterrupted training",
        input="refiner, 360 iterations, a data loader worker, a checkpoint every iteration",
        ours=differing(expected, weights(out)),
        reference=0,
        unit="tensors that differ",
        tensors=len(expected),
        newest_checkpoint_after_each_kill=moments,
        kills_while_a_checkpoint_was_written=half_written,
        resumed=log.count("resumed after iteration"),
    )


def kills_in_stages(bundle: str, folder: Path, count: int) -> None:
    """Kill each stage at random moments, among them `features`, between whose files nothing may be half done."""
    whole, out, choose, stages = folder / "whole", folder / "killed", random.Random(0), STAGES[bundle]
    finish(whole, bundle=bundle)
    lasts = {name: json.loads((whole / name / "finished.json").read_text())["seconds"] for name in stages}
    share = count / sum(stages.values())
    landed: dict[str, int] = dict.fromkeys(stages, 0)
    checkpoints, said = 0, []
    for stage in [name for name, kills in stages.items() for _ in range(max(1, round(kills * share)))]:
        process = subprocess.Popen(
            command(out, bundle=bundle), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            said.append(line)
            if line.startswith(f"stage {stage} (") and "skipped" not in line:
                break
        time.sleep(choose.uniform(0.05, 0.6) * lasts[stage])
        process.send_signal(signal.SIGKILL)
        process.wait()
        said.append(process.stdout.read())
        ended = [name for name in stages if (out / name / "finished.json").is_file()]
        for name in stages:
            if name not in ended:
                landed[name] += 1
                break
        checkpoints += bool(list(out.glob("*/resume/.part*")))
    said.append(finish(out, bundle=bundle))
    files = {
        path.relative_to(whole): torch.load(path, weights_only=True)
        for path in sorted(whole.glob("models/**/*.pt"))
        if path.parent.name != "hand_off"
    }
    files |= {path.relative_to(whole): load_file(path) for path in sorted(whole.glob("features/*.safetensors"))}
    here = {
        name: load_file(out / name) if name.suffix == ".safetensors" else torch.load(out / name, weights_only=True)
        for name in files
    }
    tables = [path.relative_to(whole) for path in sorted(whole.glob("predictions/*.csv"))]
    report(
        f"{len(stages)} stages of {bundle} after {sum(landed.values())} SIGKILLs against an undisturbed run",
        input="48 virtual patients, a checkpoint every iteration",
        ours=sum(differing(files[name], here[name]) for name in files),
        reference=0,
        unit="tensors that differ",
        tensors=sum(map(len, files.values())),
        files=[str(name) for name in files],
        predictions_that_differ=sum((whole / name).read_bytes() != (out / name).read_bytes() for name in tables),
        predictions=len(tables),
        kills_by_stage=landed,
        kills_while_a_checkpoint_was_written=checkpoints,
        resumed="".join(said).count("resumed after iteration"),
    )


def preempted(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    out = folder / "preempted"
    process = start(out)
    time.sleep(1)
    process.terminate()
    text, _ = process.communicate()
    sentence = next((line for line in text.splitlines() if "asked to end" in line), "")
    finish(out)
    report(
        "a machine that is taken away (SIGTERM)",
        exit_code=process.returncode,
        says=sentence.split("train WARNING ")[-1],
        ours=differing(expected, weights(out)),
        reference=0,
        unit="tensors that differ",
    )


def full_disk(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """On a small tmpfs that another file fills while the training runs."""
    out, script = folder / "full", folder / "full.sh"
    out.mkdir()
    run = " ".join(f"'{word}'" for word in command(out))
    script.write_text(
        f"mount -t tmpfs -o size=60m tmpfs {out} || exit 77\n"
        f"({run}) > {folder}/full.log 2>&1 & pid=$!\n"
        f"until ls {out}/refiner/checkpoints/*.pt > /dev/null 2>&1; do sleep 0.1; done\n"
        f"dd if=/dev/zero of={out}/filler bs=64k > /dev/null 2>&1\n"
        f"wait $pid; echo exit $? >> {folder}/full.log\n"
        f"ls {out}/refiner/checkpoints > {folder}/left.txt\n"
        f"rm {out}/filler\n"
        f"({run}) >> {folder}/full.log 2>&1; cp {out}/models/model.pt {folder}/full.pt\n"
    )
    if subprocess.run(["unshare", "-Urm", "sh", str(script)]).returncode == 77:
        raise SystemExit("a tmpfs cannot be mounted here, which the check of a full disk needs")
    log = (folder / "full.log").read_text().splitlines()
    sentence = next(line for line in log if "No space left" in line and line.startswith("/"))
    code = next(line for line in log if line.startswith("exit "))
    report(
        "a full disk",
        exit_code=int(code.split()[1]),
        says=sentence.replace(str(folder), "DIR"),
        checkpoints_left=(folder / "left.txt").read_text().split(),
        ours=differing(expected, torch.load(folder / "full.pt", weights_only=True)),
        reference=0,
        unit="tensors that differ after the disk had room again",
    )


def other_configuration(folder: Path) -> None:
    out = folder / "other"
    process = start(out)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(out, learning_rate="0.001"), capture_output=True, text=True)
    says = done.stderr.strip().splitlines()[-1].replace(str(folder), "DIR")
    report("a checkpoint of another configuration", exit_code=done.returncode, says=says)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", choices=("ct_slice_interpolation", *STAGES), default="ct_slice_interpolation")
    parser.add_argument("--kills", type=int, help="25, or 10 of a bundle of several stages")
    parser.add_argument("--folder", type=Path, help="new folder for the runs; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.bundle in STAGES:
            kills_in_stages(given.bundle, folder, given.kills or 10)
            return
        finish(folder / "whole")
        expected = weights(folder / "whole")
        finish(folder / "again")
        report("the same training twice", ours=differing(expected, weights(folder / "again")), reference=0)
        kills(folder, given.kills or 25, expected)
        preempted(folder, expected)
        full_disk(folder, expected)
        other_configuration(folder)


if __name__ == "__main__":
    main()
