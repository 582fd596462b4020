"""What template reports say about a finding: how bad, where, how large, in the words of a radiologist."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.text.template_phrases import enumerate_words

SEVERITIES = ("mild", "moderate", "severe")
SIDES = ("right", "left", "midline", "bilateral")
LOBES = ("right upper lobe", "right middle lobe", "right lower lobe", "left upper lobe", "left lower lobe")
ADVERBS = {"mild": "{mildly|slightly}", "moderate": "moderately", "severe": "{markedly|severely}", "": ""}
"""Severity -> template of the adverb."""

# The CT findings that tell where and how bad an X-ray label's are, the first that there are.
_TOLD_BY = {
    "Support Devices": ("Medical material",),
    "Lung Lesion": ("Lung nodule",),
    "Pneumonia": ("Consolidation", "Lung opacity"),
    "Edema": ("Interlobular septal thickening",),
}
_CENTIMETRES_FROM = 10.0  # smaller things are given in millimetres
_MANY = ("multiple", "several", "numerous")
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


class FindingLike(Protocol):
    """A finding of a scan, for example `common.data.virtual.findings.Finding`."""

    label: str
    kind: str
    region: str
    side: str
    size_mm: float | None
    severity: str


@dataclass(frozen=True)
class DescribedFinding:
    """A finding as a reader would describe it.

    Attributes:
        label: its name, one of those that the report is about.
        kind: what it looks like, for example "pacemaker"; empty if unknown.
        region: where, for example "right upper lobe"; empty if unknown.
        side: "right", "left", "midline", "bilateral", or empty if unknown.
        size_mm: largest extent in millimetres, None if unknown.
        severity: "mild", "moderate" or "severe".
    """

    label: str
    kind: str = ""
    region: str = ""
    side: str = ""
    size_mm: float | None = None
    severity: str = "moderate"


@dataclass(frozen=True)
class Facts:
    """The findings of one label, together.

    Attributes:
        label: its name.
        count: how many there are, 0 if unknown.
        severity: of the worst; empty if unknown.
        lobes: affected lobes, in the order of ``LOBES``.
        side: "right", "left", "bilateral", "midline", or empty if unknown.
        size_mm: of the largest, None if unknown.
        size_of_side: the largest of each side, mm.
        parts: (region, size in mm) of those of which both are known, the largest first.
        kinds: different ones, in their order.
    """

    label: str
    count: int
    severity: str
    lobes: tuple[str, ...]
    side: str
    size_mm: float | None
    size_of_side: dict[str, float]
    parts: tuple[tuple[str, float], ...]
    kinds: tuple[str, ...]


def check_facts(findings: Sequence[FindingLike], sex: str | None, age: int | None) -> None:
    """Refuse findings that cannot be described, and a sex or an age that no report can be about; None is unknown.

    Raises:
        ValueError: for an unknown severity or side, a size that is not positive, a sex that is not "F" or "M", or an
            age outside 0 to 120 years.
    """
    if sex not in ("F", "M", None):
        raise ValueError(f"sex is {sex!r}, expected 'F', 'M' or None.")
    if age is not None and not 0 <= age <= 120:
        raise ValueError(f"age is {age}, expected 0 to 120 years or None.")
    for finding in findings:
        name, size = finding.label, finding.size_mm
        if finding.severity not in SEVERITIES:
            raise ValueError(f"{name} has the severity {finding.severity!r}, expected {', '.join(SEVERITIES)}.")
        if finding.side and finding.side not in SIDES:
            raise ValueError(f"{name} has the side {finding.side!r}, expected {', '.join(SIDES)}.")
        if size is not None and not (size > 0 and math.isfinite(size)):
            raise ValueError(f"{name} has the size {size} mm, expected a positive number.")


def gather(label: str, findings: Sequence[FindingLike], severity: str = "") -> Facts:
    """Facts of one label.

    Args:
        label: its name.
        findings: those of the label, possibly none.
        severity: where there are none.
    """
    sides = {finding.side for finding in findings if finding.side in ("right", "left")}
    both = len(sides) == 2 or any(finding.side == "bilateral" for finding in findings)
    # A region of a finding on both sides is only where its centre lies.
    lobes = [finding.region for finding in findings if finding.side != "bilateral"]
    sizes: dict[str, float] = {}
    for finding in findings:
        if finding.size_mm is not None:
            sizes[finding.side] = max(finding.size_mm, sizes.get(finding.side, 0.0))
    return Facts(
        label=label,
        count=len(findings),
        severity=max((finding.severity for finding in findings), key=SEVERITIES.index, default=severity),
        lobes=tuple(lobe for lobe in LOBES if lobe in lobes),
        side="bilateral" if both else next(iter(sides), "midline" if findings and findings[0].side else ""),
        size_mm=max(sizes.values(), default=None),
        size_of_side=sizes,
        parts=tuple(sorted(((f.region, f.size_mm) for f in findings if f.size_mm and f.region), key=lambda p: -p[1])),
        kinds=tuple(dict.fromkeys(finding.kind for finding in findings if finding.kind)),
    )


def gather_xray(label: str, findings: Sequence[FindingLike], value: float | None) -> Facts:
    """Facts of a CheXpert label from findings of its own name or, failing these, of the CT labels it rests on.

    Args:
        label: its name.
        findings: all there are.
        value: of the label; of one that is uncertain, -1.0, only the first finding counts.
    """
    for name in (label, *_TOLD_BY.get(label, ())):
        own = [finding for finding in findings if finding.label.lower() == name.lower()]
        if own:
            return gather(label, own[:1] if value == -1.0 else own)
    return gather(label, [])


def phrase_kinds(facts: Facts, known: Collection[str]) -> list[str]:
    """The kinds of a finding that a bank has own phrases for, `[""]` if it lacks one of them or no kind is known.

    "perihilar ground-glass opacity" goes by the phrases of "ground-glass opacity".
    """
    found = [next((own for own in known if kind == own or kind.endswith(f" {own}")), "") for kind in facts.kinds]
    return list(dict.fromkeys(found)) if found and all(found) else [""]


def size_words(size_mm: float, rng: random.Random) -> str:
    """A length as reports give it: `7 mm`, `1.4 cm`."""
    if size_mm < _CENTIMETRES_FROM:
        return f"{max(round(size_mm), 1)} mm"
    if rng.random() < 0.5:
        return f"{round(size_mm)} mm"
    return f"{size_mm / 10:.1f} cm".replace(".0 cm", " cm")


def count_words(count: int, rng: random.Random) -> str:
    """`three`, `several`; for an unknown number (0) one of the words that leave it open."""
    if count in _NUMBERS:
        return rng.choice((_NUMBERS[count], _NUMBERS[count], "a few"))
    return rng.choice(_MANY)


def place_words(facts: Facts, rng: random.Random) -> str:
    """Where in the lungs, `in the right upper lobe`; empty if unknown."""
    if not facts.lobes:
        return {
            "bilateral": "in both lungs",
            "right": "in the right lung",
            "left": "in the left lung",
        }.get(facts.side, "")
    of_side = {side: [lobe.split()[1] for lobe in facts.lobes if lobe.startswith(side)] for side in ("right", "left")}
    right, left = of_side["right"], of_side["left"]
    if len(right) + len(left) >= 4:
        return rng.choice(("in both lungs", f"in {'all' if len(right + left) == 5 else 'four'} lobes of both lungs"))
    if right == left:
        names = enumerate_words(right)
        return rng.choice((f"in both {names} lobes", f"in the {names} lobes of both lungs"))
    if len(right) == 3 and not left:
        return f"in {rng.choice(('all lobes of ', ''))}the right lung"
    turned = rng.random() < 0.35
    parts = []
    for side, names in of_side.items():
        if names:
            lobe = "lobe" if len(names) == 1 else "lobes"
            words = enumerate_words(names)
            parts.append(f"the {words} {lobe} of the {side} lung" if turned else f"the {side} {words} {lobe}")
    return "in " + " and ".join(parts)


def xray_place_words(facts: Facts, rng: random.Random) -> tuple[str, str]:
    """Where on an X-ray: an adjective, `right basilar`, and a phrase, `at the right lung base`; empty if unknown."""
    lobes = facts.lobes
    if set(lobes) == {LOBES[2], LOBES[4]}:
        return rng.choice(("bibasilar", "bilateral lower lobe")), rng.choice(("at both lung bases", "at the bases"))
    if len(lobes) != 1:
        adjective = {"bilateral": "bilateral", "right": "right-sided", "left": "left-sided"}.get(facts.side, "")
        return adjective, place_words(facts, rng)
    side, zone, _ = lobes[0].split()
    other = {"upper": "upper lung", "middle": "mid lung", "lower": "lower lung"}[zone]
    adjectives = [lobes[0], f"{side} {other}"]
    phrases = [f"in the {lobes[0]}", f"in the {side} {other}"]
    if zone == "lower":
        adjectives.append(f"{side} basilar")
        phrases += [f"at the {side} lung base", f"at the {side} base"]
    return rng.choice(adjectives), rng.choice(phrases)


def person_words(sex: str | None, age: int | None, rng: random.Random) -> str:
    """The patient of an indication, `71-year-old woman`; `patient` if nothing is known."""
    if sex is None:
        noun = "patient"
    elif age is not None and age < 18:
        noun = "girl" if sex == "F" else "boy"
    else:
        noun = rng.choice(("woman", "female", "female patient") if sex == "F" else ("man", "male", "male patient"))
    return noun if age is None else f"{age}-year-old {noun}"
