"""The small language that the phrase banks (`ct_phrases.yaml`, `cxr_phrases.yaml`) are written in.

One line of a bank is one way to say something:

    there {is|was} $a <$degree pleural effusion> $place

`{a|b}` is one of several wordings (`{a|}` may be left out), `$name` a value, `<...>` the words that state the label
that the line belongs to, `<Label=...>` those that state another, and `a(n)` the article that fits what follows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# A mention is carried through the text as OPEN label EQUALS value SHUT words CLOSE, characters that no report has.
_OPEN, _EQUALS, _SHUT, _CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"
_MARK = re.compile(f"{_OPEN}[^{_SHUT}]*{_SHUT}|{_CLOSE}")
_TOKEN = re.compile(r"\$([a-z_]+)|<(?:([A-Z][A-Za-z ]+)=)?|[{}|>]|[^$<{}|>]+")
_ARTICLE = re.compile(rf"\b([aA])\(n\)(\s+(?:{_OPEN}[^{_SHUT}]*{_SHUT})*)(\w+)")
_AN = re.compile(r"(?!(?:uni|use|usu|eu|one|once))[aeiou]|8|11(?!\d)|18(?!\d)", re.IGNORECASE)
_START = re.compile(rf"((?:{_OPEN}[^{_SHUT}]*{_SHUT})*)([a-z])")


class Span(NamedTuple):
    """Words of a report that state a label.

    Attributes:
        label: its name.
        value: 1.0 present, 0.0 absent, -1.0 uncertain.
        start: of the words in the text.
        end: one past their last character.
    """

    label: str
    value: float
    start: int
    end: int


@cache
def read_bank(name: str) -> dict[str, Any]:
    """A phrase bank of this folder; a block of lines becomes a tuple of templates.

    Args:
        name: of the file, `ct_phrases.yaml`.
    """

    def split(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: split(value) for key, value in node.items()}
        return tuple(line.strip() for line in str(node).splitlines() if line.strip())

    return split(yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8")))


def labels_in(template: str) -> set[str]:
    """Labels that a template names in `<Label=...>`."""
    return set(re.findall(r"<([A-Z][A-Za-z ]+)=", template))


def expand(template: str, rng: random.Random, values: Mapping[str, str], label: str = "", value: float = 1.0) -> str:
    """Fill in a template.

    Args:
        template: a line of a bank.
        rng: decides between wordings.
        values: of every `$name` in it; they are templates too.
        label: that `<...>` states.
        value: that its mentions give their labels.

    Returns:
        Text with its mentions marked, for `plain`.

    Raises:
        ValueError: if braces do not match or a name has no value.
    """
    tokens = _tokens(template)
    text, end = _sequence(tokens, 0, rng, values, label, value)
    if end != len(tokens):
        raise ValueError(f"Template {template!r} has a {tokens[end][0]!r} too many.")
    return text


@lru_cache(maxsize=8192)
def _tokens(template: str) -> tuple[re.Match[str], ...]:
    return tuple(_TOKEN.finditer(template))


def _sequence(
    tokens: Sequence[re.Match[str]], at: int, rng: random.Random, values: Mapping[str, str], label: str, value: float
) -> tuple[str, int]:
    """Text up to the token that closes this part, and where that token is."""
    parts = []
    while at < len(tokens) and tokens[at][0] not in ("|", "}", ">"):
        token = tokens[at]
        if token[0] == "{":
            wordings = []
            while at < len(tokens) and tokens[at][0] != "}":
                wording, at = _sequence(tokens, at + 1, rng, values, label, value)
                wordings.append(wording)
            parts.append(rng.choice(wordings))
        elif token[0].startswith("<"):
            words, at = _sequence(tokens, at + 1, rng, values, label, value)
            parts.append(f"{_OPEN}{token[2] or label}{_EQUALS}{value:g}{_SHUT}{words}{_CLOSE}")
        elif token[1]:
            if token[1] not in values:
                raise ValueError(f"Template uses ${token[1]}, expected one of {', '.join(sorted(values))}.")
            parts.append(expand(values[token[1]], rng, values, label, value))
        else:
            parts.append(token[0])
        at += 1
    return "".join(parts), at


def sentence(text: str, stop: str = ".") -> str:
    """Marked text as a sentence: one blank between words, the right articles, a capital, a full stop."""
    text = re.sub(r"\s+", " ", text).strip()
    # A blank just inside a mention belongs outside of it.
    text = re.sub(f"({_OPEN}[^{_SHUT}]*{_SHUT}) ", r" \1", text)
    text = re.sub(f" ({_CLOSE})", r"\1 ", text)
    text = re.sub(r" +", " ", text).strip()
    text = re.sub(f" +({_CLOSE}*[,.;)])", r"\1", text)
    text = _ARTICLE.sub(lambda m: f"{m[1]}{'n' if _AN.match(m[3]) else ''}{m[2]}{m[3]}", text)
    text = _START.sub(lambda m: m[1] + m[2].upper(), text, count=1) if _START.match(text) else text
    return text + stop


def enumerate_words(items: Sequence[str], word: str = "and", serial: bool = False) -> str:
    """`a, b and c`, or `a, b, and c` with the serial comma."""
    if len(items) < 3:
        return f" {word} ".join(items)
    return ", ".join(items[:-1]) + ("," if serial else "") + f" {word} {items[-1]}"


def word_count(text: str) -> int:
    """Words of marked or plain text, as blanks separate them."""
    return len(_MARK.sub("", text).split())


def mentioned(text: str) -> set[str]:
    """Labels that marked text states."""
    return {span.label for span in plain(text)[1]}


def plain(text: str) -> tuple[str, list[Span]]:
    """Marked text without its marks, and the spans of its mentions in order of their start."""
    parts: list[str] = []
    spans: list[Span] = []
    waiting: list[tuple[str, float, int]] = []
    length = last = 0
    for mark in _MARK.finditer(text):
        parts.append(text[last : mark.start()])
        length += mark.start() - last
        last = mark.end()
        if mark[0] == _CLOSE:
            label, value, start = waiting.pop()
            spans.append(Span(label, value, start, length))
        else:
            label, _, value = mark[0][1:-1].partition(_EQUALS)
            waiting.append((label, float(value), length))
    parts.append(text[last:])
    return "".join(parts), sorted(spans, key=lambda span: (span.start, span.end))
