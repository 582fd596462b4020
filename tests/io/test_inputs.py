"""The guard of what is read."""

import os
from pathlib import Path

import pytest

from common.io.bad_input import BadInput
from common.io.inputs import is_same, reading, refuse_input, refuse_output_folder
from common.io.output_folder import write_text


def test_the_guard_knows_files_by_their_place_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("mine")
    (tmp_path / "b.txt").write_text("mine")
    write_text(tmp_path / "in" / "free.txt", "x")  # nothing is read
    with reading(tmp_path / "in", "b.txt", None):
        for path in ("in/a.txt", "in/deep/new/x", "../" + tmp_path.name + "/in/y", "b.txt"):
            with pytest.raises(BadInput, match=r"lies inside the input|is the input b.txt itself"):
                write_text(Path(path), "x")
        with pytest.raises(BadInput, match="holds the input itself, b.txt"):
            refuse_output_folder(tmp_path)
        with pytest.raises(BadInput, match="would be made anew and holds the input"):
            refuse_input(tmp_path, whole=True)
        with reading(tmp_path / "c"):
            with pytest.raises(BadInput, match="is the input b.txt itself"):
                refuse_input("b.txt")
        write_text(tmp_path / "c", "x")
    refuse_input("b.txt")
    assert (tmp_path / "b.txt").read_text() == "mine" == (tmp_path / "in" / "a.txt").read_text()


def test_one_file_by_two_names(tmp_path):
    (tmp_path / "a").write_text("")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "d").write_text("")
    assert is_same(tmp_path / "a", tmp_path / "b") and is_same(tmp_path / "c", tmp_path / "a")
    assert not is_same(tmp_path / "a", tmp_path / "d")
    assert is_same(tmp_path / "new", tmp_path / "x" / ".." / "new") and not is_same(tmp_path / "new", tmp_path / "a")
