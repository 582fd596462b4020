import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

from common.data.ct.reader import read_ct
from common.data.ct.volume import axial_axes, write_nifti
from common.io.bad_input import BadInput
from common.transforms.ct_io import FileAxesd, ReadCTd, SaveCTd


@pytest.fixture(params=[(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=["xyz", "zxy", "yzx"])
def case(request, tmp_path):
    rng = np.random.default_rng(0)
    order = list(request.param)
    hu = np.sort(rng.integers(-1000, 400, (6, 7, 8)), axis=2).astype(np.int16)
    affine = np.diag([-0.7, -0.8, 5.0, 1.0])
    affine[:3, 3] = [10, 20, -30]
    path = tmp_path / "a.b.nii.gz"
    write_nifti(path, hu.transpose(order), affine[:, [*order, 3]])
    return path, hu


def test_a_case_is_not_written_over_the_uncertainty_of_another(tmp_path):
    image = MetaTensor(
        torch.zeros(1, 4, 4, 4), meta={"case": "a", "filename_or_obj": "x/a.nii", "axial_axes": (2, 1, 0)}
    )
    save = SaveCTd("pred", str(tmp_path))
    save({"image": image, "pred": MetaTensor(torch.zeros(2, 4, 4, 4))})
    image.meta["case"] = "a_uncertainty"
    with pytest.raises(BadInput, match=r"would be .*a_uncertainty.nii.gz, which is of the case 'a'"):
        save({"image": image, "pred": MetaTensor(torch.zeros(1, 4, 4, 4))})


def test_reads_axial_slices_first_whatever_the_file_order(case):
    path, hu = case
    image = ReadCTd("image")({"image": str(path)})["image"]
    assert image.shape == (1, 8, 7, 6)
    np.testing.assert_array_equal(image[0].numpy(), hu.transpose(2, 1, 0))
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3].numpy(), axis=0), [5.0, 0.8, 0.7])
    assert image.meta["case"] == "a.b"


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_volume_comes_back_unchanged(case, tmp_path, dtype):
    path, hu = case
    out = tmp_path / "out"
    read_save = Compose([ReadCTd("image"), lambda d: d | {"pred": d["image"]}, SaveCTd("pred", str(out), dtype=dtype)])
    written = read_save({"image": str(path)})["pred_path"]
    assert written == str(out / "a.b.nii.gz")
    before, after = read_ct(path), read_ct(written)
    np.testing.assert_array_equal(before.hu, after.hu)
    np.testing.assert_allclose(before.affine, after.affine)
    assert after.hu.dtype == np.dtype(dtype)


def test_second_channel_becomes_the_uncertainty(case, tmp_path):
    data = ReadCTd("image")({"image": str(case[0])})
    data["pred"] = torch.cat([data["image"], data["image"] * 0 + 3])
    SaveCTd("pred", str(tmp_path / "out"))(data)
    import nibabel as nib

    assert (nib.load(tmp_path / "out" / "a.b_uncertainty.nii.gz").get_fdata() == 3).all()


def test_oblique_axes_go_to_the_nearest_anatomical_axis():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert axial_axes(affine) == (2, 1, 0)


def test_a_prediction_in_the_axes_of_the_file(case):
    path, _ = case
    data = ReadCTd("image")({"image": str(path)})
    affine = data["image"].affine.clone()
    affine[:, 0] /= 2  # twice as many slices
    data["pred"] = MetaTensor(data["image"].as_tensor().repeat_interleave(2, 1), affine=affine)
    found = FileAxesd("pred")(data)
    before = read_ct(path)
    slices = axial_axes(before.affine)[0]
    np.testing.assert_array_equal(found["pred"][0].numpy(), before.hu.repeat(2, axis=slices))
    assert found["image"].meta["spatial_shape"].tolist() == list(found["pred"].shape[1:])
    expected = before.affine.copy()
    expected[:, slices] /= 2
    np.testing.assert_allclose(found["pred"].affine.numpy(), expected)
    np.testing.assert_allclose(found["image"].meta["original_affine"], expected)


def test_programs_that_leave_out_savers_leave_ours_out(tmp_path):
    assert isinstance(SaveCTd("pred", str(tmp_path / "out")), SaveImaged)
    assert not (tmp_path / "out").exists()
