from common.llm import report_answers as in_llm
from common.text import report_answers as in_text


def test_the_room_of_language_models_has_those_of_the_texts():
    assert in_llm.__all__ == in_text.__all__
    assert all(getattr(in_llm, name) is getattr(in_text, name) for name in in_llm.__all__)
