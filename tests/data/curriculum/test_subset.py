"""What the single steps choose and leave out; `test_mimic_steps` runs them one after another."""

import csv
import io
import shutil
from collections import Counter
from pathlib import Path

import pytest

from common.data.curriculum.subset import chexpert, ehr, impressions, json_lines, manifest, read_json_lines, subset
from common.io.bad_input import BadInput
from tests.data.cxr.mimic_tree import edit_table, make_tree, read_table

OPTIONS = {"n_images": 10003, "seed": 0, "labeller": "chexpert", "download": False}


@pytest.fixture(scope="module")
def tree(made_once):
    return made_once("mimic_steps", make_tree)[0] / "mimic"


@pytest.fixture
def spoilt(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "mimic")
    return tmp_path / "mimic"


def chosen(root, **options):
    result = subset(root, root, **OPTIONS | options)
    return list(csv.DictReader(io.StringIO(result.files["selected_images.csv"]))), result


def test_patients_are_taken_whole_in_an_order_of_the_seed(tree):
    every, result = chosen(tree)
    size = Counter(row["subject_id"] for row in every)
    assert result.counts["images"] == len(every) == 33 and result.counts["patients"] == len(size) == 24
    assert len({row["study_id"] for row in every}) == 33 and not result.excluded and max(size.values()) > 1
    picks = []
    for n in (1, 2, 7, 20, 32):
        rows, found = chosen(tree, n_images=n)
        taken = Counter(row["subject_id"] for row in rows)
        assert len(rows) <= n and all(size[patient] == count for patient, count in taken.items())
        left = [count for patient, count in size.items() if patient not in taken]
        assert len(rows) + min(left) > n  # nobody who is left would fit
        assert found.counts["not_chosen"] == 33 - len(rows) and found.counts["wanted"] == n
        assert rows == [row for row in every if row in rows]  # in the same order
        picks.append({row["subject_id"] for row in rows})
    assert chosen(tree, n_images=7)[0] == chosen(tree, n_images=7)[0] != chosen(tree, n_images=7, seed=1)[0]


def test_too_few_for_a_single_patient(spoilt):
    patients = Counter(row["subject_id"] for row in chosen(spoilt)[0])
    edit_table(
        spoilt / "mimic-cxr-2.0.0-metadata.csv.gz",
        lambda table: [row for row in table if patients[row["subject_id"]] > 1],
    )
    with pytest.raises(BadInput, match="mimic: has no patient with at most 1 usable frontal X-rays, expected one"):
        chosen(spoilt, n_images=1)


def test_without_any_image_the_first_reason_is_told(spoilt):
    shutil.rmtree(spoilt / "files")
    with pytest.raises(BadInput, match=r"X-rays, expected one; the first left out: s\d+ has no image, expected"):
        chosen(spoilt)


def test_one_frontal_x_ray_of_a_study(spoilt):
    path = spoilt / "mimic-cxr-2.0.0-metadata.csv.gz"
    views = {}
    for row in read_table(path):
        views.setdefault(row["study_id"], {})[row["ViewPosition"]] = row
    both = next(own["LATERAL"]["study_id"] for own in views.values() if "LATERAL" in own)
    edit_table(path, lambda table: [row | ({"ViewPosition": "AP"} if row["study_id"] == both else {}) for row in table])
    rows, result = chosen(spoilt)
    (row,) = [row for row in rows if row["study_id"] == both]
    assert row["dicom_id"] == views[both]["PA"]["dicom_id"] and len(rows) == 33  # the first of the two
    (spoilt / row["path"]).unlink()
    (again,) = [row for row in chosen(spoilt)[0] if row["study_id"] == both]
    assert again["dicom_id"] == views[both]["LATERAL"]["dicom_id"]  # the first that is there
    lateral = {"ViewPosition": "LATERAL"}
    edit_table(path, lambda table: [row | (lateral if row["study_id"] == both else {}) for row in table])
    rows, result = chosen(spoilt)
    assert len(rows) == 32 and result.excluded == [(f"s{both}", "has no frontal view, expected PA or AP")]


def test_an_image_that_is_none_is_left_out(spoilt):
    rows, _ = chosen(spoilt)
    text, cut = spoilt / rows[0]["path"], spoilt / rows[1]["path"]
    text.write_text("no image")
    cut.write_bytes(cut.read_bytes()[:200])
    found, result = chosen(spoilt)
    assert found == rows[2:]
    reasons = dict(result.excluded)
    assert reasons.keys() == {f"s{row['study_id']}" for row in rows[:2]}
    assert reasons[f"s{rows[0]['study_id']}"].startswith(f"{rows[0]['path']} starts with b")
    assert "damaged" in reasons[f"s{rows[1]['study_id']}"]


def test_the_labels_are_those_of_the_labeller(spoilt, tmp_path):
    (tmp_path / "out").mkdir()
    result = subset(spoilt, tmp_path / "out", **OPTIONS)
    (tmp_path / "out" / "selected_images.csv").write_text(result.files["selected_images.csv"])
    edit_table(
        spoilt / "mimic-cxr-2.0.0-negbio.csv.gz",
        lambda table: [row | {"Edema": "-1.0", "Fracture": ""} for row in table[1:]],
    )
    found = chexpert(spoilt, tmp_path / "out", "negbio")
    assert found.counts["labels"]["Edema"] == {"positive": 0, "negative": 0, "uncertain": 32, "not_mentioned": 0}
    assert found.counts["labels"]["Fracture"]["not_mentioned"] == found.counts["studies"] == 32
    assert [reason for _, reason in found.excluded] == ["has no usable row in mimic-cxr-2.0.0-negbio.csv.gz"]
    assert chexpert(spoilt, tmp_path / "out", "chexpert").counts["without"] == 0


def test_where_nothing_is_left(spoilt, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "selected_images.csv").write_text(subset(spoilt, out, **OPTIONS).files["selected_images.csv"])
    for path in (spoilt / "files").rglob("*.txt"):
        path.write_bytes(b"\xff\xfe" if path.stem.endswith("5") else b"")
    with pytest.raises(BadInput, match="files: has no report with an impression of 33 studies, .* first: s5"):
        impressions(spoilt, out)
    (out / "impressions.csv").write_text("study,impression\ns1,Normal.\n")
    (out / "chexpert.csv").write_text(chexpert(spoilt, out, "chexpert").files["chexpert.csv"])
    with pytest.raises(BadInput, match="has no study that has an impression as well"):
        manifest(spoilt, out)
    edit_table(spoilt / "mimic-iv/hosp/patients.csv.gz", lambda t: [t[0] | {"subject_id": "1"}])
    with pytest.raises(BadInput, match="mimic-iv: has no patient of 33 studies, expected those of the X-rays"):
        ehr(spoilt, out, None)
    with pytest.raises(BadInput, match="has no MIMIC-IV in it or beside it, expected its folder, or .* by --ehr"):
        ehr(spoilt, out, [])


def test_lines_of_json(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"a": "é\u2028\n"}, {"b": [1, None]}]
    path.write_text(json_lines(rows), encoding="utf-8")
    assert read_json_lines(path) == rows
    path.write_text('{"a": 1}\n"b"\n')
    with pytest.raises(BadInput, match="line 2 is a str, expected an object"):
        read_json_lines(path)
    with pytest.raises(BadInput, match="b.jsonl: cannot be read"):
        read_json_lines(Path(tmp_path / "b.jsonl"))
