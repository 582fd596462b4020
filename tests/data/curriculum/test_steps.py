"""The six steps: one after another, on what is spoilt, and killed in the middle."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.curriculum import steps as mimic_steps
from common.data.curriculum.steps import STEPS, image_folder, run_steps
from common.data.ehr.icd import ICD_GROUPS, icd_groups
from common.data.layouts import LAYOUTS
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.report_answers import parse_answer
from tests.data.cxr.mimic_tree import (
    TRAIN,
    contents,
    edit_table,
    make_tree,
    read_rows,
    read_table,
    write_rows,
    write_table,
)
from tests.data.ehr.mimic_rows import DEMO, DEMO_ED

FILES = {file for step in STEPS.values() for file in step.writes}


@pytest.fixture(scope="module")
def tree(made_once):
    folder, n_studies = made_once("mimic_steps", make_tree)
    return folder / "mimic", n_studies


@pytest.fixture(scope="module")
def done(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("steps") / "out"
    return out, run_steps(tree[0], out)


@pytest.fixture
def spoilt(tree, tmp_path):
    """A copy to spoil."""
    shutil.copytree(tree[0], tmp_path / "mimic")
    return tmp_path / "mimic"


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def excluded(out):
    return {(row["step"], row["path"]): row["reason"] for row in table(out / "excluded.csv")}


def moment_of(row):
    return datetime.strptime(f"{row['StudyDate']} {row['StudyTime'].split('.')[0]:0>6}", "%Y%m%d %H%M%S")


def metadata(root):
    return root / "mimic-cxr-2.0.0-metadata.csv.gz"


def test_the_steps_are_those_of_the_command_line():
    step, *options = LAYOUTS["mimic_cxr"].step_options
    assert step.choices == (*STEPS, "all")
    known = {option.name for option in (*options, *LAYOUTS["mimic_cxr"].options)}
    assert {name for step in STEPS.values() for name in step.options} <= known


def test_one_after_another_gives_what_all_in_one_call_give(tree, done, tmp_path):
    root, n_studies = tree
    for name in STEPS:
        found = run_steps(root, tmp_path / "out", name)
        assert set(found) == {name} and found[name]["done"] is False
        assert all(Path(file).is_file() for file in found[name]["files"])
    mine, theirs = contents(tmp_path / "out"), contents(done[0])
    # where the folders lie to each other is no matter
    states = [json.loads(files.pop("steps.json")) for files in (mine, theirs)]
    assert mine == theirs and set(mine) == FILES | {"excluded.csv"}
    assert states[0]["curriculum"]["writes"] == states[1]["curriculum"]["writes"]
    assert image_folder(tmp_path / "out") == root
    counts = {name: facts["counts"] for name, facts in done[1].items()}
    assert counts["subset"]["images"] == counts["impressions"]["studies"] == counts["manifest"]["rows"] == n_studies
    assert counts["ehr"]["studies"] == n_studies and counts["ehr"]["not_used"]["after_study"] > 100
    assert all(sum(of.values()) == n_studies for of in counts["chexpert"]["labels"].values())
    state = json.loads((done[0] / "steps.json").read_text())
    assert state["curriculum"]["document"] == {"rows": {"train": 10142, "val": 1125}, "mb": 81}
    assert {facts["excluded"] for facts in done[1].values()} == {0}
    assert state["subset"]["document"]["gb"] == "15 to 18" and state["ehr"]["document"]["tables_gb"] == 4.2


def test_what_the_files_hold_is_what_the_tables_say(tree, done):
    root, out = tree[0], done[0]
    split_of = {row["dicom_id"]: row["split"] for row in read_table(root / "mimic-cxr-2.0.0-split.csv.gz")}
    view_of = {row["dicom_id"]: row["ViewPosition"] for row in read_table(metadata(root))}
    chosen = table(out / "selected_images.csv")
    for row in chosen:
        assert view_of[row["dicom_id"]] in ("PA", "AP") and (root / row["path"]).is_file()
        assert row["path"].endswith(f"/p{row['subject_id']}/s{row['study_id']}/{row['dicom_id']}.jpg")
        assert row["split"] == split_of[row["dicom_id"]].replace("validate", "val")
    sectioned = {row["study"]: row["impression"] for row in table(root / "mimic_cxr_sectioned.csv")}
    assert {row["study"]: row["impression"] for row in table(out / "impressions.csv")} == sectioned
    labels = {f"s{row['study_id']}": row for row in read_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz")}
    for row in table(out / "chexpert.csv"):
        assert list(row) == ["study", *CHEXPERT_LABELS]
        assert {name: row[name] for name in CHEXPERT_LABELS} == {n: labels[row["study"]][n] for n in CHEXPERT_LABELS}
    for row in read_rows(out / "phase_a.jsonl"):
        assert {name: str(value) for name, value in row["labels"].items()} == {
            name: labels[row["study"]][name] for name in CHEXPERT_LABELS if labels[row["study"]][name]
        }
        assert row["impression"] == sectioned[row["study"]]


def test_records_hold_the_groups_of_the_codes_of_their_own_stay(tree, done):
    root, records = tree[0], read_rows(done[0] / "ehr.jsonl")
    codes = {}
    for name, key in (("mimic-iv/hosp/diagnoses_icd", "hadm_id"), ("mimic-iv-ed/ed/diagnosis", "stay_id")):
        for row in read_table(root / f"{name}.csv.gz"):
            codes.setdefault(row[key], set()).add((row["icd_code"], int(row["icd_version"])))
    times = {f"s{row['study_id']}": row for row in read_table(metadata(root))}
    stays = read_table(root / "mimic-iv-ed/ed/edstays.csv.gz")
    checked = 0
    for record in records:
        row = times[record["study"]]
        moment = moment_of(row)
        for stay in stays:
            begin, end = (datetime.fromisoformat(stay[name]) for name in ("intime", "outtime"))
            if stay["subject_id"] == record["patient"] and begin <= moment <= end:
                groups = icd_groups(codes.get(stay["stay_id"], set()) | codes.get(stay["hadm_id"], set()))
                assert record["icd"] == [name for name in ICD_GROUPS if groups[name]]
                checked += 1
    assert checked > 10 and {name for r in records for name in r["icd"] or ()} >= {"pneumonia", "heart_failure"}


def test_a_second_call_has_nothing_to_do(tree, done, monkeypatch):
    before = contents(done[0])
    monkeypatch.setattr("common.data.curriculum.steps.write_text", lambda *a: pytest.fail("wrote a file"))
    again = run_steps(tree[0], done[0])
    assert all(facts["done"] for facts in again.values()) and contents(done[0]) == before
    assert {name: facts["counts"] for name, facts in again.items()} == {n: f["counts"] for n, f in done[1].items()}


def test_a_step_is_done_again_if_its_input_options_or_rules_have_changed(spoilt, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_steps(spoilt, out)
    report = sorted((spoilt / "files").rglob("*.txt"))[0]
    report.write_text(" FINAL REPORT\n\n IMPRESSION: Changed text.\n")
    again = run_steps(spoilt, out)
    assert {name for name, facts in again.items() if not facts["done"]} == {
        "subset", "impressions", "manifest", "curriculum"  # the first looks at all files, and finds the same
    }  # fmt: skip
    assert "Changed text." in (out / "phase_a.jsonl").read_text()
    again = run_steps(spoilt, out, without_ehr=0.5)
    assert [name for name, facts in again.items() if not facts["done"]] == ["curriculum"]
    shutil.copytree(mimic_steps._RULES, tmp_path / "text")
    monkeypatch.setattr(mimic_steps, "_RULES", tmp_path / "text")
    assert run_steps(spoilt, out, "curriculum", without_ehr=0.5)["curriculum"]["done"]
    (tmp_path / "text" / "reasoning.yaml").write_text("# other rules")
    assert not run_steps(spoilt, out, "curriculum", without_ehr=0.5)["curriculum"]["done"]
    (out / "chexpert.csv").write_text("study\n")
    with pytest.raises(BadInput, match=r"chexpert.csv: is missing or was changed, run first: .* --step chexpert "):
        run_steps(spoilt, out, "manifest")
    assert [name for name, facts in run_steps(spoilt, out).items() if not facts["done"]] == ["chexpert", "curriculum"]


def test_a_step_names_the_command_that_is_missing(tree, tmp_path):
    root, out = tree[0], tmp_path / "out"
    with pytest.raises(BadInput) as problem:
        run_steps(root, out, "impressions")
    command = f"python -m common prepare mimic_cxr --step subset --input {root} --output_dir {out}"
    assert str(problem.value) == f"{out / 'selected_images.csv'}: is missing or was changed, run first: {command}."
    run_steps(root, out, "subset")
    with pytest.raises(BadInput, match=r"impressions.csv: is missing .* --step impressions "):
        run_steps(root, out, "manifest")
    run_steps(root, out, "impressions")
    run_steps(root, out, "chexpert")
    run_steps(root, out, "manifest")
    with pytest.raises(BadInput, match=r"ehr.jsonl: is missing .* --step ehr "):
        run_steps(root, out, "curriculum")
    run_steps(root, out, "subset", n_images=12)  # then all that follows is of other studies
    run_steps(root, out, "ehr")
    with pytest.raises(BadInput, match=r"impressions.csv: was made from other files .* --step impressions "):
        run_steps(root, out, "curriculum")


def test_wrong_calls(tree, tmp_path):
    root, out = tree[0], tmp_path / "out"
    with pytest.raises(ValueError, match="step is 'labels', expected one of subset, impressions, .* or all"):
        run_steps(root, out, "labels")
    with pytest.raises(ValueError, match="step impressions takes no n_images, expected no option"):
        run_steps(root, out, "impressions", n_images=3)
    with pytest.raises(ValueError, match="step curriculum takes no validate, expected some of seed, split_by_patient"):
        run_steps(root, out, "curriculum", validate=True)
    with pytest.raises(BadInput, match="does not exist, expected the folder of MIMIC-CXR-JPG"):
        run_steps(tmp_path / "nowhere", out)
    with pytest.raises(BadInput, match="lies inside the input"):
        run_steps(root, root / "out")
    assert not (root / "out").exists()
    run_steps(root, out, "subset")
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match="holds steps from .*, expected the same input, or a new folder"):
        run_steps(tmp_path / "other", out)
    (out / "steps.json").write_text("{")
    with pytest.raises(BadInput, match="steps.json: is not the record of the steps as JSON"):
        run_steps(root, out)
    assert not (tmp_path / "other" / "files").exists()


KILL = """
import os, signal, sys
from common.data.curriculum import steps as mimic_steps
write, left = mimic_steps.write_text, [int(sys.argv[3])]
def kill(path, text):
    left[0] -= 1
    if left[0] < 0:
        path.with_name(f".part00000000_{path.name}").write_text(text[: len(text) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, text)
mimic_steps.write_text = kill
mimic_steps.run_steps(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("after", [0, 2, 7, 12, 16, 18])
def test_killed_in_a_step_the_same_call_gives_the_same_bytes(tree, done, tmp_path, after):
    out = done[0].parent / f"killed_{after}"  # beside the other, so that steps.json names the same input
    words = [sys.executable, "-c", KILL, str(tree[0]), str(out), str(after)]
    assert (
        subprocess.run(words, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}).returncode
        == -signal.SIGKILL
    )
    assert len(list(out.glob(".part*"))) == 1
    found = run_steps(tree[0], out)
    assert [facts["done"] for facts in found.values()] == sorted((f["done"] for f in found.values()), reverse=True)
    assert contents(out) == contents(done[0])


def test_a_copy_with_every_trap(spoilt, tree, tmp_path):
    """What is wrong is listed with its reason and used nowhere, and all else is as before."""
    rows = read_table(metadata(spoilt))
    studies = {}
    for row in rows:
        studies.setdefault(f"s{row['study_id']}", []).append(row)
    images_of = {s: [row["dicom_id"] for row in own if row["ViewPosition"] != "LATERAL"] for s, own in studies.items()}
    patient_of = {study: own[0]["subject_id"] for study, own in studies.items()}
    alone = [s for s in studies if list(patient_of.values()).count(patient_of[s]) == 1 and len(images_of[s]) == 1]
    twice, no_report, no_impression, no_image, no_patient, foreign, *others = alone
    many = next(s for s in studies if list(patient_of.values()).count(patient_of[s]) > 1)
    text_of = {study: next((spoilt / "files").rglob(f"{study}.txt")) for study in alone}

    first = images_of[many][0]  # a patient in both splits
    other = {"train": "test", "validate": "train", "test": "train"}
    stranger = {"subject_id": patient_of[no_patient], "dicom_id": "0-0"}  # an image of a study of somebody else
    edit_table(
        spoilt / "mimic-cxr-2.0.0-split.csv.gz",
        lambda table: [
            row | ({"split": other[row["split"]]} if row["dicom_id"] == first else {}) for row in table
        ] + [row | stranger for row in table if row["dicom_id"] == images_of[no_patient][0]],
    )  # fmt: skip
    edit_table(metadata(spoilt), lambda table: [*table, *studies[twice], studies[foreign][0] | stranger])
    text_of[no_report].unlink()
    text_of[no_impression].write_text(" FINAL REPORT\n\n FINDINGS: The heart is normal.\n")
    for path in (spoilt / "files").rglob(f"{images_of[no_image][0]}.jpg"):
        path.unlink()
    patients = spoilt / "mimic-iv/hosp/patients.csv.gz"
    edit_table(patients, lambda table: [row for row in table if row["subject_id"] != patient_of[no_patient]])
    # I10 in the stay of a study, and values charted, or stored, a minute after it; of patients with one study
    time_of = {patient_of[study]: min(map(moment_of, studies[study])) for study in alone}
    here = {
        row["hadm_id"]
        for row in read_table(spoilt / "mimic-iv/hosp/admissions.csv.gz")
        if row["subject_id"] in time_of
        and (row["edregtime"] or row["admittime"]) <= str(time_of[row["subject_id"]]) <= row["dischtime"]
    }
    i10 = {"icd_code": "I10", "icd_version": "10", "seq_num": "99"}
    edit_table(
        spoilt / "mimic-iv/hosp/diagnoses_icd.csv.gz",
        lambda table: [*table, *[row | i10 for row in table if row["hadm_id"] in here]],
    )

    def later(table):
        lactate = {"valuenum": "13.9", "value": "13.9", "valueuom": "mmol/L", "itemid": "61016", "flag": "abnormal"}
        planted = []
        for row in table:
            if row["subject_id"] in time_of:
                late = str(time_of[row["subject_id"]] + timedelta(minutes=1))
                planted += [row | lactate | {"storetime": late}, row | lactate | {"storetime": late, "charttime": late}]
        return [*table, *planted]

    edit_table(spoilt / "mimic-iv/hosp/labevents.csv.gz", later)
    out = tmp_path / "out"
    counts = {name: facts["counts"] for name, facts in run_steps(spoilt, out).items()}

    why = excluded(out)
    of_split = [reason for (step, _), reason in why.items() if "expected one split" in reason]
    assert len(of_split) == sum(len(own) for study, own in studies.items() if patient_of[study] == patient_of[many])
    assert any(f"has image {images_of[twice][0]} more than once" in reason for reason in why.values())
    both = sorted({patient_of[foreign], patient_of[no_patient]})
    assert why["subset", foreign] == f"is of patients {' and '.join(both)}, expected one"
    assert why["subset", no_image].startswith("has no image, expected files/p1")
    assert "cannot be read (No such file or directory), expected a report" in why["impressions", no_report]
    assert why["impressions", no_impression].endswith("has no impression")
    assert why["ehr", no_patient] == f"patient {patient_of[no_patient]} has no usable row in patients"
    left = {row["study"] for row in read_rows(out / "phase_a.jsonl")}
    gone = {twice, no_report, no_impression, no_image, foreign}
    assert left == set(studies) - gone - {s for s in studies if patient_of[s] == patient_of[many]}
    assert here and len(others) > 3
    assert counts["ehr"]["without_patient"] == 1
    assert {name: facts["excluded"] for name, facts in run_steps(spoilt, out).items()} == {
        name: sum(row["step"] == name for row in table(out / "excluded.csv")) for name in STEPS
    }

    clean = tmp_path / "clean"
    run_steps(tree[0], clean)
    before = {record["study"]: record for record in read_rows(clean / "ehr.jsonl")}
    for record in read_rows(out / "ehr.jsonl"):
        assert record == before[record["study"]]  # neither a later value nor I10 has changed anything
    assert counts["ehr"]["not_used"]["after_study"] > 1000
    splits = {}
    for split in ("train", "val", "test"):
        for row in read_rows(out / f"curriculum_{split}.jsonl"):
            assert splits.setdefault(row["patient"], split) == split == row["split"]
            assert "13.9 mmol/L" not in row["conversations"][0]["value"]


def test_a_diagnosis_in_the_complaint_is_not_in_a_prompt(spoilt, tmp_path):
    edit_table(
        spoilt / "mimic-iv-ed/ed/triage.csv.gz",
        lambda table: [row | {"chiefcomplaint": "PNEUMONIA, J18.9, Cough"} for row in table],
    )
    run_steps(spoilt, tmp_path / "out")
    prompts = [row["conversations"][0]["value"] for row in read_rows(tmp_path / "out" / TRAIN) if row["ehr"]]
    assert sum("\nChief complaint: [REDACTED], [REDACTED], Cough\n" in text for text in prompts) > 3
    assert not any("J18" in text or "PNEUMONIA" in text for text in prompts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda r: r["vitals"][0].update(value=451), "is 451, expected 25 to 44 C"),
     (lambda r: r["vitals"][0].update(hours=-0.1), "is of -0.1 hours before the study, expected 0 or more"),
     (lambda r: r.update(chief_complaint="Pneumonia"), "has the diagnosis or code 'Pneumonia' in its prompt"),
     (lambda r: r.update(chief_complaint="see I10"), "has the diagnosis or code 'I10' in its prompt"),
     (lambda r: r.update(chronic_conditions=["J18.9"]), "chronic condition is 'J18.9', expected some of"),
     (lambda r: r.update(chief_complaint="<image>"), "has <image> in a text"),
     (lambda r: r.update(patient="1"), "expected 1")],
)  # fmt: skip
def test_the_last_step_refuses_records_that_know_too_much(tree, done, tmp_path, change, reason, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    records = read_rows(out / "ehr.jsonl")
    for record in records:
        if record["vitals"]:
            change(record)
    write_rows(out / "ehr.jsonl", records)
    monkeypatch.setattr("common.data.curriculum.steps._is_whole", lambda facts, out: False)  # as if a step had made it
    monkeypatch.setattr("common.data.curriculum.steps._check_step", lambda *a: None)
    state = json.loads((out / "steps.json").read_text())
    (out / "steps.json").write_text(json.dumps(state | {"input": os.path.relpath(tree[0], out)}))
    with pytest.raises(BadInput) as problem:
        run_steps(tree[0], out, "curriculum")
    assert reason in str(problem.value) and str(problem.value).count("\n") == 0


@pytest.mark.skipif(not (DEMO.is_dir() and DEMO_ED.is_dir()), reason="the MIMIC-IV(-ED) demo is not there")
def test_the_real_demo_tables(tmp_path):
    """A study in the middle of every emergency stay and admission: counts, and nothing later than its study."""
    stays = [(r["subject_id"], r["intime"], r["outtime"]) for r in read_table(DEMO_ED / "ed/edstays.csv.gz")]
    stays += [(r["subject_id"], r["admittime"], r["dischtime"]) for r in read_table(DEMO / "hosp/admissions.csv.gz")]
    root, times = tmp_path / "mimic", {}
    tables = {"metadata": [], "split": [], "chexpert": []}
    for number, (subject, begin, end) in enumerate(stays):
        begin, end = datetime.fromisoformat(begin), datetime.fromisoformat(end)
        study, case = str(50_000_001 + number), f"{number:08x}-0-0-0-0"
        time = times[f"s{study}"] = (begin + (end - begin) / 2).replace(microsecond=0)
        folder = root / f"files/p{subject[:2]}/p{subject}/s{study}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((64, 64), number % 256, np.uint8)).save(folder / f"{case}.jpg")
        folder.with_suffix(".txt").write_text(" FINAL REPORT\n\n IMPRESSION: No acute process.\n")
        ids = {"dicom_id": case, "subject_id": subject, "study_id": study}
        day = {"StudyDate": f"{time:%Y%m%d}", "StudyTime": f"{time:%H%M%S}"}
        tables["metadata"].append(ids | {"ViewPosition": "AP"} | day)
        tables["split"].append(ids | {"split": "validate" if int(subject) % 10 == 0 else "train"})
        tables["chexpert"].append(ids | dict.fromkeys(CHEXPERT_LABELS, "") | {"No Finding": "1.0"})
    for name, rows in tables.items():
        write_table(root / f"mimic-cxr-2.0.0-{name}.csv.gz", rows)
    out = tmp_path / "out"
    counts = {name: f["counts"] for name, f in run_steps(root, out, ehr=[str(DEMO), str(DEMO_ED)]).items()}
    assert counts["subset"]["images"] == counts["ehr"]["studies"] == len(stays) == 222 + 275
    assert counts["ehr"]["with_icd"] > 490 and counts["ehr"]["abnormal_labs"] > 1000
    assert counts["curriculum"]["train"]["stage_a_share"] == pytest.approx(0.35, abs=0.01)
    # every laboratory value that is told stands in the table, charted and stored in time, and is the last of its kind
    raw = {}
    items = {row["itemid"]: row["label"] for row in read_table(DEMO / "hosp/d_labitems.csv.gz")}
    for row in read_table(DEMO / "hosp/labevents.csv.gz"):
        raw.setdefault((row["subject_id"], items[row["itemid"]]), []).append(row)
    told = 0
    for record in read_rows(out / "ehr.jsonl"):
        time = times[record["study"]]
        for value in (*record["vitals"], *record["labs"], *filter(None, [record["o2_device"]])):
            assert value["hours"] >= 0
        for value in record["labs"]:
            charted = time - timedelta(hours=value["hours"])
            rows = [
                row for row in raw[record["patient"], value["name"]]
                if abs(datetime.fromisoformat(row["charttime"]) - charted) < timedelta(minutes=1)
                and datetime.fromisoformat(row["storetime"] or row["charttime"]) <= time
            ]  # fmt: skip
            assert rows, (record["study"], value)
            assert value["flag"] in {row["flag"] for row in rows}
            told += 1
    assert told > 3000
    for split in ("train", "val"):
        for row in read_rows(out / f"curriculum_{split}.jsonl"):
            assert parse_answer(row["conversations"][1]["value"], row["stage"]) is not None
