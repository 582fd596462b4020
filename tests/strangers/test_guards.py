"""Nothing of the user's is run or written over: weights are data, outputs are no inputs, bundles are looked at."""

import json
import os
import shutil
from pathlib import Path

import pytest

from common.apps.packaging.pack import pack_bundle
from common.apps.predict import predict
from common.apps.run.bundle import UsageError
from common.apps.run.evaluate import evaluate
from common.apps.run.recipe import run_recipe
from common.apps.text.label import label_table
from common.apps.text.sections import write_sections
from common.cli.main import main
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text
from common.networks.study_encoders import saved_network
from tests.clients.packed_mdfnet import write_prepared, write_xray
from tests.strangers.named import CANARY, CT, CXR, rows

pytestmark = pytest.mark.usefixtures("nothing_runs")


# ---- weights are data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [{"initialize": [CANARY]}, {"fusion_def": {"width": CANARY}}, {"labels": [CANARY]}])
def test_network_json_beside_weights_runs_nothing(tmp_path, cxr, found):
    """Every verb that reads it; what is refused is in tests/networks/test_definitions.py."""
    folder = shutil.copytree(cxr[0], tmp_path / "weights")
    content = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(content | found))
    image = write_xray(tmp_path / "a.png")
    for call in (
        lambda: predict(CXR, image, tmp_path / "out", folder),
        lambda: evaluate(CXR, cxr[1], tmp_path / "out", folder),
        lambda: pack_bundle(CXR, tmp_path / "out", folder),
        lambda: saved_network(str(folder)),
    ):
        with pytest.raises(BadInput, match="network.json: sets .*, expected sizes alone"):
            call()
    assert not (tmp_path / "out").exists()


# ---- nothing of the user's is written over ---------------------------------------------------------------------------


def snapshot(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_an_x_ray_is_never_replaced_by_its_picture(tmp_path, cxr):
    """https://github.com/MouseLand/cellpose/pull/1104 asks for the same: a result never over the original."""
    images = tmp_path / "D"
    write_xray(images / "scan.png")
    (images / "scan.json").write_text("mine")
    before = snapshot(images)
    (tmp_path / "link").symlink_to(images)
    places = [(images, images), (images, tmp_path / "link"), (tmp_path / "link", images), (images, images / "out")]
    for source, out in [*places, (images / "scan.png", images), (images / "scan.png", tmp_path / "link")]:
        with pytest.raises(BadInput, match="lies inside the input|holds the input itself"):
            predict(CXR, source, out, cxr[0])
        assert snapshot(images) == before
    for name in ("hard.png", "soft.png"):  # the file under another name, where its picture would go
        out = tmp_path / name
        out.mkdir()
        os.link(images / "scan.png", out / "scan.png") if name == "hard.png" else (out / "scan.png").symlink_to(
            images / "scan.png"
        )
        with pytest.raises(BadInput, match="is the input .* itself|lies inside the input"):
            predict(CXR, images, out, cxr[0])
        assert snapshot(images) == before and (out / "scan.png").samefile(images / "scan.png")


def test_a_prepared_folder_stays_as_it_is(tmp_path, cxr):
    data = write_prepared(tmp_path / "prepared")
    (data / "excluded.csv").write_text("path,reason\n")
    before = snapshot(data)
    for out in (data, data / "out"):
        with pytest.raises(BadInput, match="lies inside the input"):
            evaluate(CXR, data, out, cxr[0])
        with pytest.raises(BadInput, match="lies inside the input"):
            run_recipe(CXR, "demo", "encoders", dataset_dir=data, output_dir=out)
        with pytest.raises(BadInput, match="lies inside the input"):
            predict(CXR, data, out, cxr[0])
    assert snapshot(data) == before
    # The images that its table names lie elsewhere, and a picture of a case would replace one.
    elsewhere = tmp_path / "elsewhere"
    copies = {row["case"]: write_xray(elsewhere / f"{row['case']}.png") for row in rows(data / "manifest.csv")}
    told = [row | {"image": str(copies[row["case"]])} for row in rows(data / "manifest.csv")]
    (data / "manifest.csv").write_text(csv_text(list(told[0]), told))
    before = snapshot(data, elsewhere)
    with pytest.raises(BadInput, match="is the input .* itself"):
        predict(CXR, data, elsewhere, cxr[0], {"split": "test"})
    after = snapshot(data, elsewhere)
    assert {path: after[path] for path in before} == before


def test_weights_and_bundles_are_no_output_folder(tmp_path, cxr):
    image = write_xray(tmp_path / "in" / "a.png")
    before = snapshot(cxr[0])
    for out in (cxr[0], cxr[0] / "out"):
        with pytest.raises(BadInput, match="lies inside the input"):
            predict(CXR, image, out, cxr[0])
    with pytest.raises(BadInput, match="lies inside the input"):
        predict(CXR, image, CXR / "configs", cxr[0])
    assert snapshot(cxr[0]) == before


def test_the_note_that_is_read_is_not_written_over(tmp_path, cxr):
    image, note = write_xray(tmp_path / "in" / "a.png"), tmp_path / "out" / "a_note.html"
    note.parent.mkdir()
    note.write_text("Cough.")
    with pytest.raises(BadInput, match="holds the input itself"):
        predict(CXR, image, tmp_path / "out", cxr[0], {"note": str(note)})
    assert note.read_text() == "Cough."


def test_tables_are_not_written_over(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text\nClear lungs.\n")
    os.link(table, tmp_path / "same.csv")
    (tmp_path / "t.excluded.csv").write_text("text\nClear lungs.\n")
    for out in ("t.csv", "same.csv"):
        with pytest.raises(UsageError, match="which is the input"):
            label_table("cxr", table, "text", tmp_path / out)
    with pytest.raises(BadInput, match="is the input .* itself"):
        write_sections(tmp_path / "t.excluded.csv", tmp_path / "t.csv", "text")
    assert table.read_text() == "text\nClear lungs.\n" == (tmp_path / "t.excluded.csv").read_text()


# ---- a bundle of somebody else ---------------------------------------------------------------------------------------


def theirs(tmp_path, name, **change):
    """A copy of our bundle, and in one of its configurations something else."""
    bundle = tmp_path / "theirs"
    shutil.copytree(CT, bundle, ignore=shutil.ignore_patterns("models"))
    content = json.loads((bundle / "configs" / name).read_text())
    (bundle / "configs" / name).write_text(json.dumps(content | change))
    return bundle


CODE = {
    "an expression": ("inference.json", {"initialize": [CANARY]}),
    "a target": ("inference.json", {"cases": {"_target_": "os.mkdir", "path": "RAN"}}),
    "metadata": ("inference.json", {"initialize": ["@_meta_#x"]}),
    "nothing": ("inference.json", {"seed": 1}),
    "another stage": ("vae.json", {"initialize": [CANARY]}),
}


@pytest.mark.parametrize("kind", CODE)
def test_a_bundle_that_is_not_ours_is_looked_at_first(tmp_path, ct_file, capsys, kind):
    """https://github.com/Project-MONAI/MONAI/pull/9057: a bundle that somebody downloads may hold code."""
    bundle = theirs(tmp_path, CODE[kind][0], **CODE[kind][1])
    if kind == "metadata":
        meta = json.loads((bundle / "configs" / "metadata.json").read_text())
        (bundle / "configs" / "metadata.json").write_text(json.dumps(meta | {"x": CANARY}))
    words = ["predict", str(bundle), "--input", str(ct_file), "--output_dir", "out", "--mode", "nearest"]
    words += ["--target_slices", "12"]
    safe = kind in ("nothing", "another stage")  # `predict` runs inference.json alone
    assert main(words) == (0 if safe else 1)
    told = capsys.readouterr().err
    assert Path("out").exists() == safe
    assert safe or (f"{bundle}: would run what was not reviewed (configs/" in told and "--trust" in told)
    if not safe:
        main([*words, "--trust"])
        Path("RAN").rmdir()  # it ran by the user's word


@pytest.mark.parametrize(
    "words", ["run --scale demo", "plan", "tune --search random", "demo", "evaluate --input x.nii.gz --output_dir o"]
)
def test_every_verb_that_runs_a_bundle_looks_at_it(tmp_path, ct_file, capsys, words):
    bundle = theirs(tmp_path, "train.json", initialize=[CANARY])
    (bundle / "configs" / "inference.json").write_text((bundle / "configs" / "train.json").read_text())
    (tmp_path / "x.nii.gz").write_bytes(ct_file.read_bytes())
    verb, *rest = words.split()
    assert main([verb, *(["--bundle"] if verb == "demo" else []), str(bundle), *rest]) == 1
    assert "would run what was not reviewed" in capsys.readouterr().err and not Path("runs").exists()


def test_a_logging_file_is_looked_at_too(tmp_path, capsys):
    """https://github.com/Project-MONAI/MONAI/pull/9114: Python evaluates what it says of a handler."""
    bundle = theirs(tmp_path, "train.json")
    text = (bundle / "configs" / "logging.conf").read_text()
    (bundle / "configs" / "logging.conf").write_text(text.replace("(sys.stderr,)", "(__import__('os').mkdir('RAN'),)"))
    assert "mkdir" in (bundle / "configs" / "logging.conf").read_text()
    assert main(["run", str(bundle), "--scale", "demo"]) == 1
    assert "configs/logging.conf: logging: " in capsys.readouterr().err
