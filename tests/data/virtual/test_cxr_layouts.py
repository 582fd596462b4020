import csv
import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from common.data.cxr.mimic_cxr import find_mimic_cxr
from common.data.cxr.mimic_study import studies_of
from common.data.ehr.mimic_iv import read_contexts
from common.data.virtual.cxr_layouts import write_mimic_cxr, write_open_i, write_r2gen
from common.data.virtual.files import Cohort
from common.data.virtual.patient import make_virtual_patient
from common.data.virtual.study import virtual_dicom_id, virtual_study
from common.data.virtual.xray import make_virtual_xray
from common.data.virtual.xray_findings import draw_xray_findings
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr
from common.text.sections import report_sections
from tests.data.cxr.dicom_xray import write_dicom_xray

LAYOUTS = Path(__file__).parents[3].parent / "shared" / "data" / "layouts"
REPORTS = LAYOUTS.parent / "reports"
WRITERS = {"mimic_cxr": write_mimic_cxr, "open_i": write_open_i, "r2gen": write_r2gen}
SMALL = {"shape": (20, 40, 40), "spacing": (7.0, 5.0, 5.0)}
N = 10


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Layout -> its folder and its rows; treat them as read-only."""
    root = tmp_path_factory.mktemp("trees")
    return {name: (root / name, write(root / name, Cohort(N, seed=30, **SMALL))) for name, write in WRITERS.items()}


def table(path):
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(keepends=True)))


def header(path):
    if not path.exists():
        pytest.skip(f"{path.name} of the real data set is not here")
    return path.read_text(encoding="utf-8").splitlines()[0].split(",")


def hashes(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def truth_of(folder, study_id):
    return json.loads((folder / "truth" / f"s{study_id}.json").read_text())


@pytest.mark.parametrize("layout", WRITERS)
def test_the_same_call_writes_the_same_bytes(tmp_path, trees, layout):
    folder, rows = trees[layout]
    assert WRITERS[layout](tmp_path, Cohort(N, seed=30, **SMALL)) == rows
    assert hashes(tmp_path) == hashes(folder)


@pytest.mark.parametrize("layout", WRITERS)
def test_writing_again_keeps_files_and_completes_missing_ones(tmp_path, layout):
    rows = WRITERS[layout](tmp_path, Cohort(2, seed=3, **SMALL))
    before = hashes(tmp_path)
    kept, lost = tmp_path / rows[0]["image"], tmp_path / rows[-1]["image"]
    written = kept.stat().st_mtime_ns
    lost.unlink()
    for part in [*tmp_path.rglob("*.csv"), *tmp_path.rglob("*.txt"), *tmp_path.rglob("annotation.json")]:
        part.unlink()
    assert WRITERS[layout](tmp_path, Cohort(2, seed=3, **SMALL)) == rows
    assert hashes(tmp_path) == before and not list(tmp_path.rglob(".part*"))
    assert layout == "mimic_cxr" or kept.stat().st_mtime_ns == written


@pytest.mark.parametrize("layout", WRITERS)
def test_other_content_is_refused(tmp_path, layout):
    WRITERS[layout](tmp_path / "a", Cohort(1, **SMALL))
    with pytest.raises(FileExistsError, match="made with"):
        WRITERS[layout](tmp_path / "a", Cohort(2, **SMALL))
    (tmp_path / "b" / "truth").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="new folder"):
        WRITERS[layout](tmp_path / "b", Cohort(1, **SMALL))
    with pytest.raises(ValueError, match="n 0"):
        WRITERS[layout](tmp_path / "c", Cohort(0, **SMALL))
    with pytest.raises(ValueError, match="seed 1000000"):
        WRITERS[layout](tmp_path / "d", Cohort(1, seed=1_000_000, **SMALL))


@pytest.mark.parametrize("layout", WRITERS)
def test_images_are_the_x_rays_of_the_patients(trees, layout):
    folder, rows = trees[layout]
    for row in rows:
        with Image.open(folder / row["image"]) as image:
            assert image.size == (128, 128) and image.mode == "L"
            assert np.asarray(image).std() > 20
    seed = 31
    findings, extra = draw_xray_findings(seed)
    patient = make_virtual_patient(seed, findings=findings, xray_findings=extra, **SMALL)
    study = virtual_study(seed)
    subject = {"mimic_cxr": str(study.subject_id), "open_i": "2"}.get(layout)
    own = [r for r in rows if r["patient"] == subject or (layout == "r2gen" and r["case"].startswith("CXR2_"))]
    for row in own:
        if layout == "mimic_cxr" and row["study"] != f"s{study.study_id}":
            continue
        xray = make_virtual_xray(patient, 128, row["view"])
        saved = np.asarray(Image.open(folder / row["image"])).astype(int)
        assert np.abs(saved - xray.image).max() <= (30 if layout == "mimic_cxr" else 0)
        assert {name: row[name] for name in CHEXPERT_LABELS} == xray.labels


@pytest.mark.parametrize("layout", WRITERS)
def test_no_patient_is_in_two_splits(trees, layout):
    _, rows = trees[layout]
    split_of = {}
    for row in rows:
        assert split_of.setdefault(row["patient"], row["split"]) == row["split"]
    assert set(split_of.values()) == {"train", "val", "test"}


@pytest.mark.parametrize("layout", WRITERS)
def test_what_the_report_says_is_what_the_labels_say(trees, layout):
    folder, rows = trees[layout]
    agree = []
    for path in sorted((folder / "truth").glob("*.json")):
        truth = json.loads(path.read_text())
        sections = truth["sections"]
        stated = {}
        for span in truth["spans"]:
            words = sections[span["section"]][span["start"] : span["end"]]
            assert words and words == words.strip()
            stated.setdefault(span["label"], set()).add(span["value"])
        for name, value in truth["labels"].items():
            if name != "No Finding":
                assert stated.get(name, {None}) == {value}, name
        read = label_cxr(f"{sections['findings']} {sections['impression']}")
        agree += [read[name] == truth["labels"][name] for name in CHEXPERT_LABELS]
    assert np.mean(agree) > 0.97
    assert len(list((folder / "truth").glob("*.json"))) == len({row["study"] for row in rows})


def test_mimic_columns_are_the_real_ones(trees):
    folder, _ = trees["mimic_cxr"]
    real = LAYOUTS / "mimic-cxr-jpg"
    for name, sample in (
        ("chexpert", "chexpert.header"), ("split", "split.header"), ("metadata", "metadata.synthetic"),
        ("negbio", "negbio.synthetic"),
    ):  # fmt: skip
        written = list(table(folder / f"mimic-cxr-2.0.0-{name}.csv.gz")[0])
        assert written == header(real / f"mimic-cxr-2.0.0-{sample}.csv")
    assert list(table(folder / "mimic_cxr_sectioned.csv")[0]) == header(real / "mimic_cxr_sectioned.header.csv")


def test_open_i_columns_are_the_real_ones(trees):
    folder, _ = trees["open_i"]
    for name in ("reports", "projections"):
        written = folder / f"indiana_{name}.csv"
        assert list(table(written)[0]) == header(LAYOUTS / "open-i" / f"indiana_{name}.header.csv")


def test_mimic_tree_ids_views_and_times(trees):
    folder, rows = trees["mimic_cxr"]
    metadata = table(folder / "mimic-cxr-2.0.0-metadata.csv.gz")
    split = {row["dicom_id"]: row for row in table(folder / "mimic-cxr-2.0.0-split.csv.gz")}
    assert len(metadata) == len(rows) == len(split) == len(list(folder.rglob("*.jpg")))
    for line in metadata:
        subject, study = line["subject_id"], line["study_id"]
        stem = folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
        assert (stem / f"{line['dicom_id']}.jpg").exists() and stem.with_suffix(".txt").exists()
        assert re.fullmatch(r"1\d{7}", subject) and re.fullmatch(r"5\d{7}", study)
        assert re.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}", line["dicom_id"])
        assert re.fullmatch(r"2[12]\d{6}", line["StudyDate"]) and 0 <= float(line["StudyTime"]) < 240000
        assert line["ViewPosition"] in ("PA", "AP", "LATERAL") and line["Rows"] == line["Columns"] == "128"
        own = split[line["dicom_id"]]
        assert (own["subject_id"], own["study_id"]) == (subject, study)
        assert own["split"] in ("train", "validate", "test")
    views = {}
    for row in rows:
        views.setdefault(row["study"], set()).add(row["view"])
    assert {frozenset(v) for v in views.values()} >= {frozenset({"PA", "LATERAL"}), frozenset({"AP"})}
    studies = {}
    for row in rows:
        studies.setdefault(row["patient"], set()).add(row["study"])
    assert len(studies) == N and max(map(len, studies.values())) > 1
    first = virtual_study(30)
    assert virtual_dicom_id(30, 0, rows[0]["view"]) == rows[0]["case"] and rows[0]["study"] == f"s{first.study_id}"


def test_mimic_labels_and_sections_are_those_of_the_reports(trees):
    folder, rows = trees["mimic_cxr"]
    labels = {f"s{row['study_id']}": row for row in table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz")}
    sections = {row["study"]: row for row in table(folder / "mimic_cxr_sectioned.csv")}
    assert labels.keys() == sections.keys() == {row["study"] for row in rows}
    for row in rows:
        for name in CHEXPERT_LABELS:
            assert labels[row["study"]][name] == ("" if row[name] is None else str(row[name]))
        text = (folder / row["report"]).read_text()
        assert all(len(line) <= 79 for line in text.splitlines()) and text.splitlines()[2].startswith(" ")
        found = report_sections(text)
        truth = truth_of(folder, row["study"][1:])["sections"]
        for name in ("impression", "findings", "comparison"):
            assert sections[row["study"]][name] == found[name] == truth[name]
    values = {value for row in labels.values() for name, value in row.items() if name in CHEXPERT_LABELS}
    assert values == {"1.0", "0.0", "-1.0", ""}


def test_the_ehr_of_a_mimic_study_can_be_joined(trees):
    folder, rows = trees["mimic_cxr"]
    images, problems = find_mimic_cxr(folder)
    studies = studies_of(images)
    assert not problems and {f"s{study.study_id}" for study in studies} == {row["study"] for row in rows}
    found = read_contexts(folder / "mimic-iv", folder / "mimic-iv-ed", studies)
    assert len(found.encounters) > len(studies) / 2
    subjects = {int(row["subject_id"]) for row in table(folder / "mimic-iv/hosp/patients.csv.gz")}
    assert subjects == {int(row["patient"]) for row in rows}


def test_truth_tells_where_findings_are_seen(trees):
    folder, rows = trees["mimic_cxr"]
    inside = []
    for row in rows:
        for seen in truth_of(folder, row["study"][1:])["seen"]:
            inside += seen[row["view"]]
    assert inside and all(0 <= place < 128 for place in inside)


def test_open_i_projections_and_removed_words(trees):
    folder, rows = trees["open_i"]
    reports, projections = table(folder / "indiana_reports.csv"), table(folder / "indiana_projections.csv")
    assert [row["uid"] for row in reports] == [str(i + 1) for i in range(N)]
    assert sorted(row["filename"] for row in projections) == sorted(p.name for p in (folder / "images").iterdir())
    assert {row["projection"] for row in projections} == {"Frontal", "Lateral"}
    assert all(re.fullmatch(rf"{p['uid']}_IM-\d{{4}}-[12]001\.dcm\.png", p["filename"]) for p in projections)
    assert not any(re.search(r"\d+-year-old", row["indication"]) for row in reports)
    assert any("XXXX" in " ".join(row.values()) for row in reports)
    labels = {row["study"]: row for row in rows}
    for report in reports:
        truth = truth_of(folder, virtual_study(29 + int(report["uid"])).study_id)
        for span in truth["spans"]:
            words = truth["sections"][span["section"]][span["start"] : span["end"]]
            assert words in report[span["section"]], "a word that states a label was removed"
        present = [name for name in CHEXPERT_LABELS if labels[report["uid"]][name] == 1.0 and name != "No Finding"]
        assert (report["MeSH"] == report["Problems"] == "normal") == (not present)
        assert len(report["MeSH"].split(";")) == max(1, len(present)) == len(report["Problems"].split(";"))


def test_open_i_looks_like_the_real_tables(trees):
    if not REPORTS.exists():
        pytest.skip("the Open-i reports are not here")
    folder, _ = trees["open_i"]
    real = table(REPORTS / "indiana_projections.csv")
    written = table(folder / "indiana_projections.csv")
    assert {row["projection"] for row in real} == {row["projection"] for row in written}
    shape = re.compile(r"\d+_IM-\d+(-\d+)+\.dcm\.png")
    assert all(shape.fullmatch(row["filename"]) for row in written)
    assert np.mean([bool(shape.fullmatch(row["filename"])) for row in real]) > 0.9


def test_r2gen_has_two_images_per_report(trees):
    folder, rows = trees["r2gen"]
    annotation = json.loads((folder / "annotation.json").read_text())
    assert list(annotation) == ["train", "val", "test"] and sum(map(len, annotation.values())) == N
    views = {row["image"]: (row["view"], row["split"], row["study"]) for row in rows}
    for split, entries in annotation.items():
        for entry in entries:
            assert list(entry) == ["id", "report", "image_path", "split"] and entry["split"] == split
            assert [views[f"images/{path}"] for path in entry["image_path"]] == [
                (view, split, entry["id"]) for view in ("PA", "LATERAL")
            ]
            assert len(entry["report"].split()) > 10


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_in_both_senses_of_grey(tmp_path, dtype):
    patient = make_virtual_patient(0, findings=[], **SMALL)
    xray = make_virtual_xray(patient, 64, "PA", dtype)
    study = virtual_study(0)
    shown = {}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        path = tmp_path / f"{photometric}.dcm"
        write_dicom_xray(path, xray, study, photometric)
        first = path.read_bytes()
        write_dicom_xray(path, xray, study, photometric)
        assert path.read_bytes() == first
        d = pydicom.dcmread(path)
        assert d.PhotometricInterpretation == photometric and d.BitsStored == 12 and d.Modality == "DX"
        assert d.PatientID == str(study.subject_id) and d.ViewPosition == "PA" and d.SOPInstanceUID.is_valid
        assert d.ImagerPixelSpacing[0] == pytest.approx(xray.pixel_mm, rel=1e-5)
        pixels = d.pixel_array.astype(float)
        shown[photometric] = 4095 - pixels if photometric == "MONOCHROME1" else pixels
    assert np.array_equal(*shown.values())
    assert np.abs(shown["MONOCHROME2"] / 4095 - xray.image / np.iinfo(dtype).max).max() < 1 / 4095
    with pytest.raises(ValueError, match="photometric 'RGB'"):
        write_dicom_xray(tmp_path / "x.dcm", xray, study, "RGB")
