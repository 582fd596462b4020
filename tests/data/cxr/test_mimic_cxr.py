import csv
import gzip
import io
import shutil
from pathlib import Path

import pytest

from common.data.cxr.mimic_cxr import find_mimic_cxr, study_times
from common.data.virtual.cxr_layouts import write_mimic_cxr
from common.data.virtual.files import Cohort
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS

N = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("mimic")
    return root, write_mimic_cxr(root, Cohort(N, 50, (16, 32, 32), (9.0, 10.0, 11.0)))


@pytest.fixture
def tree(written, tmp_path):
    """A copy to spoil."""
    shutil.copytree(written[0], tmp_path / "mimic")
    return tmp_path / "mimic"


def edit(root, name, change, packed=True):
    """Change the rows of a table: ``change`` gets a list of dicts and returns one."""
    path = root / f"mimic-cxr-2.0.0-{name}.csv.gz"
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
    rows = change(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if packed:
        path.write_bytes(gzip.compress(text.getvalue().encode()))
    else:
        path.unlink()
        path.with_suffix("").write_text(text.getvalue())


def only_problem(problems):
    assert len(problems) == 1, problems
    return str(problems[0])


def test_a_good_tree_is_read_as_it_was_written(written):
    root, rows = written
    images, problems = find_mimic_cxr(root)
    assert not problems and len(images) == len(rows)
    for image, row in zip(images, rows, strict=True):
        assert (image.case, image.patient, image.study, image.split, image.view) == tuple(
            row[name] for name in ("case", "patient", "study", "split", "view")
        )
        assert image.path == root / row["image"] and image.more["report"] == str(root / row["report"])
        assert image.labels == {name: row[name] for name in CHEXPERT_LABELS}
        assert tuple(image.labels) == CHEXPERT_LABELS and 2110 <= image.time.year <= 2201
    assert find_mimic_cxr(root, "negbio")[0] == images


def test_tables_may_be_unpacked_and_columns_in_any_order(tree):
    before, _ = find_mimic_cxr(tree)
    for name in ("metadata", "split", "chexpert"):
        edit(tree, name, lambda rows: [dict(reversed(row.items())) for row in rows], packed=False)
    assert find_mimic_cxr(tree) == (before, [])


def test_reports_may_lie_elsewhere_or_be_missing(tree, written):
    before, _ = find_mimic_cxr(tree)
    for text in (tree / "files").rglob("*.txt"):
        text.unlink()
    images, problems = find_mimic_cxr(tree)
    assert not problems and len(images) == len(before) and all(image.more["report"] == "" for image in images)
    images, _ = find_mimic_cxr(tree, reports=written[0])
    assert all(Path(image.more["report"]).is_file() for image in images)


def test_an_open_view_is_blank(tree):
    edit(tree, "metadata", lambda rows: [row | {"ViewPosition": ""} for row in rows])
    images, problems = find_mimic_cxr(tree)
    assert not problems and {image.view for image in images} == {""}


def test_a_row_without_image_and_an_image_without_row(tree):
    images, _ = find_mimic_cxr(tree)
    images[0].path.rename(images[0].path.with_name("other.jpg"))
    left, problems = find_mimic_cxr(tree)
    assert left == images[1:] and len(problems) == 2
    assert "does not exist, but has a row" in str(problems[0]) and problems[0].path == images[0].path
    assert "has no row in the metadata table" in str(problems[1]) and problems[1].path.name == "other.jpg"


def test_the_time_of_a_study_is_its_earliest(tree):
    """Also where that row's image is missing: what was written between the two is no news from before the study."""
    images, _ = find_mimic_cxr(tree)
    study = next(i.study for i in images if sum(j.study == i.study for j in images) > 1)
    (first, time), *others = [(image.case, image.time) for image in images if image.study == study]
    for early, late in ((first, others[0][0]), (others[0][0], first)):
        clock = {early: "000001.000", late: "235959.000"}
        edit(
            tree, "metadata", lambda rows, c=clock: [r | {"StudyTime": c.get(r["dicom_id"], "120000.0")} for r in rows]
        )
        found, _ = find_mimic_cxr(tree)
        expected = time.replace(hour=0, minute=0, second=1, microsecond=0)
        assert {image.time for image in found if image.study == study} == {expected}
        assert {image.time.hour for image in found if image.study != study} == {12}
    others_file = next(image.path for image in images if image.case == others[0][0])
    others_file.unlink()  # the earlier of the two, now
    left, problems = find_mimic_cxr(tree)
    assert "does not exist" in only_problem(problems)
    assert {image.time for image in left if image.study == study} == {expected}


def test_a_second_file_of_an_image(tree):
    images, _ = find_mimic_cxr(tree)
    copy = images[0].path.with_suffix(".png")
    copy.write_bytes(b"")
    left, problems = find_mimic_cxr(tree)
    assert left == images and problems[0].path == copy and "is a second file of image" in only_problem(problems)


def test_an_image_in_the_wrong_folder(tree):
    images, _ = find_mimic_cxr(tree)
    target = images[0].path.parent.parent / "s1" / images[0].path.name
    target.parent.mkdir()
    images[0].path.rename(target)
    left, problems = find_mimic_cxr(tree)
    assert left == images[1:] and "lies elsewhere" in only_problem(problems)


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("metadata", {"StudyDate": "1"}, "image"),
        ("metadata", {"study_id": "5x"}, "expected digits"),
        ("split", {"split": "dev"}, "'dev', expected train, validate, test"),
        ("chexpert", {"Edema": "2"}, "has Edema '2', expected 1.0, 0.0, -1.0 or blank"),
    ],
)
def test_an_unknown_value_costs_its_images_and_no_other(tree, table, change, reason):
    images, _ = find_mimic_cxr(tree)
    edit(tree, table, lambda rows: [rows[0] | change, *rows[1:]])
    left, problems = find_mimic_cxr(tree)
    lost = [image for image in images if image not in left]
    assert lost and {image.study for image in lost} == {images[0].study} and len(left) + len(lost) == len(images)
    assert reason in str(problems[0])


@pytest.mark.parametrize("table", ["metadata", "split", "chexpert"])
def test_a_missing_row_costs_its_images_and_no_other(tree, table):
    images, _ = find_mimic_cxr(tree)
    edit(tree, table, lambda rows: rows[1:])
    left, problems = find_mimic_cxr(tree)
    lost = [image for image in images if image not in left]
    assert {image.study for image in lost} == {images[0].study} and len(problems) == len(lost)
    assert all("has no" in str(problem) for problem in problems)


@pytest.mark.parametrize("table", ["metadata", "chexpert"])
def test_repeated_ids_are_not_guessed_at(tree, table):
    images, _ = find_mimic_cxr(tree)
    other = {"metadata": {"ViewPosition": "LL"}, "chexpert": {"Edema": "-1.0", "Fracture": "-1.0"}}[table]
    edit(tree, table, lambda rows: [rows[0], rows[0] | other, *rows[1:]])
    left, problems = find_mimic_cxr(tree)
    assert images[0] not in left and problems
    assert {image.study for image in images if image not in left} == {images[0].study}


def test_a_patient_in_two_splits_is_left_out(tree):
    images, _ = find_mimic_cxr(tree)
    patient = next(i.patient for i in images if sum(j.patient == i.patient for j in images) > 1)
    first = next(image for image in images if image.patient == patient)
    other = "test" if first.split != "test" else "train"
    edit(
        tree, "split", lambda rows: [row | ({"split": other} if row["dicom_id"] == first.case else {}) for row in rows]
    )
    left, problems = find_mimic_cxr(tree)
    assert {image.patient for image in images} - {image.patient for image in left} == {patient}
    assert all("expected one split" in str(problem) for problem in problems)


def test_tables_that_cannot_be_read_are_named(tree, tmp_path):
    with pytest.raises(ValueError, match="labeller is 'chexbert'"):
        find_mimic_cxr(tree, "chexbert")
    with pytest.raises(BadInput, match="has no mimic-cxr-2.0.0-split.csv or .csv.gz"):
        find_mimic_cxr(tmp_path)
    split = tree / "mimic-cxr-2.0.0-split.csv.gz"
    split.write_bytes(split.read_bytes()[:-20])
    with pytest.raises(BadInput, match="split.csv.gz: is a damaged gzip file"):
        find_mimic_cxr(tree)
    split.write_bytes(gzip.compress(b"dicom_id,study_id\n1,2\n"))
    with pytest.raises(BadInput, match="has no column 'split'"):
        find_mimic_cxr(tree)


def test_images_that_are_not_there_are_listed_if_asked_for(tree):
    before, _ = find_mimic_cxr(tree)
    before[0].path.unlink()
    images, problems = find_mimic_cxr(tree)
    assert images == before[1:] and "does not exist, but has a row" in only_problem(problems)
    assert find_mimic_cxr(tree, absent=True) == (before, [])
    shutil.rmtree(tree / "files")
    images, problems = find_mimic_cxr(tree, absent=True)
    assert not problems and [image.path for image in images] == [image.path for image in before]


def test_times_of_studies(tree):
    images, _ = find_mimic_cxr(tree)
    assert study_times(tree) == {image.study[1:]: image.time for image in images}
