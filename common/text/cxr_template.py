"""Chest X-ray reports from the 14 CheXpert labels and what is known of the findings, in the manner of MIMIC-CXR.

The text says exactly what the labels say: 1.0 is stated, 0.0 is said to be absent, -1.0 is left open, and what is None
is not mentioned. What is not known of a finding (place, side, size, severity) is not said. What is new, unchanged,
larger, smaller or gone follows from an earlier examination; without one nothing is compared.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.template_facts import (
    ADVERBS,
    Facts,
    FindingLike,
    check_facts,
    count_words,
    gather_xray,
    person_words,
    phrase_kinds,
    size_words,
    xray_place_words,
)
from common.text.template_phrases import enumerate_words, expand, mentioned, read_bank, sentence, word_count
from common.text.virtual_report import MAX_WORDS, MIN_WORDS, VirtualReport, assemble, fill_up, header

__all__ = ["VIEWS", "Examination", "cxr_report"]

VIEWS = ("PA", "AP", "LATERAL", "PA and LATERAL", "AP and LATERAL")
PARTS = {
    "devices": ("Support Devices",),
    "lungs": ("Lung Opacity", "Consolidation", "Atelectasis", "Pneumonia", "Edema", "Lung Lesion"),
    "pleura": ("Pleural Effusion", "Pneumothorax", "Pleural Other"),
    "heart": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "bones": ("Fracture",),
}
"""Part of the report -> the labels that are told there; every label but No Finding."""

_PART_OF = {label: part for part, labels in PARTS.items() for label in labels}
_NEUTRAL = {
    "quality": "first", "volumes": "lungs", "trachea": "heart", "hila": "heart", "aorta": "heart",
    "diaphragm": "pleura", "bones": "bones", "free_air": "last", "abdomen": "last", "soft_tissues": "last",
    "fissures": "lungs", "clavicles": "bones",
}  # fmt: skip
"""What is said beside labels -> part of the report."""
# Findings of the CT that no label names -> the part where they are told, and the neutral sentence they replace.
_BESIDE = {
    "Arterial wall calcification": ("heart", "aorta"),
    "Emphysema": ("lungs", "volumes"),
    "Hiatal hernia": ("last", ""),
}
_ORDERS = (
    ("first", "devices", "heart", "lungs", "pleura", "bones", "last"),
    ("first", "lungs", "pleura", "heart", "bones", "devices", "last"),
    ("devices", "first", "lungs", "heart", "pleura", "bones", "last"),
    ("first", "heart", "pleura", "lungs", "devices", "last", "bones"),
)
_IMPORTANCE = (
    "Pneumothorax", "Pneumonia", "Consolidation", "Edema", "Pleural Effusion", "Lung Lesion", "Lung Opacity",
    "Fracture", "Enlarged Cardiomediastinum", "Atelectasis", "Cardiomegaly", "Pleural Other", "Support Devices",
)  # fmt: skip
_CAUSES = ("Pneumonia", "Atelectasis", "Edema", "Consolidation")
_CHRONIC = {"Cardiomegaly", "Pleural Other", "Support Devices"}
_BY_SIDE = ("Pleural Effusion", "Pneumothorax")
_CLEARS_UP = ("Edema", "Pneumonia", "Pneumothorax", "Consolidation", "Pleural Effusion")
_GROWN = 1.25  # a size that differs by less is unchanged to a reader


class Examination(NamedTuple):
    """What an X-ray showed."""

    findings: Sequence[FindingLike]
    """As of `cxr_report`."""
    labels: Mapping[str, float | None]
    """As of `cxr_report`."""


def cxr_report(
    findings: Sequence[FindingLike],
    labels: Mapping[str, float | None],
    sex: str | None,
    age: int | None,
    seed: int,
    view: str = "PA",
    incidental: bool = True,
    earlier: Examination | None = None,
) -> VirtualReport:
    """Write a chest X-ray report of 50 to 200 words (findings and impression).

    Args:
        findings: what is known of the findings, of X-ray labels or of the CT-RATE labels of the same patient. Those
            whose label is not 1.0 or -1.0 are not described, but for calcified aorta, emphysema and hiatal hernia.
        labels: name -> 1.0, 0.0, -1.0 or None (not mentioned), the 14 of CheXpert. "No Finding" is 1.0 or not: it
            follows from the others.
        sex: "F", "M" or None for unknown.
        age: years, None for unknown.
        seed: of wording, order, and what else is said.
        view: one of ``VIEWS``.
        incidental: whether harmless findings outside the labels may be made up.
        earlier: the examination before; None if there is none.

    Returns:
        The report. Its labels are those given, with "No Finding" 1.0 if nothing but devices is present or uncertain
        and else None, as the CheXpert labeller has it.

    Raises:
        ValueError: for other labels, values or views, a "No Finding" that contradicts the rest, an impossible size,
            severity, side, sex or age.
    """
    check_facts(findings, sex, age)
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}, expected {', '.join(VIEWS)}.")
    stated = _checked(labels)
    facts = _facts(findings, stated)
    before = None if earlier is None else _facts(earlier.findings, _checked(earlier.labels))
    beside = {finding.label for finding in findings}
    for detailed in (True, False):
        writer = _Writer(stated, facts, before, beside, random.Random(f"cxr report/{seed}"), detailed, incidental)
        sections = writer.sections()
        if word_count(sections["findings"]) + word_count(sections["impression"]) <= MAX_WORDS:
            break
    bank, rng = writer.bank, writer.rng
    sections |= header(
        bank, bank["technique"][view], before is not None, person_words(sex, age, rng), rng, **writer.reason()
    )
    sections["examination"] = sentence(expand(rng.choice(bank["examination"][view]), rng, {}), stop="").upper()
    return assemble(sections, stated)


def _checked(labels: Mapping[str, float | None]) -> dict[str, float | None]:
    """The labels in order, with the "No Finding" that follows from them."""
    if set(labels) != set(CHEXPERT_LABELS):
        wrong = sorted(set(labels) ^ set(CHEXPERT_LABELS))[0]
        raise ValueError(f"labels {'lack' if wrong in CHEXPERT_LABELS else 'hold'} {wrong!r}, expected CheXpert's 14.")
    for name, value in labels.items():
        if value not in (1.0, 0.0, -1.0, None):
            raise ValueError(f"{name} is {value!r}, expected 1.0, 0.0, -1.0 or None.")
    if labels["No Finding"] == -1.0:
        raise ValueError("No Finding is -1.0, expected 1.0, 0.0 or None: it is not uncertain.")
    found = [name for name in CHEXPERT_LABELS if name in _PART_OF and labels[name] in (1.0, -1.0)]
    abnormal = [name for name in found if name != "Support Devices"]
    if labels["No Finding"] == 1.0 and abnormal:
        raise ValueError(f"No Finding is 1.0 and {abnormal[0]} is {labels[abnormal[0]]}, expected one or the other.")
    stated = {name: None if labels[name] is None else float(labels[name]) for name in CHEXPERT_LABELS}
    return stated | {"No Finding": None if abnormal else 1.0}


def _facts(findings: Sequence[FindingLike], stated: Mapping[str, float | None]) -> dict[str, Facts]:
    """Label that is present or uncertain -> what is known of it."""
    return {name: gather_xray(name, findings, stated[name]) for name in _PART_OF if stated[name] in (1.0, -1.0)}


def _course(now: Facts, before: Mapping[str, Facts]) -> str:
    """What became of a finding since the examination before: a key of the bank's `changes`, or "" if it is unclear."""
    if now.label not in before:
        return "new"
    then = before[now.label]
    if now.side != then.side or now.kinds != then.kinds or not (now.size_mm and then.size_mm):
        return ""  # it is another one
    if now.label == "Support Devices":
        return "unchanged"
    ratio = now.size_mm / then.size_mm
    return "larger" if ratio > _GROWN else "smaller" if ratio < 1 / _GROWN else "unchanged"


@dataclass
class _Writer:
    """Writes one report; every choice is drawn from `rng`, so that their order decides the text of a seed."""

    labels: Mapping[str, float | None]
    facts: Mapping[str, Facts]  # of the labels that are present or uncertain
    before: Mapping[str, Facts] | None  # of the examination before
    beside: set[str]  # labels of all findings
    rng: random.Random
    detailed: bool  # whether sizes and what is unchanged are said
    incidental: bool  # whether what is not known may be made up

    def __post_init__(self) -> None:
        rng, facts, labels = self.rng, self.facts, self.labels
        self.bank = read_bank("cxr_phrases.yaml")
        self.absent = [name for name in _PART_OF if labels[name] == 0.0]
        known = self.detailed and self.before is not None
        course = {name: _course(facts[name], self.before) if known and labels[name] == 1.0 else "" for name in facts}
        self.unchanged = {name for name in facts if course[name] == "unchanged"}
        told = {name: course[name] and rng.random() < 0.6 for name in facts}
        self.changes = {n: rng.choice(self.bank["changes"][course[n]]) if told[n] else "" for n in facts}
        self.degrees = {name: rng.choice(self._degree_lines(name)) if labels[name] == 1.0 else "" for name in facts}
        self.order = rng.choice(_ORDERS)
        self.parts: dict[str, list[str]] = {}
        self.called_clear = False

    def sections(self) -> dict[str, str]:
        """Findings and impression, marked."""
        explained = self._explained()
        for name in self.rng.sample(list(self.facts), len(self.facts)):
            if name not in explained:
                self._add(_PART_OF[name], self._statement(name))
        self._say_absent()
        impression = self._impression()
        target = self.rng.randint(MIN_WORDS + 4, 95)
        return fill_up(self.parts, self.order, impression, target, self._neutral())

    def _add(self, part: str, text: str) -> None:
        self.parts.setdefault(part, []).append(text)

    def _say(self, lines: Sequence[str], values: Mapping[str, str], label: str = "", value: float = 1.0) -> str:
        return sentence(expand(self.rng.choice(lines), self.rng, values, label, value))

    def _explained(self) -> set[str]:
        """State an opacity with what it may be; the labels stated so."""
        causes = [name for name in _CAUSES if self.labels[name] == -1.0]
        if self.labels["Lung Opacity"] != 1.0 or not causes or self.rng.random() < 0.25:
            return set()
        self.rng.shuffle(causes)
        frames = self.bank["frames"]
        seen, plural = self._noun("Lung Opacity")
        seen = self.rng.choice(("$np", f"there {'are' if plural else 'is'} $np")).replace("$np", seen)
        nouns = [self._short(name) for name in causes[:2]]
        values = {"seen": seen, "causes": enumerate_words(nouns, "or"), "first": nouns[0], "second": nouns[-1]}
        lines = frames["explained_two"] if len(nouns) == 2 and self.rng.random() < 0.6 else frames["explained"]
        if "," in seen:
            lines = [line for line in lines if ";" in line or "which" in line]
        self._add("lungs", self._say(lines, values))
        return {"Lung Opacity", *causes[:2]}

    def _short(self, name: str) -> str:
        """The bare name of a label, marked with its value."""
        nouns = {"Edema": "<{pulmonary |mild |}edema>", "Pneumonia": "<{early |developing |}pneumonia>"}
        template = nouns.get(name, f"<{name.lower()}>")
        return expand(template, self.rng, {}, name, self.labels[name])

    def _statement(self, name: str) -> str:
        phrases, frames, facts = self.bank["labels"][name], self.bank["frames"], self.facts[name]
        value = self.labels[name]
        if value == -1.0:
            if name == "Support Devices" or self.rng.random() < 0.55:
                return self._say(phrases["uncertain"], self._values(name), name, value)
            noun, _ = self._noun(name, plain=True)
            bare, plural = self._noun(name, plain=True, article=False)
            return self._say(frames["uncertain"], {"np": noun, "bare": bare, "is": "are" if plural else "is"})
        own_words = phrase_kinds(facts, phrases.get("kinds", ())) != [""]
        if name in self.unchanged and not self.changes[name] and self.rng.random() < 0.6:
            bare, _ = self._noun(name, plain=True, article=False)
            return self._say(frames["unchanged"], {"bare": bare})
        if "sentence" in phrases and not own_words and not self.changes[name] and self.rng.random() < 0.5:
            lines = [line for line in phrases["sentence"] if self._was(name) or "remains" not in line]
            return self._say(lines, self._values(name), name)
        noun, plural = self._noun(name)
        lines = frames["plural" if plural else "singular"]
        if "," in noun:
            lines = [line for line in lines if line.endswith("$np")]
        if name not in self.unchanged:
            lines = [line for line in lines if "again" not in line]
        return self._say((*lines, "$np"), {"np": noun})

    def _noun(self, name: str, plain: bool = False, article: bool = True) -> tuple[str, bool]:
        """A marked noun phrase for a label, and whether it is a plural; plain without what has changed and sizes."""
        phrases, facts = self.bank["labels"][name], self.facts[name]
        values = self._values(name)
        if plain:
            values |= dict.fromkeys(("change", "measuring", "largest"), "")
        if not article:
            values |= {"a": ""}
        nouns, plural = [], False
        for kind in phrase_kinds(facts, phrases.get("kinds", ())):
            lines = phrases["kinds"][kind] if kind else phrases
            number = self._number(facts, [number for number in ("singular", "plural") if number in lines])
            plural |= number == "plural"
            nouns.append(expand(self.rng.choice(lines[number]), self.rng, values, name, self.labels[name]))
        return enumerate_words(nouns), plural or len(nouns) > 1

    def _number(self, facts: Facts, numbers: Sequence[str]) -> str:
        if facts.label in _BY_SIDE:
            return "plural" if facts.side == "bilateral" else "singular"
        if len(numbers) > 1 and facts.count:
            many = facts.count > 1 or facts.side == "bilateral"
            return "plural" if many and facts.label != "Pneumonia" else "singular"
        return self.rng.choice(numbers)

    def _degree_lines(self, name: str) -> Sequence[str]:
        words = self.bank["degree"].get(name, self.bank["degree"]["default"])
        return words.get(self.facts[name].severity) or ("",)

    def _values(self, name: str) -> dict[str, str]:
        """The value of every `$name` of the bank for one label."""
        rng, facts = self.rng, self.facts[name]
        where, place = xray_place_words(facts, rng)
        side = facts.side if facts.side in ("right", "left") else ""
        size = size_words(facts.size_mm, rng) if facts.size_mm is not None and self.detailed else ""
        types = self.bank["labels"][name].get("types", {})
        bilateral = "bilateral" if facts.side == "bilateral" else ""
        return {
            "a": "a(n)",
            "degree": self.degrees[name],
            "degree_adverb": ADVERBS[facts.severity],
            "change": self.changes[name],
            "type": types[facts.kinds[0]][0] if len(facts.kinds) == 1 and facts.kinds[0] in types else "",
            "where": where,
            "place": place,
            "side": side,
            "side_adjective": rng.choice((side, f"{side}-sided")) if side else bilateral,
            "on_side": f"on the {side}" if side else "on both sides" if bilateral else "",
            "several": count_words(facts.count, rng),
            "size_or_degree": size or self.degrees[name],
            "measuring": f" measuring {size}" if size else "",
            "largest": f", the largest measuring {size}" if size else "",
        }

    def _say_absent(self) -> None:
        """Say of every label that is 0.0 that it is absent, singly and in lists."""
        rng = self.rng
        waiting = rng.sample(self.absent, len(self.absent))
        if {"Cardiomegaly", "Enlarged Cardiomediastinum"} <= set(waiting) and rng.random() < 0.6:
            lines = self.bank["labels"]["Enlarged Cardiomediastinum"]["heart_normal_too"]
            text = self._say(lines, {}, "Enlarged Cardiomediastinum", 0.0)
            self._add("heart", text)
            waiting = [name for name in waiting if name not in mentioned(text)]
        while waiting:
            name = waiting.pop(0)
            if not self._say_gone(name):
                # Readers list what could be in the lungs, the pleura and the bones, and not the heart or devices.
                listed = [other for other in waiting if _PART_OF[other] in ("lungs", "pleura", "bones")]
                more = rng.choice((0, 1, 2, 2, 3)) if _PART_OF[name] in ("lungs", "pleura", "bones") else 0
                group = [name, *listed[:more]]
                self._add(_PART_OF[name], self._absent(group))
                waiting = [other for other in waiting if other not in group]

    def _say_gone(self, name: str) -> bool:
        """Perhaps say of a label that it is absent by saying that it was there before; whether it was said."""
        if not self._was(name) or self.rng.random() > 0.7:
            return False
        phrases = self.bank["labels"][name]
        if "removed" in phrases:
            kinds = self.before[name].kinds
            device = kinds[0] if len(kinds) == 1 else "catheter"
            self._add("devices", self._say(phrases["removed"], {"device": device}, name, 0.0))
        elif self.detailed and name in _CLEARS_UP:
            noun = expand(f"<{name.lower()}>", self.rng, {}, name, 0.0)
            self._add(_PART_OF[name], self._say(self.bank["frames"]["resolved"], {"np": noun}))
        else:
            return False
        return True

    def _was(self, name: str) -> bool:
        """Whether a label was present or uncertain before."""
        return self.before is not None and name in self.before

    def reason(self) -> dict[str, str]:
        """Why the X-ray was taken, where that has to do with a finding: `known`, or the `symptom` it gives."""
        known = [name for name in _IMPORTANCE if self._was(name) and name not in ("Support Devices", "Pleural Other")]
        if known and self.rng.random() < 0.6:
            return {"known": known[0].lower()}
        felt = self.bank["symptoms_of"]
        lines = [line for name in self.facts if name in felt for line in felt[name]]
        return {"symptom": self.rng.choice(lines)} if lines and self.rng.random() < 0.5 else {}

    def _absent(self, group: Sequence[str]) -> str:
        """A sentence that says of one or several labels that they are absent."""
        rng, frames = self.rng, self.bank["frames"]
        phrases = self.bank["labels"][group[0]]
        if len(group) == 1 and "absent_sentence" in phrases and rng.random() < 0.7:
            return self._say(phrases["absent_sentence"], {}, group[0], 0.0)
        nouns = [self._absent_noun(name, alone=len(group) == 1) for name in group]
        frame = frames[{1: "absent", 2: "absent_two"}.get(len(group), "absent_several")]
        if self._lungs_clear() and _PART_OF[group[0]] in ("lungs", "pleura") and rng.random() < 0.4:
            frame = frames["clear"]
            self.called_clear = True
        values = {"np": nouns[0], "first": nouns[0], "second": nouns[-1]}
        values["list"] = enumerate_words(nouns, "or", serial=rng.random() < 0.5)
        return self._say(frame, values)

    def _absent_noun(self, name: str, alone: bool = True) -> str:
        lines = [line for line in self.bank["labels"][name]["absent"] if alone or " or " not in line]
        return expand(self.rng.choice(lines), self.rng, {}, name, 0.0)

    def _lungs_clear(self) -> bool:
        """Whether the lungs may be called clear: an opacity is absent, and nothing else is in them; said once."""
        nothing = all(self.labels[name] in (0.0, None) for name in PARTS["lungs"])
        unsaid = not self.called_clear and "Emphysema" not in self.beside
        return nothing and unsaid and self.labels["Lung Opacity"] == 0.0

    def _neutral(self) -> list[tuple[str, str]]:
        """(part, sentence) of what else could be said; findings of the CT that no label names come first."""
        named = [label for label in _BESIDE if label in self.beside]
        first = [(_BESIDE[label][0], self._say(self.bank["beside"][label], {"a": "a(n)"})) for label in named]
        replaced = {_BESIDE[label][1] for label in named}
        made_up = self.bank["incidental"]
        rest = [
            (_NEUTRAL[kind], self._say(lines + (made_up.get(kind, ()) if self.incidental else ()), {}))
            for kind, lines in self.bank["neutral"].items()
            if kind not in replaced
        ]
        return first + self.rng.sample(rest, len(rest))

    def _impression(self) -> str:
        rng, lines = self.rng, self.bank["impression"]
        abnormal = [name for name in _IMPORTANCE if name in self.facts]
        if self.labels["No Finding"]:
            texts = [self._say(lines["devices_only" if abnormal else "normal"], {})]
            if abnormal and rng.random() < 0.5:
                texts.append(self._impressed("Support Devices"))
        else:
            if "Support Devices" in abnormal and len(abnormal) > 2:
                abnormal.remove("Support Devices")
            texts = [self._impressed(name) for name in abnormal[: rng.randint(2, 4)]]
            if set(self.facts) <= _CHRONIC and rng.random() < 0.6:
                texts.append(self._say(lines["chronic"], {}))
            elif rng.random() < 0.25:
                texts.append(self._say(lines["follow_up"], {}))
        if len(texts) > 1 and rng.random() < 0.5:
            texts = [f"{number}. {text}" for number, text in enumerate(texts, 1)]
        return " ".join(texts)

    def _impressed(self, name: str) -> str:
        uncertain = self.labels[name] == -1.0
        if uncertain and name == "Support Devices":
            return self._say(self.bank["labels"][name]["uncertain"], {}, name, -1.0)
        noun, plural = self._noun(name, plain=self.rng.random() < 0.5, article=False)
        lines = self.bank["impression"]["uncertain" if uncertain else "present"]
        return self._say(lines, {"np": noun, "is": "are" if plural else "is"})
