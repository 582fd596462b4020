import pickle
from pathlib import Path

import pytest

from common.io.bad_input import BadInput, read_text


def test_a_text_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_text(path, "a report") == "one\r\ntwo"
    path.write_bytes(b"one\xff")
    with pytest.raises(BadInput, match=r"a.txt: is not UTF-8 text \(byte 3\)\.$"):
        read_text(path, "a report")
    for other in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(BadInput, match=r": cannot be read \(.*\), expected a report\.$"):
            read_text(other, "a report")


def test_it_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadInput("s3://b/a.csv", "is empty.")))
    assert str(error) == "s3://b/a.csv: is empty." and error.path == Path("s3://b/a.csv")
