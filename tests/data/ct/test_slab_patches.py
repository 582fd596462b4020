import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.data.ct.slab_patches import SlabPatchDataset, _coarser, coarser_copy
from common.data.ct.volume import write_nifti
from common.data.ct.volume_store import VolumeStore
from common.io.bad_input import BadInput


def write_ct(path, seed, shape=(40, 36, 44)):
    """A CT-like (x, y, z) volume: soft tissue, fat, noise and a gradient that makes every voxel's place known."""
    generator = np.random.default_rng(seed)
    hu = generator.normal(40, 15, shape) + np.linspace(-300, 300, shape[2])
    hu[:8] = -1000
    write_nifti(path, hu.astype(np.int16), np.diag([0.7, 0.7, 1.25, 1.0]))
    return {"image": str(path)}


@pytest.fixture
def rows(tmp_path):
    return [write_ct(tmp_path / f"{name}.nii.gz", seed) for seed, name in enumerate("ab")]


OPTIONS = {
    "n_items": 12,
    "batch_size": 4,
    "context": 3,
    "patch": (16, 16),
    "ratios": (2, 3, 4),
    "scales": ((1, 1, "sharp"), (1.2, 1.5, "sharp")),
}


def test_items_are_slab_means_of_their_target(rows, tmp_path):
    for n_slabs in (1, 2):
        for item in SlabPatchDataset(rows, tmp_path / "cache", n_slabs=n_slabs, **OPTIONS):
            ratio = item["ratio"]
            assert item["thick"].shape == (n_slabs + 2, 16, 16)
            assert item["target"].shape == (n_slabs * ratio, 16, 16)
            assert item["thick"].dtype == item["target"].dtype == torch.float32
            means = item["target"].reshape(n_slabs, ratio, 16, 16).mean(1)
            torch.testing.assert_close(item["thick"][1:-1], means)


def test_without_scales_patches_are_pieces_of_the_volume(tmp_path):
    row = write_ct(tmp_path / "a.nii.gz", 0)
    data = SlabPatchDataset([row], tmp_path / "cache", **OPTIONS | {"scales": ((1, 1, "sharp"),), "axes": (1, 0, 0)})
    volume = data.volumes[0][0]
    assert volume.shape == (44, 36, 40)  # (D, H, W) of a NIfTI (x, y, z)
    values = np.unique(volume)
    for item in data:
        found = torch.round(item["target"] * 1000).numpy()
        assert np.isin(found, values).all()


def test_deterministic_per_seed_epoch_and_index(rows, tmp_path):
    def draw(epoch=1, seed=0, index=5):
        data = SlabPatchDataset(rows, tmp_path / "cache", seed=seed, **OPTIONS)
        data.set_epoch(epoch)
        return data[index]["thick"]

    assert torch.equal(draw(), draw())
    for other in (draw(epoch=2), draw(seed=1), draw(index=6)):
        assert other.shape != draw().shape or not torch.equal(other, draw())


def test_same_batches_whatever_the_number_of_workers(rows, tmp_path):
    data = SlabPatchDataset(rows, tmp_path / "cache", **OPTIONS)
    loaded = [list(DataLoader(data, batch_size=4, num_workers=workers)) for workers in (0, 2)]
    for alone, with_workers in zip(*loaded, strict=True):
        assert torch.equal(alone["target"], with_workers["target"])
        assert len(alone["ratio"].unique()) == 1
    assert len({int(batch["ratio"][0]) for batch in loaded[0]}) > 1


def test_coarser_copies_are_made_once_and_again_after_a_change(rows, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("common.data.ct.slab_patches._coarser", lambda *args: made.append(args) or _coarser(*args))
    store, image = VolumeStore(tmp_path / "cache"), rows[0]["image"]
    volume = store.get(image)
    assert coarser_copy(store, image, (1, 1, "sharp")).shape == volume.shape == (44, 36, 40)
    for _ in range(2):
        copies = [coarser_copy(store, image, (2, 2, kind)) for kind in ("area", "sharp")]
    assert len(made) == 2
    assert all(isinstance(copy, np.memmap) and not copy.flags.writeable for copy in copies)
    pairs = volume.astype(float).reshape(22, 2, 18, 2, 20, 2).mean((1, 3, 5))
    assert np.abs(copies[0] - pairs).max() <= 0.51
    assert copies[1].std() > copies[0].std()  # noise is kept
    os.utime(image, ns=(1, 1))
    coarser_copy(store, image, (2, 2, "area"))
    assert len(made) == 3


def test_sharp_copies_are_cubic_samples():
    ramp = np.add.outer(np.arange(30) * 10, np.add.outer(np.zeros(20), np.arange(24) * 20)).astype(np.int16)
    coarse = _coarser(ramp, 1.5, 2, "sharp")
    assert coarse.shape == (20, 10, 12)
    expected = np.add.outer(((np.arange(20) + 0.5) * 1.5 - 0.5) * 10, ((np.arange(12) + 0.5) * 2 - 0.5) * 20)
    assert np.abs(coarse[2:-2, 5, 2:-2] - expected[2:-2, 2:-2]).max() <= 1


def test_axes_and_row_weights_choose(rows, tmp_path):
    data = SlabPatchDataset(rows, tmp_path / "cache", row_weights=(0, 1), **OPTIONS | {"axes": (0, 1, 0)})
    for choices, _ in data._choices.values():
        assert {axis for _, axis in choices} == {1}
        assert all(any(volume is own for own in data.volumes[1]) for volume, _ in choices)


def test_errors_are_one_sentence(rows, tmp_path):
    for options, message in (
        ({"ratios": (20,)}, "no volume holds a patch of 60 x 16 x 16"),
        ({"context": 4}, "context 4"),
        ({"ratios": (1,)}, "ratios of at least 2"),
        ({"scales": ((0.5, 1, "area"),)}, "factors of 1 or more"),
        ({"row_weights": (1,)}, "row_weights has 1 numbers, expected 2"),
    ):
        with pytest.raises(ValueError, match=message):
            SlabPatchDataset(rows, tmp_path / "cache", **OPTIONS | options)
    with pytest.raises(ValueError, match="at least one CT"):
        SlabPatchDataset([], tmp_path / "cache")
    with pytest.raises(BadInput, match="does not exist"):
        SlabPatchDataset([{"image": str(tmp_path / "absent.nii.gz")}], tmp_path / "cache")


def test_samples_that_are_too_small_are_named(rows, tmp_path):
    """A bug: the place of a patch was drawn from a negative room."""
    sampled = [row | {"sample": row["image"], "sample_ratio": "20"} for row in rows]
    with pytest.raises(ValueError, match=r"holds no patch of \(60, 16, 16\) .* for its ratio 20"):
        SlabPatchDataset(sampled, tmp_path / "cache", **OPTIONS)
