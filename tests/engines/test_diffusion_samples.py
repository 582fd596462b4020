import numpy as np
import torch
from torch import nn

from common.data.ct.reader import read_ct
from common.data.ct.slab_patches import SlabPatchDataset
from common.data.ct.volume import write_nifti
from common.data.virtual.patient import make_virtual_patient
from common.engines.diffusion_samples import add_samples
from common.inferers.slice_interpolation import SliceInterpolationInferer
from common.networks.slice_interpolator import SliceInterpolator


class FakeSampler:
    steps = 5

    def __init__(self):
        self.calls = 0


def rows_of(tmp_path, n=2):
    rows = []
    for seed in range(n):
        patient = make_virtual_patient(seed, (25, 32, 32), (3, 6, 6))
        path = tmp_path / f"case_{seed}.nii.gz"
        write_nifti(path, patient.ct, patient.affine)
        rows.append({"case": f"case_{seed}", "image": str(path), "sha256": str(seed)})
    return rows


def inferer_that_repeats(monkeypatch):
    """Stands for sampling: nearest-neighbour slices, and counts its calls."""
    inferer = SliceInterpolationInferer("diffusion", target_ratio=4, sampler=FakeSampler(), refine_samples=False)

    def interpolate(thick, thick_mm, network):
        inferer.sampler.calls += 1
        return thick.repeat_interleave(4, 0)[None]

    monkeypatch.setattr(inferer, "interpolate", interpolate)
    return inferer


def test_samples_are_drawn_once_per_weights(tmp_path, monkeypatch):
    rows, inferer = rows_of(tmp_path), inferer_that_repeats(monkeypatch)
    network = SliceInterpolator(unet=nn.Linear(2, 2))
    first = add_samples(rows, network, inferer, tmp_path / "samples", limit=1)
    assert "sample" in first[0] and "sample" not in first[1] and "sample" not in rows[0]
    assert read_ct(first[0]["sample"]).hu.shape == (32, 32, 24)
    assert add_samples(rows, network, inferer, tmp_path / "samples", limit=1) == first
    assert inferer.sampler.calls == 1
    add_samples(rows, SliceInterpolator(unet=nn.Linear(2, 2)), inferer, tmp_path / "samples", limit=1)
    assert inferer.sampler.calls == 2


def test_patches_of_samples_start_where_slabs_do(tmp_path, monkeypatch):
    rows = add_samples(
        rows_of(tmp_path, 1), SliceInterpolator(), inferer_that_repeats(monkeypatch), tmp_path / "samples"
    )
    dataset = SlabPatchDataset(
        rows, tmp_path / "store", n_items=40, batch_size=4, context=3, patch=(16, 16), ratios=(2,), sample_share=0.5
    )
    items = [dataset[i] for i in range(40)]
    with_sample = ["sample" in item for item in items]
    assert 0 < sum(with_sample) < 40
    assert all(len(set(with_sample[i : i + 4])) == 1 for i in range(0, 40, 4)), "one kind per batch"
    for item in items:
        if "sample" in item:
            assert item["ratio"] == 4 and item["sample"].shape == item["target"].shape == (4, 16, 16)
            # repeated slices equal the slab's mean to rounding only if the patch is aligned with the slabs
            np.testing.assert_allclose(item["sample"], item["thick"][1:2].expand(4, -1, -1), atol=1e-3)
    assert torch.equal(dataset[7]["thick"], items[7]["thick"])
