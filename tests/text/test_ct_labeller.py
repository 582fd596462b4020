import csv
import random
from pathlib import Path

import pytest

from common.text.ct_labeller import explain_ct, label_ct
from common.text.ct_labels import CT_RATE_LABELS
from common.text.ct_template import ct_report

REPORTS = Path(__file__).parents[3] / "shared" / "data" / "reports" / "ctclip_text_classifier_train.csv"
SHORT = dict(zip("mm aw cm pe ca hh ln em at no op fs pl mo pt co br is".split(), CT_RATE_LABELS, strict=True))

# What a text states, and the text.
ORDINARY = """
mm    | A right chest wall port is in place with its tip at the cavoatrial junction.
mm    | Left-sided dual chamber pacemaker with leads in the right atrium and right ventricle.
mm    | Median sternotomy wires are intact.
mm    | The endotracheal tube terminates 4 cm above the carina.
mm    | Surgical clips are seen in the right axilla.
mm    | Status post aortic valve replacement.
mm    | A PICC line ends in the superior vena cava.
mm    | Spinal fusion hardware is noted.
mm ca | Coronary stents and coronary calcifications are present.
mm cm | ICD lead in the right ventricle; enlarged heart.
      | No central venous catheter or pacemaker is seen.
      | The previously seen central venous catheter has been removed.
cm    | The heart is enlarged.
cm    | Mild cardiomegaly.
cm    | Cardiothoracic ratio is increased.
cm    | Both atria are dilated and the heart is enlarged.
      | Heart size is normal.
      | The heart is not enlarged.
      | Cardiac size is not increased.
      | No increase in heart size.
      | The pulmonary artery is enlarged at 34 mm; heart size is normal.
pe    | Trace pericardial fluid is present.
pe    | The pericardium contains a moderate effusion.
pe pl | There are small pericardial and bilateral pleural effusions.
pe pl | Pleural and pericardial effusions are seen.
pl    | Moderate right pleural effusion, no pericardial effusion.
pl    | There is a small amount of fluid in the left pleural space.
pl    | Bilateral effusions, right greater than left.
pl    | Hydropneumothorax on the right.
pl at | Increased right pleural effusion since the prior examination, with atelectasis of the right lower lobe.
      | No pleural or pericardial effusion.
      | Interval resolution of the pleural effusion.
      | Right pleural effusion has completely resolved since the previous study.
      | Perihepatic fluid is present. There is free fluid in the pelvis.
aw    | Mild atherosclerotic calcification of the thoracic aorta.
aw    | The walls of the thoracic aorta are calcified.
aw    | Aortic atherosclerosis.
aw    | Calcified atheroma in the descending aorta; the coronary arteries are free of calcification.
aw ca | Atherosclerotic calcifications of the aorta and coronary arteries.
aw ca | Extensive calcifications involving the aorta, the great vessels and the coronary arteries.
ca    | Three-vessel coronary artery calcifications.
ca    | Pronounced coronary arterial wall calcification.
ca    | Dense calcification of the LAD.
      | No coronary artery calcification.
      | Aortic valve calcification.
      | Calcified lymph nodes were not seen next to the aortic arch.
hh    | Small sliding hiatal hernia.
hh    | A large hiatus hernia is noted.
      | No hiatal hernia.
ln    | Enlarged mediastinal and hilar lymph nodes.
ln    | Bulky right hilar adenopathy.
ln    | There are several subcentimeter mediastinal lymph nodes.
ln    | Several prominent but not pathologically enlarged mediastinal lymph nodes.
      | No mediastinal, hilar or axillary lymphadenopathy.
      | Mediastinal lymph nodes are not enlarged.
      | Lymph nodes with pathological size were not found in the axillary regions.
em    | Moderate centrilobular emphysema with an upper lobe predominance.
em    | Bullous disease in the right apex.
em no | Emphysema with a spiculated nodule in the left upper lobe, 12 x 9 mm, suspicious for malignancy.
      | There is no emphysematous change or hiatal hernia.
      | Subcutaneous emphysema in the chest wall.
at    | Bibasilar atelectasis.
at    | Complete collapse of the left lower lobe.
      | No atelectatic change is seen.
at fs | Linear scarring or atelectasis in the lingula.
no    | A 6 mm solid nodule is seen in the right upper lobe.
no    | Stable nodule in the right lower lobe, unchanged from prior CT.
no    | Enlargement of the mediastinum is not seen. A small nodule was observed.
no    | Nodule in the right lung; adrenal glands are normal.
      | No suspicious pulmonary nodule or mass.
      | There is a 9 mm nodule in the left lobe of the thyroid.
      | A cyst is seen in the liver. Another nodule in segment 7 is probably a haemangioma.
      | Follow-up for lung nodule. The lungs are clear.
op    | Patchy ground-glass opacities in both lungs.
op    | An area of increased density is seen in the right lower lobe.
op    | Bilateral infiltrates are present.
op    | Ground-glass opacities have decreased but persist in both lower lobes.
op co | Ground-glass opacity and consolidation in the left lower lobe.
      | The lungs are clear without focal opacity.
      | Increased density of the mesenteric fat.
fs    | Biapical pleuroparenchymal scarring.
fs    | Sequelae of old granulomatous disease in the apices of both lungs.
      | Cortical scarring of the right kidney.
      | Old fracture sequela of the left fifth rib.
mo    | Mosaic attenuation of the lung parenchyma, suggesting air trapping.
      | There is no mosaic attenuation, bronchiectasis or septal thickening.
pt    | Diffuse peribronchial cuffing.
pt br | Bronchiectasis and peribronchial thickening are seen, without consolidation.
co    | Consolidation in the right lower lobe with air bronchograms.
co    | A small consolidation in the left lower lobe cannot be excluded.
      | Previously seen consolidation has resolved.
br    | Traction bronchiectasis at the bases.
br    | Dilated bronchi in the left lower lobe.
is    | Smooth interlobular septal thickening.
is    | Thickened interlobular septa at the bases.
      | The interventricular septum is normal.
      | No cardiomegaly, fibrotic changes, peribronchial thickening or interlobular septal thickening.
      | Pleural effusion, hiatal hernia and calcified plaque in the coronary arteries are not seen.
      | No ground-glass opacity, mosaic attenuation, lung nodule or pericardial effusion was identified.
      | Emphysematous change, calcified plaque of the aorta and lung nodule were not detected.
"""
TRANSLATED = """
mm    | A port chamber is observed on the left, and its catheter ends in the right atrium.
aw ca | Calcific plaques are watched in the arcus aorta, its supraaortic branches, and the coronary vascular structures.
ca    | Calcified plaque is observed on the wall of the coronary vascular structures.
      | Calcific plaques are observed in the wall of the abdominal aorta.
cm    | CTR increased in favor of the heart.
      | CTR is natural.
pe    | An effusion of 7 mm is selected in the thickest part of the pericardium.
      | Pericardial effusion - no thickening was detected.
      | Pleural effusion-thickening was not distinguished in either hemithorax.
      | Effusion described in the previous examination, between the pleural leaves, was not observed this time.
ln    | According to the previous examination, lymph nodes of stable size are observed in the mediastinum.
ln    | No pathological LAP was detected, and millimetric lymph nodes are observed in the hilar regions.
      | No enlarged lymph node was observed in mediastinal lymph node stations.
      | An appearance in the fissure was evaluated in favor of an intrapulmonary lymph node.
fs    | Fibroatelectatic changes are observed in the lingula.
fs at | No mass was detected in the right lung, and sequelae changes and atelectasis are observed in its lower lobe.
op    | Icy density is watched around the bronchus.
op    | Dependent densities are selected in the posterior of both lungs.
op    | Because the patient was treated for pneumonia, ground-glass areas are observed in both lungs.
co    | The consolidation was evaluated in favor of pneumonic infiltration.
      | In the previous examination of the patient, there is a consolidation in the lingula.
      | The finding should be evaluated in terms of infiltration.
no    | "Hepatic cyst" Millimetric nonspecific nodules in both lungs
no em | • Thyroid cyst • A few nodules in the right lung • Bleb formation in the apex
      | The consolidation of the upper lobe, which was observed in the previous examination, is not observed now.
pt    | Thickening of the peribronchovascular sheath is observed.
      | The bronchial walls are thicker than normal.
      | There was no increase in peribronchial wall thickness.
is    | Interlobular septal clarification is observed in the basals.
pl    | Nothing is natural except for the smear-like effusion between the pleural leaves.
"""


def cases(block: str) -> list[tuple[str, str]]:
    return [tuple(part.strip() for part in line.split("|", 1)) for line in block.strip("\n").splitlines()]


@pytest.mark.parametrize(("states", "text"), cases(ORDINARY) + cases(TRANSLATED))
def test_reads_what_a_sentence_states(states: str, text: str) -> None:
    assert {label for label, value in label_ct(text).items() if value} == {SHORT[name] for name in states.split()}


def test_every_label_is_read_as_present_and_as_absent() -> None:
    stated = {name for states, _ in cases(ORDINARY) for name in states.split()}
    denied = {item.label for states, text in cases(ORDINARY) if not states for item in explain_ct(text)}
    assert stated == set(SHORT)
    assert denied == set(CT_RATE_LABELS)


def test_gives_18_zeros_and_ones_in_the_order_of_the_tables() -> None:
    assert label_ct("") == dict.fromkeys(CT_RATE_LABELS, 0)
    assert list(label_ct("Cardiomegaly.")) == list(CT_RATE_LABELS)
    assert label_ct("\n \t") == label_ct("x") == label_ct("")


def test_a_whole_report_is_read_without_what_was_asked_and_done() -> None:
    report = """INDICATION: Emphysema, rule out consolidation. Catheter placement.
TECHNIQUE: Chest CT. COMPARISON: None.
FINDINGS: There is a 5 mm nodule in the left lower lobe. The heart is normal in size. No effusion.
Small hiatal hernia. Thyroid: hypodense nodule in the right lobe.
IMPRESSION: 1. Nodule in the left lower lobe, unchanged. 2. Hiatal hernia."""
    assert {label for label, value in label_ct(report).items() if value} == {"Lung nodule", "Hiatal hernia"}


def test_a_report_that_only_seems_to_have_a_header_is_read_whole() -> None:
    assert label_ct("Comparison: CT of May. Trachea is open. Consolidation in the lingula.")["Consolidation"] == 1


def test_explains_with_the_words_and_the_rule() -> None:
    text = 'No effusion.  " Millimetric nodules in both lungs " Emphysema was not observed'
    found = {item.label: item for item in explain_ct(text)}
    assert {label: item.value for label, item in found.items()} == {
        "Pleural effusion": 0.0,
        "Lung nodule": 1.0,
        "Emphysema": 0.0,
    }
    assert all(text[item.start : item.end] == item.text for item in found.values())
    assert found["Lung nodule"].text == "nodules"
    assert found["Pleural effusion"].rule == "effusion* <- no"
    assert found["Emphysema"].rule.startswith("emphys* change*? <- ")


def test_explanations_name_labels_only_and_no_places() -> None:
    text = (
        "A nodule in the lower lobe of the lung. A cyst in the liver, in segment 4. Linear density increases elsewhere."
    )
    assert {item.label for item in explain_ct(text)} == {"Lung nodule", "Lung opacity"}


def test_letters_that_grow_when_lowered_do_not_move_the_spans() -> None:
    text = "İİİ Emphysema and İ effusion."
    assert [text[item.start : item.end] for item in explain_ct(text)] == ["Emphysema", "effusion"]


def test_virtual_reports_say_what_they_were_made_to_say() -> None:
    random_labels = random.Random(3)
    hit = said = true = 0
    for seed in range(300):
        share = random_labels.choice((0.1, 0.25, 0.5))
        labels = {label: int(random_labels.random() < share) for label in CT_RATE_LABELS}
        report = ct_report((), labels, sex="F", age=60, seed=seed)
        for text in (report.narrative, report.text, report.wrapped()):
            found = label_ct(text)
            hit += sum(found[label] and report.labels[label] for label in CT_RATE_LABELS)
            said, true = said + sum(found.values()), true + sum(report.labels.values())
    assert 2 * hit / (said + true) >= 0.995


@pytest.mark.skipif(not REPORTS.exists(), reason="the labelled CT reports are not here")
def test_agrees_with_human_labels() -> None:
    with REPORTS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [label_ct(row["report_text"]) for row in rows]
    scores = {}
    for label in CT_RATE_LABELS:
        gold = [int(row[label]) for row in rows]
        hit = sum(said[label] and true for said, true in zip(found, gold, strict=True))
        scores[label] = 2 * hit / (sum(said[label] for said in found) + sum(gold))
    assert sum(scores.values()) / len(scores) >= 0.96
    assert min(scores.values()) >= 0.90


PIECES = """no not was observed nodule effusion pleural pericardial calcific plaques aorta coronary arteries density
increase ground glass sequelae in the previous examination , . ; : " • “ ( ) ? - / lung liver septal thickening
FINDINGS: IMPRESSION: and or which with İ ß 肺 \u0000 \ud800 1. 12x9 mm lymph nodes""".split()


def test_random_texts_are_labelled() -> None:
    draw = random.Random(0)
    for _ in range(3000):
        text = draw.choice((" ", "", "\n")).join(draw.choices(PIECES, k=draw.randrange(40)))
        found = explain_ct(text)
        assert set(label_ct(text).values()) <= {0, 1}
        assert all(text[item.start : item.end] == item.text and item.label in CT_RATE_LABELS for item in found)


@pytest.mark.parametrize(
    "piece", ["no nodule, ", '"nodule', "calcific a, b, c, ", "effusion ", "was not observed ", "("]
)
def test_a_long_text_is_labelled_as_a_short_one(piece: str) -> None:
    """How long that takes is measured by benchmarks/text_fuzz.py."""
    assert label_ct(piece * 20_000) == label_ct(piece * 20)
