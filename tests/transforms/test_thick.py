import numpy as np
import torch
from monai.data import MetaTensor

from common.transforms.thick import SimulateThickd


def test_pair_covers_the_same_millimetres():
    affine = torch.diag(torch.tensor([1.5, 0.7, 0.7, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([10.0, 20.0, 30.0])
    thin = torch.arange(23.0)[None, :, None, None].expand(1, 23, 4, 4)
    out = SimulateThickd(ratio=5, max_slices=21)({"image": MetaTensor(thin, affine=affine, meta={"case": "a"})})
    # the middle 21 of 23 slices start at slice 1; 4 slabs of 5 use 20 of them
    assert out["image"].shape == (1, 4, 4, 4) and out["label"].shape == (1, 20, 4, 4)
    np.testing.assert_allclose(out["image"][0, :, 0, 0], [3, 8, 13, 18], rtol=1e-6)
    first_thin = np.asarray(out["label"].affine) @ [0, 0, 0, 1]
    first_thick = np.asarray(out["image"].affine) @ [0, 0, 0, 1]
    np.testing.assert_allclose(first_thin[:3], [11.5, 20, 30])
    np.testing.assert_allclose(first_thick[:3], [11.5 + 2 * 1.5, 20, 30])
    assert out["image"].meta["case"] == "a"


def test_resizing_in_plane_keeps_the_outer_faces():
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    out = SimulateThickd(ratio=2, resolution=4)({"image": MetaTensor(torch.zeros(1, 4, 8, 8), affine=affine)})
    assert out["label"].shape == (1, 4, 4, 4)
    faces = [np.asarray(affine) @ [-0.5, -0.5, 7.5, 1], np.asarray(out["label"].affine) @ [-0.5, -0.5, 3.5, 1]]
    np.testing.assert_allclose(*faces)
