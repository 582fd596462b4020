"""What every bundle promises, and one of a third kind that the library does not know: a new one is here by existing.

A bundle brings `configs/smoke.json`, an overlay over demo.json with which its whole recipe runs in seconds.
"""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from common.apps.packaging.check import check_bundle
from common.apps.packaging.pack import pack_bundle
from common.apps.predict import predict
from common.apps.run.bundle import UsageError, open_bundle
from common.apps.run.demo import run_demo
from common.apps.run.evaluate import evaluate
from common.apps.run.plan import plan_bundle
from common.apps.run.recipe import read_recipe, run_recipe, stages_of_scale
from common.data.manifest import read_manifest
from tests.bundles.meta_schema import schema_errors
from tests.processes import run_python

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "word_reports"
BUNDLES = [*sorted(path.parents[1] for path in (ROOT / "bundles").glob("*/configs/metadata.json")), TOY]
# MONAI's standard ids, in the order in which every bundle has them.
TRAIN_IDS = ("imports", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "device", "seed", "stage", "max_epochs",
             "network_def", "network", "loss", "optimizer", "lr_scheduler", "train", "validate", "initialize", "run",
             "finalize")  # fmt: skip
PART_IDS = ("preprocessing", "dataset", "dataloader", "inferer", "postprocessing", "key_metric", "handlers")
INFERENCE_IDS = ("imports", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "input", "device", "seed",
                 "network_def", "network", "cases", "preprocessing", "dataset", "dataloader", "inferer",
                 "postprocessing", "handlers", "evaluator", "initialize", "run", "outputs", "excluded")  # fmt: skip
SCALE = "demo+smoke"


@pytest.fixture(scope="session", params=BUNDLES, ids=lambda path: path.name)
def bundle(request):
    return request.param


@pytest.fixture(scope="session")
def smoke(bundle, smoke_run):
    """The run folder of the bundle's smallest recipe, which others read too, and what `run_recipe` gave."""
    return smoke_run(bundle)


def content(bundle, name):
    return json.loads((bundle / "configs" / f"{name}.json").read_text())


def scale_of(bundle):
    return SCALE if (bundle / "configs" / "smoke.json").is_file() else "demo"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files(bundle):
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "models/.gitkeep", "configs/logging.conf"):
        assert (bundle / name).is_file(), name
    for name in ("metadata", "train", "inference", "evaluate", "multi_gpu_train", "demo", "recipe", "plan"):
        assert (bundle / "configs" / f"{name}.json").is_file(), name
    assert all(path.relative_to(bundle).parts[0] == "scripts" for path in bundle.rglob("*.py"))


def test_metadata(bundle):
    meta = content(bundle, "metadata")
    assert schema_errors(meta) == []
    assert meta["version"] in meta["changelog"]
    assert [next(iter(meta["network_data_format"][side])) for side in ("inputs", "outputs")] == ["image", "pred"]


@pytest.mark.parametrize(("file", "expected"), [("train", TRAIN_IDS), ("inference", INFERENCE_IDS)])
def test_ids_and_their_order(bundle, file, expected):
    ids = list(content(bundle, file))
    assert [name for name in ids if name in expected] == list(expected)


@pytest.mark.parametrize("part", ["train", "validate"])
def test_parts_of_training(bundle, part):
    ids = list(content(bundle, "train")[part])
    assert [name for name in ids if name in PART_IDS] == list(PART_IDS)
    assert ids[-1] == {"train": "trainer", "validate": "evaluator"}[part] or part == "validate" and "evaluator" in ids


def test_one_key_a_line_and_no_override_by_place(bundle):
    for path in (bundle / "configs").glob("*.json"):
        for line in path.read_text().splitlines():
            assert len(re.findall(r'"(?:[^"\\]|\\.)*": ', line)) <= 1, f"{path.name}: {line}"
        for key in json.loads(path.read_text()):
            assert not re.search(r"#\d", key), f"{path.name} changes {key} by its place in a list"


def test_the_recipe_runs_and_a_second_run_does_nothing(bundle, smoke):
    out, first = smoke
    assert first["ran"] == stages_of_scale(open_bundle(bundle), scale_of(bundle)) and first["skipped"] == []
    assert (out / "models" / "model.pt").is_file() and (out / "index.html").is_file()
    assert json.loads((out / "summary.json").read_text())["bundle"] == bundle.name
    with FileLock(f"{out}.lock"):
        again = run_recipe(bundle, scale_of(bundle), output_dir=out)
    assert again["ran"] == [] and again["skipped"] == first["ran"]


def images(smoke, n):
    return [row["image"] for row in read_manifest(smoke[1]["data"])][:n]


@pytest.fixture(scope="session")
def inputs(smoke, tmp_path_factory):
    """A folder of three inputs of the bundle's kind, and one that is broken."""
    folder = tmp_path_factory.mktemp("inputs")
    for i, image in enumerate(images(smoke, 3)):
        shutil.copyfile(image, folder / f"case.{i}{''.join(Path(image).suffixes)}")
    broken = folder / f"broken{''.join(Path(images(smoke, 1)[0]).suffixes)}"
    broken.write_bytes(b"")
    return folder, broken


@pytest.fixture(scope="session")
def predicted(bundle, smoke, inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    return out, predict(bundle, inputs[0], out, smoke[0] / "models")


def test_predict_reads_each_input_once_and_lists_what_it_cannot_use(bundle, smoke, inputs, predicted):
    out, result = predicted
    assert result["cases"] == 3 and [row["path"] for row in result["excluded"]] == [str(inputs[1])]
    assert table(out / "excluded.csv") == result["excluded"]
    names = {Path(path).name for path in result["outputs"]}
    for i in range(3):
        assert any(name.startswith(f"case.{i}.") for name in names), names
    assert all(Path(path).is_file() for path in result["outputs"])


def test_two_processes_predict_the_same(bundle, smoke, inputs, predicted, tmp_path):
    result = predict(bundle, inputs[0], tmp_path, smoke[0] / "models", workers=2)
    out, one = predicted
    assert [Path(p).name for p in result["outputs"]] == [Path(p).name for p in one["outputs"]]
    for path in one["outputs"]:
        assert (tmp_path / Path(path).name).read_bytes() == Path(path).read_bytes(), path
    assert result["excluded"] == one["excluded"]


def test_names_are_data(bundle, smoke, inputs, tmp_path):
    """What a file or folder is called is never an expression, a reference or a part of an id."""
    source = next(path for path in sorted(inputs[0].iterdir()) if path != inputs[1])
    suffix = "".join(source.suffixes).removeprefix(".0")
    folder = tmp_path / "Study #1 @x $y"
    folder.mkdir()
    names = ["$__import__('os').mkdir('RAN')", "@y", "a#b%c"]
    for name in names:
        shutil.copyfile(source, folder / f"{name}{suffix}")
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        result = predict(bundle, folder, tmp_path / "out", smoke[0] / "models")
    finally:
        os.chdir(here)
    written = {Path(path).name for path in result["outputs"]}
    assert result["cases"] == 3 and not list(tmp_path.rglob("RAN"))
    for name in names:
        assert any(other.startswith(f"{name}.") for other in written), written


def test_an_option_that_means_nothing_is_refused_by_name(bundle, smoke, inputs, tmp_path):
    for call in (predict, evaluate):
        with pytest.raises(UsageError, match="--no_such_option"):
            call(bundle, inputs[0], tmp_path, smoke[0] / "models", {"no_such_option": 3})


def test_evaluate_and_demo(bundle, smoke, tmp_path):
    out, first = smoke
    with FileLock(f"{out}.lock"):
        result = run_demo(bundle, out, scale_of(bundle))
    assert result["evaluation"] and Path(result["page"]).is_file()
    summary = json.loads((out / "evaluation" / "summary.json").read_text())
    assert (summary["bundle"], summary["scale"]) == (bundle.name, "evaluate")
    assert table(out / "evaluation" / "metrics.csv") and table(out / "evaluation" / "metrics_mean.csv")
    assert json.loads((out / "summary.json").read_text())["baselines"] == summary["baselines"]
    assert (out / "evaluation" / "index.html").is_file()


def test_missing_weights_name_a_command(bundle, inputs, tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(FileNotFoundError, match="python -m common run"):
        predict(bundle, inputs[0], tmp_path / "out", tmp_path / "models")


def test_plan(bundle):
    found = plan_bundle(bundle, scale_of(bundle))
    assert found["stages"] and all(row["peak"] > row["weights"] > 0 for row in found["stages"])
    planned = {row["stage"] for row in found["stages"]} | {*found["not_planned"]}
    assert planned == {*stages_of_scale(open_bundle(bundle), scale_of(bundle))}
    assert planned <= {stage.name for stage in read_recipe(open_bundle(bundle))}


@pytest.fixture(scope="session")
def packed(bundle, smoke, tmp_path_factory):
    return pack_bundle(bundle, tmp_path_factory.mktemp("packed"), smoke[0] / "models")


def allowed(bundle):
    return ["scripts"] if (bundle / "scripts").is_dir() else []


def test_check_finds_nothing(bundle, packed):
    for what in (bundle, packed["folder"], packed["zip"]):
        assert check_bundle(what, allowed(bundle)) == []


def test_the_packed_copy_predicts_the_same_without_the_library(bundle, packed, inputs, predicted, tmp_path):
    (tmp_path / "common.py").write_text("raise ImportError('common was imported')\n")
    files = str(Path(packed["folder"]) / "configs" / "inference.json")
    command = ["-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", packed["folder"]]
    command += ["--input", str(inputs[0]), "--output_dir", str(tmp_path / "out")]
    run_python(command, {"PYTHONPATH": str(tmp_path)}, "/", tmp_path / "log")
    for path in predicted[1]["outputs"]:
        assert (tmp_path / "out" / Path(path).name).read_bytes() == Path(path).read_bytes(), path
