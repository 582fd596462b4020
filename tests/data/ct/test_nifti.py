import csv
import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.ct.nifti import load_nifti
from common.data.ct.reader import read_ct
from common.data.ct.volume import write_nifti
from common.io.bad_input import BadInput
from tests.data.ct.bad_ct import AFFINE, BAD_KEYWORDS, tiny_hu, write_bad_ct, write_volume

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "ct"


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return write_bad_ct(tmp_path_factory.mktemp("bad"))


def patched(path, offset, data):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(data)] = data
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


@pytest.mark.parametrize("name", [name for name in BAD_KEYWORDS if name.startswith("nifti")])
def test_bad_nifti_is_refused_by_name(bad, name):
    with pytest.raises(BadInput) as caught:
        read_ct(bad[name])
    assert BAD_KEYWORDS[name] in caught.value.reason
    assert str(bad[name]) in str(caught.value)


def test_int16_stays_int16_and_patient_is_the_case(tmp_path):
    volume = read_ct(write_volume(tmp_path / "a.b.nii.gz"))
    assert (volume.hu.dtype, volume.case, volume.patient) == (np.int16, "a.b", "a.b")
    assert volume.affine.dtype == np.float64
    volume.hu[0, 0, 0] = 7  # writable, as torch wants it


@pytest.mark.parametrize(
    ("stored", "dtype"), [(np.int32, np.int16), (np.float64, np.float32), (np.float32, np.float32), (">i2", np.int16)]
)
def test_stored_types(tmp_path, stored, dtype):
    image = nib.Nifti1Image(tiny_hu().astype(stored), AFFINE, dtype=stored)
    nib.save(image, tmp_path / "a.nii")
    hu = read_ct(tmp_path / "a.nii").hu
    assert hu.dtype == dtype
    np.testing.assert_array_equal(hu, tiny_hu())


def test_nifti2_and_big_endian_headers(tmp_path):
    nib.save(nib.Nifti2Image(tiny_hu(), AFFINE), tmp_path / "two.nii.gz")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(tiny_hu(), AFFINE, header), tmp_path / "big.nii.gz")
    for name in ("two", "big"):
        volume = read_ct(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(volume.hu, tiny_hu())
        np.testing.assert_allclose(volume.affine, AFFINE)


@pytest.mark.parametrize(("slope", "intercept", "dtype"), [(1, -1024, np.int16), (0.5, -1024, np.float32)])
def test_header_scaling_is_applied_once(tmp_path, slope, intercept, dtype):
    stored = np.round((tiny_hu() - intercept) / slope).astype(np.int16)
    path = patched(write_volume(tmp_path / "a.nii.gz", stored), 112, struct.pack("<2f", slope, intercept))
    hu = read_ct(path).hu
    assert hu.dtype == dtype
    np.testing.assert_array_equal(hu, tiny_hu())


def test_a_fourth_axis_of_one_is_accepted(tmp_path):
    volume = read_ct(write_volume(tmp_path / "a.nii.gz", tiny_hu()[..., None]))
    np.testing.assert_array_equal(volume.hu, tiny_hu())


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (80, struct.pack("<f", 1.6), "contradicts itself about spacing: 1.6, 1.5, 2.5"),
        (252, struct.pack("<2h", 0, 0), "neither sform nor qform"),
        (284, struct.pack("<f", float("nan")), "NaN or infinity in its affine"),
        (123, b"\x01", "spacing in metres"),
        (108, struct.pack("<f", 4), "voxels start at byte 4, expected one after the header"),
        (108, struct.pack("<f", float("nan")), "voxels start at byte nan"),
        (40, struct.pack("<h", 9), "9 axes"),
        (46, struct.pack("<h", 400), "is truncated, it holds"),
        (46, struct.pack("<h", 1), "lone slice"),
        (70, struct.pack("<h", 128), "expected integers or floats"),
        (70, struct.pack("<h", 999), "unreadable header"),
    ],
)
def test_broken_header_fields(tmp_path, offset, data, reason):
    path = patched(write_volume(tmp_path / "a.nii.gz"), offset, data)
    with pytest.raises(BadInput, match=reason):
        read_ct(path)


def test_a_quaternion_rounded_to_four_digits_is_read(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    patched(patched(path, 252, struct.pack("<2h", 1, 0)), 256, struct.pack("<3f", 0.7072, 0.7072, 0))
    affine = read_ct(path).affine
    np.testing.assert_allclose(affine[:3, :3], [[0, 1.5, 0], [1.5, 0, 0], [0, 0, -2.5]], atol=1e-3)
    with pytest.raises(BadInput, match="unreadable orientation"):
        read_ct(patched(path, 256, struct.pack("<3f", 0.8, 0.8, 0)))


def test_damage_after_the_last_voxel_is_found(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(BadInput, match="truncated gzip"):
        read_ct(path)
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    with pytest.raises(BadInput, match="damaged gzip"):
        read_ct(path)


def test_compression_that_contradicts_the_name(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    path.rename(tmp_path / "a.nii")
    with pytest.raises(BadInput, match="gzip-compressed, which its name contradicts"):
        read_ct(tmp_path / "a.nii")


def test_round_trip_of_write_nifti(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", tiny_hu(), AFFINE)
    values, affine = load_nifti(path)
    np.testing.assert_array_equal(values, tiny_hu())
    np.testing.assert_allclose(affine, AFFINE)


def test_real_ct_is_accepted_and_its_label_maps_are_not():
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    with (REAL / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path = REAL / row["file"]
        if any(mark in row["file"] for mark in ("_autolung", "_seg_", "pulmonary_artery")):
            with pytest.raises(BadInput, match="not CT in HU"):
                read_ct(path)
            continue
        volume = read_ct(path)
        assert "x".join(map(str, volume.hu.shape)) == row["shape"]
        assert "x".join(f"{size:.3f}" for size in volume.spacing) == row["spacing_mm"]
        assert "".join(nib.aff2axcodes(volume.affine)) in ("RAS", "LPS") and volume.hu.dtype == np.int16
        assert (volume.hu.min(), volume.hu.max()) == (max(int(row["min"]), -1024), int(row["max"]))
    assert len(rows) == 9
