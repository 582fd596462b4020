"""What the n-gram metrics of reports are computed on: the text as it is, the text cleaned in the field's way, stems.

Two variants of every such metric are reported, because the published numbers mix them:

* raw: the text untouched. Words are what stands between white space, so `clear.` and `clear` differ.
* cleaned: `clean_report`, the normalisation of R2Gen (Chen et al., EMNLP 2020), which most X-ray report papers took
  over.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

_SPACES = re.compile(r"[\n ]+")
_DOTS = re.compile(r"\.{2,}")
_REMOVED = re.compile(r"[.,?;*!%^&_+()\]{}:<=>@\[\"'/\\]")
_NUMBERED = [("1. ", "")]
_NUMBERED += [(f". {n}. ", ". ") for n in range(2, 6)]
_NUMBERED += [(f" {n}. ", ". ") for n in range(2, 6)]


def clean_report(report: str) -> str:
    """Normalise a report as R2Gen does for MIMIC-CXR, so that scores compare with those of its lineage.

    In this order: line breaks and runs of spaces become one space, runs of full stops one; the list numbers `1. ` to
    `5. ` go; lower case; sentences are cut at `. `, lose punctuation (hyphens stay) and are joined by ` . `; the last
    ends with ` .`. Hence every sentence end is one word of its own.

    Kept although they are mistakes, since every published number contains them: a number that ends a sentence is eaten
    (`at T11. The` becomes `at t1the`), and decimal points vanish (`1.5 cm` becomes `15 cm`). A sentence of punctuation
    alone leaves its full stop. What R2Gen does besides belongs to its model, not to the text, and is not done: words
    rarer than a threshold become `<unk>`, and reports are cut after 60 or 100 words.

    Differs in one thing: a report without a letter or digit is cleaned to nothing. R2Gen makes it ` .`, whose full stop
    then matches every reference.

    Args:
        report: any text.

    Returns:
        Words separated by one space; empty if the report holds no letter or digit.
    """
    text = _DOTS.sub(".", _SPACES.sub(" ", report))
    for old, new in _NUMBERED:
        text = text.replace(old, new)
    sentences = [_REMOVED.sub("", sentence.strip()) for sentence in text.strip().lower().split(". ")]
    if not any(character.isalnum() for sentence in sentences for character in sentence):
        return ""
    return " ".join((" . ".join(sentences) + " .").split())


@lru_cache(maxsize=1 << 16)
def porter_stem(word: str) -> str:
    """The stem of a word as Google's ROUGE and NLTK's METEOR have it: Porter's of 1980 as NLTK extends it.

    It need not be a word itself (`opacities` -> `opac`).

    Args:
        word: in lower case.
    """
    return _stemmer().stem(word, to_lowercase=False)


@cache
def _stemmer() -> PorterStemmer:
    from nltk.stem.porter import PorterStemmer  # takes a second: only who stems pays for it

    return PorterStemmer()
