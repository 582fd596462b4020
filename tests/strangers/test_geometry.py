"""Geometry as strangers' files hold it: tilt, qfac, half turns, units, thick axes, two series under one UID.

`CASES` are the small inputs that failed once; the others are built here, of the same kinds.
"""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from common.apps.predict import predict
from common.data.ct.nifti import load_nifti
from common.data.ct.reader import load_image, read_ct
from common.data.ct.volume import axial_axes, write_nifti
from common.data.ct.volume_store import VolumeStore
from common.io.bad_input import BadInput
from common.transforms.ct_io import to_axial
from common.transforms.slabs import consistency_error
from tests.data.ct.bad_ct import AFFINE, tiny_hu, tiny_series, write_series, write_volume

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ct_slice_interpolation"
CASES = ROOT.parent / "shared" / "data" / "cases" / "ct"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")


def turned(degrees: float, axis: int, spacing: tuple[float, ...] = (0.8, 0.8, 5.0)) -> np.ndarray:
    """The affine of voxels of these sizes, turned about one axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (k for k in range(3) if k != axis)
    affine = np.eye(4)
    affine[[i, j], [i, j]], affine[i, j], affine[j, i] = cos, -sin, sin
    affine[:3, :3] *= spacing
    affine[:3, 3] = [12, -34, 56]
    return affine


def sheared(degrees: float) -> np.ndarray:
    affine = np.diag([-0.8, -0.8, 5.0, 1.0])
    affine[1, 2] = 5 * np.tan(np.radians(degrees))
    return affine


# ---- shear and tilt -------------------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_tilts() -> None:
    with pytest.raises(BadInput, match="has a shear of 12 degrees between its axes 1 and 2"):
        read_ct(CASES / "gantry_tilt.nii.gz")
    np.testing.assert_array_equal(read_ct(CASES / "tilt_tag_only").hu, read_ct(CASES / "qfac0.nii.gz").hu)


@pytest.mark.parametrize("degrees", [0.5, 3, -15])
@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_a_shear_is_refused_in_every_format(tmp_path: Path, degrees: float, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    hu, affine = np.repeat(tiny_hu(), 4, axis=2), sheared(degrees)
    if ending == "nii.gz":
        write_volume(path, hu, affine)
    else:
        image, to_lps = sitk.GetImageFromArray(hu.T), np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
        sizes = np.linalg.norm(to_lps, axis=0)
        image.SetSpacing(sizes.tolist())
        image.SetDirection((to_lps / sizes).ravel().tolist())
        sitk.WriteImage(image, str(path))
    with pytest.raises(BadInput, match="has a shear of"):
        read_ct(path)
    with pytest.raises(BadInput, match="has a shear of"):
        load_image(path)


def test_a_shear_is_named_before_the_spacing_that_it_lengthens(tmp_path: Path) -> None:
    """Converters keep the distance of the slices in the header, while the column of the matrix is longer."""
    image = nib.Nifti1Image(tiny_hu(), sheared(12))
    image.header["pixdim"][3] = 5.0
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + tiny_hu().tobytes(order="F"))
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[108:112] = np.float32(352).tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(BadInput, match="has a shear of 12 degrees"):
        read_ct(tmp_path / "a.nii")


def test_what_dicom_takes_for_straight_is_straight_as_nifti(tmp_path: Path) -> None:
    """Positions rounded to 0.01 mm, and a lean that the DICOM reader lets pass, survive a conversion."""
    slices = tiny_series()
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [-20, -30 + 0.008 * k, -40 + 2.5 * k]
    volume = read_ct(write_series(tmp_path / "s", slices))
    again = read_ct(write_nifti(tmp_path / "a.nii.gz", volume.hu, volume.affine))
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize("tag", [-9.5, 30, "", "+0.0"])
def test_positions_outvote_a_nominal_tilt(tmp_path: Path, tag: object) -> None:
    """https://github.com/rordenlab/dcm2niix/issues/253"""
    slices = tiny_series()
    for ds in slices:
        ds.GantryDetectorTilt = tag
    np.testing.assert_allclose(read_ct(write_series(tmp_path / "s", slices)).affine, AFFINE)
    for k, ds in enumerate(slices):
        ds.GantryDetectorTilt = 0
        ds.ImagePositionPatient = [-20, -30 + 0.3 * k, -40 + 2.5 * k]
    with pytest.raises(BadInput, match="has a gantry tilt"):
        read_ct(write_series(tmp_path / "tilted", slices))


@pytest.mark.parametrize(
    "affine", [sheared(0), sheared(0.02), sheared(0.15), sheared(4), turned(20, 0), turned(179.99, 2)]
)
def test_a_written_qform_equals_the_sform_or_is_not_declared(tmp_path: Path, affine: np.ndarray) -> None:
    header = nib.load(write_nifti(tmp_path / "a.nii.gz", np.zeros((40, 40, 300), np.int16), affine)).header
    qform, code = header.get_qform(coded=True)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)
    if code:
        np.testing.assert_allclose(qform, affine, atol=2e-3)
    assert bool(code) == (abs(affine[1, 2] + affine[2, 1]) < 0.01 or affine[2, 1] != 0)


# ---- qform ----------------------------------------------------------------------------------------------------------


def qform_only(path: Path, quaternion: tuple[float, ...], qfac: float = 1, kind: type = nib.Nifti1Image) -> Path:
    """A file whose orientation is this quaternion (b, c, d), as stored."""
    image = kind(tiny_hu(), None)
    image.header.set_zooms((0.8, 0.8, 5.0))
    for name, value in zip("bcd", quaternion, strict=True):
        image.header[f"quatern_{name}"] = value
    image.header["qform_code"], image.header["sform_code"], image.header["pixdim"][0] = 1, 0, qfac
    image.header["qoffset_x"], image.header["qoffset_y"] = 14, 16
    image.header.set_xyzt_units("mm")
    with path.open("wb") as file:  # nibabel mends what it is given when it saves an image
        file.write(image.header.binaryblock + bytes(4))
        file.write(tiny_hu().tobytes(order="F"))
    raw = bytearray(path.read_bytes())
    raw[108:112] = np.float32(352).tobytes()
    path.write_bytes(raw)
    return path


@needs_cases
def test_the_shared_qfac_0() -> None:
    found = read_ct(CASES / "qfac0.nii.gz")
    np.testing.assert_allclose(found.affine, nib.load(CASES / "qfac0.nii.gz").affine, atol=1e-6)


@pytest.mark.parametrize("qfac", [0, -0.0, 1, -1, 2, np.nan])
def test_only_a_negative_qfac_turns_the_third_axis(tmp_path: Path, qfac: float) -> None:
    affine = read_ct(qform_only(tmp_path / "a.nii", (0, 0, 1), qfac)).affine
    np.testing.assert_allclose(np.diag(affine), [-0.8, -0.8, -5 if qfac == -1 else 5, 1], atol=1e-6)


@pytest.mark.parametrize(
    "quaternion",
    [
        (0, 0, 1),
        (0, 0, np.nextafter(np.float32(1), np.float32(2))),  # a hair longer than 1
        (0, 0, np.nextafter(np.float32(1), np.float32(0))),
        (0, 0, 0.9998),  # 2.3 degrees short of a half turn, which once was taken for one
        (0.02, 0, 0.9996),
        (np.float32(np.sqrt(0.5)), np.float32(np.sqrt(0.5)), 0),
        (0.5, 0.5, 0.5),
    ],
    ids=str,
)
def test_a_quaternion_is_read_as_nibabel_and_itk_do(tmp_path: Path, quaternion: tuple[float, ...]) -> None:
    """https://github.com/nipy/nibabel/issues/1181 and https://github.com/spinalcordtoolbox/spinalcordtoolbox/issues/3703"""
    path = qform_only(tmp_path / "a.nii", quaternion)
    affine = read_ct(path).affine
    np.testing.assert_allclose(affine, nib.load(path).affine, atol=1e-6)
    image = sitk.ReadImage(str(path))
    itk = np.eye(4)
    itk[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    itk[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(affine, np.diag([-1, -1, 1, 1]) @ itk, atol=5e-3)


# ---- spacing --------------------------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_metres() -> None:
    with pytest.raises(BadInput, match=r"a spacing of 0.0008, 0.0008, 0.005 mm, which no chest CT has"):
        read_ct(CASES / "metres_without_unit.nii.gz")


@pytest.mark.parametrize(
    "spacing", [(0.08, 0.08, 0.5), (800, 800, 5000), (0.8, 0.8, 500), (8, 8, 50), (0.8, 0.8, 0.05)]
)
@pytest.mark.parametrize("kind", ["nifti", "nrrd", "dicom"])
def test_spacings_of_no_chest_ct(tmp_path: Path, spacing: tuple[float, ...], kind: str) -> None:
    """Centimetres, micrometres, a slip of the point: https://github.com/ANTsX/ANTsPy/issues/514"""
    if kind == "nifti":
        path = write_volume(tmp_path / "a.nii", tiny_hu(), np.diag([*spacing, 1]))
    elif kind == "nrrd":
        image, path = sitk.GetImageFromArray(tiny_hu().T), tmp_path / "a.nrrd"
        image.SetSpacing(spacing)
        sitk.WriteImage(image, str(path))
    else:
        slices = tiny_series()
        for k, ds in enumerate(slices):
            ds.PixelSpacing, ds.ImagePositionPatient = list(spacing[:2]), [0, 0, spacing[2] * k]
        path = write_series(tmp_path / "s", slices)
    with pytest.raises(BadInput, match="which no chest CT has"):
        read_ct(path)


@pytest.mark.parametrize("spacing", [(0.15, 0.15, 0.2), (0.98, 0.98, 20.0), (4.0, 4.0, 4.0)])
def test_spacings_that_a_chest_ct_has(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    path = write_volume(tmp_path / "a.nii", tiny_hu(), np.diag([*spacing, 1]))
    assert read_ct(path).spacing == pytest.approx(spacing)


# ---- the axis of the slices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [
        ((0.8, 0.8, 5.0), (2, 1, 0)),
        ((0.8, 0.8, 0.7), (2, 1, 0)),  # thin: none is coarse
        ((0.8, 0.8, 0.8), (2, 1, 0)),
        ((5.0, 1.25, 1.25), (0, 2, 1)),  # sagittal
        ((1.0, 3.0, 1.0), (1, 2, 0)),  # coronal
        ((1.5, 1.5, 1.0), (2, 1, 0)),
        ((0.9, 0.8, 0.5), (2, 1, 0)),  # pixels that are not quite square
    ],
    ids=str,
)
def test_slices_are_along_the_coarse_axis(spacing: tuple[float, ...], axes: tuple[int, ...]) -> None:
    assert axial_axes(np.diag([*spacing, 1.0])) == axes
    flipped = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    assert axial_axes(flipped) == axes
    order = [2, 0, 1]  # of the file
    assert tuple(order[axis] for axis in axial_axes(flipped[:, [*order, 3]])) == axes


def predicted(path: Path, out: Path, **overrides: object) -> dict:
    return predict(BUNDLE, path, out, overrides={"mode": "linear", **overrides})


@needs_cases
def test_the_shared_sagittal_stack_end_to_end(tmp_path: Path) -> None:
    path = CASES / "sagittal_thick.nii.gz"
    (written,) = predicted(path, tmp_path)["outputs"]
    image, before = nib.load(written), nib.load(path)
    assert image.shape == (60, 48, 40)
    expected = before.affine.copy()
    expected[:3, 0] /= 5
    expected[:3, 3] += before.affine[:3, 0] * (0.5 / 5 - 0.5)  # the outer faces stay
    np.testing.assert_allclose(image.affine, expected, atol=1e-5)
    slabs = image.get_fdata().reshape(12, 5, 48, 40).mean(axis=1)
    np.testing.assert_allclose(slabs, before.get_fdata(), atol=0.01)


@pytest.mark.parametrize(
    ("spacing", "affine"),
    [
        ((1.0, 4.0, 1.0), np.diag([-1.0, -4.0, 1.0, 1.0])),
        ((4.0, 1.0, 1.0), turned(15, 2, (4.0, 1.0, 1.0))),
        ((1.0, 1.0, 4.0), turned(30, 0, (1.0, 1.0, 4.0))),
    ],
    ids=["coronal", "sagittal, oblique", "axial, oblique"],
)
def test_other_thick_stacks_end_to_end(tmp_path: Path, spacing: tuple[float, ...], affine: np.ndarray) -> None:
    path = write_volume(tmp_path / "in" / "a.nii.gz", tiny_hu(), affine)
    (written,) = predicted(path, tmp_path / "out")["outputs"]
    (thin, fine), (thick, _) = load_image(written), load_image(path)  # a projection may go below -1024
    axis = int(np.argmax(spacing))
    assert thin.shape[axis] == 4 * thick.shape[axis]
    np.testing.assert_allclose(np.linalg.norm(fine[:3, :3], axis=0), 1, atol=1e-5)
    thin, thick = (np.moveaxis(values, axis, 0).astype(np.float32) for values in (thin, thick))
    np.testing.assert_allclose(thin.reshape(len(thick), 4, *thick.shape[1:]).mean(axis=1), thick, atol=0.01)
    header = nib.load(written).header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)


def test_a_store_and_a_reader_agree_on_the_slices(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nii.gz", tiny_hu(), np.diag([5.0, 1.0, 1.0, 1.0]))
    hu, affine = to_axial(read_ct(path))
    np.testing.assert_array_equal(VolumeStore(tmp_path / "store").get(path), hu.numpy())
    assert np.linalg.norm(affine[:3, 0]) == 5
    assert consistency_error(hu, hu) == 0


@needs_cases
def test_the_shared_folder_with_a_thin_ct(tmp_path: Path) -> None:
    result = predicted(CASES / "folder_one_thin", tmp_path)
    assert sorted(Path(path).name for path in result["outputs"]) == ["a_thick.nii.gz", "z_thick.nii.gz"]
    with (tmp_path / "excluded.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"].endswith("m_thin.nii.gz") and "coarser than the input's 0.7 mm" in row["reason"]


@pytest.mark.parametrize("overrides", [{"target_slices": 15}, {"target_spacing": 2.0}, {"target_spacing": 2.6}])
def test_one_ct_that_is_too_thin_is_a_row(tmp_path: Path, overrides: dict[str, float]) -> None:
    """12 slices of 2.5 mm pass or not; 20 of 1.5 mm do not."""
    write_volume(tmp_path / "in" / "a.nii.gz", tiny_hu(), np.diag([1, 1, 1.5, 1.0]))
    write_volume(tmp_path / "in" / "b.nii.gz", tiny_hu(), np.diag([1, 1, 4.0, 1.0]))
    write_volume(tmp_path / "in" / "c.nii.gz", tiny_hu(2, (20, 24, 16)), np.diag([1, 1, 1.5, 1.0]))
    result = predicted(tmp_path / "in", tmp_path / "out", **overrides)
    assert result["cases"] + len(result["excluded"]) == 3 and result["cases"] and result["excluded"]
    assert all("expected" in row["reason"] for row in result["excluded"])


# ---- two series under one UID ---------------------------------------------------------------------------------------


def interleaved(**tags: tuple[object, object]) -> list:
    """Two reconstructions of one body whose slices lie in turn, evenly: geometry alone would take them for one."""
    slices = tiny_series()
    for k, ds in enumerate(slices):
        for name, values in tags.items():
            if values[k % 2] is not None:
                setattr(ds, name, values[k % 2])
    return slices


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ConvolutionKernel": ("B30f", "B70f")}, r"differ in ConvolutionKernel \(B30f, B70f\)"),
        ({"ConvolutionKernel": (["Br40d", "3"], ["Br64d", "3"])}, "differ in ConvolutionKernel"),
        ({"KVP": (80, 140)}, r"differ in KVP \(80, 140\)"),
        ({"AcquisitionNumber": (1, 2)}, "are of the acquisitions 2 and 1, which overlap"),
    ],
    ids=str,
)
def test_two_series_under_one_uid_are_refused(tmp_path: Path, tags: dict, reason: str) -> None:
    """https://github.com/rordenlab/dcm2niix/issues/721"""
    with pytest.raises(BadInput, match="mixes two series under one SeriesInstanceUID.*" + reason):
        read_ct(write_series(tmp_path / "s", interleaved(**tags)))


def test_two_acquisitions_that_cover_the_same_slices(tmp_path: Path) -> None:
    first, second = tiny_series(), tiny_series()
    for number, slices in enumerate((first, second)):
        for ds in slices:
            ds.AcquisitionNumber = number + 1
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.{number}"
    with pytest.raises(BadInput, match="are of the acquisitions 2 and 1, which overlap"):
        read_ct(write_series(tmp_path / "s", first + second))


@pytest.mark.parametrize(
    "tags",
    [
        {"ConvolutionKernel": ("B30f", "B30f "), "KVP": ("120", "120.0")},
        {"ConvolutionKernel": ("B30f", None), "AcquisitionNumber": (1, None)},
    ],
    ids=str,
)
def test_one_series_stays_one(tmp_path: Path, tags: dict) -> None:
    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "s", interleaved(**tags))).hu, tiny_hu())


@pytest.mark.parametrize("step", [1, 4], ids=["a stop at each slice", "a stop after four"])
def test_a_scanner_that_halts_counts_its_stops(tmp_path: Path, step: int) -> None:
    slices = tiny_series()
    for k, ds in enumerate(slices):
        ds.AcquisitionNumber = k // step + 1
    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "s", slices)).hu, tiny_hu())


def test_nothing_of_a_good_nifti_changes(tmp_path: Path) -> None:
    values, affine = load_nifti(write_volume(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(values, tiny_hu())
    np.testing.assert_array_equal(affine, nib.load(tmp_path / "a.nii.gz").affine)


# ---- from public threads; each input is made here --------------------------------------------------------------------


def test_cosines_of_few_digits_stay_readable_for_itk(tmp_path: Path) -> None:
    """https://github.com/ENHANCE-PET/MOOSE/issues/99 and https://github.com/wasserth/TotalSegmentator/issues/461"""
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    affine[1, 2] = 2.5 * 8e-4
    volume = read_ct(write_volume(tmp_path / "a.nii.gz", tiny_hu(), affine))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    written = write_nifti(tmp_path / "b.nii.gz", volume.hu, volume.affine)
    assert sitk.ReadImage(str(written)).GetSize() == (20, 24, 12)


def test_a_registration_that_sheared_the_sform(tmp_path: Path) -> None:
    """https://github.com/Project-MONAI/MONAILabel/issues/1634 and https://github.com/rordenlab/dcm2niix/issues/697"""
    affine = turned(23, 0, (1.0, 1.0, 1.0))
    affine[:3, 1] += 0.03 * affine[:3, 2]
    with pytest.raises(BadInput, match="has a shear of 1.72 degrees between its axes 1 and 2"):
        read_ct(write_volume(tmp_path / "a.nii.gz", tiny_hu(), affine))


def test_a_spacing_in_mm_without_a_unit(tmp_path: Path) -> None:
    """https://github.com/icometrix/dicom2nifti/issues/82"""
    image = nib.Nifti1Image(tiny_hu(), np.diag([0.8, 0.8, 2.5, 1]))
    image.header.set_xyzt_units(0, 0)
    nib.save(image, tmp_path / "a.nii")
    assert read_ct(tmp_path / "a.nii").spacing == pytest.approx((0.8, 0.8, 2.5))


@pytest.mark.parametrize(
    "tags",
    [
        {"Exposure": (14, 15), "XRayTubeCurrent": (100, 120)},  # https://github.com/rordenlab/dcm2niix/issues/396
        {"InstanceNumber": (9, 1)},  # https://github.com/rordenlab/dcm2niix/issues/786
    ],
    ids=str,
)
def test_what_varies_within_one_series(tmp_path: Path, tags: dict) -> None:
    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "s", interleaved(**tags))).hu, tiny_hu())


def test_a_localizer_before_the_slices_is_named(tmp_path: Path) -> None:
    """https://github.com/dgobbi/vtk-dicom/issues/98"""
    slices = tiny_series()
    slices[0].ImageOrientationPatient, slices[0].ImageType = [1, 0, 0, 0, 0, -1], ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    with pytest.raises(BadInput, match="slice_001.dcm has ImageOrientationPatient .* as in slice_000.dcm"):
        read_ct(write_series(tmp_path / "s", slices))


def test_slices_sent_twice_are_named(tmp_path: Path) -> None:
    """https://github.com/icometrix/dicom2nifti/issues/21"""
    with pytest.raises(BadInput, match="duplicated position, slice_005.dcm and slice_012.dcm"):
        read_ct(write_series(tmp_path / "s", [*tiny_series(), tiny_series()[5]]))


def test_a_rounding_of_a_thousandth_is_no_uneven_step(tmp_path: Path) -> None:
    """https://github.com/icometrix/dicom2nifti/issues/36"""
    slices = tiny_series()
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [-20, -30, -40 + 2.5 * k + (-1) ** k * 0.001]
    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "s", slices)).hu, tiny_hu())


def test_steps_that_widen_are_named(tmp_path: Path) -> None:
    """https://github.com/rordenlab/dcm2niix/issues/22 and https://github.com/icometrix/dicom2nifti/issues/58"""
    slices = tiny_series()
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [-20, -30, 2.5 * min(k, 6) + 7.5 * max(0, k - 6)]
    with pytest.raises(BadInput, match="of 7.5 mm between slice_006.dcm and slice_007.dcm, expected 2.5 mm"):
        read_ct(write_series(tmp_path / "s", slices))
