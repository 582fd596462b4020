import random

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import JPEG2000Lossless, RLELossless

from common.data.ct.dicom import read_dicom
from common.io.bad_input import BadInput
from tests.data.ct.bad_ct import (
    AFFINE,
    BAD_KEYWORDS,
    tiny_hu,
    tiny_series,
    write_bad_ct,
    write_series,
    write_zip,
)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return write_bad_ct(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize(
    "name", [name for name in BAD_KEYWORDS if name.startswith("dicom") and name != "dicom_no_patient"]
)
def test_bad_dicom_is_refused_naming_the_files(bad, name):
    with pytest.raises(BadInput) as caught:
        read_dicom(bad[name])
    assert BAD_KEYWORDS[name] in caught.value.reason
    assert caught.value.path == bad[name]
    assert "bad-1" not in str(caught.value), "patient ids stay out of messages"


def test_slices_are_sorted_by_position_not_by_name(tmp_path):
    slices = tiny_series(patient=" 000123 ")
    random.Random(0).shuffle(slices)
    volume = read_dicom(write_series(tmp_path / "1.2.840.1", slices))
    np.testing.assert_array_equal(volume.hu, tiny_hu())
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert (volume.case, volume.patient, volume.hu.dtype) == ("1.2.840.1", "000123", np.int16)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, -1, 0], [0, 1, 0, 0, 0, -1]])
def test_geometry_agrees_with_simpleitk(tmp_path, orientation):
    slices = tiny_series()
    normal = np.cross(orientation[:3], orientation[3:])
    for k, ds in enumerate(slices):
        ds.ImageOrientationPatient = orientation
        ds.ImagePositionPatient = list(np.array([5.0, -7, 11]) + 2.5 * k * normal)
        ds.PixelSpacing = [1.25, 0.75]
    volume = read_dicom(write_series(tmp_path / "s", slices))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "itk.nii.gz"))
    expected = nib.load(tmp_path / "itk.nii.gz")
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(volume.hu, np.asarray(expected.dataobj))


def test_slope_of_each_slice_and_padding(tmp_path):
    slices = tiny_series()
    slices[2].RescaleSlope, slices[2].RescaleIntercept = 0.5, -1024
    slices[3].PixelRepresentation = 1
    slices[3].RescaleIntercept = 0
    raw = np.full((24, 20), -2000, np.int16)
    slices[3].PixelData = raw.tobytes()
    hu = read_dicom(write_series(tmp_path / "s", slices)).hu
    assert hu.dtype == np.float32
    np.testing.assert_allclose(hu[:, :, 2], (tiny_hu()[:, :, 2] + 1024) * 0.5 - 1024)
    assert (hu[:, :, 3] == -1024).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_are_decoded(tmp_path, syntax):
    slices = tiny_series()
    if syntax == RLELossless:
        for ds in slices:
            ds.compress(syntax)
    else:
        image = pytest.importorskip("PIL.Image")
        features = pytest.importorskip("PIL.features")
        if not features.check("jpg_2000"):
            pytest.skip("Pillow has no JPEG 2000 here")
        for ds in slices:
            _compress_with_pillow(ds, image)
    volume = read_dicom(write_series(tmp_path / "s", slices))
    np.testing.assert_array_equal(volume.hu, tiny_hu())


def _compress_with_pillow(ds, image):
    import io

    buffer = io.BytesIO()
    image.fromarray(ds.pixel_array).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    ds["PixelData"].VR = "OB"


def test_companion_files_are_passed_over_and_strangers_named(tmp_path):
    folder = write_series(tmp_path / "s")
    for name in ("DICOMDIR", "LICENSE", "notes.txt", "meta.xml", "a.csv", ".DS_Store"):
        (folder / name).write_bytes(b"not an image")
    assert read_dicom(folder).hu.shape == (20, 24, 12)
    (folder / "slice_012.dcm").write_bytes(b"not an image")
    with pytest.raises(BadInput, match="slice_012.dcm is not a DICOM file"):
        read_dicom(folder)


def _set(keyword, value, index):
    def change(slices):
        for ds in slices if index is None else [slices[index]]:
            setattr(ds, keyword, value)

    return change


def _delete(keyword, index):
    def change(slices):
        delattr(slices[index], keyword)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("PixelSpacing", [1.5, 1.6], 4), "slice_004.dcm has PixelSpacing"),
        (_set("PixelSpacing", [0, 0], None), "expected positive mm"),
        (_set("ImageOrientationPatient", [0, 1, 0, 1, 0, 0], 4), "slice_004.dcm has ImageOrientationPatient"),
        (_set("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], None), "expected two unit vectors"),
        (_set("PhotometricInterpretation", "MONOCHROME1", None), "'MONOCHROME1', expected MONOCHROME2"),
        (_set("NumberOfFrames", 3, 1), "slice_001.dcm is a multi-frame image"),
        (_set("RescaleSlope", 0, 2), "slice_002.dcm has RescaleSlope 0"),
        (_delete("RescaleIntercept", 2), "slice_002.dcm has no RescaleIntercept"),
        (_delete("ImagePositionPatient", 2), "slice_002.dcm has no ImagePositionPatient"),
        (_delete("PatientID", 2), "slice_002.dcm has no PatientID"),
        (_delete("PixelData", 2), "slice_002.dcm has no pixel data"),
        (_delete("Modality", 2), "slice_002.dcm has modality 'missing'"),
        (_set("ImagePositionPatient", [-20, -30, -38.5], 1), "uneven step|gap"),
        (_set("RescaleIntercept", 0, None), "not CT in HU"),
    ],
)
def test_other_faults(tmp_path, change, reason):
    slices = tiny_series()
    change(slices)
    with pytest.raises(BadInput, match=reason):
        read_dicom(write_series(tmp_path / "s", slices))


def test_rounded_positions_are_no_gap(tmp_path):
    slices = tiny_series()
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [-20, -30, round(0.625 * k, 1)]
    assert read_dicom(write_series(tmp_path / "s", slices)).spacing[2] == pytest.approx(0.625, abs=0.01)


def test_truncated_file_and_garbage_stream(tmp_path):
    folder = write_series(tmp_path / "s")
    whole = (folder / "slice_003.dcm").read_bytes()
    for length in (140, 300, 500, 700, len(whole) - 1):
        (folder / "slice_003.dcm").write_bytes(whole[:length])
        with pytest.raises(BadInput, match="slice_003.dcm"):
            read_dicom(folder)


def test_empty_folder_and_bad_zips(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no DICOM file"):
        read_dicom(tmp_path / "empty")
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BadInput, match="not a readable zip"):
        read_dicom(tmp_path / "a.zip")
    with pytest.raises(BadInput, match="points outside the zip"):
        read_dicom(write_zip(tmp_path / "absolute.zip", prefix="/tmp/"))


def test_an_anonymised_series_can_be_read_but_has_no_patient(bad):
    # preparation refuses it (tests/data/ct/test_prepare.py): a split by patient needs the id
    assert read_dicom(bad["dicom_no_patient"]).patient == ""
