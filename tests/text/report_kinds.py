"""Report sentences of the kinds that labellers get wrong, by the hundred, each with what it says by construction.

Two suites with other templates, words and findings: with `MENDED` the rules were written; `KEPT` was written before
them and not looked at meanwhile, so that its share is that of sentences nobody thought of.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

# kind | what is said of {F}, and of {G} where there is one: 1, 0, u (uncertain) or - (nothing of this image) | template
# {F} {G} findings, {S} a side, {O} the other, {E} an examination, {Z} a size; "\n" is a new line. No article stands
# before a finding.
MENDED_TEMPLATES = r"""
answer | 0 | {F}: None.
answer | 0 | {F}: no
answer | 0 | {F}: Absent.
answer | 0 | {F} - none
answer | 0 | {F}? No.
answer | 0 | Nil {F}.
answer | 0 | {F} (-)
answer | 0 | {F}: not seen.
answer | 1 | {F}: {Z}, {S}.
answer | 1 | {F}: Yes.
answer | 1 | {F}: present on the {S}.
answer | u | {F}: possible.
answer | 0 1 | {F}: none. {G}: {Z}, {S}.
answer | 1 0 | {F}: {Z} {S}; {G}: none
answer | 0 0 | {F}: none, {G}: none
answer | 0 | {F}:\nNone.
answer | 0 1 | - {F}: None\n- {G}: {Z}
answer | 0 0 | {F}/{G}: none.
double | 1 | The {F} has not resolved.
double | 1 | {F} has partially resolved.
double | 1 | No resolution of the {F}.
double | 1 | No clearing of the {F}.
double | 1 | There has been incomplete resolution of the {F}.
double | 1 | {F} has not yet cleared.
double | 1 | Lack of improvement in the {F}.
double | 1 | Without resolution of {S} {F}.
double | 1 | The {F} hasn't resolved.
double | 1 | {F} is not absent.
double | 1 0 | The {F} has not resolved. No {G}.
double | 0 | There isn't any {F}.
double | 1 | Unresolved {F}.
exclude | u | This does not exclude {F}.
exclude | u | {F} has not been excluded.
exclude | u | {F} is not excluded.
exclude | u | This examination does not allow exclusion of {F}.
exclude | u | {F} can't be excluded.
exclude | u | Normal {E} does not rule out {F}.
exclude | u | {F} cannot be ruled out.
exclude | u | Exclusion of {F} is not possible.
exclude | 0 | {F} has been excluded.
exclude | 0 u | No {F}, but {G} is not excluded.
exclude | - | CT is recommended to exclude {F}.
prior | 1 | Previously seen {F} has increased.
prior | 1 | Compared to the prior, {F} is larger.
prior | 1 | Compared with the previous {E}, {F} has increased.
prior | 1 | The previously noted {F} is unchanged.
prior | 1 | {F} seen on the prior {E} persists.
prior | 1 | In comparison with the previous {E}, there is new {F}.
prior | 0 | Compared to the prior {E}, no {F}.
prior | 1 0 | Previously seen {F} is stable. No {G}.
prior | 0 | {F} seen on the prior {E} has resolved.
prior | 0 | {F} noted on the previous {E} is not seen today.
prior | 0 | The previously described {F} is no longer present.
prior | 0 | Prior {F} has cleared.
prior | - | History of {F}.
prior | 0 1 | Previously seen {F} has resolved, but {G} is new.
change | 1 | No interval enlargement of the {F}.
change | 1 | No evidence that the {F} has increased.
change | 1 | No expansion of the known {F}.
change | 1 | No increase in {F}.
change | 1 | No worsening of the {F}.
change | 1 | Without progression of {F}.
change | 1 | No significant interval change in {S} {F}.
change | 1 | {F} has not increased.
change | 1 0 | No growth of the {F} and no {G}.
change | 0 | No new {F}.
change | 0 | No recurrence of {F}.
change | 1 | No sign that the {F} has progressed.
side | 1 | {F} has resolved on the {S} but persists on the {O}.
side | 1 | {F} is absent on the {S} and present on the {O}.
side | 1 | No {F} on the {S}, but {Z} {F} on the {O}.
side | 1 | {F} is seen on the {S} but not on the {O}.
side | 1 | {F} on the {S}, none on the {O}.
side | 1 | No {F} on the {S}; {Z} on the {O}.
side | 0 | {F} has resolved on the {S} and on the {O}.
side | 1 0 | {F} cleared on the {S} but remains on the {O}. No {G}.
except | 1 | No {F} except for a {Z} one on the {S}.
except | 1 | No {F} other than a {Z} one at the {S} base.
except | 1 | No {F} apart from a trace on the {S}.
except | 0 1 | No {F} except for {G}.
except | 0 1 | No {F}, only {Z} {G}.
except | 1 | Clear lungs except for {Z} {F}.
if_any | u | {Z} {F}, if any.
if_any | u | {F}, if present, is {Z}.
if_any | u | {Z}, if any, {F}.
if_any | u 0 | {Z} {S} {F}, if any. No {G}.
breaks | 0 1 | no {F}\n{Z} {S} {G}\n
breaks | 0 1 | No {F} Small {G}
breaks | 0 1 | No {F}.{Z} {G}.
breaks | 0 1 | - no {F} - {Z} {G}
breaks | 0 1 | No {F}\u2028{Z} {G}
breaks | 0 1 | no {F}\r\nsmall {G}\r\n
breaks | 0 1 | • no {F} • {Z} {G}
breaks | 0 1 | 1. no {F} 2. {Z} {G}
breaks | 0 0 | no {F}\nno {G}
breaks | 0 1 | 1.No {F}. 2.{Z} {G}.
html | 0 0 | No {F}&nbsp;or {G}.
html | 0 0 | No {F} &amp; {G}.
html | 0 1 | <p>No {F}</p><p>{Z} {G}</p>
html | 0 1 | No {F}<br>{Z} {G}<br/>
html | 0 | <b>{F}:</b> None.
blank | - | nan
blank | - | None
blank | - | N/A
blank | - | null
blank | - | -
blank | - | nan\n\nnan
language | - | Pas de pneumothorax. Pas d'épanchement pleural.
language | - | Kein Pneumothorax. Kein Pleuraerguss.
language | - | No hay derrame pleural ni neumotórax.
"""
KEPT_TEMPLATES = r"""
answer | 0 | {F}: nil.
answer | 0 | {F} = none
answer | 0 | {F}: Negative.
answer | 0 | {F}: not identified
answer | 0 | {F}... none.
answer | 0 | Is there {F}? No.
answer | 0 | {F}: not present
answer | 0 | {F}: - none
answer | 0 | {F}: None seen.
answer | 0 | {F}: No evidence.
answer | 1 | {F}: {Z}
answer | 1 | {F}: (+)
answer | 1 | {F}? Yes, {Z}.
answer | u | {F}: cannot exclude.
answer | u | {F}: questionable.
answer | 0 0 | {F}: none {G}: none
answer | 1 0 | {F}: {Z}, unchanged\n{G}: none
answer | 0 1 | {F}: absent; {G}: {Z} on the {S}
answer | 0 | {F} : nil
answer | 0 1 | {F}\nNone.\n{G}\n{Z}, {S}.
answer | 0 0 | * {F} - no\n* {G} - no
answer | 0 0 | {F}: None seen\n{G}: None seen
double | 1 | The {F} has failed to resolve.
double | 1 | {F} has only partly cleared.
double | 1 | No improvement in the {F}.
double | 1 | The {F} did not clear.
double | 1 | {F} has incompletely resolved.
double | 1 | {F} is not completely resolved.
double | 1 | There is no decrease in the {F}.
double | 1 | The {F} never resolved.
double | 1 | Nonresolving {F}.
double | 1 | {F} has not disappeared.
double | 0 | {F} wasn't seen.
double | 1 0 | Partial resolution of the {F}, without {G}.
double | 0 | Complete resolution of the {F}.
exclude | u | The study cannot fully exclude {F}.
exclude | u | {F} not excluded.
exclude | u | {F} is difficult to exclude.
exclude | u | A normal {E} would not exclude {F}.
exclude | u | We are unable to rule out {F}.
exclude | u | {F} couldn't be excluded.
exclude | u | Absence of change does not exclude {F}.
exclude | u | This does not entirely exclude underlying {F}.
exclude | u | {F} has not been ruled out.
exclude | 0 | {F} was ruled out.
exclude | - | Please correlate clinically to rule out {F}.
exclude | u 0 | {F} is not entirely excluded; no {G}.
prior | 1 | {F} seen previously is again noted.
prior | 1 | When compared to the prior {E}, {F} has worsened.
prior | 1 | The {F} identified on the earlier {E} remains.
prior | 1 | Since the prior {E}, {F} has decreased.
prior | 1 | Previously described {S} {F} appears similar.
prior | 1 | Known {F} is redemonstrated.
prior | 1 | As compared to the previous {E}, the {F} is smaller.
prior | 1 | Prior {F} is still visible.
prior | 0 | The previously seen {F} can no longer be identified.
prior | 0 | {F} present on the last {E} has disappeared.
prior | 0 | {F} described on the previous {E} is no longer visualized.
prior | 0 | Since the previous {E}, the {F} has resolved.
prior | 0 | No {F} compared to the previous {E}.
prior | - | Status post treatment for {F}.
prior | 1 0 | Compared to the previous {E}, {F} is larger and there is no {G}.
prior | 0 1 | The {F} on the prior {E} has resolved; {G} persists.
change | 1 | No enlargement of the {F} since the {E}.
change | 1 | No evidence of worsening of the {F}.
change | 1 | No indication that the {F} has grown.
change | 1 | No interval growth of {F}.
change | 1 | No change in size of the {F}.
change | 1 | There is no further increase in the {F}.
change | 1 | The {F} is not larger.
change | 1 | {F} has not progressed.
change | 1 | No extension of the {F}.
change | 0 | No interval development of {F}.
change | 0 | No evidence of new {F}.
change | 1 0 | No appreciable change in the {F}. No {G}.
side | 1 | The {S} {F} has resolved, the {O} one persists.
side | 1 | {F} is no longer seen on the {S}, but is unchanged on the {O}.
side | 1 | {F}, absent on the {S}, is present on the {O}.
side | 1 | {F} is not seen on the {S} but is seen on the {O}.
side | 1 | There is no {F} on the {S} and {Z} {F} on the {O}.
side | 1 | {F} only on the {S}, not on the {O}.
side | 1 | Resolved {S} {F}, persistent {O} {F}.
side | 0 | No {F} on the {S} or on the {O}.
side | 1 0 | {F} has cleared on the {S} while remaining on the {O}, no {G}.
except | 1 | No {F} with the exception of a {Z} one on the {S}.
except | 1 | No {F} aside from a {Z} amount on the {S}.
except | 1 | There is no {F} except on the {S}.
except | 1 | No {F} besides a {Z} one on the {S}.
except | 0 1 | No {F} aside from {Z} {G}.
except | 1 | Nothing but {Z} {F}.
if_any | u | If any, {Z} {F}.
if_any | u | {Z} {F} if present.
if_any | u | {F}, if any, is {Z}.
if_any | u | At most {Z} {F}.
breaks | 0 1 | no {F}\n\t{Z} {G} is seen
breaks | 0 1 | No {F}\x0b{Z} {G}
breaks | 0 1 | * No {F} * {Z} {G}
breaks | 0 1 | No {F}\u2029{Z} {G}.
breaks | 0 1 | (1) no {F} (2) {Z} {G}
breaks | 0 1 | no {F} | {Z} {G}
breaks | 0 1 | There is no {F}.there is {Z} {G}.
breaks | 0 1 | No {F} There is {Z} {G}
breaks | 0 0 | no {F}\nor {G}
breaks | 0 1 | No {F}\u0085{Z} {G}
html | 0 1 | <ul><li>no {F}</li><li>{Z} {G}</li></ul>
html | 0 1 | <div>No {F}</div><div>{Z} {G}</div>
html | 1 | {Z}&#160;{F}
html | 0 0 | No {F}&#44; no {G}
html | 0 1 | &lt;p&gt;No {F}&lt;/p&gt;&lt;p&gt;{Z} {G}&lt;/p&gt;
blank | - | NaN
blank | - | n/a
blank | - | NULL
blank | - | --
blank | - | Not available.
blank | - | <NA>
language | - | Nessun versamento pleurico. Assenza di pneumotorace.
language | - | Sem derrame pleural. Não há pneumotórax.
language | - | Geen pneumothorax en geen pleuravocht.
"""
MENDED_PLACES = r"""
cxr | Lung Lesion | - | Nodule in the {S} breast.
cxr | Lung Lesion | 1 | Nodule in the {S} breast and nodule in the {S} upper lobe.
cxr | Pleural Effusion | - | Effusion of the {S} shoulder joint.
cxr | Edema | - | Edema of the {S} leg.
ct | Lung nodule | 0 | Nodule in the {S} breast.
ct | Lung nodule | 1 | Nodule in the {S} breast and nodule in the {S} upper lobe.
ct | Lung nodule | 0 | {Z} nodule in the {S} thyroid lobe.
ct | Lung nodule | 0 | {Z} {S} adrenal nodule.
ct | Lung nodule | 1 | Lungs: {Z} {S} nodule, thyroid normal.
ct | Interlobular septal thickening | 0 | Interatrial septum is thickened.
ct | Lymphadenopathy | 1 | No lymphadenopathy except for a 14 mm {S} paratracheal node.
ct | Lung nodule | 1 | No nodule, only a 3 mm calcified nodule.
"""
KEPT_PLACES = r"""
cxr | Lung Lesion | - | {Z} thyroid nodule.
cxr | Lung Lesion | - | Mass of the {S} breast.
cxr | Lung Lesion | 1 | {S} adrenal mass; nodule in the {S} lower lobe.
cxr | Pleural Effusion | - | {S} knee effusion.
cxr | Edema | - | {Z} edema of the chest wall.
ct | Lung nodule | 0 | {S} adrenal nodule, {Z}.
ct | Lung nodule | 1 | {Z} nodule in the {S} lung; adrenal glands normal.
ct | Lung nodule | 0 | Thyroid: {Z} nodule in the {S} lobe.
ct | Lung nodule | 1 | Thyroid normal, {Z} nodule in the {S} lower lobe.
ct | Lung nodule | 0 | There is a {Z} nodule in the {S} kidney.
ct | Interlobular septal thickening | 0 | Thickening of the interventricular septum.
ct | Lymphadenopathy | 1 | No adenopathy other than a {S} hilar node.
ct | Lung nodule | 1 | No nodules except a 4 mm calcified granulomatous nodule.
"""
BROKEN = {"MENDED": ("pneumo\u00adthorax", "pneumo-\nthorax"), "KEPT": ("pneu\u00admothorax", "pneumotho-\n  rax")}
FINDINGS = {
    "MENDED": {
        "cxr": {
            "pleural effusion": "Pleural Effusion", "pneumothorax": "Pneumothorax", "consolidation": "Consolidation",
            "pulmonary edema": "Edema",
        },
        "ct": {
            "pleural effusion": "Pleural effusion", "consolidation": "Consolidation",
            "bronchiectasis": "Bronchiectasis",
        },
    },
    "KEPT": {
        "cxr": {
            "effusion": "Pleural Effusion", "atelectasis": "Atelectasis", "airspace opacity": "Lung Opacity",
            "pneumonia": "Pneumonia",
        },
        "ct": {
            "emphysema": "Emphysema", "atelectasis": "Atelectasis", "ground-glass opacity": "Lung opacity",
            "peribronchial thickening": "Peribronchial thickening",
        },
    },
}  # fmt: skip
ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\x0b": "\x0b", "\\u0085": "\x85"}
ESCAPES |= {"\\u2028": "\u2028", "\\u2029": "\u2029"}
SIZES = {"MENDED": ("small", "moderate", "trace"), "KEPT": ("tiny", "mild", "minimal")}
EXAMINATIONS = {"MENDED": ("study", "radiograph", "examination"), "KEPT": ("film", "exam", "scan")}


@dataclass(frozen=True)
class KindCase:
    """A sentence.

    Attributes:
        suite: "MENDED" or "KEPT".
        kind: what labellers get wrong in it.
        labeller: "cxr" or "ct".
        report: the text.
        expected: label -> what `label_cxr` or `label_ct` should say.
    """

    suite: str
    kind: str
    labeller: str
    report: str
    expected: dict[str, float | None]


def kind_cases(suite: str, count: int, seed: int = 0) -> list[KindCase]:
    """The first `count` sentences of a suite, all different, every template used before one is used again."""
    cases: dict[tuple[str, str], KindCase] = {}
    rng = random.Random(seed)
    while len(cases) < count:
        before = len(cases)
        for case in _round(suite, rng):
            cases.setdefault((case.labeller, case.report), case)
        if len(cases) == before:
            raise ValueError(f"Suite {suite} has no more than {before} different sentences, expected {count}.")
    return list(cases.values())[:count]


def is_right(case: KindCase, found: dict[str, float | None]) -> bool:
    """Whether labels say of a sentence what they should."""
    return all(found[label] == value for label, value in case.expected.items())


def _round(suite: str, rng: random.Random) -> Iterator[KindCase]:
    """Yield one sentence of each template for each labeller."""
    templates = {"MENDED": MENDED_TEMPLATES, "KEPT": KEPT_TEMPLATES}[suite]
    for line in templates.strip().splitlines():
        kind, said, template = line.split(" | ", 2)
        for labeller, findings in FINDINGS[suite].items():
            names = rng.sample(sorted(findings), 2)
            report = _fill(template, suite, rng, names)
            expected = {
                findings[name]: _value(labeller, value) for name, value in zip(names, said.split(), strict=False)
            }
            if kind in ("blank", "language"):
                expected = {"No Finding": None} if labeller == "cxr" else dict.fromkeys(findings.values(), 0)
            yield KindCase(suite, kind, labeller, report, expected)
    for line in {"MENDED": MENDED_PLACES, "KEPT": KEPT_PLACES}[suite].strip().splitlines():
        labeller, label, said, template = line.split(" | ", 3)
        yield KindCase(suite, "places", labeller, _fill(template, suite, rng, ()), {label: _value(labeller, said)})
    word = rng.choice(BROKEN[suite])
    no, value = rng.choice((("No ", 0.0), ("{Z} {S} ", 1.0)))
    report = _fill(f"{no}{word}.", suite, rng, ())
    yield KindCase(suite, "broken words", "cxr", report, {"Pneumothorax": value})


def _value(labeller: str, said: str) -> float | None:
    if labeller == "ct":  # where a guess counts as there, and what is not mentioned as not there
        return int(said in "1u")
    return {"1": 1.0, "0": 0.0, "u": -1.0, "-": None}[said]


def _fill(template: str, suite: str, rng: random.Random, names: list[str] | tuple[()]) -> str:
    side, other = rng.choice((("left", "right"), ("right", "left")))
    words = {"S": side, "O": other, "Z": rng.choice(SIZES[suite]), "E": rng.choice(EXAMINATIONS[suite])}
    words |= dict(zip("FG", names, strict=False))
    for written, meant in ESCAPES.items():
        template = template.replace(written, meant)
    filled = template.format(**words)
    return filled[0].upper() + filled[1:] if template.startswith("{") else filled
