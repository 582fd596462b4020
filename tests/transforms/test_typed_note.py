from types import SimpleNamespace

from common.transforms.typed_note import TypedNoted


def test_the_inferer_gets_the_note_of_the_data_as_it_is():
    inferer = SimpleNamespace(note="before")
    assert TypedNoted(inferer)({"image": 1}) == {"image": 1} and inferer.note == "before"
    for text in ("$1 / 0", "@seed", ""):
        assert TypedNoted(inferer)({"image": 1, "note": text}) == {"image": 1, "note": text} and inferer.note == text
    TypedNoted(inferer)({"note": None})
    assert inferer.note is None
