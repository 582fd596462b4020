import gzip
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import ITKReader

from common.data.ct.itk_image import load_itk
from common.data.ct.reader import input_files, read_ct
from common.data.ct.volume import find_ct
from common.data.prepare import prepare_data
from common.io.bad_input import BadInput
from tests.data.ct.bad_ct import AFFINE, tiny_hu, tiny_series, write_series, write_volume

ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
OBLIQUE = np.array([[0.9, -0.1, 0.05], [0.1, 0.95, 0.1], [-0.02, 0.03, 1]])


def write(path, hu=None, packed=False, **geometry):
    """Write with SimpleITK the volume that `write_volume` writes with nibabel."""
    image = sitk.GetImageFromArray(np.ascontiguousarray((tiny_hu() if hu is None else hu).T))
    image.SetSpacing(geometry.get("spacing", (1.5, 1.5, 2.5)))
    image.SetOrigin((-20, -30, -40))
    image.SetDirection(np.ravel(geometry.get("direction", np.eye(3))).tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), packed)
    return path


def patched(path, pattern, text):
    path.write_bytes(re.sub(pattern, text, path.read_bytes(), count=1, flags=re.MULTILINE))
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_hu_geometry_case_and_patient(tmp_path, ending, packed):
    volume = read_ct(write(tmp_path / f"a.b{ending}", packed=packed))
    np.testing.assert_array_equal(volume.hu, tiny_hu())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-12)
    assert (volume.case, volume.patient, volume.hu.dtype) == ("a.b", "a.b", np.int16)
    assert volume.affine.dtype == np.float64
    volume.hu[0, 0, 0] = 7  # writable, as torch wants it


@pytest.mark.parametrize("ending", ENDINGS)
def test_geometry_of_an_oblique_volume_agrees_with_monai_and_nibabel(tmp_path, ending):
    rotation = np.linalg.qr(OBLIQUE)[0]
    path = write(tmp_path / f"a{ending}", direction=rotation, spacing=(0.7, 0.8, 3))
    values, affine = load_itk(path)
    reader = ITKReader()
    expected, meta = reader.get_data(reader.read(path))
    np.testing.assert_allclose(affine, meta["affine"], atol=1e-6)
    np.testing.assert_array_equal(values, expected)
    write(tmp_path / "a.nii", direction=rotation, spacing=(0.7, 0.8, 3))
    np.testing.assert_allclose(affine, nib.load(tmp_path / "a.nii").affine, atol=1e-5)


@pytest.mark.parametrize("space", [b"right-anterior-superior", b"RAS", b"left-anterior-superior"])
def test_other_spaces_of_nrrd(tmp_path, space):
    path = patched(write(tmp_path / "a.nrrd"), rb"^space: .*", b"space: " + space)
    flip = np.diag([1 if space.startswith(b"left") else -1, -1, 1, 1])
    np.testing.assert_allclose(read_ct(path).affine, flip @ AFFINE)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(np.int32, np.int16), (np.float64, np.float32), (np.float32, np.float32), (np.int64, np.int16)],
)
def test_stored_types(tmp_path, stored, dtype):
    for ending in (".nrrd", ".mha"):
        hu = read_ct(write(tmp_path / f"a{ending}", tiny_hu().astype(stored))).hu
        assert hu.dtype == dtype
        np.testing.assert_array_equal(hu, tiny_hu())


def test_slope_of_a_metaimage_and_big_endian_voxels(tmp_path):
    path = write(tmp_path / "a.mha", (tiny_hu() + 1024) // 2 * 2)
    text = b"ElementToIntensityFunctionSlope = 1\nElementToIntensityFunctionOffset = -1024\nElementType"
    np.testing.assert_array_equal(read_ct(patched(path, rb"^ElementType", text)).hu, (tiny_hu() + 1024) // 2 * 2 - 1024)
    path = write(tmp_path / "a.nrrd", tiny_hu().byteswap())
    np.testing.assert_array_equal(read_ct(patched(path, rb"^endian: little", b"endian: big")).hu, tiny_hu())


@pytest.mark.parametrize(
    ("ending", "pattern", "text", "reason"),
    [
        (".nrrd", rb"^space: .*", b"space dimension: 3", "has no space for each axis, so its geometry is unknown"),
        (".nrrd", rb"^space: .*", b"space: 3D-right-handed", "in the space '3D-right-handed', so left and right"),
        (".nrrd", rb"^space directions: .*\n", b"", "has no space directions"),
        (".nrrd", rb"^kinds", b'space units: "mm" "mm" "m"\nkinds', "gives its spacing in m, mm, expected mm"),
        (".nrrd", rb"\(0,0,2.5\)", b"none", "has no space directions for each axis"),
        (".nrrd", rb"\(0,0,2.5\)", b"(0,0,0)", r"zero spacing \(1.5, 1.5, 0\)"),
        (".nrrd", rb"\(0,0,2.5\)", b"(0,2.5,0)", "singular affine"),
        (".nrrd", rb"\(0,0,2.5\)", b"(0,0,x)", "unreadable header"),
        (".nrrd", rb"^type: short", b"type: complex", "unreadable header"),
        (".nrrd", rb"^sizes: 20 24 12", b"sizes: 20 24 1200", "is truncated, it holds 11520 of 1152000 bytes"),
        (".nrrd", rb"^sizes: 20 24 12", b"sizes: 480 12 1", "lone slice"),
        (".nrrd", rb"^encoding: raw", b"encoding: ascii", "stores its voxels as ascii"),
        (".nrrd", rb"(?s)\n\n.*", b"\n", "does not end"),
        (".nrrd", rb"^NRRD", b"NARD", "wrong magic"),
        (".mha", rb"^ElementSpacing.*\n", b"", "has no ElementSpacing"),
        (".mha", rb"^TransformMatrix.*\n", b"", "has no TransformMatrix"),
        (".mha", rb"^ElementSpacing.*", b"ElementSpacing = 1.5 1.5 0", "zero spacing"),
        (".mha", rb"^ElementSpacing.*", b"ElementSpacing = 1.5 1.5 -2.5", "negative spacing"),
        (".mha", rb"^TransformMatrix.*", b"TransformMatrix = 2 0 0 0 1 0 0 0 1", "contradicts itself about spacing"),
        (".mha", rb"^TransformMatrix.*", b"TransformMatrix = 1 0 0 0 1 0 0 1 0", "singular affine"),
        (".mha", rb"^DimSize.*", b"DimSize = 20 24 9000", "is truncated"),
        (".mha", rb"^BinaryData = True", b"BinaryData = False", "stores its voxels as text"),
        (".mha", rb"^ElementDataFile.*\n", b"", "does not end"),
        (".mhd", rb"^ElementDataFile.*", b"ElementDataFile = LIST", "names the data file 'LIST'"),
        (".mhd", rb"^ElementDataFile.*", b"ElementDataFile = ../a.raw", "names the data file '../a.raw'"),
        (".nhdr", rb"^data file.*", b"data file: b.raw", "names the data file 'b.raw', expected one file beside it"),
    ],
)
def test_broken_headers(tmp_path, ending, pattern, text, reason):
    path = write(tmp_path / f"a{ending}")
    before = path.read_bytes()
    patched(path, pattern, text)
    assert path.read_bytes() != before
    with pytest.raises(BadInput, match=reason) as caught:
        read_ct(path)
    assert "0x" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_broken_voxels(tmp_path, ending):
    holes = tiny_hu().astype(np.float32)
    holes[3, 4, 5:8] = np.nan
    vectors = sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.int16), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / f"vector{ending}"))
    for name, hu, reason in [
        ("nan", holes, "3 NaN"),
        ("constant", np.full_like(tiny_hu(), -1000), "constant volume"),
        ("labels", (tiny_hu() > 0).astype(np.uint8), "not CT in HU"),
        ("flat", tiny_hu()[:, :, 4:5], "lone slice"),
        ("vector", None, "2 values in a voxel"),
    ]:
        path = tmp_path / f"{name}{ending}"
        with pytest.raises(BadInput, match=reason):
            read_ct(path if hu is None else write(path, hu))
    for dimensions, reason in [((2, 24), "2-D"), ((2, 12, 24, 20), "4-D")]:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros(dimensions, np.int16), isVector=False), str(path))
        with pytest.raises(BadInput, match=reason):
            read_ct(path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="empty file"):
        read_ct(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_truncated_and_damaged_voxels(tmp_path, ending, packed):
    path = write(tmp_path / f"a{ending}", packed=packed)
    voxels = input_files(path)[-1]
    whole = voxels.read_bytes()
    for cut in (1, 4, len(whole) // 3):
        voxels.write_bytes(whole[:-cut])
        with pytest.raises(BadInput, match="is truncated"):
            read_ct(path)
    if packed:
        voxels.write_bytes(whole[:-600] + bytes([whole[-600] ^ 0xFF]) + whole[-599:])
        with pytest.raises(BadInput, match="is damaged, its compressed voxels cannot be read"):
            read_ct(path)


def test_a_header_and_its_data_are_one_input(tmp_path):
    for ending in (".nhdr", ".mhd"):
        write(tmp_path / f"scan{ending[1]}{ending}")
    (tmp_path / "scann.raw").rename(tmp_path / "voxels of n.bin")
    patched(tmp_path / "scann.nhdr", rb"^data file: .*", b"data file: voxels of n.bin")
    assert find_ct(tmp_path) == [tmp_path / "scanm.mhd", tmp_path / "scann.nhdr"]
    assert input_files(tmp_path / "scann.nhdr") == [tmp_path / "scann.nhdr", tmp_path / "voxels of n.bin"]
    np.testing.assert_array_equal(read_ct(tmp_path / "scann.nhdr").hu, tiny_hu())
    with pytest.raises(BadInput, match="'.raw'"):
        read_ct(tmp_path / "scanm.raw")


def test_changed_voxels_of_a_header_are_prepared_again(tmp_path):
    path = write(tmp_path / "in" / "a.mhd")
    first = prepare_data(tmp_path / "in", tmp_path / "out", "ct").summary["data_hash"]
    path.with_suffix(".raw").write_bytes(np.ascontiguousarray(tiny_hu(3).T).tobytes())
    assert prepare_data(tmp_path / "in", tmp_path / "out", "ct").summary["data_hash"] != first
    np.testing.assert_array_equal(read_ct(tmp_path / "out" / "images" / "a.nii.gz").hu, tiny_hu(3))


def test_every_format_side_by_side_prepares_to_the_same(tmp_path):
    folder = tmp_path / "in"
    write_series(folder / "dicom", tiny_series())
    write_volume(folder / "nii.nii")
    write_volume(folder / "niigz.nii.gz")
    for ending in ENDINGS:
        write(folder / f"{ending[1:]}{ending}", packed=ending != ".mhd")
    shutil.copy(folder / "mha.mha", folder / "dicom" / "inside.mha")  # beside slices, and no slice
    (folder / "broken.nrrd").write_bytes((folder / "nrrd.nrrd").read_bytes()[:2000])
    result = prepare_data(folder, tmp_path / "out", "ct")
    rows = result.manifest.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["dicom", "inside", "mha", "mhd", "nhdr", "nii", "niigz", "nrrd"]
    assert result.summary["counts"]["bad"] == 1 and 'broken.nrrd,"is truncated' in result.excluded.read_text()
    for row in rows[1:]:
        volume = read_ct(row.split(",")[3])
        np.testing.assert_array_equal(volume.hu, tiny_hu())
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_random_damage_gives_a_volume_or_a_bad_input(tmp_path):
    paths = [write(tmp_path / f"{packed}{ending}", packed=packed) for ending in ENDINGS for packed in (False, True)]
    random = np.random.default_rng(0)
    refused = 0
    for i in range(320):
        path = paths[i % len(paths)]
        whole = path.read_bytes()
        raw = bytearray(whole[: random.integers(len(whole))] if i % 10 == 0 else whole)
        for position in random.integers(min(700, len(raw)), size=random.choice([1, 2, 8])) if raw else ():
            raw[position] = random.integers(256)
        path.write_bytes(raw)
        try:
            read_ct(path)
        except BadInput as error:
            refused += 1
            assert error.reason
        path.write_bytes(whole)
    assert refused > 80


def test_gzip_of_several_members_is_no_surprise(tmp_path):
    path = write(tmp_path / "a.nhdr", packed=True)
    voxels = input_files(path)[-1]
    raw = gzip.decompress(voxels.read_bytes())
    voxels.write_bytes(gzip.compress(raw[:100]) + gzip.compress(raw[100:]))
    with pytest.raises(BadInput, match="is truncated, it holds 100 of 11520"):
        read_ct(path)
