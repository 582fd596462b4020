import csv
import random

import nibabel as nib
import numpy as np
import pydicom
import pytest

from common.data.virtual.files import Cohort
from common.data.virtual.layouts import (
    CT_RATE_METADATA_COLUMNS,
    template_report,
    write_ct_rate,
    write_dicom,
    write_nifti,
)
from common.data.virtual.patient import CT_RATE_LABELS, lesion_map, make_virtual_patient, thick_reconstruction
from common.text.ct_labeller import label_ct

SHAPE, SPACING = (24, 40, 44), (3.0, 2.0, 2.0)
SMALL = {"shape": SHAPE, "spacing": SPACING}


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_nifti_reads_back(tmp_path):
    rows = write_nifti(tmp_path, Cohort(5, seed=10, **SMALL))
    assert [row["case"] for row in rows] == [f"virtual_{i:06d}" for i in range(10, 15)]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["valid"]
    p = make_virtual_patient(12, SHAPE, SPACING)
    for key, volume in (("image", p.ct), ("regions", p.regions), ("lesions", lesion_map(p))):
        image = nib.load(tmp_path / rows[2][key])
        assert np.array_equal(np.asanyarray(image.dataobj), volume) and image.get_data_dtype() == volume.dtype
        assert np.allclose(image.affine, p.affine) and nib.aff2axcodes(image.affine) == ("L", "P", "S")
    labels = table(tmp_path / "labels.csv")
    assert labels[0] == ["case", *CT_RATE_LABELS]
    assert labels[3] == ["virtual_000012", *map(str, p.labels.values())]


def test_writing_again_keeps_files_and_completes_missing_ones(tmp_path):
    first = write_nifti(tmp_path, Cohort(2, **SMALL))
    kept, lost = (tmp_path / row["image"] for row in first)
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert write_nifti(tmp_path, Cohort(2, **SMALL)) == first
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == content
    assert not list(tmp_path.rglob(".part*"))


def test_other_content_is_refused(tmp_path):
    write_nifti(tmp_path / "a", Cohort(1, **SMALL))
    with pytest.raises(FileExistsError, match="made with"):
        write_nifti(tmp_path / "a", Cohort(1, seed=1, **SMALL))
    (tmp_path / "b" / "dicom").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="new folder"):
        write_dicom(tmp_path / "b", Cohort(1, **SMALL))
    with pytest.raises(ValueError, match="n 0"):
        write_nifti(tmp_path / "c", Cohort(0, **SMALL))
    assert not (tmp_path / "c").exists()


def test_dicom_reads_back(tmp_path):
    rows = write_dicom(tmp_path, Cohort(1, seed=7, **SMALL))
    files = list((tmp_path / rows[0]["image"]).glob("*.dcm"))
    random.Random(0).shuffle(files)
    slices = sorted((pydicom.dcmread(f) for f in files), key=lambda d: float(d.ImagePositionPatient[2]))
    p = make_virtual_patient(7, SHAPE, SPACING)
    hu = np.stack([d.pixel_array.T * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices], 2)
    assert np.array_equal(hu, p.ct)
    first, last = slices[0], slices[-1]
    position = np.array(first.ImagePositionPatient, float)
    assert np.allclose(position * (-1, -1, 1), p.affine[:3, 3])
    assert np.allclose(float(last.ImagePositionPatient[2]) - position[2], (SHAPE[0] - 1) * SPACING[0])
    assert list(first.PixelSpacing) == [2, 2] and first.SliceThickness == 3
    assert first.PatientSex == p.sex and first.PatientAge == f"{p.age:03d}Y" and first.PatientID == p.case
    assert len({d.SOPInstanceUID for d in slices}) == SHAPE[0] and len({d.SeriesInstanceUID for d in slices}) == 1
    assert all(d.SOPInstanceUID.startswith("2.25.") and d.SOPInstanceUID.is_valid for d in slices)
    names = [f.name for f in sorted(files, key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))]
    assert names != sorted(names) and names != sorted(names, reverse=True)


def test_ct_rate_tree(tmp_path):
    rows = write_ct_rate(tmp_path, Cohort(10, seed=20, **SMALL))
    root = tmp_path / "dataset"
    assert len(rows) == 10 and len({row["case"] for row in rows}) == 10
    assert rows[0]["image"] == "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"
    assert [row["split"] for row in rows] == ["train"] * 8 + ["valid"] * 2
    assert (root / "train_fixed/train_5/train_5_b/train_5_b_1.nii.gz").exists()
    assert (root / "valid_fixed/valid_2/valid_2_a/valid_2_a_1.nii.gz").exists()

    labels = table(root / "multi_abnormality_labels/train_predicted_labels.csv")
    assert labels[0] == ["VolumeName", *CT_RATE_LABELS]
    by_name = {line[0]: line[1:] for line in labels[1:]}
    assert by_name["train_4_a_1.nii.gz"] == by_name["train_4_a_2.nii.gz"]
    reports = table(root / "radiology_text_reports/validation_reports.csv")
    assert ",".join(reports[0]) == "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN"
    assert reports[1] == ["valid_1_a_1.nii.gz", *template_report(make_virtual_patient(27, SHAPE, SPACING)).values()]
    metadata = table(root / "metadata/validation_metadata.csv")
    assert tuple(metadata[0]) == CT_RATE_METADATA_COLUMNS and len(metadata[0]) == 44
    line = dict(zip(*metadata[:2], strict=True))
    assert line["XYSpacing"] == "[2.0, 2.0]" and line["ZSpacing"] == "3.0" and len(line["PatientAge"]) == 4
    assert (root / "metadata/no_chest_train.txt").exists() and (root / "metadata/no_chest_valid.txt").exists()

    p = make_virtual_patient(23, SHAPE, SPACING)
    thin, thick = (nib.load(root / f"train_fixed/train_4/train_4_a/train_4_a_{i}.nii.gz") for i in (1, 2))
    assert np.array_equal(np.asanyarray(thin.dataobj), p.ct)
    volume, affine = thick_reconstruction(p, 2)
    assert np.array_equal(np.asanyarray(thick.dataobj), volume) and np.allclose(thick.affine, affine)
    second = make_virtual_patient(24, SHAPE, SPACING, scan=1)
    assert by_name["train_5_b_1.nii.gz"] == [str(v) for v in second.labels.values()]


def test_ct_rate_reports_say_what_the_labels_say(tmp_path):
    write_ct_rate(tmp_path, Cohort(6, seed=20, **SMALL))
    reports = table(tmp_path / "dataset/radiology_text_reports/train_reports.csv")
    labels = {
        line[0]: line[1:] for line in table(tmp_path / "dataset/multi_abnormality_labels/train_predicted_labels.csv")
    }
    by_name = {name: text for name, *text in reports}
    assert by_name["train_4_a_1.nii.gz"] == by_name["train_4_a_2.nii.gz"], "a report belongs to the scan"
    assert [text[0] for name, *text in reports[1:] if name.startswith("train_5_a")] == ["Not given."]
    agree = [
        value == int(label_ct(f"{text[2]} {text[3]}")[label])
        for name, *text in reports[1:]
        for label, value in zip(CT_RATE_LABELS, map(int, labels[name]), strict=True)
    ]
    assert np.mean(agree) > 0.95, "the text tells another story than the labels"


def test_ct_rate_reports_are_made_again(tmp_path):
    path = tmp_path / "a/dataset/radiology_text_reports/train_reports.csv"
    write_ct_rate(tmp_path / "a", Cohort(3, **SMALL))
    before = path.read_bytes()
    path.unlink()
    write_ct_rate(tmp_path / "a", Cohort(3, **SMALL))
    assert path.read_bytes() == before
