from pathlib import Path

import pytest

from common.io.bad_input import BadInput
from common.io.exclusion_list import listed_items


def test_names_and_paths_are_found_and_comments_are_not(tmp_path: Path) -> None:
    items = [(name, "study 1", tmp_path / "images" / f"{name}.png") for name in ("a", "b", "c", "d")]
    listing = tmp_path / "list.txt"
    listing.write_text(f"\ufeff# blurred: d\na  # moved\n\nimages/b.png\n{tmp_path}/images/../images/c.png\na\n")
    assert listed_items(listing, tmp_path, items, "case") == {0, 1, 2}
    assert listed_items(None, tmp_path, items, "case") == set()
    listing.write_text("study 1\n")
    assert listed_items(str(listing), tmp_path, items, "case") == {0, 1, 2, 3}


def test_an_input_that_is_a_file_counts_as_its_folder(tmp_path: Path) -> None:
    listing, only = tmp_path / "list.txt", tmp_path / "a.nii.gz"
    only.touch()
    listing.write_text("a.nii.gz\n")
    assert listed_items(listing, only, [("x", only)], "case") == {0}


def test_an_entry_may_be_a_longer_form_of_a_name(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a.nii.gz\n")
    assert listed_items(listing, tmp_path, [("b",), ("a",)], "case", lambda entry: entry.split(".")[0]) == {1}
    with pytest.raises(BadInput, match=r"list.txt: lists 'a.nii.gz', which matches no case or study of the input"):
        listed_items(listing, tmp_path, [("b",), ("a",)], "case or study")


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    with pytest.raises(BadInput, match="list.txt: cannot be read"):
        listed_items(listing, tmp_path, [], "case")
    listing.write_bytes(b"a\xff\n")
    with pytest.raises(BadInput, match=r"is not UTF-8 text \(byte 1\)"):
        listed_items(listing, tmp_path, [], "case")
