import json
from pathlib import Path
from typing import Any

import pytest

from common.data.cxr.r2gen import find_r2gen
from common.io.bad_input import BadInput


def entry(name: str, *images: str, report: Any = "Clear lungs.", split: str = "train", **more: Any) -> dict[str, Any]:
    return {"id": name, "report": report, "image_path": list(images), "split": split, **more}


def write(folder: Path, train: list[Any], val: list[Any] = (), test: list[Any] = (), images: str = "") -> Path:
    content = {"train": train, "val": list(val), "test": list(test)}
    (folder / "annotation.json").write_text(json.dumps(content))
    for name in images.split():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_the_images_of_an_entry_are_one_study(tmp_path: Path) -> None:
    train = [entry("a", "a/0.png", "a/1.png", report="There is a left pleural effusion.")]
    test = [entry("b", "b/0.png", split="test")]
    write(tmp_path, train, (), test, "a/0.png a/1.png b/0.png")
    for source in (tmp_path, tmp_path / "annotation.json"):
        listing = find_r2gen(source)
        assert not listing.problems
        assert [(r.case, r.patient, r.study, r.split, r.view) for r in listing.rows] == [
            ("a_0", "a", "a", "train", "PA"), ("a_1", "a", "a", "train", "LATERAL"), ("b", "b", "b", "test", ""),
        ]  # fmt: skip
        assert [row.labels["Pleural Effusion"] for row in listing.rows] == [1.0, 1.0, None]
        assert listing.rows[0].more == {"report": str(tmp_path / "annotation.json")}


def test_a_report_in_another_language_has_no_labels_and_is_counted(tmp_path: Path) -> None:
    spanish = "Corazón de tamaño normal. Sin derrame pleural ni neumotórax. Pulmones limpios."
    write(tmp_path, [entry("a", "a.png", report=spanish), entry("b", "b.png")], images="a.png b.png")
    listing = find_r2gen(tmp_path)
    assert set(listing.rows[0].labels.values()) == {None} and listing.rows[1].labels["No Finding"] == 1.0
    assert listing.facts["left_out"] == {"reports": {"not in English, all labels blank": 1}}


def test_mimic_entries_name_patient_and_study(tmp_path: Path) -> None:
    more = {"subject_id": 10000032, "study_id": 50414267}
    torn = [entry("d", "d.jpg", subject_id=7, study_id=1), entry("e", "e.jpg", subject_id=7, study_id=2, split="val")]
    write(tmp_path, [entry("c", "p10/c.jpg", **more), torn[0]], [torn[1]], images="p10/c.jpg d.jpg e.jpg")
    listing = find_r2gen(tmp_path)
    assert [(row.case, row.patient, row.study) for row in listing.rows] == [("c", "10000032", "s50414267")]
    assert [problem.reason for problem in listing.problems] == [
        "is of patient 7, who is in train and val, expected one split"
    ] * 2


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    train = [
        entry("good", "good.png"), entry("good", "again.png"), entry("empty", "empty.png", report=" "),
        entry("none", "none.png", report=None), entry("two", "two0.png", "two1.png"), entry("no images"),
        entry("moved", "moved.png", split="val"), entry("out", "../annotation.json"), "text", {"report": "x"},
        entry("same", "same.png", "same.png"),
    ]  # fmt: skip
    write(tmp_path, train, images="good.png again.png empty.png two0.png moved.png extra.png")
    listing = find_r2gen(tmp_path)
    assert [row.case for row in listing.rows] == ["good", "two_0"]
    said = "\n".join(map(str, listing.problems))
    for expected in (
        "annotation.json: entry 'good' (train 2) has an id that another one has.",
        "annotation.json: entry 'empty' has an empty report, expected its text.",
        "annotation.json: entry 'none' has the report None, expected its text.",
        "two1.png: does not exist, entry 'two' names it.",
        "annotation.json: entry 'no images' has image_path [], expected a list of paths.",
        "annotation.json: entry 'moved' is in train and says 'val', expected one split.",
        "lies outside the folder of images, entry 'out' names it.",
        "annotation.json: entry train 9 is a str, expected id, report and image_path.",
        "annotation.json: entry train 10 has the id None, expected a text.",
        "annotation.json: entry 'same' names the image 'same.png' twice.",
        "moved.png: has no entry in annotation.json.",
        "extra.png: has no entry in annotation.json.",
    ):
        assert expected in said, expected
    assert len(listing.problems) == 12


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"train": [', "is no JSON"),
        (b"\xff", "is not UTF-8 text"),
        (b"[]", "holds a list, expected the lists train, val, test"),
        (b'{"train": [], "val": []}', "has 'test' as no list of entries"),
        (b'{"train": [], "val": [], "test": [], "valid": []}', "has 'valid' as no list of entries"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "annotation.json").write_bytes(content)
    with pytest.raises(BadInput, match=says):
        find_r2gen(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="annotation.json: cannot be read"):
        find_r2gen(tmp_path)
