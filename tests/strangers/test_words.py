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


# For each kind, what else belongs to it: label | 1, 0, u (uncertain) or - (not mentioned) | report, escaped.
FURTHER = r"""
Pleural Effusion | 0 | Pleural effusion:\n  None.
Pleural Effusion | 1 | Effusion: right small, left none.
Pleural Effusion | 0 | Effusion ( - )
Pleural Effusion | 1 | Effusion has decreased, but has not resolved completely.
Pleural Effusion | 1 | Effusion is slow to resolve.
Pleural Effusion | 1 | Effusion, not seen previously, is now present.
Pleural Effusion | 1 | Small effusion was not present on the prior study.
Pleural Effusion | 1 | Effusion is new since the prior, which showed none.
Pleural Effusion | 0 | Interval resolution of the previously noted effusion.
Pleural Effusion | 1 | Effusion has neither increased nor decreased.
Pleural Effusion | 1 | No further accumulation of pleural fluid.
Pleural Effusion | 1 | There is no evidence that the effusion is larger.
Pleural Effusion | 1 | No effusion on the right. Small on the left.
Pleural Effusion | 1 | There is no effusion on the right but there is one on the left.
Pleural Effusion | 1 | Right effusion resolved, left unchanged.
Pleural Effusion | 1 | No effusion except a trace on the left.
Pleural Effusion | 0 | No effusion or edema except as described above.
Pleural Effusion | u | There is little if any pleural effusion.
Pleural Effusion | u | Any effusion is small.
Pleural Effusion | u | No more than a trace effusion.
Pleural Effusion | 1 | 1)no edema 2)small effusion
Pleural Effusion | 1 | a) no edema b) small effusion
Pleural Effusion | 1 | No edema - small effusion
Pleural Effusion | 1 | No edema\\nSmall effusion
Pleural Effusion | 1 | <tr><td>Effusion</td><td>Small</td></tr><tr><td>Edema</td><td>None</td></tr>
Pleural Effusion | 0 | There is no edema or pleural\neffusion.
Pleural Effusion | 0 | No consolidation,\neffusion or edema.
Pleural Effusion | 1 | Small e\ufb00usion.
Pleural Effusion | 1 | Small effu-\n  sion.
Pleural Effusion | - | Effusion of the left knee joint.
Pneumothorax | 0 | Any pneumothorax? None.
Pneumothorax | 0 | Pneumothorax [absent]
Pneumothorax | 0 | Pneumothorax -ve
Pneumothorax | 1 | Pneumothorax +ve
Pneumothorax | 0 | Pneumothorax: ruled out.
Pneumothorax | 0 | Is there pneumothorax? No, it has cleared.
Pneumothorax | 1 | No significant clearing of the pneumothorax.
Pneumothorax | 1 | Pneumothorax with incomplete resolution.
Pneumothorax | u | Pneumothorax couldn't be confidently excluded.
Pneumothorax | 0 | Prior pneumothorax can no longer be identified.
Pneumothorax | 1 | Pneumothorax no longer seen on left but persists on right.
Pneumothorax | 0 | No pneumothorax on either side.
Pneumothorax | 0 | Pneumothorax is not seen on the right, nor on the left.
Pneumothorax | 0 | No pneumo<b>thorax</b>.
Pneumothorax | 1 | Pneumo-thorax.
Pneumothorax | 0 | No pneumothorax on the left; chest tube remains in place on the right.
Pneumothorax | 0 | No pneu\u200bmothorax.
Pneumonia | 1 | Pneumonia hasn't cleared.
Pneumonia | 1 | No convincing evidence that pneumonia has progressed.
Pneumonia | 0 | Findings exclude pneumonia.
Pneumonia | u | This neither confirms nor excludes pneumonia.
Pneumonia | u | The absence of consolidation does not exclude pneumonia.
Pneumonia | - | Lateral view advised to rule out pneumonia.
Pneumonia | - | Prior pneumonia.
Pneumonia | u | Opacity, ?pneumonia.
Lung Lesion | - | Mass in the right breast.
Lung Lesion | - | Adrenal nodule seen on CT.
Lung Lesion | 1 | Nodule over the right breast shadow.
Lung Lesion | 1 | No suspicious nodules; only a 3 mm calcified nodule in the left apex.
Fracture | 1 | Prior healed rib fractures are again noted.
Fracture | 1 | Previous left clavicle fracture.
Cardiomegaly | 0 | No enlargement of the heart.
Cardiomegaly | 1 | no effusion\ncardiomegaly
Cardiomegaly | 1 | Cardio-\nmegaly.
No Finding | - | N/A
No Finding | - | n.a.
No Finding | - | <NA>
No Finding | - | NULL
No Finding | - | NaN
No Finding | - | None.
No Finding | - | ---
No Finding | - | [No text]
No Finding | - | No report available.
No Finding | - | XXXX
No Finding | - | nan\n\nnan
No Finding | - | FINDINGS: None. IMPRESSION: None.
No Finding | - | Herz normal groß. Keine Infiltrate.
No Finding | - | Pulmones sin alteraciones.
No Finding | - | Сердце не увеличено.
No Finding | - | 心影不大，肺野清晰。
No Finding | - | Plevral efüzyon izlenmedi.
No Finding | 1 | No acute findings.
No Finding | 1 | Normal chest.
"""
FURTHER_CT = r"""
Lung nodule | 0 | Left adrenal nodule, 12 mm.
Lung nodule | 0 | 12 mm nodule in the right thyroid lobe; lungs are clear.
Lung nodule | 0 | Nodules? No.
Lung nodule | 1 | Breast tissue is normal and there is a 5 mm nodule in the left upper lobe.
Lung nodule | 1 | No new nodule. Known nodule is unchanged.
Interlobular septal thickening | 0 | The interatrial septum is lipomatous and thickened.
Interlobular septal thickening | 0 | Thickened interventricular septum.
Interlobular septal thickening | 1 | Septal thickening at both bases.
Lymphadenopathy | 1 | No mediastinal lymphadenopathy, except a 15 mm right hilar node.
Lymphadenopathy | 0 | Lymphadenopathy - absent
Emphysema | 0 | Emphysema (-), bronchiectasis (+)
Bronchiectasis | 1 | Emphysema (-), bronchiectasis (+)
Consolidation | 1 | No complete resolution of the consolidation.
Consolidation | 0 | Consolidation seen on the prior CT has resolved.
Cardiomegaly | 0 | No increase in heart size.
Cardiomegaly | 1 | No change in cardiomegaly.
Lung opacity | 1 | Ground-glass opacities have resolved on the right but persist on the left.
"""


def lines(block: str) -> list[list[str]]:
    return [line.split(" | ", 2) for line in block.strip().splitlines()]


def unescaped(report: str) -> str:
    return report.encode("latin-1", "backslashreplace").decode("unicode_escape") if "\\" in report else report


@pytest.mark.parametrize(("label", "said", "report"), lines(FURTHER))
def test_further_words_of_radiographs(label, said, report):
    assert label_cxr(unescaped(report))[label] == {"1": P, "0": N, "u": U, "-": None}[said]


@pytest.mark.parametrize(("label", "said", "report"), lines(FURTHER_CT))
def test_further_words_of_ct(label, said, report):
    assert label_ct(unescaped(report))[label] == int(said)


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
