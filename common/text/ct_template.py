"""Chest CT reports from labels, lesion sizes and places, in the manner of the translated reports of CT-RATE.

    >>> report = ct_report([], dict.fromkeys(CT_RATE_LABELS, 0) | {"Emphysema": 1}, "F", 63, seed=1)
    >>> report.labels["Emphysema"], {span.value for span in report.spans if span.label == "Emphysema"}
    (1, {1.0})

What is not known is not said: without findings a report names neither place nor size, only a seeded severity.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from common.text.ct_labels import CT_RATE_LABELS
from common.text.template_facts import (
    ADVERBS,
    SEVERITIES,
    Facts,
    FindingLike,
    check_facts,
    count_words,
    gather,
    person_words,
    phrase_kinds,
    place_words,
    size_words,
)
from common.text.template_phrases import enumerate_words, expand, labels_in, mentioned, read_bank, sentence, word_count
from common.text.virtual_report import MAX_WORDS, MIN_WORDS, VirtualReport, assemble, fill_up, header

__all__ = ["ct_report"]

BLOCKS = {
    "devices": ("Medical material",),
    "airways": (),
    "vessels": ("Arterial wall calcification", "Coronary artery wall calcification"),
    "heart": ("Cardiomegaly", "Pericardial effusion"),
    "oesophagus": ("Hiatal hernia",),
    "nodes": ("Lymphadenopathy",),
    "lungs": (
        "Emphysema", "Mosaic attenuation pattern", "Peribronchial thickening", "Bronchiectasis",
        "Interlobular septal thickening", "Lung opacity", "Consolidation", "Atelectasis", "Pulmonary fibrotic sequela",
        "Lung nodule",
    ),
    "clear_lungs": (),
    "pleura": ("Pleural effusion",),
    "abdomen": (),
    "bones": (),
    "soft_tissues": (),
}  # fmt: skip
"""Part of the report -> the labels that are told there."""

_BLOCK_OF = {label: block for block, labels in BLOCKS.items() for label in labels}
_MEDIASTINUM = ("airways", "vessels", "heart", "nodes", "oesophagus")
_LUNGS = ("clear_lungs", "lungs", "pleura")
_REST = ("abdomen", "bones", "soft_tissues")
_ORDERS = (
    ("devices", *_MEDIASTINUM, *_LUNGS, *_REST),
    (*_MEDIASTINUM, "devices", *_LUNGS, *_REST),
    (*_LUNGS, *_MEDIASTINUM, "devices", *_REST),
    ("airways", *_LUNGS, "heart", "vessels", "devices", "oesophagus", "nodes", *_REST),
    ("airways", "nodes", "heart", "vessels", *_LUNGS, "oesophagus", "soft_tissues", "bones", "abdomen", "devices"),
)
# One lesion and several read differently only where lesions can be counted.
_COUNTED = ("Lung nodule", "Lung opacity", "Consolidation", "Pleural effusion")
# Seldom said to be absent.
_RARELY_ABSENT = (
    "Medical material", "Mosaic attenuation pattern", "Peribronchial thickening", "Pulmonary fibrotic sequela",
    "Interlobular septal thickening", "Arterial wall calcification",
)  # fmt: skip
# What an impression names first.
_IMPORTANCE = (
    "Consolidation", "Lung opacity", "Pleural effusion", "Pericardial effusion", "Lymphadenopathy", "Lung nodule",
    "Interlobular septal thickening", "Bronchiectasis", "Emphysema", "Atelectasis", "Pulmonary fibrotic sequela",
    "Cardiomegaly", "Mosaic attenuation pattern", "Peribronchial thickening", "Hiatal hernia",
    "Coronary artery wall calcification", "Arterial wall calcification", "Medical material",
)  # fmt: skip
_FULL, _BRIEF, _LISTED, _BARE = range(4)


def ct_report(
    findings: Sequence[FindingLike],
    labels: Mapping[str, int],
    sex: str | None,
    age: int | None,
    seed: int,
    uncertain: Collection[str] = (),
    incidental: bool = True,
) -> VirtualReport:
    """Write a chest CT report of 50 to 200 words (findings and impression).

    Every label that is 1 is stated; of those that are 0 some are said to be absent, the others are not mentioned.

    Args:
        findings: what was found, of labels that are 1; a label without findings gets a seeded severity and no place.
        labels: name -> 0 or 1, all 18 of CT-RATE.
        sex: "F", "M" or None for unknown.
        age: years, None for unknown.
        seed: of wording, order, what else is said, and severities that are not known.
        uncertain: labels, of those that are 1, that are stated as possible; their spans have the value -1.
        incidental: whether an earlier examination and harmless findings outside the labels may be made up; off where
            the report is of a real scan.

    Returns:
        The report; its labels are those given.

    Raises:
        ValueError: for labels other than the 18 or a value other than 0 and 1, a finding of a label that is not 1,
            an impossible size, severity, side, sex or age.
    """
    check_facts(findings, sex, age)
    _check_labels(findings, labels, uncertain)
    draw = random.Random(f"ct facts/{seed}")
    facts = {
        label: gather(label, [f for f in findings if f.label == label], severity)
        for label, severity in ((label, draw.choice(SEVERITIES)) for label in CT_RATE_LABELS)
        if labels[label]
    }
    for detail in (_FULL, _BRIEF, _LISTED, _BARE):
        writer = _Writer(facts, frozenset(uncertain), random.Random(f"ct report/{seed}"), detail, incidental)
        sections = writer.sections()
        if word_count(sections["findings"]) + word_count(sections["impression"]) <= MAX_WORDS:
            break
    bank, person = writer.bank, person_words(sex, age, writer.rng)
    sections |= header(bank, bank["technique"], writer.prior, person, writer.rng)
    return assemble(sections, {label: int(labels[label]) for label in CT_RATE_LABELS})


def _check_labels(findings: Sequence[FindingLike], labels: Mapping[str, int], uncertain: Collection[str]) -> None:
    if set(labels) != set(CT_RATE_LABELS):
        wrong = sorted(set(labels) ^ set(CT_RATE_LABELS))[0]
        raise ValueError(
            f"labels {'lack' if wrong in CT_RATE_LABELS else 'hold'} {wrong!r}, expected the 18 of CT-RATE."
        )
    for label, value in labels.items():
        if value not in (0, 1):
            raise ValueError(f"{label} is {value!r}, expected 0 or 1.")
    for name in [*(finding.label for finding in findings), *uncertain]:
        if labels.get(name) != 1:
            raise ValueError(f"{name!r} is described, but its label is {labels.get(name)!r}, expected 1.")


@dataclass
class _Writer:
    """Writes one report; every choice is drawn from `rng`, so that their order decides the text of a seed."""

    facts: Mapping[str, Facts]  # of the labels that are 1
    uncertain: frozenset[str]  # those of them that are only possible
    rng: random.Random
    detail: int  # how much is said of each label, from _FULL to _BARE
    incidental: bool  # whether what is not known may be made up

    def __post_init__(self) -> None:
        rng = self.rng
        self.bank = read_bank("ct_phrases.yaml")
        self.prior = rng.random() < 0.35 and self.incidental
        self.told_absent: set[str] = set()
        self.degrees = {label: rng.choice(self._degree_lines(label)) for label in self.facts}
        self.order = rng.choice(_ORDERS)

    def sections(self) -> dict[str, str]:
        """Findings and impression, marked."""
        impression = self._impression()
        blocks = self._positives()
        if self.prior and blocks and self.detail == _FULL:
            block = self.rng.choice(sorted(blocks))
            blocks[block].append(self._say(self.rng.choice(self.bank["frames"]["unchanged"])))
        target = self.rng.randint(MIN_WORDS + 15, MAX_WORDS - 35)
        return fill_up(blocks, self.order, impression, target, self._options())

    def _say(self, template: str, values: Mapping[str, str] | None = None, label: str = "", value: float = 1.0) -> str:
        return sentence(expand(template, self.rng, values or {}, label, value))

    def _positives(self) -> dict[str, list[str]]:
        """Block -> sentences that state the labels that are 1."""
        blocks: dict[str, list[str]] = {}
        for block, labels in BLOCKS.items():
            present = [label for label in labels if label in self.facts]
            self.rng.shuffle(present)
            certain = [label for label in present if label not in self.uncertain]
            size = 5 if self.detail >= _LISTED else 1  # labels told in one sentence
            groups = [certain[start : start + size] for start in range(0, len(certain), size)]
            for group in groups + [[label] for label in present if label in self.uncertain]:
                if len(group) == 1:
                    text = self._statement(self.facts[group[0]])
                else:
                    items = [self._noun(self.facts[label], terse=True)[0] for label in group]
                    text = self._say(self.rng.choice(self.bank["frames"]["several"]), {"list": enumerate_words(items)})
                blocks.setdefault(block, []).append(text)
        return blocks

    def _statement(self, facts: Facts) -> str:
        phrases, frames = self.bank["labels"][facts.label], self.bank["frames"]
        terse = self.detail != _FULL
        if facts.label in self.uncertain:
            noun, _ = self._noun(facts, terse=True, value=-1.0)
            bare, _ = self._noun(facts, terse=True, value=-1.0, article=False)
            return self._say(self.rng.choice(frames["uncertain"]), {"np": noun, "bare": bare})
        if "sentence" in phrases and not facts.kinds[1:] and self.rng.random() < 0.3:
            if phrase_kinds(facts, phrases.get("kinds", ())) == [""]:
                return self._say(self.rng.choice(phrases["sentence"]), self._values(facts, terse), facts.label)
        noun, plural = self._noun(facts, terse)
        lines = frames["plural" if plural else "singular"]
        if "," in noun:  # what stands between commas would part it from its verb
            lines = [line for line in lines if line.endswith("$np")]
        return self._say(self.rng.choice(lines), {"np": noun})

    def _noun(self, facts: Facts, terse: bool, value: float = 1.0, article: bool = True) -> tuple[str, bool]:
        """A marked noun phrase for a label, and whether it is a plural."""
        phrases = self.bank["labels"][facts.label]
        values = self._values(facts, terse) | ({} if article else {"a": ""})
        nouns, plural = [], False
        for kind in phrase_kinds(facts, phrases.get("kinds", ())):
            lines = phrases["kinds"][kind] if kind else phrases
            number = self._number(facts, lines)
            if number == "plural" and "each" in lines and values["each"] and self.rng.random() < 0.4:
                number = "each"
            plural |= number != "singular"
            drawn = 4 if self.detail == _BARE else 1
            candidates = [
                expand(self.rng.choice(lines[number]), self.rng, values, facts.label, value) for _ in range(drawn)
            ]
            nouns.append(min(candidates, key=word_count))
        return enumerate_words(nouns), plural or len(nouns) > 1

    def _number(self, facts: Facts, lines: Mapping[str, Sequence[str]]) -> str:
        numbers = [number for number in ("singular", "plural") if number in lines]
        if facts.label == "Pleural effusion":
            return "plural" if facts.side == "bilateral" else "singular"
        if facts.label in _COUNTED and facts.count:
            return "plural" if facts.count > 1 else "singular"
        return self.rng.choice(numbers)

    def _degree_lines(self, label: str) -> Sequence[str]:
        words = self.bank["degree"].get(label, self.bank["degree"]["default"])
        return words[self.facts[label].severity] or ("",)

    def _values(self, facts: Facts, terse: bool) -> dict[str, str]:
        """The value of every `$name` of the bank for one label; sizes only if not terse."""
        rng = self.rng
        place = "" if self.detail == _BARE else place_words(facts, rng)
        size = "" if terse or facts.size_mm is None else size_words(facts.size_mm, rng)
        degree = self.degrees[facts.label]
        types = self.bank["labels"][facts.label].get("types", {})
        stations = [kind.removesuffix(" node") for kind in facts.kinds if kind.endswith(" node")]
        arteries = [kind.removesuffix(" plaques") for kind in facts.kinds if kind.endswith(" plaques")]
        of_side = {side: size_words(mm, rng) for side, mm in facts.size_of_side.items()}
        both_sides = not terse and {"right", "left"} <= of_side.keys()
        each = [f"{size_words(mm, rng)} in the {region}" for region, mm in facts.parts]
        in_stations = f" in the {enumerate_words(stations)} {rng.choice(('stations', 'regions'))}"
        artery = "artery" if len(arteries) == 1 else "arteries"

        def with_size(*wordings: str) -> str:
            return rng.choice(wordings).replace("SIZE", size) if size else ""

        return {
            "a": "a(n)",
            "degree": degree,
            "degree_adverb": ADVERBS[facts.severity],
            "type": types[facts.kinds[0]][0] if len(facts.kinds) == 1 and facts.kinds[0] in types else "",
            "place": place,
            "both_lungs": f" {place}" if place else "",
            "side": facts.side if facts.side in ("right", "left") else "",
            "on_side": f"on the {facts.side}" if facts.side in ("right", "left") else "",
            "several": count_words(facts.count, rng),
            "size_or_degree": size or degree,
            "measuring": with_size(" measuring SIZE", " of SIZE in diameter", " with a diameter of SIZE", " (SIZE)"),
            "largest": with_size(", the largest measuring SIZE", ", the largest SIZE in diameter", ", up to SIZE"),
            "extent": with_size(" measuring SIZE", " extending over SIZE", ""),
            "extent_many": with_size(" measuring up to SIZE", " of up to SIZE", ""),
            "thickness": with_size(" reaching SIZE in thickness", " measuring SIZE in its thickest part", ""),
            "hernia_size": with_size(" measuring SIZE", " (SIZE)", ""),
            "heart_size": with_size(", with a transverse diameter of SIZE", ", measuring SIZE across", ""),
            "deep": with_size(" measuring SIZE in depth", " reaching a depth of SIZE", ", SIZE at its deepest point"),
            "deep_both": f", {of_side['right']} on the right and {of_side['left']} on the left" if both_sides else "",
            "each": "" if terse or not 2 <= len(each) == facts.count <= 4 else f"measuring {enumerate_words(each)}",
            "stations": in_stations if stations and not terse else "",
            "stations_or_mediastinum": in_stations if stations and not terse else " in the mediastinum",
            "arteries": f" involving the {enumerate_words(arteries)} {artery}" if arteries and not terse else "",
        }

    def _options(self) -> list[tuple[str, str]]:
        """(block, sentence) of all else that could be said, the first of it that a label is absent."""
        rng = self.rng
        absent = [label for label in CT_RATE_LABELS if label not in self.facts]
        options = []
        if self.prior and "Medical material" in absent and rng.random() < 0.15:
            options.append(("devices", self._say(rng.choice(self.bank["removed"]), value=0.0)))
            self.told_absent.add("Medical material")
        pool = [label for label in absent if label not in _RARELY_ABSENT or rng.random() < 0.3]
        rng.shuffle(pool)
        pool = [label for label in pool if label not in self.told_absent]
        first = [self._absent(pool) for _ in range(min(2, len(pool)))]
        options += [item for item in first if item]
        rest = []
        lungs_clear = not any(label in self.facts for label in BLOCKS["lungs"])
        for block, lines in self.bank["normal"].items():
            lines = [line for line in lines if labels_in(line) <= set(absent) - self.told_absent]
            lines += self.bank["incidental"].get(block, ()) if self.incidental else ()
            if lines and (block != "clear_lungs" or lungs_clear):
                text = self._say(rng.choice(lines), value=0.0)
                self.told_absent |= mentioned(text)
                rest.append((block, text))
        rest += filter(None, (self._absent(pool) for _ in range(rng.randint(0, 3))))
        rng.shuffle(rest)
        return options + rest

    def _absent(self, pool: list[str]) -> tuple[str, str] | None:
        """Say of one or several labels of the pool that they are absent, and take them out of it."""
        rng, frames = self.rng, self.bank["frames"]
        while pool and pool[0] in self.told_absent:
            pool.pop(0)
        if not pool:
            return None
        pool[:] = [label for label in pool if label not in self.told_absent]
        group = [pool.pop() for _ in range(min(rng.choice((1, 1, 2, 3, 3, 4)), len(pool)))]
        self.told_absent |= set(group)
        phrases = [self.bank["labels"][label] for label in group]
        if len(group) == 1 and "absent_sentence" in phrases[0] and rng.random() < 0.6:
            return _BLOCK_OF[group[0]], self._say(rng.choice(phrases[0]["absent_sentence"]), None, group[0], 0.0)
        nouns = []
        for label, phrase in zip(group, phrases, strict=True):
            lines = [line for line in phrase["absent"] if len(group) == 1 or " or " not in line]
            nouns.append(expand(rng.choice(lines), rng, {}, label, 0.0))
        name = {1: "absent", 2: "absent_two"}.get(len(group), "absent_several")
        values = {"np": nouns[0], "first": nouns[0], "second": nouns[-1], "list": enumerate_words(nouns, "or")}
        values["all"] = enumerate_words(nouns)
        return _BLOCK_OF[group[0]], self._say(rng.choice(frames[name]), values)

    def _impression(self) -> str:
        rng, lines = self.rng, self.bank["impression"]
        if not self.facts:
            return self._say(rng.choice(lines["normal"]))
        ranked = sorted(self.facts, key=_IMPORTANCE.index)
        ranked = ranked[: rng.randint(4, 6) if self.detail == _FULL else 4]
        texts, waiting = [], []
        for label in ranked:
            noun, _ = self._noun(self.facts[label], label != "Lung nodule" or self.detail >= _LISTED,
                                 -1.0 if label in self.uncertain else 1.0, article=False)  # fmt: skip
            if label in self.uncertain:
                texts.append(self._say(rng.choice(lines["uncertain"]), {"np": noun}))
            elif "," in noun:
                texts.append(self._say(noun))
            else:
                waiting.append(noun)
        while waiting:
            size = rng.choice((1, 1, 2, 3))
            texts.append(self._say(enumerate_words(waiting[:size])))
            waiting = waiting[size:]
        if self.detail == _FULL:
            if rng.random() < 0.6 and {"Consolidation", "Lung opacity"} & set(ranked):
                texts.append(self._say(rng.choice(lines["infection"])))
            elif rng.random() < 0.5 and {"Lung nodule", "Lymphadenopathy"} & set(ranked):
                texts.append(self._say(rng.choice(lines["follow_up"])))
            elif rng.random() < 0.3:
                texts.append(self._say(rng.choice(lines["nothing_else"])))
        return " ".join(texts)
