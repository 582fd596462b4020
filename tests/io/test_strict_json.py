import pytest

from common.io.strict_json import parse_object


def test_an_object_is_read():
    assert parse_object(' {"a": [1, 2.5, null], "b": {"c": "\\u00e9"}}\n') == {"a": [1, 2.5, None], "b": {"c": "é"}}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", '"a"', "null", '{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1, "a": 1}',
     '{"b": {"a": 1, "a": 2}}', '```json\n{"a": 1}\n```', 'Answer: {"a": 1}', '{"a": 1} done', "{'a': 1}", '{"a": 1,}',
     '{"a": 1', "[" * 100_000],
)  # fmt: skip
def test_anything_else_is_none(text):
    assert parse_object(text) is None
