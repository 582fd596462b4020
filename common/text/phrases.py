"""A small language for what radiologists write, and a matcher that finds many such phrases in a sentence at once.

    word            this word               effusion*      any word that starts so, three letters or more
    (a|b c)         one of these            word? (a b)?   may be absent
    ..3             up to 3 further words, none of them punctuation
    ^ word, word $  the first word, the last word of a sentence
    {name}          the group of that name in the lexicon's `words`

Words are lower case; a hyphen parts words as a blank does, commas, colons, slashes and brackets are words of their own,
"isn't" is "is not", "(-)" and "(+)" are "negative" and "positive", "[ ]" and "[x]" are "unchecked" and "checked".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

__all__ = ["Match", "PhraseMatcher", "Tokens"]

_TOKEN = re.compile(r"[^\W_]+|[,:;()/&?+%]")
# "isn't" is two words; "(-)", "(+)", "[ ]" and "[x]" are answers.
_SHORT_FORMS = re.compile(
    r"[^\W_]+(?=n't(?![^\W_]))|n't(?![^\W_])|\( ?[-+] ?\)|\[[ x]?\]|[\u2610-\u2612]|[-+]ve(?![^\W_])|" + _TOKEN.pattern
)
_LONG_FORMS = {"n't": "not", "ca": "can", "wo": "will", "-ve": "negative", "+ve": "positive"}
_LONG_FORMS |= {"[ ]": "unchecked", "[]": "unchecked", "\u2610": "unchecked"} | dict.fromkeys("\u2611\u2612", "checked")
_LONG_FORMS |= {"[x]": "checked"} | {f"({a}-{b})": "negative" for a in ("", " ") for b in ("", " ")}
_LONG_FORMS |= {f"({a}+{b})": "positive" for a in ("", " ") for b in ("", " ")}
_SIGN = re.compile(r"[(\[\u2610-\u2612](?:(?<=\() ?[-+] ?\)|(?<=\[)[ x]?\]|(?<=[\u2610-\u2612]))")
_PHRASE = re.compile(r"\s*(?:(\{\w+\})|(\.\.\d+)|([(|)])|([^\s(){}|?*]+\*?)|(\?))")
_GAP = r"(?: [^\W_]+){0,%s}?"
_STEM = 3
_MANY = 4  # phrases at a word, so that one pattern before them pays
_WORDS_KEPT = 20_000
"""Words whose phrases are remembered."""


class Tokens:
    """The words of a sentence.

    Attributes:
        words: lower-case words and punctuation marks.
        line: the words with one blank before each and one after the last.
    """

    def __init__(self, text: str, start: int = 0) -> None:
        """Find the words of ``text``, which begins at character ``start`` of the report."""
        # Lower case may be longer than the text ("İ"), so words are lowered one by one where that happens.
        lowered = text.lower()
        if len(lowered) != len(text):
            lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        if "n't" in lowered or "-ve" in lowered or "+ve" in lowered or _SIGN.search(lowered):
            matches = list(_SHORT_FORMS.finditer(lowered))
            self.words = [_LONG_FORMS.get(match[0], match[0]) for match in matches]
        else:
            matches = list(_TOKEN.finditer(lowered))
            self.words = [match[0] for match in matches]
        self.line = f" {' '.join(self.words)} "
        self._matches, self._start = matches, start

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each word stands in the report."""
        return [self.span(k, k + 1) for k in range(len(self.words))]

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Where the words from `first` to the one before `last` stand in the report."""
        return self._start + self._matches[first].start(), self._start + self._matches[last - 1].end()


class Match(NamedTuple):
    """A phrase found in a sentence.

    Attributes:
        key: what the phrase stands for.
        first: index of its first word.
        last: index after its last word.
        phrase: as written in the lexicon.
    """

    key: Hashable
    first: int
    last: int
    phrase: str


class PhraseMatcher:
    """Finds phrases in sentences, in time linear in the number of words."""

    def __init__(
        self, phrases: Iterable[tuple[Hashable, str]], words: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Compile phrases.

        Args:
            phrases: (what it stands for, phrase).
            words: groups that phrases name in braces.

        Raises:
            ValueError: for a phrase that does not follow the language; it is named.
        """
        self._words = {name: "|".join(group) for name, group in (words or {}).items()}
        self._exact: dict[str, list[tuple]] = defaultdict(list)
        self._stems: dict[str, list[tuple]] = defaultdict(list)
        self._at_word: dict[str, tuple] = {}
        for key, phrase in phrases:
            parser = _Parser(phrase, self._words)
            entry = (key, re.compile(parser.pattern + r"(?= )").match, phrase)
            for first in sorted(parser.first):
                if first.endswith("*"):
                    self._stems[first[:_STEM]].append((first[:-1], entry))
                else:
                    self._exact[first].append(entry)
        for word, entries in self._exact.items():
            if len(entries) > _MANY:
                self._entries(word)

    def knows(self, word: str, longer_than: int) -> bool:
        """Whether a phrase starts with this word, or with so many of its letters and at least one more than given."""
        if word in self._exact:
            return True
        return any(longer_than < len(stem) and word.startswith(stem) for stem, _ in self._stems.get(word[:_STEM], ()))

    def find(self, tokens: Tokens) -> list[Match]:
        """Return every phrase at every word, the longest of each key at each word, in order of the words."""
        at_word, line = self._at_word, tokens.line
        found: list[Match] = []
        place = 0
        for index, word in enumerate(tokens.words):
            entries = at_word.get(word)
            if entries is None:
                entries = self._entries(word)
            if entries and (entries[0] is None or entries[0](line, place)):
                longest: dict[Hashable, Match] = {}
                for key, pattern, phrase in entries[1]:
                    match = pattern(line, place)
                    if match:
                        last = index + match[0].count(" ")
                        if key not in longest or longest[key].last < last:
                            longest[key] = Match(key, index, last, phrase)
                found += longest.values()
            place += len(word) + 1
        return found

    def _entries(self, word: str) -> tuple:
        """The phrases that may start with a word, after one pattern of them all that rules most words out at once."""
        entries = list(self._exact.get(word, ()))
        entries += (entry for stem, entry in self._stems.get(word[:_STEM], ()) if word.startswith(stem))
        found = (None, entries) if entries else ()
        if len(entries) > _MANY:
            found = re.compile("|".join(match.__self__.pattern for _, match, _ in entries)).match, entries
        if len(self._at_word) > _WORDS_KEPT:
            self._at_word.clear()
        self._at_word[word] = found
        return found


class _Parser:
    """One phrase as a regular expression over `Tokens.line`, with the words that it can start with."""

    def __init__(self, phrase: str, words: Mapping[str, str], outer: tuple[str, ...] = ()) -> None:
        self.phrase, self.words, self.outer = phrase, words, outer
        self.parts = self._parts()
        self.at = 0
        self.pattern, self.first, empty = self._choice()
        if self.at < len(self.parts) or empty or not self.first:
            raise ValueError(
                f"Phrase {phrase!r} is not understood, expected words, (a|b), word?, ..3, ^, $ or {{name}}."
            )
        short = [word for word in self.first if word.endswith("*") and len(word) <= _STEM]
        if short and not outer:
            raise ValueError(f"Phrase {phrase!r} starts with {short[0]!r}, expected {_STEM} letters before a star.")

    def _parts(self) -> list[str]:
        parts, place = [], 0
        text = self.phrase.strip()
        while place < len(text):
            match = _PHRASE.match(text, place)
            if not match:
                raise ValueError(f"Phrase {self.phrase!r} is not understood at {text[place:]!r}.")
            parts.append(match[match.lastindex])
            place = match.end()
        return parts

    def _next(self) -> str:
        return self.parts[self.at] if self.at < len(self.parts) else ""

    def _choice(self) -> tuple[str, set[str], bool]:
        """Alternatives: pattern, first words, whether it can be empty."""
        patterns, first, empty = [], set(), False
        while True:
            pattern, words, nothing = self._sequence()
            patterns.append(pattern)
            first |= words
            empty |= nothing
            if self._next() != "|":
                break
            self.at += 1
        return "(?:" + "|".join(patterns) + ")", first, empty

    def _sequence(self) -> tuple[str, set[str], bool]:
        pattern, first, empty = "", set(), True
        while self._next() not in ("", "|", ")"):
            part, words, nothing = self._item()
            if empty:
                first |= words
            pattern += part
            empty = empty and nothing
        return pattern, first, empty

    def _item(self) -> tuple[str, set[str], bool]:
        part = self._next()
        self.at += 1
        if part == "(":
            pattern, first, empty = self._choice()
            if self._next() != ")":
                raise ValueError(f"Phrase {self.phrase!r} has a bracket that is not closed.")
            self.at += 1
        elif part.startswith(".."):
            if not self.at > 1:
                raise ValueError(f"Phrase {self.phrase!r} starts with a gap, expected a word.")
            return _GAP % int(part[2:]), set(), True
        elif part.startswith("{"):
            name = part[1:-1]
            if name not in self.words or name in self.outer:
                raise ValueError(f"Phrase {self.phrase!r} names {part}, expected one of {', '.join(self.words)}.")
            inner = _Parser(self.words[name], self.words, (*self.outer, name))
            pattern, first, empty = inner.pattern, inner.first, False
        elif part == "$":
            return r"(?= \Z)", set(), True
        elif part == "^" and self.at == 1:
            return r"\A", set(), True
        elif part in (")", "|", "^") or (part == "?" and self.at > 1):  # a phrase may begin with a question mark
            raise ValueError(f"Phrase {self.phrase!r} has {part!r} where a word was expected.")
        else:
            stem = part.removesuffix("*")
            pattern = " " + re.escape(stem) + (r"[^\W_]*" if part.endswith("*") else "(?= )")
            first, empty = {part}, False
        if self._next() == "?":
            self.at += 1
            return f"(?:{pattern})?", first, True
        return pattern, first, empty
