import gzip
import pickle
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import voxel_sizes

from common.data.ct.reader import read_ct
from common.data.ct.volume import (
    CTVolume,
    case_name,
    case_names,
    find_ct,
    rescale,
    validate_hu,
    write_nifti,
)
from common.io.bad_input import BadInput, DiskFailure
from tests.data.ct.bad_ct import AFFINE, SPACING, tiny_hu, tiny_series, write_series, write_volume, write_zip


def test_bad_input_is_one_sentence_and_survives_a_worker():
    error = pickle.loads(pickle.dumps(BadInput(Path("a.nii"), "is empty")))
    assert str(error) == "a.nii: is empty."
    assert (error.path, error.reason) == (Path("a.nii"), "is empty")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("a.b.nii.gz", "a.b"),
        ("1.2.840.10008.nii", "1.2.840.10008"),
        ("d/1.2.840.113", "1.2.840.113"),
        ("x/000123.zip", "000123"),
        ("A.NII.GZ", "A"),
        ("1.3.6.nrrd", "1.3.6"),
        ("a.b.mha", "a.b"),
        (".nii.gz", ".nii.gz"),
    ],
)
def test_case_name_keeps_inner_dots(name, case):
    assert case_name(name) == case


def test_case_names_are_told_apart_by_folder_then_by_ending(tmp_path):
    names = ["a.nii.gz", "a.mha", "a", "b.nii", "x/c.nrrd", "y/c.nrrd", "y/c.nii"]
    expected = ["a_nii_gz", "a_mha", "a", "b", "x_c", "y_c_nrrd", "y_c_nii"]
    assert case_names([tmp_path / name for name in names], tmp_path) == expected


def test_spacing_of_a_rotated_volume():
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[c, -s, 0, 1], [s, c, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]) @ np.diag([0.7, 0.8, 5, 1])
    volume = CTVolume(tiny_hu(), affine, "a", "p", Path("a"))
    assert volume.spacing == pytest.approx((0.7, 0.8, 5))


def test_find_ct_lists_files_series_and_zips_sorted(tmp_path):
    write_volume(tmp_path / "b.nii.gz")
    write_volume(tmp_path / "sub" / "a.nii")
    write_series(tmp_path / "sub" / "series")
    write_series(tmp_path / ".hidden")
    write_zip(tmp_path / "c.zip")
    (tmp_path / "sub" / "README.md").write_text("read me")
    (tmp_path / "sub" / "series" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    names = [str(path.relative_to(tmp_path)) for path in find_ct(tmp_path)]
    assert names == ["b.nii.gz", "c.zip", "sub/a.nii", "sub/series"]
    assert [path.name for path in find_ct(tmp_path, ["nifti"])] == ["b.nii.gz", "a.nii"]
    assert [path.name for path in find_ct(tmp_path, ["dicom"])] == ["c.zip", "series"]
    assert find_ct(tmp_path / "sub" / "series") == [tmp_path / "sub" / "series"]
    assert find_ct(tmp_path / "b.nii.gz") == [tmp_path / "b.nii.gz"]
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in find_ct(tmp_path)] == names
    with pytest.raises(BadInput, match="does not exist"):
        find_ct(tmp_path / "nowhere")


def test_read_ct_dispatches(tmp_path):
    hu = tiny_hu()
    inputs = [write_volume(tmp_path / "n.nii.gz"), write_series(tmp_path / "d"), write_zip(tmp_path / "z.zip")]
    for path in inputs:
        volume = read_ct(path)
        np.testing.assert_array_equal(volume.hu, hu)
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
        assert (volume.case, volume.source) == (case_name(path), path)
        assert volume.spacing == pytest.approx(SPACING)
    (tmp_path / "a.raw").write_bytes(bytes(400))
    for path, reason in [
        (tmp_path / "d" / "slice_000.dcm", "single DICOM file"),
        (tmp_path / "a.raw", "'.raw'"),
        (tmp_path / "none.nii.gz", "does not exist"),
    ]:
        with pytest.raises(BadInput, match=reason):
            read_ct(path)


def test_padding_is_clipped_and_metal_kept():
    hu = tiny_hu()
    hu[:4], hu[-1, -1, -1] = -8192, 20000
    clipped = validate_hu("a", hu.copy())
    assert (clipped.min(), clipped.max(), clipped.dtype) == (-1024, 20000, np.int16)
    clipped = validate_hu("a", hu.astype(np.float32))
    assert (clipped.min(), clipped.max(), clipped.dtype) == (-1024, 20000, np.float32)


@pytest.mark.parametrize(
    "values",
    [
        np.digitize(tiny_hu(), [-500, 0]).astype(np.int16),
        np.clip((tiny_hu() + 1000) / 8, 0, 255).astype(np.uint8).astype(np.int16),
        tiny_hu() + 1024,
        np.where(np.arange(12) < 3, -2000, tiny_hu() + 1024),
        tiny_hu() - 1024,
        (tiny_hu() / 1000).astype(np.float32),
        tiny_hu().astype(np.float32) * 100,
    ],
    ids=["labels", "8 bit", "not rescaled", "not rescaled, padded", "rescaled twice", "normalised", "too large"],
)
def test_what_is_not_hu_is_refused(values):
    with pytest.raises(BadInput, match="not CT in HU"):
        validate_hu("a", values)


def test_a_windowed_or_cropped_ct_is_accepted():
    for values in (np.clip(tiny_hu(), -160, 240), np.clip(tiny_hu(), -1000, 1000), np.maximum(tiny_hu(), -120)):
        np.testing.assert_array_equal(validate_hu("a", values.copy()), values)


def test_rescale_keeps_integers_exact():
    stored = np.array([0, 1024, 4095], np.uint16)
    assert rescale(stored, 1, -1024).tolist() == [-1024, 0, 3071]
    assert rescale(stored, 1, -1024).dtype == np.int16
    assert rescale(stored, 0.5, -1024).dtype == np.float32
    assert rescale(stored, 0.5, -1024).tolist() == [-1024, -512, 1023.5]
    assert rescale(stored, 100, 0).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_write_nifti_is_deterministic_and_complete(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = write_nifti(tmp_path / "a.nii.gz", array, AFFINE)
    image = nib.load(path)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    for matrix, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(matrix, AFFINE, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert voxel_sizes(image.affine) == pytest.approx(SPACING)
    first = path.read_bytes()
    assert write_nifti(path, array, AFFINE).read_bytes() == first
    assert gzip.decompress(first) == write_nifti(tmp_path / "a.nii", array, AFFINE).read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.nii", "a.nii.gz"]
    with pytest.raises(ValueError, match="nii.gz"):
        write_nifti(tmp_path / "a.mha", array, AFFINE)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", tiny_hu(), AFFINE)
    before = path.read_bytes()

    def full(self, stream, **_):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
    with pytest.raises(DiskFailure, match="cannot be written .No space"):
        write_nifti(path, tiny_hu(1), AFFINE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


def test_reading_a_zip_leaves_no_file_behind(tmp_path):
    path = write_zip(tmp_path / "z.zip")
    before = path.read_bytes()
    read_ct(path)
    assert [file.name for file in tmp_path.iterdir()] == ["z.zip"]
    assert path.read_bytes() == before
    assert zipfile.is_zipfile(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_gives_a_volume_or_a_bad_input(tmp_path):
    """Whatever byte is wrong, no other exception leaves the readers: one such would end a whole preparation."""
    slices = tiny_series()[:3]
    folder = write_series(tmp_path / "s", slices)
    inputs = [
        (write_volume(tmp_path / "a.nii"), None, 352),
        (folder / "slice_001.dcm", folder, 1100),
        (write_zip(tmp_path / "z.zip", slices), None, 8000),
    ]
    random = np.random.default_rng(0)
    refused = 0
    for i in range(240):
        file, source, region = inputs[i % 3]
        whole = file.read_bytes()
        raw = bytearray(whole[: random.integers(len(whole))] if i % 10 == 0 else whole)
        for position in random.integers(min(region, len(raw)), size=random.choice([1, 2, 8])) if raw else ():
            raw[position] = random.integers(256)
        file.write_bytes(raw)
        try:
            read_ct(source or file)
        except BadInput as error:
            refused += 1
            assert error.reason
        file.write_bytes(whole)
    assert refused > 60
