"""What the headers of radiology reports are called, and the section that each of them opens.

The names of the sections are those of MIT-LCP's `section_parser.py`, as are the spellings counted in MIMIC-CXR; the
others are those of CT reports and of plain text. Three of its decisions are not followed, because they are slips:
"NDICATION" opens an indication (not an impression), "REASON FOR CHEST X-RAY" an indication and "NOTIFICATION OF
CRITICAL FINDINGS" a notification (not findings).
"""

from __future__ import annotations

import re
from functools import lru_cache

SPELLINGS = {
    "impression": (
        "impression", "impressions", "conclusion", "conclusions", "opinion", "summary", "assessment", "interpretation",
        "findings and impression", "findings/impression", "impression/findings", "impression and findings",
        "findings & impression", "impression and recommendations", "impression/recommendations", "final impression",
        "imp",
    ),
    "findings": (
        "findings", "finding", "reference findings", "chest, two views", "observations", "observation", "description",
        "report", "radiographic findings", "imaging findings", "ct findings",
    ),
    "comparison": (
        "comparison", "comparisons", "comparison exam", "comparison exams", "comparison film", "comparison films",
        "comparison study", "comparison studies", "reference exam", "reference exams", "reference examination", "prior",
        "priors", "prior exam", "prior exams", "prior study", "prior studies", "prior examination", "previous exam",
        "previous study", "previous studies", "correlation",
    ),
    "indication": (
        "indication", "indications", "clinical indication", "clinical indications", "reason", "reason for exam",
        "reason for examination", "reason for this examination", "reason for the examination", "reason for the exam",
        "reason for this exam", "reason for study", "reason for the study", "reason for visit", "reason for test",
        "reason for procedure", "indication for exam", "indication for examination", "indication for study",
        "clinical question", "chief complaint", "signs and symptoms",
    ),
    "history": (
        "history", "clinical history", "clinical information", "patient history", "medical history", "clinical data",
        "clinical details", "clinical background", "clinical statement", "clinical context", "clinical notes",
        "relevant history", "past medical history", "history/indication", "history and indication",
        "underlying medical condition", "medical condition", "hx", "pfi",
    ),
    "technique": (
        "technique", "techniques", "protocol", "imaging technique", "scan technique", "scanning technique",
        "technical details", "technical factors", "views", "number of views", "exam technique", "procedure technique",
    ),
    "examination": (
        "examination", "exam", "examinations", "exams", "type of examination", "type of exam", "exam type", "study",
        "studies", "procedure", "procedures", "study type", "exam description", "study description",
        "procedure performed", "examination performed", "exam performed", "exam name",
    ),
    "recommendations": (
        "recommendations", "recommendation", "follow-up", "follow up", "followup", "recommendations/follow-up",
    ),
    "notification": (
        "notification", "notifications", "communication", "critical results", "critical result", "critical findings",
        "critical finding",
    ),
    "wet read": (
        "wet read", "wetread", "wet reading", "preliminary read", "preliminary report", "preliminary interpretation",
    ),
    "addendum": ("addendum", "addenda", "addendums"),
    "comment": ("comment", "comments"),
    "date": (
        "date", "exam date", "study date", "date of exam", "date of examination", "date of study", "date of service",
    ),
    "signature": (
        "attestation", "attending", "attending radiologist", "dictated by", "signed by", "electronically signed by",
        "reported by", "transcribed by", "interpreted by", "radiologist",
    ),
}  # fmt: skip
"""Section -> the headers that open it, lower case."""

BODY = ("impression", "findings")
"""The sections that say what the image shows. Inside them a header of a body part is a sub-heading, not a section."""

SECTION_OF = {spelling: section for section, spellings in SPELLINGS.items() for spelling in spellings}

CAPITALS_ONLY = frozenset(
    "imp hx pfi prior priors views date finding study studies observation correlation protocol attending radiologist "
    "communication assessment".split()
)
"""Words that begin too many ordinary lines to be a header unless in capitals."""

OWN_LINE_ONLY = frozenset("reason comment comments report summary description".split())
"""Words that are a header in mixed case only at the beginning of a line: "Report: ..."."""

BARE = (
    "impression", "impressions", "conclusion", "conclusions", "findings", "findings and impression", "comparison",
    "comparisons", "indication", "indications", "clinical indication", "history", "clinical history",
    "clinical information", "reason for exam", "reason for examination", "technique", "examination", "exam",
    "recommendation", "recommendations", "recommendation(s)", "notification", "addendum", "wet read", "procedure",
)  # fmt: skip
"""Headers that are recognised without a colon, alone on their line or before a dash."""

_CONTAINED = (
    ("notification", "notification"), ("communicat", "notification"), ("impression", "impression"),
    ("reason for", "indication"), ("findings", "findings"), ("history", "history"), ("comparison", "comparison"),
    ("addendum", "addendum"), ("indication", "indication"), ("technique", "technique"),
    ("recommendation", "recommendations"), ("wet read", "wet read"),
)  # fmt: skip
"""What a longer header in capitals is about, in order of precedence."""

_STUDY = re.compile(
    r"\b(?:chest|portable|(?:pa|ap|frontal) and|lateral and|(?:one|single|two) views?|"
    r"(?:pa|ap|frontal|lateral) views?|bone windows?|frontal (?:semi-?)?upright|ribs)\b"
)
"""A header that names the radiograph ("CHEST, PA AND LATERAL:") stands where "FINDINGS:" would."""

_NO_HEADER = re.compile(
    r"\b(?:is|are|was|were|has|have|had|be|been|shows?|demonstrates?|which|that|there|you|we|will|pain|tubes?|tightness|"
    r"discomfort|pressure|trauma|injury)\b"
)
_ANATOMY = frozenset(
    "lung lungs lobe lobes heart cardiac cardiovascular cardiomediastinal mediastinum mediastinal silhouette contour "
    "contours hila hilum hilar pleura pleural space spaces bone bones osseous skeletal musculoskeletal soft tissue "
    "tissues line lines tube tubes catheter catheters device devices support hardware medical airway airways trachea "
    "bronchi vessel vessels vascular vasculature aorta great pulmonary artery arteries veins diaphragm diaphragms "
    "hemidiaphragm hemidiaphragms chest wall thorax thoracic abdomen abdominal upper lower pelvis pelvic neck base "
    "thyroid spine cervical lumbar rib ribs liver spleen pancreas kidney kidneys adrenal adrenals gallbladder stomach "
    "bowel esophagus oesophagus lymph node nodes nodule nodules parenchyma interstitium structures body axilla "
    "axillae breast breasts coronary pericardium pericardial vertebrae shoulder shoulders visualized visible limited "
    "right left bilateral and or of the in central large major other".split()
)
_REDACTED = re.compile(r"[\sX_()/,.&'-]*")
_PLURAL = re.compile(r"\(s\)", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)")
_TYPO_TARGETS = tuple(
    (word, section)
    for section in ("impression", "findings", "comparison", "indication", "technique", "examination", "history")
    for word in SPELLINGS[section][:2]
    if len(word) >= 7
) + (("recommendations", "recommendations"), ("recommendation", "recommendations"), ("conclusion", "impression"))


def is_capitals(name: str) -> bool:
    """Whether a header is written in capitals; the "(s)" of "RECOMMENDATION(s)" does not count."""
    return _PLURAL.sub("", name).isupper()


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A header in lower case, with single blanks."""
    return " ".join(_PLURAL.sub("s", name).lower().split()).strip(" .,-*_")


@lru_cache(maxsize=4096)
def known_section(name: str) -> str | None:
    """The section opened by a header whose spelling is listed, in whatever case; None for any other."""
    name = plain_name(name)
    return SECTION_OF.get(name) or SECTION_OF.get(_BRACKETS.sub("", name).strip())


@lru_cache(maxsize=4096)
def section_of_capitals(name: str) -> str | None:
    """The section opened by a header in capitals: by its spelling, a slip of one letter, or what it is about.

    Args:
        name: without the colon, such as "AP CHEST, 10:42 A.M., ___".

    Returns:
        None for a header that opens none of `SPELLINGS`, for a sentence, and for removed text (XXXX, ___).
    """
    section = known_section(name)
    if section is not None:
        return section
    if _REDACTED.fullmatch(name):
        return None
    plain = plain_name(name)
    if not 0 < len(plain) <= 90 or plain.startswith(("the ", "this ", "these ")) or _NO_HEADER.search(plain):
        return None
    for part, about in _CONTAINED:
        if part in plain:
            return about
    if _STUDY.search(plain):
        return "findings"
    for word, about in _TYPO_TARGETS:
        if (plain[0] == word[0] or plain[-1] == word[-1]) and _one_slip(plain, word):
            return about
    return None


@lru_cache(maxsize=4096)
def could_open(name: str) -> bool:
    """Whether the text before a colon may be a header at all, wherever it stands."""
    if not is_capitals(name):
        return known_section(name) is not None
    return is_generic(name.rstrip()) or section_of_capitals(name.rstrip()) is not None


@lru_cache(maxsize=4096)
def is_anatomy(name: str) -> bool:
    """Whether a header consists of body parts and devices alone: "HEART AND MEDIASTINUM", not "CHEST, ONE VIEW"."""
    return all(word in _ANATOMY for word in re.split(r"[\s,/&()]+", plain_name(name)) if word)


@lru_cache(maxsize=4096)
def is_generic(name: str) -> bool:
    """Whether capitals that open no listed section still look like a header: a few words, none of them removed text."""
    return (
        re.fullmatch(r"[A-Z][A-Z ()/,&'-]{2,59}", name) is not None
        and len(name.split()) <= 7
        and "XX" not in name
        and not name.startswith("FINAL REPORT")
        and not _NO_HEADER.search(name.lower())
    )


def _one_slip(typed: str, word: str) -> bool:
    """Whether one letter was added, lost, changed or swapped with its neighbour."""
    extra = len(typed) - len(word)
    if typed == word or abs(extra) > 1:
        return False
    start = 0
    shorter = min(len(typed), len(word))
    while start < shorter and typed[start] == word[start]:
        start += 1
    if extra:
        return typed[start + (extra > 0) :] == word[start + (extra < 0) :]
    if typed[start + 1 :] == word[start + 1 :]:
        return True
    swapped = word[start : start + 2][::-1]
    return len(swapped) == 2 and typed[start : start + 2] == swapped and typed[start + 2 :] == word[start + 2 :]
