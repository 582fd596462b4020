import pytest

from common.text.phrases import PhraseMatcher, Tokens


def found(phrase: str, text: str, **words: list[str]) -> list[str]:
    tokens = Tokens(text)
    return [" ".join(tokens.words[m.first : m.last]) for m in PhraseMatcher([("x", phrase)], words).find(tokens)]


@pytest.mark.parametrize(
    ("phrase", "text", "expected"),
    [
        ("effusion", "Pleural effusion, effusions", ["effusion"]),
        ("effusion*", "Pleural effusion, effusions", ["effusion", "effusions"]),
        ("pleural effusion", "pleural-effusion", ["pleural effusion"]),
        ("pleural effusion", "pleural, effusion", []),
        (
            "(small|large big) effusion",
            "small effusion and large big effusion",
            ["small effusion", "large big effusion"],
        ),
        ("very? small effusion", "very small effusion", ["very small effusion", "small effusion"]),
        ("heart (is very)? big", "heart big heart is very big", ["heart big", "heart is very big"]),
        ("heart ..2 big", "heart is very big", ["heart is very big"]),
        ("heart ..1 big", "heart is very big", []),
        ("heart ..2 big", "heart , big", []),
        ("{how} big", "mildly big", ["mildly big"]),
        ("^ resolved", "resolved edema resolved", ["resolved"]),
        ("possible $", "possible edema possible", ["possible"]),
        ("?", "effusion ?", ["?"]),
        ("heart (size|size is) big", "heart size is big", ["heart size is big"]),
    ],
)
def test_phrase(phrase: str, text: str, expected: list[str]) -> None:
    assert found(phrase, text, how=["mild*", "very"]) == expected


@pytest.mark.parametrize("phrase", ["", "(a|b", "a)", "..3 effusion", "{missing} word", "word?", "a ? ?", "ab*", "a|"])
def test_what_is_not_understood_is_named(phrase: str) -> None:
    with pytest.raises(ValueError, match="Phrase"):
        PhraseMatcher([("x", phrase)])


def test_a_group_that_names_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="Phrase"):
        PhraseMatcher([("x", "{a} b")], {"a": ["c {a}"]})


def test_the_longest_phrase_of_a_key_is_returned() -> None:
    matcher = PhraseMatcher([("x", "pleural"), ("x", "pleural effusion"), ("y", "pleural")])
    tokens = Tokens("pleural effusion")
    assert {(m.key, m.last) for m in matcher.find(tokens)} == {("x", 2), ("y", 1)}


def test_words_stand_where_they_say_whatever_their_letters() -> None:
    text = "İ Effusion é STRASSE 5.4 mm ﬁ"
    tokens = Tokens(text, 10)
    assert all(10 <= start < end <= 10 + len(text) for start, end in tokens.spans)
    first, last = tokens.spans[tokens.words.index("effusion")]
    assert text[first - 10 : last - 10] == "Effusion"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It isn't seen", "it is not seen"),
        ("can't, won't", "can not , will not"),
        ("Effusion (-), edema ( + )", "effusion negative , edema positive"),
        ("effusion -ve", "effusion negative"),
        ("[ ] edema [x] mass \u2610 effusion", "unchecked edema checked mass unchecked effusion"),
        ("left-sided (small)", "left sided ( small )"),
    ],
)
def test_short_forms_and_signs_are_words(text, words):
    tokens = Tokens(text)
    assert tokens.words == words.split()
    assert len(tokens.spans) == len(tokens.words) and tokens.span(0, 2)[1] == tokens.spans[1][1]


def test_a_matcher_knows_the_words_that_its_phrases_start_with():
    matcher = PhraseMatcher([("x", "pneumothora*"), ("x", "airspace disease"), ("y", "line*")])
    assert matcher.knows("pneumothorax", 6) and matcher.knows("airspace", 3)
    assert not matcher.knows("linelike", 4)  # "line-like" is no broken word
    assert not matcher.knows("disease", 3)
