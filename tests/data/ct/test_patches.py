import os
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Lambdad
from torch.utils.data import DataLoader

from common.data.ct.patches import CTPatchDataset
from common.data.ct.reader import read_ct
from common.data.ct.volume import write_nifti
from common.data.ct.volume_store import VolumeStore
from common.io.bad_input import BadInput
from common.transforms.ct_io import to_axial
from common.transforms.windows import scale_window
from tests.data.ct.thin_ct import write_thin_ct


def cases(folder, count=2):
    return [
        {"case": f"c{i}", "image": str(write_thin_ct(folder / f"c{i}.nii.gz", seed=i)), "split": "train"}
        for i in range(count)
    ]


def test_store_holds_what_the_reader_gives_in_any_orientation(tmp_path):
    plain = write_thin_ct(tmp_path / "a.nii.gz")
    image = nib.load(plain)
    sagittal = tmp_path / "b.nii.gz"
    write_nifti(sagittal, np.asarray(image.dataobj).transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]])
    store = VolumeStore(tmp_path / "store")
    for path in (plain, sagittal):
        found = store.get(path)
        assert isinstance(found, np.memmap) and found.dtype == np.int16 and not found.flags.writeable
        assert torch.equal(torch.from_numpy(found.astype(np.float32)), to_axial(read_ct(path))[0])
    assert np.array_equal(store.get(plain), store.get(sagittal))


def test_store_decodes_once_and_again_after_a_change(tmp_path, monkeypatch):
    path = write_thin_ct(tmp_path / "a.nii.gz")
    store = VolumeStore(tmp_path / "store")
    first = np.array(store.get(path))
    with monkeypatch.context() as context:
        context.setattr("common.data.ct.volume_store.read_ct", None)
        assert np.array_equal(VolumeStore(tmp_path / "store").get(path), first)
    write_thin_ct(path, seed=1)
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(store.get(path), first)
    assert not list((tmp_path / "store").glob(".*"))
    with pytest.raises(BadInput, match="does not exist"):
        store.get(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("damage", ["header", "voxels", "checksum", "cut", "none"])
def test_a_damaged_volume_is_named_and_decoded_again(tmp_path, caplog, damage):
    """A bug: a training took the changed voxels. `none` is a file of before, which has no checksum."""
    path, folder = write_thin_ct(tmp_path / "a.nii.gz"), tmp_path / "store"
    first = np.array(VolumeStore(folder).get(path))
    (stored,) = folder.glob("*.npy")
    data = bytearray(stored.read_bytes())
    place = {"header": 60, "voxels": len(data) // 2, "checksum": len(data) - 3}.get(damage)
    if place is not None:
        data[place] ^= 1
    stored.write_bytes(data[: {"cut": -40, "none": -14}.get(damage, len(data))])
    store = VolumeStore(folder)
    store.check([path, tmp_path / "new.nii.gz"])
    assert f"{stored} is damaged" in caplog.text and not stored.exists()
    assert np.array_equal(store.get(path), first) and len(caplog.records) == 1
    assert np.array_equal(VolumeStore(folder).get(path), first) and len(caplog.records) == 1


def test_a_ct_changed_in_place_is_decoded_again_although_it_keeps_size_and_time(tmp_path):
    path = tmp_path / "a.nii"
    image = nib.load(write_thin_ct(tmp_path / "a.nii.gz"))
    nib.save(image, path)
    os.utime(path, ns=(1, 1))
    store = VolumeStore(tmp_path / "store")
    first = np.array(store.get(path))
    time.sleep(0.02)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.int16(1), image.affine, image.header), path)
    os.utime(path, ns=(1, 1))
    assert np.array_equal(store.get(path), first + 1)


def test_patches_are_pieces_of_their_volume(tmp_path):
    data = CTPatchDataset(cases(tmp_path), tmp_path / "store", (4, 5, 6), patches_per_volume=3)
    assert len(data) == 6
    for i, item in enumerate(data[k] for k in range(6)):
        assert item["case"] == f"c{i // 3}" and item["image"].shape == (1, 4, 5, 6)
        volume = torch.from_numpy(np.array(data.store.get(data.cases[i // 3]["image"]))).float()
        windows = volume.unfold(0, 4, 1).unfold(1, 5, 1).unfold(2, 6, 1)
        assert (windows == item["image"][0]).flatten(3).all(-1).any()


def test_patches_depend_on_seed_epoch_and_index_only(tmp_path):
    rows = cases(tmp_path)

    def draw(epoch, workers=0, **kwargs):
        data = CTPatchDataset(rows, tmp_path / "store", (4, 4, 4), 4, **kwargs)
        data.set_epoch(epoch)
        return torch.stack([item["image"] for item in DataLoader(data, batch_size=None, num_workers=workers)])

    first = draw(1)
    assert torch.equal(first, draw(1)) and torch.equal(first, draw(1, workers=2))
    assert not torch.equal(first, draw(2)) and not torch.equal(first, draw(1, seed=1))
    assert len({tuple(patch.flatten().tolist()) for patch in first}) == 8


def test_small_volumes_are_extended_by_their_edge_and_transforms_apply(tmp_path):
    scale = Lambdad("image", scale_window)
    (item,) = CTPatchDataset(cases(tmp_path, 1), tmp_path / "store", (24, 14, 12), transform=scale)
    assert item["image"].shape == (1, 24, 14, 12) and torch.equal(item["image"][0, 22], item["image"][0, 23])
    assert item["image"].min() >= 0 and item["image"].max() <= 1


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        CTPatchDataset([], tmp_path)
    with pytest.raises(ValueError, match="expected positive numbers"):
        CTPatchDataset(cases(tmp_path, 1), tmp_path, (4, 4))
