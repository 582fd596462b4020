"""What a sentence says of each finding it mentions: there, not there, perhaps there, or nothing about this examination.

After NegEx and ConText (Chapman 2001, Harkema 2009, https://doi.org/10.1016/j.jbi.2009.05.002): cue words before or
after a mention, whose scope ends at a clause. What a clause is in a report, and lists that share one cue, are the
rules here; the cues are in the lexicon.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from common.text.phrases import Match, Tokens

__all__ = ["CUES", "Assertion", "assess"]

CUES = {
    "negated_before": "what follows is not there: no, without, free of",
    "negated_after": "what stands before is not there: is not seen, has resolved",
    "uncertain_before": "what follows is a guess: may represent, cannot exclude",
    "uncertain_next": "the next finding is a guess, with those joined to it by or: possible, questionable",
    "uncertain_after": "what stands before is a guess: is possible, cannot be excluded",
    "either": "the findings on both sides are a guess: versus",
    "ignored_before": "what follows is not of this examination: history of, evaluate for",
    "ignored_after": "what stands before is not of this examination",
    "earlier_before": "what follows was seen earlier, and is there if something is said of it now: previously seen",
    "now_after": "says something of what stands before as it is now: persists, has increased",
    "elsewhere_after": "what stands before is there after all, on the other side: but persists on the right",
    "plain": "looks like a cue and is none: no change in, has not resolved",
    "except": "ends every scope, and what was negated before it is there, unless another finding follows: except for",
    "stop": "ends every scope: but, however",
}
POSITIVE, NEGATIVE, UNCERTAIN, IGNORED = "positive", "negative", "uncertain", "ignored"

_STATUS = {"negated": NEGATIVE, "uncertain": UNCERTAIN, "ignored": IGNORED, "either": UNCERTAIN, "earlier": IGNORED}
_ORGANS = frozenset(
    "adrenal adrenals liver spleen thyroid kidneys kidney pancreas gallbladder bones mediastinum hila trachea aorta "
    "pleura".split()
)
_SAME_SUBJECT = frozenset("is are was were has have".split())
"""A verb after "but" speaks of what stands before."""
_NOW = ("now_after", "elsewhere_after")
_NOT = frozenset("no not none nil never absent resolved cleared without nor neither".split())
_VERBS = frozenset("is are was were has have appears appear remains remain demonstrates shows there".split())
_STARTERS = frozenset("the there heart lungs lung this these a an it but".split())
_LUNG_FINDINGS = frozenset(
    "nodule nodules mass masses lesion lesions opacity opacities consolidation infiltrate".split()
)
_PRESENT = frozenset(
    "mild mildly moderate moderately small minimal stable unchanged persistent tiny subtle patchy bibasilar bilateral "
    "chronic old calcified probable possible likely mildly increased increasing worsening new slight low trace".split()
)
_JOINED = frozenset(("or", "nor", "/", "versus", "vs"))


@dataclass(frozen=True, slots=True)
class Assertion:
    """A mention and what is said of it.

    Attributes:
        mention: the finding's phrase.
        status: "positive", "negative", "uncertain" or "ignored".
        cue: what decided, None for a plain statement.
    """

    mention: Match
    status: str
    cue: Match | None


def assess(tokens: Tokens, mentions: Sequence[Match], cues: Sequence[Match]) -> list[Assertion]:
    """Decide what a sentence says of each mention, in time linear in its length.

    Args:
        tokens: the sentence.
        mentions: phrases of findings, in order.
        cues: phrases whose key is one of ``CUES``, in order.

    Returns:
        One assertion per mention, in order.
    """
    if not mentions:
        return []
    cues = [cue for cue in _outermost(_apart(tokens.words, mentions, cues)) if cue.key != "plain"]
    cues = _one_way(tokens.words, mentions, cues)
    if not cues:
        return [Assertion(mention, POSITIVE, None) for mention in mentions]
    or_left = _or_ahead(tokens.words)
    before = _forwards(tokens.words, or_left, mentions, cues)
    after = _backwards(tokens.words, or_left, mentions, cues)
    inside = _within(mentions, cues)
    found = [Assertion(mention, *_strongest(inside[i], before[i], after[i])) for i, mention in enumerate(mentions)]
    if any(cue.key in ("except", "elsewhere_after") for cue in cues):
        _reverse(tokens.words, found, cues)
    return found


def _strongest(inside: Match | None, before: Match | None, after: Match | None) -> tuple[str, Match | None]:
    """A guess about what is negated ("no X, cannot be excluded") stays a guess; "a previous X is not seen" is no X."""
    is_now = after is not None and after.key in _NOW
    if before is not None and before.key == "earlier_before" and after is not None:
        return (POSITIVE if is_now else _STATUS[after.key.partition("_")[0]]), after
    if is_now and before is not None and before.key == "negated_before" and " that" in before.phrase:
        return POSITIVE, after  # "no evidence that X has increased"
    after = None if is_now else after
    if after is not None and after.key == "negated_after" and before is not None and before.key == "ignored_before":
        return NEGATIVE, after
    for cue in (inside, before, after):
        if cue is not None and cue.key.startswith(("ignored", "earlier")):
            return IGNORED, cue
    if inside is not None:
        return _STATUS[inside.key.partition("_")[0]], inside
    if before is not None and before.key == "negated_before":
        # "no infiltrate is possible" does not occur; "no definite effusion, not excluded" does.
        return (UNCERTAIN, after) if after is not None and "exclu" in after.phrase else (NEGATIVE, before)
    if after is not None and after.key == "negated_after":
        return NEGATIVE, after
    cue = before or after
    return (POSITIVE, None) if cue is None else (_STATUS[cue.key.partition("_")[0]], cue)


def _reverse(words: Sequence[str], found: list[Assertion], cues: Sequence[Match]) -> None:
    """Turn round what was negated and is there all the same: "no X except at the base", "X resolved, but not here"."""
    starts = [assertion.mention.first for assertion in found]
    for k, cue in enumerate(cues):
        last = bisect_left(starts, cue.first) - 1
        if cue.key not in ("except", "elsewhere_after") or last < 0 or found[last].status not in (NEGATIVE, IGNORED):
            continue
        if cue.key == "elsewhere_after":
            if " not " not in cue.phrase and not _NOT.isdisjoint(words[cue.first : cue.last]):
                continue
            status = POSITIVE
        else:
            following = starts[last + 1] if last + 1 < len(found) else len(words)
            inner = [other for other in cues[k + 1 : k + 4] if other.first < following]
            if following < len(words) and not any(other.key == "negated_before" for other in inner):
                continue
            status = UNCERTAIN if any(other.key.startswith("uncertain") for other in inner) else POSITIVE
        place = found[last].mention
        while last >= 0 and found[last].mention.last > place.first:  # one phrase may stand for several findings
            found[last] = Assertion(found[last].mention, status, cue)
            last -= 1


def _apart(words: Sequence[str], mentions: Sequence[Match], cues: Sequence[Match]) -> list[Match]:
    """Leave out what looks like no cue but has words of a finding: "no enlargement of the" before "heart"."""
    starts = [mention.first for mention in mentions]
    kept = []
    for cue in cues:
        if cue.key in ("plain", "now_after") and not _NOT.isdisjoint(words[cue.first : cue.last]):
            last = bisect_left(starts, cue.last)
            if any(mention.last > cue.first for mention in mentions[max(0, last - 3) : last]):
                continue
        kept.append(cue)
    return kept


def _one_way(words: Sequence[str], mentions: Sequence[Match], cues: list[Match]) -> list[Match]:
    """Of a cue that can stand before and after ("less likely X", "X less likely"), keep what it is here."""
    places = {(cue.first, cue.last) for cue in cues if cue.key.endswith("_after")}
    places &= {(cue.first, cue.last) for cue in cues if cue.key.endswith("_before")}
    if not places:
        return cues
    starts = [mention.first for mention in mentions]
    kept = []
    for cue in cues:
        if (cue.first, cue.last) in places:
            at = bisect_left(starts, cue.last)
            is_near = at < len(starts) and starts[at] <= cue.last + 2 and words[cue.last] not in (",", ";")
            if not cue.key.endswith("_before" if is_near or not at else "_after"):
                continue
        kept.append(cue)
    return kept


def _outermost(matches: Sequence[Match]) -> list[Match]:
    """Leave out what lies within a longer one, and what looks exactly like a cue that is none."""
    kept: list[Match] = []
    for match in sorted(matches, key=lambda m: (m.first, -m.last, m.key != "plain")):
        same = kept and (match.first, match.last) == (kept[-1].first, kept[-1].last) and kept[-1].key != "plain"
        if not kept or match.last > kept[-1].last or same:
            kept.append(match)
    return kept


def _within(mentions: Sequence[Match], cues: Sequence[Match]) -> list[Match | None]:
    """For each mention, the first cue in a gap of its phrase: "heart is not enlarged"."""
    cues = [cue for cue in cues if cue.key.endswith(("_before", "_next"))]
    starts = [cue.first for cue in cues]
    found = []
    for mention in mentions:
        inside = cues[bisect_right(starts, mention.first) : bisect_left(starts, mention.last)]
        found.append(next((cue for cue in inside if cue.last < mention.last), None))
    return found


def _forwards(
    words: Sequence[str], or_left: Sequence[int], mentions: Sequence[Match], cues: Sequence[Match]
) -> list[Match | None]:
    found: list[Match | None] = [None] * len(mentions)
    active: Match | None = None
    is_repeated = False  # the active cue stood before the mention before, too
    next_only = False  # the active cue holds for the next finding and what is joined to it
    last_mention = -1  # where the last mention under the active cue ended
    at_cue = at_word = 0
    commas = [0, *accumulate(word in (",", "and", ":", "(") for word in words)]
    for at_mention, mention in enumerate(mentions):
        while at_cue < len(cues) and cues[at_cue].first <= mention.first:
            cue = cues[at_cue]
            at_cue += 1
            if _cut(words, at_word, cue.first, active, last_mention, or_left):
                active = None
            at_word = cue.first
            if cue.key in ("stop", "except"):
                active = None
            elif cue.key.endswith(("_before", "_next")) or cue.key == "either":
                held = (
                    active is not None
                    and active.key == "negated_before"
                    and cue.key.startswith(("uncertain", "either", "ignored", "earlier"))
                    and _NOT.isdisjoint(words[cue.first : cue.last])
                )
                if held and commas[cue.first] == commas[max(last_mention, active.last)]:
                    continue
                both_no = active is not None and active.key == cue.key == "negated_before"
                is_repeated = both_no and last_mention >= 0 and words[cue.first - 1] == ","
                active, last_mention, at_word = cue, -1, cue.last
                next_only = cue.key in ("uncertain_next", "either")
        if _cut(words, at_word, mention.first, active, last_mention, or_left) or (
            # "no X, no Y, Z"
            is_repeated
            and words[last_mention : last_mention + 1] == [","]
            and or_left[last_mention] >= min(len(words), mention.first + 8)
        ):
            active = None
        at_word = max(at_word, mention.first)
        if active is not None and next_only and last_mention >= 0:
            # "possible X or Y", "possible X, Y or Z"
            ahead = 8 if words[last_mention : last_mention + 1] == [","] else 0
            if or_left[last_mention] >= min(len(words), mention.first + ahead):
                active = None
        if active is not None and active.last <= mention.last:
            found[at_mention] = active
            last_mention = mention.last
    return found


def _backwards(
    words: Sequence[str], or_left: Sequence[int], mentions: Sequence[Match], cues: Sequence[Match]
) -> list[Match | None]:
    found: list[Match | None] = [None] * len(mentions)
    active: Match | None = None
    used = False  # a mention stands before the active cue already
    at_cue = len(cues) - 1
    end = len(words)
    for i in range(len(mentions) - 1, -1, -1):
        mention = mentions[i]
        while at_cue >= 0 and cues[at_cue].first >= mention.last:
            cue = cues[at_cue]
            at_cue -= 1
            if cue.key in _NOW and active is not None and (not used or words[cue.first] not in _VERBS):
                continue  # "had increased and is not seen": the later word holds
            if cue.key.endswith("_after") or cue.key == "either":
                active, end, used = cue, cue.first, False
                if words[end - 1 : end] in ([":"], [";"], ["which"]):
                    end -= 1  # an answer, or said of what stands before
            elif cue.key == "stop" and _SAME_SUBJECT.issuperset(words[cue.last : cue.last + 1]):
                continue  # "was seen before but is not seen now"
            elif cue.key in ("stop", "except") or (cue.key.endswith("_before") and cue.key != "earlier_before"):
                active = None
        if active is not None and used and not _VERBS.isdisjoint(words[mention.last : end]):
            active = None  # "X has increased and Y has resolved"
        if active is not None:
            # what follows "X:" is said of X, if it is short
            start = mention.last + (words[mention.last : mention.last + 1] == [":"] and end - mention.last < 4)
            if _cut(words, start, end, active, mention.last, or_left):
                active = None
            elif active.key == "either":
                found[i], active = active, None
            else:
                found[i] = active
            end, used = mention.first, True
    return found


def _or_ahead(words: Sequence[str]) -> list[int]:
    """For each word, where the next word stands that joins as `or` does; the sentence's length if there is none."""
    ahead = [len(words)] * (len(words) + 1)
    for k in range(len(words) - 1, -1, -1):
        ahead[k] = k if words[k] in _JOINED else ahead[k + 1]
    return ahead


def _cut(
    words: Sequence[str], start: int, end: int, active: Match | None, last_mention: int, or_left: Sequence[int]
) -> bool:
    """Whether a new statement begins between two words, so that a cue before it does not reach what follows."""
    if active is None:
        return False
    for k in range(start, min(end, len(words) - 1)):
        word, following = words[k], words[k + 1]
        if word == "with" and last_mention >= 0 and active.key == "negated_before":
            return True
        if word == ":" and k == active.last:
            continue  # "No: X, Y"
        if word in (":", ";", "which", "while", "whereas"):
            return True
        if word not in (",", "and", "/"):
            continue
        if word == "," and following in ("and", "or", "nor"):
            continue
        segment = words[k + 1 : k + 9]
        cut = next((j for j, w in enumerate(segment) if w in (",", "and")), len(segment))
        has_verb = not _VERBS.isdisjoint(segment[:cut])
        if following == "lung" and not _LUNG_FINDINGS.isdisjoint(segment[1:2]):  # "lung nodule or X is not seen"
            continue
        if following in _ORGANS and not _VERBS.isdisjoint(words[k + 2 : k + 4]) and words[k + 2] not in _LUNG_FINDINGS:
            return True
        if following in ("a", "an"):  # "no X and a small Y"
            following = words[k + 2] if k + 2 < len(words) else ""
        if following == "there" or (following in _STARTERS and has_verb):
            return True
        listed = active.key.endswith("_after")  # "effusion and small nodules are not seen" is one list
        if following in _PRESENT and not listed and last_mention >= 0 and or_left[k + 1] >= min(len(words), k + 20):
            return True
    return False
