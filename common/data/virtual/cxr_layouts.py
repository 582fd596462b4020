"""Writes virtual patients' X-rays with their reports and labels in the layouts of MIMIC-CXR, Open-i and R2Gen.

Every writer takes a folder, which patients and how many processes make their studies. It keeps what an earlier call
with the same arguments completed, and raises FileExistsError for a folder with other content.
Beside the layout, ``truth/STUDY.json`` tells what was drawn into the CT of the study, where it is seen, and which words
of the report state it; nothing but tests should read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from common.data.splits import split_by_patient
from common.data.virtual.ehr import write_virtual_ehr
from common.data.virtual.files import Cohort, claim, for_each, save_csv
from common.data.virtual.findings import Finding
from common.data.virtual.geometry import stream
from common.data.virtual.patient import VirtualPatient, make_virtual_patient
from common.data.virtual.study import VirtualStudy, study_date_and_time, virtual_dicom_id, virtual_study
from common.data.virtual.xray import make_virtual_xray
from common.data.virtual.xray_findings import draw_xray_findings
from common.data.virtual.xray_labels import virtual_xray_labels
from common.io.output_folder import atomic_path
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.cxr_template import Examination, cxr_report
from common.text.sections import report_sections
from common.text.virtual_report import VirtualReport

Row = dict[str, Any]
Item = tuple[VirtualStudy, dict[str, str], str | None]
"""A study, its images by view, and its report if that is a file of its own (paths relative to the output folder)."""

SPLIT = (6, 2, 2)  # of the patients, in train, validation and test

MIMIC_METADATA_COLUMNS = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
MIMIC_SECTION_COLUMNS = ("study", "impression", "findings", "last_paragraph", "comparison")
OPEN_I_REPORT_COLUMNS = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
ROW_COLUMNS = ("case", "patient", "split", "image", "study", "view", "report", "time", *CHEXPERT_LABELS)
_PROCEDURE = {
    ("PA", "LATERAL"): "CHEST (PA AND LAT)", ("PA",): "CHEST (SINGLE VIEW)", ("AP",): "CHEST (PORTABLE AP)",
}  # fmt: skip
_VIEW_CODE = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral"}
# Headings under which Open-i would index a label.
_MESH = {
    "Atelectasis": "Pulmonary Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation",
    "Edema": "Pulmonary Edema", "Enlarged Cardiomediastinum": "Mediastinum/enlarged",
    "Fracture": "Fractures, Bone/ribs",
    "Lung Lesion": "Nodule/lung", "Lung Opacity": "Opacity/lung", "Pleural Effusion": "Pleural Effusion",
    "Pleural Other": "Thickening/pleura", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
    "Support Devices": "Medical Device",
}  # fmt: skip
# Words that may be lost to Open-i's removal of names without a change of meaning.
_REMOVABLE = re.compile(
    r"\b(aorta|bones|chest|hila|radiograph|radiographs|spine|stomach|today|trachea|thoracic|limits)\b"
)


def write_mimic_cxr(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[Row]:
    """Write MIMIC-CXR(-JPG) with the MIMIC-IV and MIMIC-IV-ED tables of the same patients.

    ``files/p10/p10000032/s50414267/DICOM_ID.jpg`` and ``files/p10/p10000032/s50414267.txt``, the four tables
    ``mimic-cxr-2.0.0-*.csv.gz``, ``mimic_cxr_sectioned.csv``, ``mimic-iv/`` and ``mimic-iv-ed/``. Patients have one to
    three studies; about half of these have a lateral view, and two of five are AP. The two label tables are alike.

    Returns:
        One row per image: case (the DICOM id), patient (the subject id), split, image, study, view, report (paths
        relative to ``output_dir``) and the 14 labels.
    """
    out, split_of = claim(output_dir, "mimic_cxr", cohort), _splits(cohort)
    rows, metadata, splits, labels, sections = [], [], [], [], []
    items = [_mimic_item(virtual_study(seed, scan)) for seed in cohort.seeds for scan in range(_scans(seed))]
    truths = for_each(_make_study, items, workers, "mimic_cxr", "study", out=out, cohort=cohort)
    for (study, images, text), truth in zip(items, truths, strict=True):
        identity = {"subject_id": study.subject_id, "study_id": study.study_id}
        date, time = study_date_and_time(study.study_time)
        split, procedure = split_of[study.seed], _PROCEDURE[tuple(images)]
        for view, image in images.items():
            name = Path(image).stem
            row = {"case": name, "patient": str(study.subject_id), "split": split, "image": image}
            more = {"report": text, "time": study.study_time.isoformat()}
            rows.append(row | {"study": f"s{study.study_id}", "view": view} | more | truth["labels"])
            known = {
                "dicom_id": name, "PerformedProcedureStepDescription": procedure, "ViewPosition": view,
                "Rows": truth["size"], "Columns": truth["size"], "StudyDate": date, "StudyTime": time,
                "ProcedureCodeSequence_CodeMeaning": procedure, "ViewCodeSequence_CodeMeaning": _VIEW_CODE[view],
                "PatientOrientationCodeSequence_CodeMeaning": "Recumbent" if view == "AP" else "Erect",
            }  # fmt: skip
            metadata.append(known | identity)
            splits.append({"dicom_id": name, "split": "validate" if split == "val" else split} | identity)
        labels.append(identity | truth["labels"])
        found = report_sections((out / text).read_text(encoding="utf-8"))
        sections.append({"study": f"s{study.study_id}"} | {name: found.get(name) for name in MIMIC_SECTION_COLUMNS[1:]})
    save_csv(out / "mimic-cxr-2.0.0-metadata.csv.gz", MIMIC_METADATA_COLUMNS, metadata)
    save_csv(out / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    for name in ("chexpert", "negbio"):
        save_csv(out / f"mimic-cxr-2.0.0-{name}.csv.gz", ("subject_id", "study_id", *CHEXPERT_LABELS), labels)
    save_csv(out / "mimic_cxr_sectioned.csv", MIMIC_SECTION_COLUMNS, sections)
    labels_of = {study.study_id: truth["labels"] for (study, *_), truth in zip(items, truths, strict=True)}
    write_virtual_ehr(out / "mimic-iv", out / "mimic-iv-ed", [study for study, *_ in items], labels_of)
    return rows


def write_open_i(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[Row]:
    """Write ``indiana_reports.csv``, ``indiana_projections.csv`` and ``images/*.png`` as Open-i has them.

    Ages, and some words that no label hangs on, are replaced by XXXX. Nine of ten studies have a lateral view.

    Returns:
        One row per image as of ``write_mimic_cxr``; the report is the table that holds it, study and patient its uid.
    """
    out, split_of = claim(output_dir, "open_i", cohort), _splits(cohort)
    rows, reports, projections, items, streams = [], [], [], [], []
    for i, seed in enumerate(cohort.seeds):
        rng = stream(seed, "open-i")
        stem = f"{i + 1}_IM-{rng.integers(1, 4000):04d}"
        images = {"PA": f"images/{stem}-1001.dcm.png"}
        if rng.random() < 0.9:
            images["LATERAL"] = f"images/{stem}-2001.dcm.png"
        items.append((virtual_study(seed), images, None))
        streams.append(rng)
    truths = for_each(_make_study, items, workers, "open_i", "study", out=out, cohort=cohort)
    for i, ((study, images, _), truth, rng) in enumerate(zip(items, truths, streams, strict=True)):
        uid, mesh = str(i + 1), _mesh(truth)
        report = {"uid": uid, "MeSH": ";".join(mesh), "Problems": ";".join(term.split("/")[0] for term in mesh)}
        report["image"] = "Xray Chest PA and Lateral" if len(images) > 1 else "PA view of the chest"
        reports.append(report | _with_removed_words(truth, rng.random))
        for view, image in images.items():
            row = {"case": Path(image).stem, "patient": uid, "split": split_of[study.seed], "image": image}
            rows.append(row | {"study": uid, "view": view, "report": "indiana_reports.csv"} | truth["labels"])
            projection = "Lateral" if view == "LATERAL" else "Frontal"
            projections.append({"uid": uid, "filename": Path(image).name, "projection": projection})
    save_csv(out / "indiana_reports.csv", OPEN_I_REPORT_COLUMNS, reports)
    save_csv(out / "indiana_projections.csv", ("uid", "filename", "projection"), projections)
    return rows


def write_r2gen(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[Row]:
    """Write ``annotation.json`` and ``images/ID/{0,1}.png`` (frontal and lateral) as R2Gen has IU X-ray.

    Returns:
        One row per image as of ``write_mimic_cxr``; the report is annotation.json, study and patient its id.
    """
    out, split_of = claim(output_dir, "r2gen", cohort), _splits(cohort)
    rows: list[Row] = []
    annotation: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    names = [f"CXR{i + 1}_IM-{stream(seed, 'r2gen').integers(1, 4000):04d}" for i, seed in enumerate(cohort.seeds)]
    items = [
        (virtual_study(seed), {view: f"images/{name}/{k}.png" for k, view in enumerate(("PA", "LATERAL"))}, None)
        for seed, name in zip(cohort.seeds, names, strict=True)
    ]
    truths = for_each(_make_study, items, workers, "r2gen", "study", out=out, cohort=cohort)
    for name, (study, images, _), truth in zip(names, items, truths, strict=True):
        split, paths = split_of[study.seed], [image.removeprefix("images/") for image in images.values()]
        entry = {"id": name, "report": truth["sections"]["findings"], "image_path": paths}
        annotation[split].append(entry | {"split": split})
        for k, (view, image) in enumerate(images.items()):
            row = {"case": f"{name}_{k}", "patient": name, "split": split, "image": image, "study": name, "view": view}
            rows.append(row | {"report": "annotation.json"} | truth["labels"])
    with atomic_path(out / "annotation.json") as part:
        part.write_text(json.dumps(annotation), encoding="utf-8")
    return rows


def _scans(seed: int) -> int:
    """How many X-ray studies a patient has, 1 to 3."""
    return 1 + int(stream(seed, "x-ray studies").choice(3, p=(0.6, 0.3, 0.1)))


def _mimic_item(study: VirtualStudy) -> Item:
    """Decide the views of a study: who can stand has PA, often with a lateral, who cannot has AP."""
    views = list(_PROCEDURE)[int(stream(study.seed, f"x-ray views/{study.scan}").choice(3, p=(0.45, 0.15, 0.4)))]
    folder = f"files/p{str(study.subject_id)[:2]}/p{study.subject_id}/s{study.study_id}"
    images = {view: f"{folder}/{virtual_dicom_id(study.seed, study.scan, view)}.jpg" for view in views}
    return study, images, f"{folder}.txt"


def _splits(cohort: Cohort) -> dict[int, str]:
    """Seed of a patient -> split; validation and test are large enough to tell models apart."""
    by_name = split_by_patient(
        {str(s): str(virtual_study(s).subject_id) for s in cohort.seeds}, SPLIT, seed=cohort.seed
    )
    return {int(name): split for name, split in by_name.items()}


def _make_study(item: Item, out: Path, cohort: Cohort) -> Row:
    """Write the images of a study and its report, unless they are there.

    Returns:
        The truth about the study, which is written last.
    """
    study, images, text = item
    path = out / "truth" / f"s{study.study_id}.json"
    if all((out / name).exists() for name in (*images.values(), *([text] if text else ()))) and path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    patient = _patient(study.seed, study.scan, cohort)
    earlier = None
    if study.scan:
        before = _patient(study.seed, study.scan - 1, cohort)
        labels, shown = virtual_xray_labels(before)
        earlier = Examination(_told(shown, before.scale), labels)
    size = 512 if cohort.shape[2] >= 128 else 128  # more pixels than a coarse CT fills
    xrays = {view: make_virtual_xray(patient, size, view) for view in images}
    frontal = next(iter(xrays.values()))
    told, seed = _told(frontal.findings, patient.scale), study.seed * 10 + study.scan
    report = cxr_report(told, frontal.labels, patient.sex, patient.age, seed, " and ".join(xrays), earlier=earlier)
    for view, xray in xrays.items():
        with atomic_path(out / images[view]) as part:
            Image.fromarray(xray.image).save(part, quality=95)
    if text:
        with atomic_path(out / text) as part:
            part.write_text(report.wrapped(), encoding="utf-8")
    truth = {
        "seed": study.seed,
        "scan": study.scan,
        "sex": patient.sex,
        "age": patient.age,
        "size": size,
        "labels": frontal.labels,
        "ct_labels": patient.labels,
        "findings": [asdict(finding) for finding in (*patient.findings, *patient.xray_findings)],
        "seen": [
            {"label": finding.label, "kind": finding.kind, "centre_mm": finding.centre_mm}
            | {view: [round(p, 1) for p in xray.pixel(finding.centre_mm)] for view, xray in xrays.items()}
            for finding in frontal.findings
        ],
        "sections": report.sections,
        "spans": list(_section_spans(report)),
    }
    with atomic_path(path) as part:
        part.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return truth


def _patient(seed: int, scan: int, cohort: Cohort) -> VirtualPatient:
    findings, extra = draw_xray_findings(seed, scan)
    return make_virtual_patient(seed, cohort.shape, cohort.spacing, findings, scan=scan, xray_findings=extra)


def _told(findings: Sequence[Finding], scale: float) -> list[Finding]:
    """Findings as a report measures them: in millimetres of an adult, however small the CT is."""
    return [replace(finding, size_mm=round(finding.size_mm / scale, 1)) for finding in findings]


def _section_spans(report: VirtualReport) -> Iterator[Row]:
    """Yield where a report states a label, counted from the start of the section."""
    starts = {name: report.text.index(f" {name.upper()}: ") + len(name) + 3 for name in report.sections}
    for span in report.spans:
        name = max((name for name in starts if starts[name] <= span.start), key=starts.__getitem__)
        where = {"start": span.start - starts[name], "end": span.end - starts[name]}
        yield {"section": name, "label": span.label, "value": span.value} | where


def _mesh(truth: Row) -> list[str]:
    """Index terms of what is present, "normal" if nothing is."""
    terms = []
    for label, heading in _MESH.items():
        if truth["labels"][label] == 1.0:
            sides = {f["side"] for f in truth["findings"] if f["label"].lower() == label.lower()} & {"right", "left"}
            terms.append(heading + (f"/{sides.pop()}" if len(sides) == 1 else "/bilateral" if sides else ""))
    return terms or ["normal"]


def _with_removed_words(truth: Row, random: Any) -> dict[str, str]:
    """The sections with XXXX for ages and for some words outside of what states a label."""
    sections = {}
    for name in ("indication", "comparison", "findings", "impression"):
        kept = [(span["start"], span["end"]) for span in truth["spans"] if span["section"] == name]

        def removed(match: re.Match[str], kept: list[tuple[int, int]] = kept) -> str:
            stated = any(start < match.end() and match.start() < end for start, end in kept)
            return match[0] if stated or random() > 0.3 else "XXXX"

        text = _REMOVABLE.sub(removed, truth["sections"][name])
        sections[name] = re.sub(r"\b\d+-year-old", "XXXX-year-old", text)
    return sections
