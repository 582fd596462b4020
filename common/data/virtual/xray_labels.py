"""The 14 CheXpert labels of a virtual patient's X-ray, from what was drawn into its CT.

A finding that an X-ray shows is 1.0; a mild one may be doubtful, -1.0; one that no X-ray shows, such as a small nodule,
is not mentioned. What is not there is 0.0 or not mentioned, about as often as readers say so. Nothing that is in the CT
is ever called absent, and nothing that is not in it is ever called present.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.data.virtual.findings import Finding
from common.data.virtual.geometry import stream
from common.data.virtual.patient import VirtualPatient
from common.text.cxr_labeller import CHEXPERT_LABELS

# How often a reader says that a finding is absent.
SAID_ABSENT = {
    "Atelectasis": 0.1, "Cardiomegaly": 0.6, "Consolidation": 0.6, "Edema": 0.4, "Enlarged Cardiomediastinum": 0.25,
    "Fracture": 0.12, "Lung Lesion": 0.08, "Lung Opacity": 0.15, "Pleural Effusion": 0.75, "Pleural Other": 0.02,
    "Pneumonia": 0.3, "Pneumothorax": 0.75, "Support Devices": 0.03,
}  # fmt: skip
# Widths in body mm from which a nodule is doubtful and from which it is certain on an X-ray.
NODULE_MM = {"calcified nodule": (7, 10), "solid nodule": (9, 13), "part-solid nodule": (13, 20)}
WIDE_NODES = ("paratracheal", "prevascular")  # where large nodes push the edge of the mediastinum outwards
INFECTED = 0.6  # share of the scans whose consolidation, if there is one, is pneumonia, not blood or aspiration
# CT findings without a CheXpert label that an X-ray shows and a report may name.
SHOWN_BESIDE = ("Arterial wall calcification", "Hiatal hernia", "Emphysema")

# How sure an X-ray lets a reader be. Of the plain ones some readers doubt, of the doubtful ones some say nothing.
ABSENT, HIDDEN, DOUBTFUL, PLAIN, CERTAIN = range(5)
_DOUBT_PLAIN, _NAME_DOUBTFUL = 0.35, 0.6


def virtual_xray_labels(patient: VirtualPatient) -> tuple[dict[str, float | None], tuple[Finding, ...]]:
    """Return the labels of a patient's X-ray and the findings that it shows.

    Returns:
        1.0, 0.0, -1.0 or None for each of ``CHEXPERT_LABELS``, in that order; and the findings of the CT that the
        labels 1.0 and -1.0 rest on, with those that an X-ray shows and no label names.
    """
    findings = (*patient.findings, *patient.xray_findings)
    infected = is_infected(patient.seed, patient.scan)
    seen = [(finding, dict(_seen(finding, findings, infected, patient.scale))) for finding in findings]
    chance = stream(patient.seed, f"x-ray reader/{patient.scan}").random(len(CHEXPERT_LABELS))
    labels = {
        name: _value(name, max([sure.get(name, ABSENT) for _, sure in seen], default=ABSENT), float(c))
        for name, c in zip(CHEXPERT_LABELS, chance, strict=True)
        if name != "No Finding"
    }
    stated = [name for name, value in labels.items() if value in (1.0, -1.0)]
    labels["No Finding"] = None if set(stated) - {"Support Devices"} else 1.0
    shown = tuple(
        finding
        for finding, sure in seen
        if finding.label in SHOWN_BESIDE or any(sure.get(name, ABSENT) >= DOUBTFUL for name in stated)
    )
    return {name: labels[name] for name in CHEXPERT_LABELS}, shown


def is_infected(seed: int, scan: int = 0) -> bool:
    """Return whether scan ``scan`` of patient ``seed`` was taken during an infection, which no image shows."""
    return bool(stream(seed, f"infection/{scan}").random() < INFECTED)


def _value(name: str, sure: int, chance: float) -> float | None:
    if sure == ABSENT:
        return 0.0 if chance < SAID_ABSENT[name] else None
    if sure == HIDDEN:
        return None
    if sure == DOUBTFUL:
        return -1.0 if chance < _NAME_DOUBTFUL else None
    return -1.0 if sure == PLAIN and chance < _DOUBT_PLAIN else 1.0


def _seen(finding: Finding, beside: Sequence[Finding], infected: bool, scale: float) -> Iterator[tuple[str, int]]:
    """Yield the CheXpert labels that a finding bears on, and how sure one is of each."""
    mild, severe = finding.severity == "mild", finding.severity == "severe"
    width = finding.size_mm / scale
    by_grade = PLAIN if mild else CERTAIN
    match finding.label:
        case "Medical material":
            yield "Support Devices", CERTAIN
        case "Cardiomegaly":
            yield "Cardiomegaly", by_grade
        case "Pericardial effusion":  # the heart's shadow grows with it
            yield "Cardiomegaly", CERTAIN if severe else DOUBTFUL
        case "Lymphadenopathy":
            wide = severe and any(place in finding.kind for place in WIDE_NODES)
            yield "Enlarged Cardiomediastinum", DOUBTFUL if wide else HIDDEN
        case "Atelectasis":
            yield "Atelectasis", DOUBTFUL if mild else CERTAIN
        case "Lung nodule":
            doubtful, certain = NODULE_MM[finding.kind]
            yield "Lung Lesion", HIDDEN if width < doubtful else DOUBTFUL if width < certain else CERTAIN
        case "Lung opacity" if finding.kind.startswith("perihilar"):  # of edema, which is what readers name
            yield "Lung Opacity", CERTAIN if severe else HIDDEN
        case "Lung opacity":
            yield "Lung Opacity", by_grade
            if infected:
                yield "Pneumonia", DOUBTFUL
        case "Pulmonary fibrotic sequela":
            yield "Lung Opacity", CERTAIN if severe else HIDDEN if mild else DOUBTFUL
        case "Pleural effusion":
            yield "Pleural Effusion", by_grade
        case "Consolidation":
            yield "Consolidation", by_grade
            yield "Lung Opacity", HIDDEN  # readers name the consolidation
            if infected:
                yield "Pneumonia", CERTAIN
        case "Interlobular septal thickening":
            # Lines alone may be anything; with a large heart or fluid they are edema.
            wet = any(other.label in ("Cardiomegaly", "Pleural effusion", "Edema") for other in beside)
            yield "Edema", (DOUBTFUL if mild else CERTAIN) if wet else DOUBTFUL if severe else HIDDEN
        case "Fracture" | "Enlarged Cardiomediastinum":
            yield finding.label, CERTAIN
        case "Edema" | "Pneumothorax" | "Pleural Other":
            yield finding.label, by_grade
