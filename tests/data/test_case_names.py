"""Names of cases: different for different inputs, and such as a file can have."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.data.case_names import LONGEST, file_name, unique_names, unique_texts
from common.data.ct.volume import case_name

TEXTS = st.one_of(
    st.text(st.sampled_from("aAbé\u0301É_./ 2"), max_size=4), st.text(max_size=20), st.text("xX", min_size=225)
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a$b", "a$b"),
        (" ", " "),
        ("-x", "-x"),
        ("aux", "aux"),
        ("a/b", "a_b"),
        ("", "_"),
        (".hidden", "_.hidden"),
        ("..", "_.."),
        ("M\udcfcller", "Müller"),
    ],
)
def test_a_text_becomes_the_name_of_a_file(text, name):
    assert file_name(text) == name


def test_a_long_name_keeps_its_beginning():
    name = file_name("é" * 200)
    assert name.startswith("é" * 100) and len(name.encode()) <= LONGEST and name != file_name("é" * 201)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=8, unique=True))
@example(["a", "A", "a_2"])
@example(["é", "e\u0301", "É"])  # https://github.com/commontk/CTK/issues/404
@example(["x" * 300, "x" * 301, "x" * 300 + "_2"])
@example(["a/b", "a_b", "..", ".", " ", "\0"])
def test_no_two_texts_get_one_name(texts):
    names = unique_texts(texts)
    spelt = [unicodedata.normalize("NFC", name).casefold() for name in names]
    assert len(set(spelt)) == len(names) and names == unique_texts(texts)
    for text, name in zip(texts, names, strict=True):
        assert len(name.encode()) <= LONGEST + 4 and not set(name) & {"/", "\0"} and not name.startswith(".")
        alone = [unicodedata.normalize("NFC", other).casefold() for other in map(file_name, texts)]
        if file_name(text) == text and alone.count(unicodedata.normalize("NFC", text).casefold()) == 1:
            assert name == text


def test_unique_names_of_a_single_input():
    path = Path("/x/a.nii.gz")
    assert unique_names([path], path, case_name) == ["a"]
