"""The stem of a word, as Google's ROUGE and NLTK's METEOR have it."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer


@lru_cache(maxsize=1 << 16)
def porter_stem(word: str) -> str:
    """The stem of a word, which need not be a word itself (`opacities` -> `opac`); Porter's of 1980 as NLTK extends it.

    Args:
        word: in lower case.
    """
    return _stemmer().stem(word, to_lowercase=False)


@cache
def _stemmer() -> PorterStemmer:
    from nltk.stem.porter import PorterStemmer  # takes a second: only who stems pays for it

    return PorterStemmer()
