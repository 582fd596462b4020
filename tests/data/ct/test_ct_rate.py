import csv
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.data.ct.ct_rate import CT_RATE_LABELS, CT_RATE_REPORT, list_ct_rate, read_ct_rate
from common.data.ct.reader import read_ct
from common.data.prepare import prepare_data
from common.io.bad_input import BadInput
from tests.data.ct.bad_ct import AFFINE, tiny_hu, write_volume

HEADERS = Path(__file__).resolve().parents[4] / "shared" / "data" / "layouts" / "ct-rate"
METADATA = {
    "RescaleSlope": "1", "RescaleIntercept": "-1024", "XYSpacing": "[1.5, 1.5]", "ZSpacing": "2.5",
    "ImagePositionPatient": "[-20, -30, -40]", "ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]", "PatientAge": "036Y",
}  # fmt: skip


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labels(name, *positive):
    return {"VolumeName": name} | {label: int(label in positive) for label in CT_RATE_LABELS}


def image(root, folder, case, hu):
    patient, scan = case.rsplit("_", 2)[0], case.rsplit("_", 1)[0]
    return write_volume(root / "dataset" / folder / patient / scan / f"{case}.nii.gz", hu)


@pytest.fixture
def tree(tmp_path):
    """Train patients 1 (two reconstructions) and 10 in `_fixed`, 2 in the plain folder; valid patient 1 in `_fixed`."""
    root = tmp_path / "in"
    padded = tiny_hu(1)
    padded[:3] = -8192
    image(root, "train_fixed", "train_1_a_1", padded)
    image(root, "train_fixed", "train_1_a_2", tiny_hu(2))
    image(root, "train_fixed", "train_10_a_1", tiny_hu(3))
    image(root, "train", "train_2_a_1", tiny_hu(4) + 1024)
    image(root, "valid_fixed", "valid_1_a_1", tiny_hu(5))
    data = root / "dataset"
    table(
        data / "multi_abnormality_labels" / "train_predicted_labels.csv",
        [
            labels("train_1_a_1.nii.gz", "Emphysema", "Lung nodule"),
            labels("train_1_a_2.nii.gz", "Emphysema", "Lung nodule"),
            labels("train_10_a_1"),
            labels("train_2_a_1", "Atelectasis"),
        ],
    )
    table(data / "multi_abnormality_labels" / "valid_predicted_labels.csv", [labels("valid_1_a_1.nii.gz")])
    report = {"ClinicalInformation_EN": "Not given.", "Technique_EN": "CT", "Findings_EN": "Clear.\nNo mass."}
    table(
        data / "radiology_text_reports" / "train_reports.csv",
        [{"VolumeName": "train_1_a_2.nii.gz"} | report | {"Impressions_EN": "Not given."}],
    )
    table(
        data / "metadata" / "train_metadata.csv",
        [{"VolumeName": name} | METADATA for name in ("train_1_a_1.nii.gz", "train_2_a_1.nii.gz")],
    )
    return root


def test_the_18_labels_are_those_of_the_data_set():
    assert len(set(CT_RATE_LABELS)) == 18
    if not HEADERS.is_dir():
        pytest.skip(f"{HEADERS} is not here")
    for name in ("train", "valid"):
        header = (HEADERS / f"{name}_predicted_labels.header.csv").read_text().strip().split(",")
        assert header == ["VolumeName", *CT_RATE_LABELS]
    header = (HEADERS / "train_reports.header.csv").read_text().strip().split(",")
    assert header == ["VolumeName", *CT_RATE_REPORT]


def test_listing(tree):
    for root in (tree, tree / "dataset"):
        images, problems = list_ct_rate(root)
        assert not problems
        assert [image.case for image in images] == [
            "train_1_a_1", "train_1_a_2", "train_2_a_1", "train_10_a_1", "valid_1_a_1",
        ]  # fmt: skip
    first = images[0]
    assert (first.scan, first.patient, first.split, first.fixed) == ("train_1_a", "train_1", "train", True)
    assert [name for name, value in first.labels.items() if value] == ["Emphysema", "Lung nodule"]
    assert first.report["Findings_EN"] == "Clear.\nNo mass." and first.report["Impressions_EN"] is None
    assert images[-1].split == "val" and images[-1].report["Findings_EN"] is None


def test_prepare_keeps_one_row_per_scan_with_labels_and_report(tree, tmp_path):
    result = prepare_data(tree, tmp_path / "out", "ct_rate")
    rows = {row["scan"]: row for row in read(result.manifest)}
    assert {row["case"]: row["split"] for row in rows.values()} == {
        "train_1_a_1": "train", "train_2_a_1": "train", "train_10_a_1": "train", "valid_1_a_1": "val",
    }  # fmt: skip
    assert rows["train_1_a"]["Lung nodule"] == "1" and rows["train_10_a"]["Lung nodule"] == "0"
    assert rows["train_1_a"]["Findings_EN"] == "Clear.\nNo mass." and rows["train_1_a"]["Impressions_EN"] == ""
    (spare,) = read(result.excluded)
    assert spare["path"].endswith("train_1_a_2.nii.gz") and "scan train_1_a is represented by" in spare["reason"]
    assert result.summary["counts"]["without_report"] == 3 and result.summary["counts"]["bad"] == 0
    assert rows["train_1_a"]["image"].startswith(str(tree)), "a _fixed image is referenced"
    converted = read_ct(rows["train_2_a"]["image"])
    assert rows["train_2_a"]["image"].startswith(str(tmp_path / "out"))
    np.testing.assert_array_equal(converted.hu, tiny_hu(4))
    padded = read_ct(rows["train_1_a"]["image"]).hu
    assert (padded[:3] == -1024).all()
    before = [path.read_bytes() for path in (result.manifest, result.excluded, result.summary_file)]
    prepare_data(tree, tmp_path / "out", "ct_rate", workers=2)
    assert [path.read_bytes() for path in (result.manifest, result.excluded, result.summary_file)] == before


def test_the_next_reconstruction_stands_in_for_a_bad_one(tree, tmp_path):
    image(tree, "train_fixed", "train_1_a_1", np.zeros((5, 5, 5), np.int16))
    result = prepare_data(tree, tmp_path / "out", "ct_rate")
    assert "train_1_a_2" in {row["case"] for row in read(result.manifest)}
    assert "constant volume" in read(result.excluded)[0]["reason"]


def test_a_fixed_copy_is_preferred_to_the_plain_one(tree):
    image(tree, "train_fixed", "train_2_a_1", tiny_hu(4))
    copies = [image for image in list_ct_rate(tree)[0] if image.case == "train_2_a_1"]
    assert [copy.fixed for copy in copies] == [True, False]
    np.testing.assert_array_equal(*(read_ct_rate(copy).hu for copy in copies))


def plain(tree, change=None, hu=None, affine=AFFINE):
    """The plain image train_2_a_1 with a changed metadata row or other values."""
    path = tree / "dataset" / "metadata" / "train_metadata.csv"
    table(path, [{"VolumeName": "train_2_a_1"} | METADATA | (change or {})])
    target = image(tree, "train", "train_2_a_1", tiny_hu(4) + 1024)
    write_volume(target, tiny_hu(4) + 1024 if hu is None else hu, affine)
    return next(image for image in list_ct_rate(tree)[0] if image.case == "train_2_a_1")


def test_what_is_neither_hu_nor_rescalable_is_refused(tree):
    with pytest.raises(BadInput, match="not CT in HU.*plain folder"):
        read_ct_rate(plain(tree, hu=tiny_hu(4)))
    path = image(tree, "train_fixed", "train_10_a_1", tiny_hu(3) + 1024)
    fixed = next(image for image in list_ct_rate(tree)[0] if image.path == path)
    with pytest.raises(BadInput, match="not CT in HU.*_fixed folder"):
        read_ct_rate(fixed)


def test_a_header_that_rescales_is_not_rescaled_again(tree):
    found = plain(tree)
    raw = bytearray(gzip.decompress(found.path.read_bytes()))
    raw[112:120] = np.float32([1, -1024]).tobytes()  # scl_slope, scl_inter
    found.path.write_bytes(gzip.compress(raw))
    np.testing.assert_array_equal(read_ct_rate(found).hu, tiny_hu(4))


def test_geometry_of_a_plain_image_comes_from_its_row_when_the_header_is_wrong(tree):
    wrong = np.diag([1.0, 1, 1, 1])
    np.testing.assert_allclose(read_ct_rate(plain(tree, affine=wrong)).affine, np.diag([-1, -1, 1, 1]) @ [
        [1.5, 0, 0, -20], [0, 1.5, 0, -30], [0, 0, 2.5, -40], [0, 0, 0, 1],
    ])  # fmt: skip
    assert read_ct_rate(plain(tree, {"ZSpacing": ""})).spacing == pytest.approx((1.5, 1.5, 2.5))
    for change, reason in [
        ({"ZSpacing": ""}, "has no ZSpacing"),
        ({"XYSpacing": ""}, "has no XYSpacing"),
        ({"XYSpacing": "1.5"}, "has XYSpacing '1.5'"),
        ({"RescaleSlope": ""}, "has RescaleSlope ''"),
        ({"ImagePositionPatient": ""}, "ImagePositionPatient"),
    ]:
        with pytest.raises(BadInput, match=reason):
            read_ct_rate(plain(tree, change, affine=wrong))


def test_a_plain_image_without_a_row_is_refused(tree):
    (tree / "dataset" / "metadata" / "train_metadata.csv").unlink()
    found = next(image for image in list_ct_rate(tree)[0] if not image.fixed)
    with pytest.raises(BadInput, match="no row in the metadata table"):
        read_ct_rate(found)


def test_what_cannot_be_used_is_listed(tree, tmp_path):
    data = tree / "dataset"
    (data / "metadata" / "no_chest_train.txt").write_text("train_10_a_1\n")
    image(tree, "valid_fixed", "valid_7_a_1", tiny_hu())
    write_volume(data / "valid_fixed" / "valid_1" / "valid_1_a" / "copy of valid.nii.gz")
    table(
        data / "multi_abnormality_labels" / "train_predicted_labels.csv",
        [
            labels("train_1_a_1"),
            labels("train_1_a_2", "Emphysema"),
            labels("train_2_a_1"),
            labels("train_2_a_1.nii.gz"),
            labels("train_10_a_1") | {"Emphysema": "2"},
            labels("train_99_a_1"),
        ],
    )
    images, problems = list_ct_rate(tree)
    assert [image.case for image in images] == ["train_2_a_1", "valid_1_a_1"]
    text = "\n".join(map(str, problems))
    for reason in (
        "train_10_a_1.nii.gz: shows no chest according to no_chest_train.txt.",
        "valid_7_a_1.nii.gz: has no usable row in valid_predicted_labels.csv.",
        "copy of valid.nii.gz: is not where CT-RATE has it",
        "row 'train_1_a_2' contradicts another row of scan train_1_a",
        "train_1_a_1.nii.gz: has no usable row",
        "row 'train_2_a_1.nii.gz' occurs twice",
        "row 'train_10_a_1' has Emphysema = '2', expected 0 or 1",
        "row 'train_99_a_1' has no image",
    ):
        assert reason in text
    result = prepare_data(tree, tmp_path / "out", "ct_rate")
    assert result.summary["counts"]["bad"] == len(problems) - 1


def test_missing_and_damaged_tables(tree, tmp_path):
    with pytest.raises(BadInput, match="not a CT-RATE tree"):
        list_ct_rate(tmp_path)
    path = tree / "dataset" / "multi_abnormality_labels" / "train_predicted_labels.csv"
    shutil.copy(path, tmp_path / "kept.csv")
    path.write_text("VolumeName,Emphysema\ntrain_1_a_1,1\n")
    with pytest.raises(BadInput, match="has no column 'Medical material'"):
        list_ct_rate(tree)
    path.write_bytes((tmp_path / "kept.csv").read_bytes() + b"\xff\xfe")
    images, problems = list_ct_rate(tree)
    assert images and any("is not UTF-8 text" in problem.reason for problem in problems)
    path.unlink()
    with pytest.raises(BadInput, match="does not exist"):
        list_ct_rate(tree)
