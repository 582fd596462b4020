"""What reports say, in the words of people who had labellers read them: shared cases, and inputs made after threads.

The texts are this project's own; the address of a thread says where the kind of input was met.
"""

import csv
import json
from pathlib import Path

import pytest

from common.apps.text.label import label_table
from common.apps.text.sections import write_sections
from common.cli.verbs import show_labels
from common.text.ct_labeller import label_ct
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr
from common.text.sections import report_sections

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases" / "text"
P, N, U = 1.0, 0.0, -1.0
EFFUSION, AIR, PNEUMONIA = "Pleural Effusion", "Pneumothorax", "Pneumonia"


def test_every_shared_sentence_is_read_right():
    if not CASES.is_dir():
        pytest.skip("the shared cases are not here")
    with (CASES / "report_sentences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        found = {"cxr": label_cxr, "ct": label_ct}[row["labeller"]](row["report"])[row["label"]]
        said = "blank" if found is None else str(found)
        if said not in (row["expected"] or "blank").split(" or "):
            wrong.append((row["id"], row["report"], said))
    assert len(rows) > 30 and not wrong


def test_the_shared_html_report_is_cut_and_decoded(tmp_path):
    if not CASES.is_dir():
        pytest.skip("the shared cases are not here")
    write_sections(CASES / "html_report.txt", tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["findings"], row["impression"]) == ("Heart is normal. Small left effusion.", "Small effusion.")
    report = (CASES / "html_report.txt").read_text(encoding="utf-8")
    for line in (tmp_path / "o.spans.jsonl").read_text(encoding="utf-8").splitlines():
        span = json.loads(line)
        assert report[span["start"] : span["end"]] == span["text"]


@pytest.mark.parametrize(
    ("report", "sections"),
    [
        (
            "<p><b>INDICATION:</b> cough</p><p><b>FINDINGS:</b> No effusion &amp; no edema.</p>",
            {"indication": "cough", "findings": "No effusion & no edema."},
        ),
        ("FINDINGS:&lt;br&gt;Clear.&lt;br&gt;IMPRESSION: Ok.", {"findings": "Clear.", "impression": "Ok."}),
        (r"FINDINGS:\.br\Bulla &lt;5 mm.\.br\IMPRESSION: Ok.", {"findings": "Bulla <5 mm.", "impression": "Ok."}),
        ("FINDINGS: Pneumo\u00adthorax \u2013 small.\u2028IMPRESSION: As above.", {
            "findings": "Pneumothorax \u2013 small.", "impression": "As above."
        }),
    ],
)  # fmt: skip
def test_sections_of_marked_up_reports(report, sections):
    assert report_sections(report) == sections


THREADS = [
    # https://github.com/jenojp/negspacy/issues/44
    ("Central venous catheter: No", {"Support Devices": N}),
    ("Pneumothorax: No\nRib fracture: No\nEffusion: Yes", {AIR: N, "Fracture": N, EFFUSION: P}),
    # https://github.com/medspacy/medspacy/issues/73
    ("Chest\n-old rib fracture\n-Effusion: None \n-Edema: None\n", {"Fracture": P, EFFUSION: N, "Edema": N}),
    # https://github.com/medspacy/medspacy/issues/232
    ("The radiograph is negative for pneumonia/effusion.", {PNEUMONIA: N, EFFUSION: N}),
    # https://github.com/medspacy/medspacy/issues/155
    ("LUNGS AND PLEURA: no further effusion is seen", {EFFUSION: N}),
    (": no further effusion seen", {EFFUSION: N}),
    # https://github.com/medspacy/medspacy/issues/58
    ("This rules pneumonia out.", {PNEUMONIA: N}),
    ("We could not rule pneumonia out.", {PNEUMONIA: U}),
    # https://github.com/ClarityNLP/ClarityNLP/issues/84
    ("1.No evidence of edema. 2.small effusion", {"Edema": N, EFFUSION: P}),
    # https://github.com/stanfordmlgroup/chexpert-labeler/issues/15
    ("No air space disease or large effusion, and without evidence of pneumothorax.", {
        "Lung Opacity": N, EFFUSION: N, AIR: N
    }),
    # https://github.com/stanfordmlgroup/chexpert-labeler/issues/29
    ("No evidence of focal consolidation large effusion or pneumothorax", {"Consolidation": N, EFFUSION: N, AIR: N}),
    # https://github.com/LX-doctorAI1/M2KT/issues/4
    ("Lungs are expanded and clear. \nMediastinum and heart normal.", {"Cardiomegaly": N}),
    # https://github.com/rajpurkarlab/ReXrank/issues/2
    ("Findings: None. Impression: 1. PREVIOUSLY DESCRIBED PNEUMOTHORAX IS NOT WELL SEEN ON TODAY'S\nFILM. "
     "2. SMALL RIGHT EFFUSION REMAINS.", {AIR: N, EFFUSION: P}),
    # https://github.com/rajpurkarlab/CheXzero/pull/13
    ("FINDINGS:\nIMPRESSION:\n", {"No Finding": None}),
    # https://github.com/jenojp/negspacy/issues/14
    ("Cardiomegaly with no effusion and edema", {"Cardiomegaly": P, EFFUSION: N, "Edema": N}),
    # https://github.com/MIT-LCP/mimic-code/issues/1026
    (". . No effusion. . Edema has cleared. .", {EFFUSION: N, "Edema": N}),
    # https://github.com/jianlins/PyRuSH/issues/16
    ("Compared with [date]. Effusion\nhas not resolved. No edema.", {EFFUSION: P, "Edema": N}),
    # https://github.com/jianlins/PyRuSH/issues/15
    ("no edema\nEffusion", {"Edema": N, EFFUSION: P}),
    # https://github.com/aphp/edsnlp/issues/113
    ("TECHNIQUE : \nCOMPARISON : \nFINDINGS : \nIMPRESSION : \nEffusion persists", {EFFUSION: P}),
    # https://github.com/maziyarpanahi/openmed/pull/1182
    ("No edema but has effusion; pneumonia was ruled out", {"Edema": N, EFFUSION: P, PNEUMONIA: N}),
]  # fmt: skip


@pytest.mark.parametrize(("report", "said"), THREADS)
def test_inputs_made_after_threads(report, said):
    found = label_cxr(report)
    assert {label: found[label] for label in said} == said


def further() -> list[tuple[str, str, str, str]]:
    """What else belongs to each kind: labeller, label, what is said of it, report."""
    found = []
    for line in Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines()[1:]:
        labeller, label, said, report = line.split(" | ", 3)
        if "\\" in report:
            report = report.encode("latin-1", "backslashreplace").decode("unicode_escape")
        found.append((labeller, label, said, report))
    return found


@pytest.mark.parametrize("labeller", ["cxr", "ct"])
def test_further_words(labeller):
    cases = [(label, said, report) for who, label, said, report in further() if who == labeller]
    values, label_report = {
        "cxr": ({"1": P, "0": N, "u": U, "-": None}, label_cxr),
        "ct": ({"1": 1, "0": 0}, label_ct),
    }[labeller]
    found = [(label, report, label_report(report)[label], values[said]) for label, said, report in cases]
    assert len(found) > 50 and not [case for case in found if case[2] != case[3]]


@pytest.mark.parametrize("kind", ["cxr", "ct"])
def test_what_says_nothing_or_is_not_english_is_counted_and_said(kind, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("text\nNo effusion.\nnan\nKein Pneumothorax.\nDerrame pleural izquierdo.\nN/A\n", encoding="utf-8")
    result = label_table(kind, table, "text", tmp_path / "o.csv")
    assert (result["rows"], result["without_text"], result["not_english"]) == (5, 2, 2)
    show_labels(result)
    said = capsys.readouterr().out
    assert "2 reports say nothing: all their labels are blank" in said and "2 reports are not in English" in said
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        first, *others = csv.DictReader(file)
    assert any(first.values()) and all(set(list(row.values())[1:]) == {""} for row in others)
    assert set(label_cxr("nan")) == set(CHEXPERT_LABELS)
