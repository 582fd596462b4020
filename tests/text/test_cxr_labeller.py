import csv
import random
from pathlib import Path

import pytest
import yaml

from common.text import context
from common.text.cxr_labeller import CHEXPERT_LABELS, explain_cxr, label_cxr

REPORTS = Path(__file__).parents[3] / "shared" / "data" / "reports"
P, N, U = 1.0, 0.0, -1.0
SHORT = {
    "at": "Atelectasis", "ca": "Cardiomegaly", "co": "Consolidation", "ed": "Edema", "ec": "Enlarged Cardiomediastinum",
    "fr": "Fracture", "ll": "Lung Lesion", "lo": "Lung Opacity", "nf": "No Finding", "pe": "Pleural Effusion",
    "po": "Pleural Other", "pn": "Pneumonia", "px": "Pneumothorax", "sd": "Support Devices",
}  # fmt: skip
# All labels that a text states; "No Finding" only where it matters.
CASES = [
    (
        "The heart size is normal. No pneumonia or edema. No effusion",
        {"nf": P, "ca": N, "ed": N, "pn": N, "pe": N},
    ),
    (
        "1. Right effusion with atelectasis beside it.\n\n2. Cardiomegaly without frank edema.",
        {"ca": P, "ed": N, "at": P, "pe": P},
    ),
    (
        "Faint airspace disease at the left base, may represent consolidation or atelectasis.",
        {"lo": P, "co": U, "at": U},
    ),
    ("1. Unchanged cardiomegaly. 2. Clear, hyperinflated lungs.", {"ca": P}),
    ("No effusion, pneumothorax or consolidation.", {"pe": N, "px": N, "co": N, "nf": P}),
    (
        "There is no focal consolidation, pleural effusion, or pneumothorax. The heart is enlarged.",
        {"co": N, "pe": N, "px": N, "ca": P},
    ),
    ("No change in the left pleural effusion.", {"pe": P}),
    ("No atelectatic changes in the left base.", {"at": N}),
    ("The effusion has not significantly changed.", {"pe": P}),
    ("Complete resolution of the previously seen effusion.", {"pe": N}),
    ("No support devices or lines and tubes.", {"sd": N}),
    ("No significant interval change in moderate pulmonary edema.", {"ed": P}),
    ("Pneumothorax has resolved.", {"px": N, "nf": P}),
    ("Previously seen right pneumothorax is no longer visualized.", {"px": N}),
    ("Pneumonia cannot be excluded.", {"pn": U}),
    ("Cannot exclude a small left effusion.", {"pe": U}),
    ("Cannot exclude early pneumonia, but no effusion.", {"pn": U, "pe": N}),
    ("Small pneumothorax cannot be entirely excluded.", {"px": U}),
    ("The cardiomediastinal silhouette is within normal limits.", {"ec": N, "nf": P}),
    ("The mediastinum is widened.", {"ec": P}),
    ("Widened mediastinum and cardiomegaly.", {"ec": P, "ca": P}),
    ("Mediastinal contours are unremarkable. The cardiac silhouette is not enlarged.", {"ec": N, "ca": N}),
    ("Right-sided PICC terminates in the SVC.", {"sd": P, "nf": P}),
    ("Endotracheal tube tip 4 cm above the carina. Nasogastric tube in stomach.", {"sd": P}),
    ("Interval removal of the chest tube.", {"sd": N}),
    ("Median sternotomy wires are intact.", {"sd": P}),
    ("Acute fracture of the left seventh rib.", {"fr": P}),
    ("No acute fracture or dislocation.", {"fr": N, "nf": P}),
    ("Old healed rib fractures.", {"fr": P}),
    ("Bibasilar atelectasis, less likely pneumonia.", {"at": P, "pn": U}),
    ("Bibasilar opacities, likely atelectasis.", {"lo": P, "at": P}),
    ("Opacity at the right base may represent atelectasis or pneumonia.", {"lo": P, "at": U, "pn": U}),
    ("Opacity concerning for pneumonia.", {"lo": P, "pn": U}),
    ("Right basilar opacity, atelectasis versus infection.", {"lo": P, "at": U, "pn": U}),
    ("Blunting of the left costophrenic angle suggests a small effusion.", {"pe": U}),
    ("Biapical pleural thickening.", {"po": P}),
    ("Calcified pleural plaques are present.", {"po": P}),
    ("Pulmonary nodule in the right upper lobe.", {"ll": P}),
    ("No suspicious pulmonary nodules or masses.", {"ll": N, "nf": P}),
    ("Possible nodule in the left lung.", {"ll": U}),
    ("Mild pulmonary vascular congestion without frank edema.", {"ed": N}),
    ("Mild interstitial edema with small bilateral effusions.", {"ed": P, "pe": P}),
    ("Lungs are clear without focal consolidation, effusion, or pneumothorax", {"co": N, "pe": N, "px": N, "nf": P}),
    (
        "Both lungs are clear of airspace disease, effusion, or pneumothorax.",
        {"lo": N, "px": N, "pe": N, "nf": P},
    ),
    ("No evidence of pneumonia. Heart size is mildly enlarged.", {"pn": N, "ca": P}),
    ("No pneumothorax, small left effusion.", {"px": N, "pe": P}),
    ("No pneumothorax but there is a small left effusion.", {"px": N, "pe": P}),
    ("No pneumothorax and the heart is enlarged.", {"px": N, "ca": P}),
    ("No definite pneumothorax.", {"px": N}),
    ("Effusion, pneumothorax and consolidation are absent.", {"pe": N, "px": N, "co": N}),
    ("Pleural effusion is not seen.", {"pe": N}),
    ("Neither effusion nor pneumothorax is seen.", {"pe": N, "px": N}),
    ("History of pneumonia. Clear lungs.", {"nf": P}),
    ("Unlikely to represent pneumonia.", {"pn": N}),
    ("Pneumonia is unlikely.", {"pn": N}),
    ("Question of small left apical pneumothorax.", {"px": U}),
    ("Improved pulmonary edema.", {"ed": P}),
    ("Resolving right lower lobe pneumonia.", {"pn": P}),
    ("Compared with the prior study, the pleural effusion has increased.", {"pe": P}),
    ("Moderate cardiomegaly is unchanged.", {"ca": P}),
    ("The heart is top normal in size.", {"ca": N}),
    ("Heart size is at the upper limits of normal.", {"ca": N}),
    ("Multiple pulmonary metastases.", {"ll": P}),
    ("Low lung volumes with bronchovascular crowding.", {"nf": P}),
    ("Aspiration pneumonitis is possible.", {"pn": U}),
    ("Pacemaker leads in the right atrium and ventricle. No pneumothorax.", {"sd": P, "px": N}),
    ("No acute cardiopulmonary process.", {"nf": P}),
    ("Hazy opacity in the left lower lung could be due to effusion or consolidation.", {"lo": P, "pe": U, "co": U}),
    ("Loculated hydropneumothorax on the left.", {"pe": P, "px": P}),
    (" ", {}),
    (
        "No consolidation, suspicious lung opacity, effusion or definite pneumothorax.",
        {"co": N, "lo": N, "px": N, "pe": N, "nf": P},
    ),
    ("No focal opacity to suggest pneumonia.", {"lo": N, "pn": N, "nf": P}),
    ("There are no signs of pneumonia or CHF.", {"pn": N, "ed": N}),
    ("Negative for pneumothorax.", {"px": N}),
    ("There is probable atelectasis.", {"at": P}),
    ("Presumed small effusion.", {"pe": P}),
    ("If there is clinical concern for pneumonia, obtain lateral view.", {}),
    ("Recommend CT to exclude a lung mass.", {}),
    ("Enlarged cardiac silhouette with no evidence of edema.", {"ca": P, "ed": N}),
    ("Calcified granuloma. Emphysema.", {"nf": P}),
    ("Not enlarged heart.", {"ca": N}),
    ("New small left pneumothorax.", {"px": P}),
    ("No new consolidation.", {"co": N}),
    ("No pleural effusion is seen on the right; there is a large left effusion.", {"pe": P}),
    ("Compression deformity of T12.", {"fr": P}),
    ("Right hilar mass.", {"ll": P}),
    ("Tracheostomy tube in place, unchanged.", {"sd": P}),
    ("Surgical clips project over the left axilla.", {"sd": P}),
    ("The patient is status post median sternotomy and CABG.", {"sd": P}),
    ("Consolidation in the right lower lobe is compatible with pneumonia.", {"co": P, "pn": P}),
    ("There is mild cardiomegaly, no effusion.", {"ca": P, "pe": N}),
    (
        "Subsegmental atelectasis without effusion or pneumothorax, and stable cardiomegaly.",
        {"at": P, "pe": N, "px": N, "ca": P},
    ),
    ("Suspected pneumonia in the lingula.", {"pn": U}),
    ("Possible pneumonia or atelectasis.", {"pn": U, "at": U}),
    ("Cardiomegaly and possible small effusion.", {"ca": P, "pe": U}),
    ("There may be a small left pleural effusion.", {"pe": U}),
    ("Findings may be due to edema.", {"ed": U}),
    ("No pneumothorax is identified, although a tiny one cannot be excluded.", {"px": N}),
    ("Trace pleural effusions are suspected.", {"pe": U}),
    ("The pleural surfaces are normal. The bony thorax is intact.", {"nf": P}),
    ("Scarring at the left apex.", {"lo": P}),
]


@pytest.mark.parametrize(("report", "stated"), CASES)
def test_what_a_report_states(report: str, stated: dict[str, float]) -> None:
    found = {label: value for label, value in label_cxr(report).items() if value is not None}
    if "nf" not in stated:
        found.pop("No Finding", None)
    assert found == {SHORT[key]: value for key, value in stated.items()}


def test_the_labels_are_those_of_the_real_table() -> None:
    header = REPORTS.parent / "layouts" / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-chexpert.header.csv"
    if not header.is_file():
        pytest.skip("the real header is not here")
    assert header.read_text().strip().split(",")[2:] == list(CHEXPERT_LABELS)
    assert list(label_cxr("")) == list(CHEXPERT_LABELS)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_of_several_mentions_the_strongest_counts(value: float) -> None:
    said = {1.0: "There is an effusion.", -1.0: "Possible effusion.", 0.0: "No effusion."}
    weaker = [v for v in (1.0, -1.0, 0.0) if v != value and (value == 1.0 or v != 1.0)]
    for other in weaker:
        assert label_cxr(f"{said[value]} {said[other]}")["Pleural Effusion"] == value
        assert label_cxr(f"{said[other]} {said[value]}")["Pleural Effusion"] == value


def test_every_decision_explains_itself() -> None:
    report = "Heart size is normal.\n\nCannot exclude a small effusion, but no pneumothorax."
    evidence = {item.label: item for item in explain_cxr(report)}
    assert all(report[item.start : item.end] == item.text for item in evidence.values())
    assert evidence["Cardiomegaly"].text == "Heart size is normal" and evidence["Cardiomegaly"].value == 0.0
    assert evidence["Pleural Effusion"].text == "effusion" and "exclude" in evidence["Pleural Effusion"].rule
    assert evidence["Pneumothorax"].rule.endswith("<- no")


def test_what_was_asked_or_was_before_is_no_finding() -> None:
    (item,) = explain_cxr("Evaluate for pneumonia.")
    assert item.value is None and label_cxr("Evaluate for pneumonia.")["Pneumonia"] is None


def test_of_a_whole_report_only_what_the_image_shows_is_read() -> None:
    report = (
        "                                 FINAL REPORT\n INDICATION:  ___ year old man with effusion\n \n"
        " TECHNIQUE:  Chest PA; pacemaker was moved\n \n COMPARISON:  ___, pneumothorax\n \n"
        " FINDINGS: \n \n The heart is enlarged.\n \n IMPRESSION: \n \n No pneumonia.\n"
    )
    found = {label: value for label, value in label_cxr(report).items() if value is not None}
    assert found == {"Cardiomegaly": 1.0, "Pneumonia": 0.0}
    assert all(report[item.start : item.end] == item.text for item in explain_cxr(report))


def test_any_text_is_read() -> None:
    rng = random.Random(0)
    words = "no effusion possible , . ; heart size is normal enlarged versus not seen and or İ 漢 \n 1.".split(" ")
    for _ in range(3000):
        report = rng.choice(["", " "]).join(rng.choices(words, k=rng.randrange(30)))
        assert all(report[item.start : item.end] == item.text for item in explain_cxr(report))
        assert set(label_cxr(report).values()) <= {1.0, 0.0, -1.0, None}


@pytest.mark.parametrize(
    "piece", ["no effusion\nsmall edema\n", "no effusion Small edema ", "<!-- no edema ", "Effusion: no "]
)
def test_a_long_list_is_read_as_a_short_one(piece: str) -> None:
    assert label_cxr(piece * 3000) == label_cxr(piece * 3)


def test_agrees_with_human_labels() -> None:
    if not REPORTS.is_dir():
        pytest.skip("the Open-i reports and their human labels are not here")
    columns = {
        "Atelectasis": ["Atelectasis"], "Cardiomegaly": ["Cardiomegaly"], "Pleural Effusion": ["Effusion"],
        "Lung Lesion": ["Mass", "Nodule"], "Pneumonia": ["Pneumonia"], "Pneumothorax": ["Pneumothorax"],
        "Consolidation": ["Consolidation"], "Edema": ["Edema"],
    }  # fmt: skip
    with (REPORTS / "openi_gld_std14.csv").open() as file:
        gold = {row["filename"].removeprefix("CXR"): row for row in csv.DictReader(file)}
    hit = wrong = missed = 0
    with (REPORTS / "indiana_reports.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            labels = label_cxr(row["findings"] + "\n\n" + row["impression"])
            for label, names in columns.items():
                true = any(gold[row["uid"]][name] == "1" for name in names)
                hit += true and labels[label] == 1.0
                wrong += not true and labels[label] == 1.0
                missed += true and labels[label] != 1.0
    assert 2 * hit / (2 * hit + wrong + missed) >= 0.91


def test_agrees_with_the_samples_of_the_chexpert_labeller() -> None:
    sample = REPORTS / "chexpert_labeled_reports.csv"
    if not sample.is_file():
        pytest.skip("the samples of the CheXpert labeller are not here")
    with sample.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            expected = {label: float(row[label]) if row[label] else None for label in CHEXPERT_LABELS}
            assert label_cxr(row["Reports"]) == expected


@pytest.mark.parametrize("name", ["cxr_lexicon.yaml", "ct_lexicon.yaml", "context_lexicon.yaml"])
def test_every_part_of_a_lexicon_is_of_a_known_kind(name):
    parts = yaml.safe_load(Path(context.__file__).with_name(name).read_text(encoding="utf-8"))
    if name == "context_lexicon.yaml":
        assert set(parts) - {"words"} == set(context.CUES)
    else:
        assert set(parts) <= {"present", "normal", "not_this", "places", "cues", "words"}
        assert set(parts.get("cues", {})) <= set(context.CUES)
