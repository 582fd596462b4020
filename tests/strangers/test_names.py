"""Names that strangers' files have: data in every verb, literal in and literal out, and nothing in them runs.

The first kinds are of ../shared/data/cases/README.md. What a system or a format cannot hold is said where it matters:
a file name has no slash and no zero byte, MONAI Label itself reads a typed note that begins with `%`.
"""

import json
import logging
import os
import shlex
import unicodedata
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from monai.bundle import ConfigParser
from PIL import Image

from common.apps.packaging.check import check_bundle
from common.apps.packaging.pack import pack_bundle
from common.apps.predict import predict
from common.apps.run.bundle import CommandLineText, UsageError, literal, open_bundle, resolve
from common.apps.run.cluster_jobs import render_job
from common.apps.run.evaluate import evaluate
from common.apps.run.plan import plan_bundle
from common.apps.run.prepare import prepare
from common.apps.run.recipe import run_recipe
from common.apps.run.stage_runner import monai_command
from common.apps.text.label import label_table
from common.apps.text.score import score_reports
from common.apps.text.sections import write_sections
from common.cli.main import main
from common.data.case_names import file_name, unique_texts
from common.data.ct.volume import ct_cases
from common.data.cxr.inputs import xray_cases
from common.io.output_folder import csv_text
from tests.clients.packed_mdfnet import write_xray
from tests.data.ct.thin_ct import write_thin_ct
from tests.strangers.named import CANARY, CT, CXR, FAST, FEW, MANY, any_text, copy_ct, file_names, folder_for, rows
from tests.toy_bundle import make_manifest, make_toy_bundle

pytestmark = pytest.mark.usefixtures("nothing_runs")


# ---- one function for text in a configuration ------------------------------------------------------------------------


def read_back(value):
    config = ConfigParser({"x": value, "y": "$str(@x) + ''", "z": {"_target_": "pathlib.PurePosixPath", "_args_": []}})
    return config.get_parsed_content("x"), config.get_parsed_content("y")


@FAST
@given(any_text)
@example(CANARY)
@example("@y")
@example("Study #1")
@example("\udcff bytes")
def test_a_text_is_what_it_was_after_monai_has_read_it(text):
    assert read_back(literal(text)) == (text, text)
    nested = {"a": [text, {"b": (text,)}], "n": 1, "none": None}
    assert ConfigParser({"x": literal(nested)}).get_parsed_content("x") == {**nested, "a": [text, {"b": [text]}]}
    assert literal(literal("plain/path@site/100%")) == "plain/path@site/100%"  # most paths stay as they are


@FAST
@given(any_text)
@example("-x")
@example("a\nb")
def test_a_text_is_what_it_was_after_a_command_line(text):
    """shell, fire and MONAI read the printed command; a zero byte cannot be in one."""
    if "\0" in text:
        return
    (*_, word) = words = shlex.split(monai_command(["a.json"], None, {"output_dir": literal(text)}))
    seen = {}
    fire.Fire(lambda **options: seen.update(options), command=words[4:])
    assert read_back(seen["output_dir"])[0] == text
    assert "\n" not in word


# ---- predict ---------------------------------------------------------------------------------------------------------


def check_predict_ct(tmp_path, ct_file, name, folder="in"):
    if name.startswith("."):
        return  # hidden: not listed
    place = folder_for(tmp_path, folder)
    (place / f"{name}.nii.gz").write_bytes(ct_file.read_bytes())
    (place / f"{name}_2.nii").write_bytes(b"no image")
    out = place.parent / f"{folder} out"
    result = predict(CT, place, out, overrides={"mode": "linear", "target_slices": 12})
    assert result["outputs"] == [str(out / f"{name}.nii.gz")] and nib.load(result["outputs"][0]).shape == (8, 8, 12)
    assert [row["path"] for row in rows(out / "excluded.csv")] == [str(place / f"{name}_2.nii")]
    single = predict(CT, place / f"{name}.nii.gz", out, overrides={"mode": "linear", "target_slices": 12})
    assert single["outputs"] == result["outputs"] and not (out / "excluded.csv").exists()


@pytest.mark.parametrize("name", [CANARY, "@y", "Study #1", "%z", "two\nlines", "-x", "a\\b", "x" * 200])
def test_predict_takes_every_name_of_a_ct(tmp_path, ct_file, name):
    check_predict_ct(tmp_path, ct_file, name)


@FEW
@given(file_names, file_names)
def test_predict_takes_any_name_of_a_ct_and_its_folder(tmp_path, ct_file, name, folder):
    check_predict_ct(tmp_path, ct_file, name, folder)


@pytest.mark.slow
@MANY
@given(file_names, file_names)
def test_predict_takes_very_many_names(tmp_path, ct_file, name, folder):
    check_predict_ct(tmp_path, ct_file, name, folder)


def test_the_shared_case(tmp_path, ct_file):
    """Row 1 of the table of cases, through the command line."""
    place = tmp_path / "in" / "Study #1"
    place.mkdir(parents=True)
    for name in (f"{CANARY}.nii.gz", "@y.nii.gz", "ct.nii.gz"):
        (place / name).write_bytes(ct_file.read_bytes())
    words = ["predict", str(CT), "--input", str(place), "--mode", "linear", "--target_slices", "12"]
    assert main([*words, "--output_dir", "out #2"]) == 0
    assert {path.name for path in Path("out #2").iterdir()} == {f"{CANARY}.nii.gz", "@y.nii.gz", "ct.nii.gz"}


def check_predict_cxr(tmp_path, cxr, name):
    place = folder_for(tmp_path, f"{name} in")
    write_xray(place / f"{name}.png")
    (place.parent / name).write_text(f"{name} cough")
    (place.parent / "v.csv").write_text(csv_text(["case", "age"], [{"case": name, "age": 50}]))
    out = place.parent / "out"
    given = {"note": str(place.parent / name), "clinical": str(place.parent / "v.csv"), "pictures": True}
    # What is hidden in a folder is counted, not read; who names it means it.
    source = place / f"{name}.png" if name.startswith(".") else place
    result = predict(CXR, source, out, cxr[0], given)
    (row,) = rows(out / "predictions.csv")
    case = file_name(name)
    assert row["case"] == case and case in (name, f"_{name}")  # a name that begins with a dot would be hidden
    told = json.loads((out / f"{case}.json").read_text())
    assert told["case"] == case and told["modalities"] == ["vision", "text", "clinical"]
    assert {Path(path).name for path in result["outputs"]} == {
        "predictions.csv", f"{case}.json", f"{case}.png", f"{case}_note.html",
    }  # fmt: skip


@pytest.mark.parametrize("name", [CANARY, "@y", r"a$\frac{b$", ".hidden", "<b>x"])
def test_predict_takes_every_name_of_an_x_ray_and_its_note(tmp_path, cxr, name):
    check_predict_cxr(tmp_path, cxr, name)


@pytest.mark.slow
@settings(MANY, max_examples=25)
@given(file_names)
def test_predict_takes_very_many_names_of_x_rays(tmp_path, cxr, name):
    check_predict_cxr(tmp_path, cxr, name)


@pytest.mark.parametrize("text", [CANARY, "@y", "%SpO2 88%", "# 3 cough", "null\nno", "$5 copay"])
def test_a_note_is_text(tmp_path, cxr, text):
    """Typed on the command line: a path that is not there, so it is the note itself."""
    image = write_xray(tmp_path / "a.png")
    places = {"input": str(image), "output_dir": "out"}
    config = open_bundle(CXR).config(
        "inference", ckpt_dir=cxr[0], overrides={"note": CommandLineText(text)}, places=places
    )
    assert resolve(config, "cases")[0][0]["note"] == text


def test_an_override_that_names_a_file_is_that_file(tmp_path):
    (tmp_path / "@seed").write_text("")
    bundle = open_bundle(CT)
    texts = {"target_spacing": CommandLineText("@seed"), "n_samples": CommandLineText("$@seed + 1")}
    config = bundle.config("inference", overrides=texts)
    assert resolve(config, "target_spacing", "n_samples") == ["@seed", 1]  # no such file, so it is an expression


# ---- MONAI Label -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [CANARY, "@y", "chest pain # 3", "two\nlines", ""])
def test_a_note_typed_into_monai_label_never_becomes_configuration(cxr, text):
    """As its BundleInferTask does: the typed words go into `displayable_configs`, then transforms and inferer are read.

    A note that begins with `%` ends there in an error, as `ConfigParser.parse` takes it for the name of a file.
    """
    config = ConfigParser()
    config.read_config([str(CXR / "configs" / "inference.json"), str(cxr[0] / "network.json")])
    config.config.update({"bundle_root": str(CXR), "ckpt_dir": str(cxr[0])})
    config["displayable_configs"].update({"note": text})
    config.parse()
    keep = config.get_parsed_content("preprocessing").transforms[-1]
    assert keep({"image": 1, "note": text}) == {"image": 1, "note": text}
    assert config.get_parsed_content("inferer").note == text
    again = keep({"image": 1})  # data of `predict`, whose notes are those of its cases
    assert again == {"image": 1}


# ---- run, tune, job, plan --------------------------------------------------------------------------------------------


def check_run(tmp_path, name):
    place = folder_for(tmp_path, name)
    bundle, data = make_toy_bundle(place), make_manifest(place / "data")
    # What a stage gets is what was given.
    train = json.loads((bundle / "configs" / "train.json").read_text())
    train["history"]["metrics"] = {"epochs": "$@train#trainer.state.epoch"}
    train["run"] += [
        "$(Path(@output_dir) / 'seen.json').write_text(json.dumps([@dataset_dir, @output_dir, @ckpt_dir]))"
    ]
    train |= {"text_ids": ["label"]}
    (bundle / "configs" / "train.json").write_text(json.dumps(train))
    out = place.parent / f"{name} out"
    options = {"stages": "first", "dataset_dir": data, "output_dir": out, "overrides": {"label": CommandLineText(name)}}
    assert run_recipe(bundle, **options)["ran"] == ["first"]
    assert json.loads((out / "seen.json").read_text()) == [str(data), str(out), str(out / "models")]
    config = json.loads((out / "first" / "config.json").read_text())
    saved = ConfigParser({key: config[key] for key in ("dataset_dir", "output_dir", "ckpt_dir", "label")})
    wanted = None if name.lower() in ("none", "null") else name
    assert saved.get_parsed_content("label") == wanted and saved.get_parsed_content("output_dir") == str(out)
    assert run_recipe(bundle, **options)["skipped"] == ["first"]


@pytest.mark.parametrize("name", [CANARY, "@y", "Study #1", "two\nlines"])
def test_run_takes_every_path(tmp_path, name):
    check_run(tmp_path, name)


@FEW
@given(file_names)
def test_run_takes_any_path(tmp_path, name):
    check_run(tmp_path, name)


@pytest.mark.parametrize("name", ["%%cool", "#####good", CANARY, "@output_dir", "admin@site"])
def test_run_takes_a_relative_path(tmp_path, name):
    """https://github.com/Project-MONAI/MONAI/issues/4057: paths that MONAI has its own idea of."""
    data = make_manifest(tmp_path / "data")
    result = run_recipe(make_toy_bundle(tmp_path), stages="first", dataset_dir=data, output_dir=name)
    assert result["ran"] == ["first"] and Path(name, "order.txt").read_text() == "first "


@pytest.mark.slow
@MANY
@given(file_names)
def test_run_takes_very_many_paths(tmp_path, name):
    check_run(tmp_path, name)


@FAST
@given(any_text)
@example("$(mkdir RAN)")
@example("a%j b")
def test_a_job_file_holds_any_path(text):
    places = {"dataset_dir": f"/d/{text}", "output_dir": f"/o/{text}", "project_dir": text}
    if any(unicodedata.category(sign) == "Cc" for sign in text):  # no comment line of Slurm holds it
        with pytest.raises(UsageError, match="control character"):
            render_job("slurm", CT, "refiner", **places)
        return
    slurm = render_job("slurm", CT, "refiner", **places)["job"]
    assert f"cd -- {shlex.quote(text)}\n" in slurm and slurm.count("#SBATCH") == 10
    _, job = yaml.safe_load_all(render_job("kubernetes", CT, "refiner", image=text, claim=text, **places)["job"])
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == text
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == text
    shell = pod["containers"][0]["args"][0].replace("$$", "$")  # as Kubernetes reads it
    for command in (slurm.partition("srun ")[2], shell):
        words = shlex.split(command)
        seen = {}
        fire.Fire(lambda **options: seen.update(options), command=words[words.index("--config_file") :])  # noqa: B023
        assert read_back(seen["dataset_dir"])[0] == places["dataset_dir"]
        assert read_back(seen["ckpt_dir"])[0] == f"{places['output_dir']}/models"


def test_plan_takes_a_path(tmp_path):
    found = plan_bundle(CT, "demo", ["refiner"], overrides={"cache_dir": CommandLineText(CANARY)})
    assert found["stages"][0]["peak"] > 0


# ---- prepare, evaluate, pack, text -----------------------------------------------------------------------------------


def check_prepare_and_evaluate(tmp_path, ct_file, name):
    if name.startswith("."):
        return
    place = folder_for(tmp_path, f"{name} in")
    for i in range(3):
        (place / f"{name}{i}.nii.gz").write_bytes(write_thin_ct(place.parent / f"{i}.nii.gz", seed=i).read_bytes())
    prepared = place.parent / f"{name} prepared"
    prepare("nifti", place, prepared)
    told = rows(prepared / "manifest.csv")
    assert {row["case"] for row in told} == {f"{name}{i}" for i in range(3)}
    assert {row["image"] for row in told} == {str(path) for path in place.iterdir()}
    out = place.parent / f"{name} evaluated"
    evaluate(CT, prepared, out, overrides={"modes": ["nearest"], "ratio": 3})
    measured = {row["case"] for row in rows(out / "metrics.csv")}
    assert measured == {row["case"] for row in told if row["split"] == "test"} and (out / "index.html").is_file()


@pytest.mark.parametrize("name", [CANARY, "@y", "Study #1", r"a$\frac{b$", "a\rb"])
def test_prepare_and_evaluate_take_every_name(tmp_path, ct_file, name):
    check_prepare_and_evaluate(tmp_path, ct_file, name)


@pytest.mark.slow
@settings(MANY, max_examples=25)
@given(file_names)
def test_prepare_and_evaluate_take_very_many_names(tmp_path, ct_file, name):
    check_prepare_and_evaluate(tmp_path, ct_file, name)


def test_pack_and_check_take_a_folder_of_any_name(tmp_path, cxr):
    out = tmp_path / f"{CANARY} @ #1"
    made = pack_bundle(CXR, out, cxr[0])
    assert Path(made["folder"]).parent == out and check_bundle(made["folder"]) == []


REPORTS = (CANARY, "@y no pneumothorax.", "%z", "# Findings: clear.", "{a} $@seed", "=1+1", "No effusion.\nNormal.")


def test_reports_are_text(tmp_path):
    """In tables with any name: each verb gives back the text it got."""
    table = tmp_path / f"{CANARY}.csv"
    table.write_text(csv_text(["study", "text"], [{"study": text, "text": text} for text in REPORTS]))
    label_table("cxr", table, "text", tmp_path / "@labels.csv")
    assert [row["text"] for row in rows(tmp_path / "@labels.csv")] == list(REPORTS)
    folder = tmp_path / "reports #1"
    folder.mkdir()
    for i, text in enumerate(REPORTS):
        (folder / f"${i}.txt").write_text(f"FINDINGS: {text} seen.")
    write_sections(folder, tmp_path / "%sections.csv")
    assert len(rows(tmp_path / "%sections.csv")) == len(REPORTS)
    lines = "".join(json.dumps({"id": f"${i}", "report": text}) + "\n" for i, text in enumerate(REPORTS))
    (tmp_path / "$p.jsonl").write_text(lines)
    assert score_reports("$p.jsonl", "$p.jsonl", draws=2)["reports"] == len(REPORTS)


# ---- names of cases --------------------------------------------------------------------------------------------------


INPUTS = {
    # (files below a folder) -> names, as the thread or the issue has it
    "an unpacked copy": {"a.nii": "a_nii", "a.nii.gz": "a_nii_gz"},
    "series named alike": {"P1/CT.nii": "P1_CT_nii", "P2/CT.nii": "P2_CT", "P1_CT.nii": "P1_CT"},
    # https://github.com/rordenlab/dcm2niix/issues/70
    "only case differs": {"DATA.nii.gz": "DATA", "data.nii.gz": "data_2"},
    # https://github.com/Project-MONAI/MONAI/pull/6481
    "one name in many folders": {"s1/t1.nii.gz": "s1_t1", "s2/t1.nii.gz": "s2_t1", "s2/t2.nii.gz": "t2"},
    # https://github.com/pydicom/deid/issues/161
    "one name, deeper": {"a/b/c.nii": "a_b_c", "a/d/c.nii": "a_d_c"},
}


@pytest.mark.parametrize("kind", INPUTS)
def test_cases_are_told_apart(tmp_path, ct_file, kind):
    wanted = INPUTS[kind]
    for name in wanted:
        copy_ct(ct_file, tmp_path / "in" / name)
    cases = ct_cases(tmp_path / "in")
    assert {Path(row["image"]).relative_to(tmp_path / "in").as_posix(): row["case"] for row in cases} == wanted
    result = predict(CT, tmp_path / "in", tmp_path / "out", overrides={"mode": "nearest", "target_slices": 12})
    assert len(result["outputs"]) == len(wanted)
    written = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").iterdir()}
    assert written == set(wanted.values())


def test_many_of_one_name(tmp_path, ct_file):
    """https://github.com/rordenlab/dcm2niix/issues/969: more than the letters of the alphabet."""
    for i in range(30):
        copy_ct(ct_file, tmp_path / "in" / f"{i}" / "t.nii")
    assert len({row["case"] for row in ct_cases(tmp_path / "in")}) == 30
    assert len(set(unique_texts(["t"] * 30))) == 30


def test_x_rays_named_alike_are_told_apart(tmp_path):
    """https://github.com/Project-MONAI/MONAILabel/issues/554: one image in two formats side by side."""
    for name in ("p.png", "p.jpg", "in/p.png", "q.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    found = {Path(case["image"]).relative_to(tmp_path).as_posix(): case["case"] for case in xray_cases(tmp_path, [])}
    assert found == {"p.png": "p_png", "p.jpg": "p_jpg", "in/p.png": "in_p", "q.png": "q"}


def test_rows_of_a_table_are_told_apart(tmp_path):
    (tmp_path / "v.csv").write_text(csv_text(["case", "age"], [{"case": c, "age": 5} for c in ("a/b", "a_b", "A_B")]))
    cases = xray_cases(tmp_path / "v.csv", [])
    assert [case["case"] for case in cases] == ["a_b", "a_b_2", "A_B_3"]
    assert all(case["clinical"] is not None for case in cases)


def test_a_name_that_is_no_utf8_is_read_as_latin_1(tmp_path, ct_file, cxr, capsys, monkeypatch):
    """https://github.com/rordenlab/dcm2niix/issues/425: names written on another system."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # a test process cannot hand on what is no UTF-8
    place = tmp_path / "in"
    place.mkdir()
    try:
        (place / os.fsdecode(b"M\xfcller.nii.gz")).write_bytes(ct_file.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (place / os.fsdecode(b"bad\xff.nii")).write_bytes(b"")
    result = predict(CT, place, tmp_path / "out", overrides={"mode": "nearest", "target_slices": 12})
    assert result["outputs"] == [str(tmp_path / "out" / "Müller.nii.gz")]
    image = write_xray(tmp_path / "x" / os.fsdecode(b"S\xf8ren.png"))
    made = predict(CXR, image, tmp_path / "xrays", cxr[0])
    assert {Path(path).name for path in made["outputs"]} == {"predictions.csv", "Søren.json", "Søren.png"}
    assert [row["path"] for row in rows(tmp_path / "out" / "excluded.csv")] == [
        str(place / os.fsdecode(b"bad\xff.nii"))
    ]
    capsys.readouterr()
