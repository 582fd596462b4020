"""Seeded labels and findings for the tests of the report templates, and what every template report must be."""

import random
import re

from common.text.ct_labels import CT_RATE_LABELS
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.sections import report_sections
from common.text.template_facts import LOBES, SEVERITIES, DescribedFinding
from common.text.virtual_report import MAX_WORDS, MIN_WORDS, VirtualReport

DEVICES = (
    "pacemaker", "central venous catheter", "port catheter", "sternal wires", "coronary stent", "surgical clips",
    "valve prosthesis", "nasogastric tube", "endotracheal tube", "tracheostomy tube", "chest tube", "an unknown device",
)  # fmt: skip
KINDS = {
    "Medical material": DEVICES,
    "Support Devices": (*DEVICES, "PICC"),
    "Emphysema": ("centrilobular emphysema", "paraseptal emphysema"),
    "Atelectasis": ("linear atelectasis", "subsegmental atelectasis"),
    "Lung nodule": ("solid nodule", "part-solid nodule", "calcified nodule"),
    "Lung Lesion": ("solid nodule", "calcified nodule"),
    "Lung opacity": ("ground-glass opacity", "perihilar ground-glass opacity"),
    "Lymphadenopathy": ("subcarinal node", "right hilar node", "prevascular node"),
    "Coronary artery wall calcification": ("circumflex plaques", "left anterior descending plaques"),
    "Bronchiectasis": ("cylindrical bronchiectasis", "traction bronchiectasis"),
    "Pleural Other": ("pleural thickening", "apical pleural thickening", "calcified pleural plaques"),
    "Fracture": ("displaced rib fracture",),
}
# A plural that no preposition puts beside the subject, with a singular verb.
PLURAL_WITH_IS = re.compile(
    r"(?:^|(?<=\. ))(?:(?!\b(?:of|in|with|involving)\b)[^.])*"
    r"\w(?:ies|ions|ules|bands|changes|nodes|wires|clips) (?:is|was) "
    r"|\b[Tt]here is (?:two|three|multiple)"
)
DIFFUSE = ("Emphysema", "Mosaic attenuation pattern", "Peribronchial thickening", "Interlobular septal thickening")
# Words that would tell a label; an indication holds symptoms only.
TELLING = re.compile(
    r"effusion|consolidat|pneumon|atelecta|nodul|emphysem|opaci|edema|oedema|fractur|thickening|catheter|pacemaker|"
    r"calcif|hernia|lymph|fibro|bronchiect|mosaic|cardiomegal|heart|lesion|mass|device|tube|infiltrat|pleura"
)


def findings_of(rng: random.Random, label: str, most: int = 4) -> list[DescribedFinding]:
    found = []
    for _ in range(rng.randint(1, most)):
        lobe = rng.choice(LOBES)
        side = "bilateral" if label in DIFFUSE else lobe.split()[0]
        size = rng.choice((None, rng.uniform(2, 60)))
        kind = rng.choice(KINDS.get(label, ("",)))
        found.append(DescribedFinding(label, kind, lobe, side, size, rng.choice(SEVERITIES)))
    return found


def ct_case(seed: int, share: float | None = None) -> tuple[list[DescribedFinding], dict[str, int]]:
    rng = random.Random(seed)
    share = rng.choice((0.0, 0.1, 0.25, 0.5, 1.0)) if share is None else share
    labels = {name: int(rng.random() < share) for name in CT_RATE_LABELS}
    present = [name for name in labels if labels[name] and rng.random() < 0.75]
    return [finding for name in present for finding in findings_of(rng, name)], labels


def cxr_case(seed: int) -> tuple[list[DescribedFinding], dict[str, float | None]]:
    rng = random.Random(seed)
    mixes = ((0, 0, 0, 1), (1, 3, 1, 5), (2, 4, 1, 3), (4, 3, 2, 1), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))
    weights = rng.choice(mixes)
    labels = {name: rng.choices((1.0, 0.0, -1.0, None), weights)[0] for name in CHEXPERT_LABELS} | {"No Finding": None}
    present = [name for name in labels if labels[name] in (1.0, -1.0) and rng.random() < 0.7]
    return [finding for name in present for finding in findings_of(rng, name, 3)], labels


def check_english(report: VirtualReport, followed: bool = False) -> None:
    """Lengths, blanks, capitals, full stops, articles, number, and no leakage (of one followed: in the technique)."""
    assert MIN_WORDS <= len(report.narrative.split()) <= MAX_WORDS
    for name, text in report.sections.items():
        assert text == " ".join(text.split()), text
        assert not re.search(r" [.,;)]|\.\.|,\.|[$<>{}|\ue000-\ue003]|\(n\)|\( ", text), text
        if name != "examination":
            assert text.endswith("."), text
            for sentence in re.split(r"(?<=\.) (?!\d)", text):
                assert re.match(r"[A-Z]|\d", sentence), sentence
        assert not re.search(r"\b[Aa] (?:[aeio]|unch|ung|11 |18 |8 )", text), text
        assert not re.search(r"\b[Aa]n (?:[bcdfgjklmnpqrstvwxyz]|uni|[1-79] )", text), text
        assert not re.search(r"\b(\w+) \1\b", text), text
        wrong = PLURAL_WITH_IS.search(text)
        assert not wrong, wrong[0]
    told = report.sections["technique"] + ("" if followed else report.sections["indication"])
    assert not TELLING.search(told.lower())


def check_spans(report: VirtualReport) -> None:
    assert list(report.spans) == sorted(report.spans, key=lambda span: (span.start, span.end))
    for span in report.spans:
        words = report.text[span.start : span.end]
        assert words and words == words.strip() and "\n" not in words
        assert words in report.narrative, words
    assert all(len(line) <= 79 for line in report.wrapped().splitlines())


def check_sections(report: VirtualReport) -> None:
    """The section parser finds what was written, wrapped or not."""
    for text in (report.text, report.wrapped()):
        found = report_sections(text)
        assert {name: found[name] for name in report.sections} == report.sections
