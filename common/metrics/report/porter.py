"""The Porter stemmer (Porter, An algorithm for suffix stripping, 1980), with the changes that NLTK made to it.

Google's ROUGE and NLTK's METEOR stem with NLTK's variant, so scores that are to agree with theirs need the same. The
changes: words of one or two letters stay; a few irregular forms; `ies` and `ied` of four-letter words keep their e
(`died`); final y becomes i after any consonant that does not begin the word; a vowel and a consonant alone count as
`*o`; `bli`, `logi` and `fulli` are suffixes of step 2, and `alli` goes before the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

_IRREGULAR = {
    "skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news", "innings": "inning",
    "inning": "inning", "outings": "outing", "outing": "outing", "cannings": "canning", "canning": "canning",
    "howe": "howe", "proceed": "proceed", "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip
_STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
    "fulli": "ful",
}  # fmt: skip
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = dict.fromkeys(
    "al ance ence er ic able ible ant ement ment ent ou ism ate iti ous ive ize sion tion".split(), ""
) | {"sion": "s", "tion": "t"}


@lru_cache(maxsize=1 << 16)
def porter_stem(word: str) -> str:
    """The stem of a word, which need not be a word itself (`opacities` -> `opac`).

    Args:
        word: in lower case; characters other than the five vowels and y count as consonants.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _step_1b(_step_1a(word))
    if word.endswith("y") and len(word) > 2 and _shape(word)[-2] == "c":
        word = word[:-1] + "i"
    word = _strip(_step_2(word), _STEP_3, 0)
    return _step_5(_strip(word, _STEP_4, 1))


def _shape(word: str) -> str:
    """The word with v for vowels and c for consonants; y is a vowel after a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape[-1:] == "c")
        shape += "v" if vowel else "c"
    return shape


def _measure(stem: str) -> int:
    """How often consonants follow vowels, Porter's m."""
    return _shape(stem).count("vc")


def _ends_cvc(stem: str) -> bool:
    """Porter's `*o`: a short syllable at the end, after which an e was dropped (`hop` of `hoping`)."""
    shape = _shape(stem)
    return shape == "vc" or (shape.endswith("cvc") and stem[-1] not in "wxy")


def _strip(word: str, rules: Mapping[str, str], least: int) -> str:
    """Replace the longest suffix that a rule names, if what stands before it measures more than `least`."""
    for length in range(min(7, len(word)), 1, -1):
        suffix = word[-length:]
        if suffix in rules:
            # The s or t of `sion` and `tion` belongs to the stem that is measured.
            stem = word[:-length] + rules[suffix] if suffix in ("sion", "tion") else word[:-length]
            return word[:-length] + rules[suffix] if _measure(stem) > least else word
    return word


def _step_1a(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _step_1b(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    stem = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
    shape = _shape(stem)
    if "v" not in shape:
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if shape.endswith("c") and stem[-1:] == stem[-2:-1]:
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if shape.count("vc") == 1 and _ends_cvc(stem) else stem


def _step_2(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _step_2(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _strip(word, _STEP_2, 0)


def _step_5(word: str) -> str:
    if word.endswith("e"):
        m = _measure(word[:-1])
        if m > 1 or (m == 1 and not _ends_cvc(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
