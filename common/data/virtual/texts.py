"""Reports of virtual patients without their images: what a language model reads before it sees an X-ray.

A patient's findings are drawn as for an X-ray, with the same shares; where and how large each one is comes from a table
here, as nothing is painted, and the report and its labels by the code that reports an X-ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from common.data.virtual.files import Cohort, claim, save_csv
from common.data.virtual.findings import Finding
from common.data.virtual.geometry import stream
from common.data.virtual.patient import virtual_person
from common.data.virtual.xray_findings import draw_xray_findings
from common.data.virtual.xray_labels import virtual_xray_labels
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.cxr_template import Examination, cxr_report
from common.text.template_facts import LOBES, SEVERITIES
from common.text.virtual_report import VirtualReport

__all__ = ["virtual_texts", "write_texts"]

# Finding -> its kinds, where it is (None: a lobe), its number, and its size in mm of an adult.
_LOOKS: dict[str, tuple[Sequence[str], Sequence[str] | None, tuple[int, int], tuple[float, float]]] = {
    "Medical material": (("pacemaker", "central venous catheter", "port catheter"), ("heart",), (1, 1), (20, 60)),
    "Arterial wall calcification": (("aortic wall plaques",), ("aorta",), (1, 1), (30, 120)),
    "Cardiomegaly": (("enlarged heart",), ("heart",), (1, 1), (155, 175)),
    "Pericardial effusion": (("effusion",), ("heart",), (1, 1), (8, 20)),
    "Coronary artery wall calcification": (("coronary plaques",), ("heart",), (1, 1), (16, 40)),
    "Hiatal hernia": (("sliding hernia",), ("oesophagus",), (1, 1), (50, 72)),
    "Lymphadenopathy": (("paratracheal nodes", "hilar nodes", "prevascular nodes"), ("mediastinum",), (1, 1), (14, 32)),
    "Emphysema": (("centrilobular emphysema",), ("right upper lobe",), (1, 1), (80, 200)),
    "Atelectasis": (("linear atelectasis",), None, (1, 2), (44, 84)),
    "Lung nodule": (("solid nodule", "calcified nodule", "part-solid nodule"), None, (1, 3), (6, 24)),
    "Lung opacity": (("ground-glass opacity",), None, (1, 3), (36, 72)),
    "Pulmonary fibrotic sequela": (("fibrotic bands",), None, (1, 3), (32, 60)),
    "Pleural effusion": (("free effusion",), ("right lower lobe", "left lower lobe"), (1, 2), (40, 120)),
    "Mosaic attenuation pattern": (("mosaic attenuation",), ("right lower lobe",), (1, 1), (180, 300)),
    "Peribronchial thickening": (("thick bronchial walls",), ("right bronchi",), (1, 1), (1.6, 3)),
    "Consolidation": (("consolidation",), None, (1, 2), (40, 72)),
    "Bronchiectasis": (("cylindrical bronchiectasis",), None, (1, 2), (8, 14)),
    "Interlobular septal thickening": (("septal thickening",), ("right lower lobe",), (1, 1), (60, 120)),
    "Enlarged Cardiomediastinum": (("aortic aneurysm", "mediastinal mass"), ("mediastinum",), (1, 1), (50, 90)),
    "Edema": (("pulmonary edema",), ("right lower lobe",), (1, 1), (98, 140)),
    "Pleural Other": (
        ("pleural thickening", "apical pleural thickening", "calcified pleural plaques"),
        ("right lower lobe", "left lower lobe"),
        (1, 2),
        (5, 16),
    ),
    "Pneumothorax": (("pneumothorax",), ("right upper lobe", "left upper lobe"), (1, 1), (12, 36)),
    "Fracture": (("rib fracture",), ("right ribs", "left ribs"), (1, 1), (10, 20)),
}
_BOTH_SIDES = ("Emphysema", "Edema", "Mosaic attenuation pattern", "Peribronchial thickening",
               "Interlobular septal thickening")  # fmt: skip
_FOLLOWED = 0.35  # share of the reports that follow another of the patient, about as of patients with images


def virtual_texts(n: int, seed: int) -> Iterator[dict[str, Any]]:
    """Reports with their labels.

    Args:
        n: their number.
        seed: of the first; others than those of patients with images must be taken.

    Yields:
        `case`, `sections` (name -> text), `labels` (1.0, 0.0, -1.0 or None for each of CheXpert), and `prior`: the
        sections of the patient's report before, None if there is none.
    """
    for number in range(seed, seed + n):
        person, prior = virtual_person(number), None
        report, seen = _report(number, 0, person, None)
        if stream(number, "texts").random() < _FOLLOWED:
            prior = report.sections
            report, _ = _report(number, 1, person, seen)
        known = {name: report.labels[name] for name in CHEXPERT_LABELS}
        yield {"case": f"text_{number}", "sections": report.sections, "labels": known, "prior": prior}


def write_texts(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[dict[str, Any]]:
    """Write ``reports.csv``: case, the sections of the report, and the 14 labels; no CT is drawn.

    Returns:
        One row per report as of `common.data.virtual.cxr_layouts.write_mimic_cxr`, all of them for training, without an
        image and a view; the report is the table that holds it.
    """
    out = claim(output_dir, "texts", cohort)
    texts = list(virtual_texts(cohort.n, cohort.seed))
    table = [{"study": text["case"]} | text["sections"] | text["labels"] for text in texts]
    save_csv(out / "reports.csv", list(table[0]), table)
    return [
        {"case": text["case"], "patient": text["case"], "split": "train", "image": "", "study": text["case"]}
        | {"view": "", "report": "reports.csv"}
        | text["labels"]
        | {"sha256": sha256(json.dumps(text["sections"]).encode()).hexdigest()}
        for text in texts
    ]


def _report(
    number: int, scan: int, person: tuple[str, int], earlier: Examination | None
) -> tuple[VirtualReport, Examination]:
    """The report of a scan of a patient, and what it saw."""
    rng = stream(number, f"texts/{scan}")
    findings, more = ([f for name in some for f in _findings(name, rng)] for some in draw_xray_findings(number, scan))
    patient = SimpleNamespace(seed=number, scan=scan, findings=findings, xray_findings=more, scale=1.0)
    labels, shown = virtual_xray_labels(patient)
    report = cxr_report(shown, labels, *person, number * 10 + scan, earlier=earlier)
    return report, Examination(shown, labels)


def _findings(name: str, rng: np.random.Generator) -> list[Finding]:
    kinds, places, (fewest, most), (small, large) = _LOOKS[name]
    count = int(rng.integers(fewest, most + 1))
    where = LOBES if places is None else places
    kind = str(rng.choice(kinds))
    found = []
    for place in rng.choice(where, min(count, len(where)), replace=False):
        share = rng.random()
        side = next((word for word in ("right", "left") if str(place).startswith(word)), "midline")
        side = "bilateral" if name in _BOTH_SIDES else side
        size = round(small + share * (large - small), 1)
        found.append(Finding(name, kind, str(place), side, (0.0, 0.0, 0.0), size, SEVERITIES[min(2, int(3 * share))]))
    return found
