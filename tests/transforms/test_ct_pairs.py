import numpy as np
import pytest
import torch

from common.data.ct.reader import read_ct
from common.io.bad_input import BadInput
from common.transforms.ct_pairs import PairReader, pair_cases, read_pair, resize_in_plane
from tests.data.ct.thin_ct import write_manifest, write_thin_ct


def test_slabs_start_at_slice_0_and_the_remainder_is_dropped(tmp_path):
    path = write_thin_ct(tmp_path / "a.nii.gz")
    pair = read_pair(path, 5)
    hu = torch.from_numpy(read_ct(path).hu.astype(np.float32)).permute(2, 1, 0)
    assert torch.equal(pair.thin, hu[:20])
    torch.testing.assert_close(pair.thick[1], hu[5:10].mean(0))
    assert pair.thick.shape == (4, 14, 12) and (pair.thin_mm, pair.thick_mm) == pytest.approx((1.5, 7.5))


def test_resizing_keeps_proportions_and_means(tmp_path):
    volume = torch.randn(3, 16, 8)
    small = resize_in_plane(volume, 8)
    assert small.shape == (3, 8, 4)
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(volume, 2))
    assert resize_in_plane(volume, 32).shape == (3, 32, 16)
    assert resize_in_plane(volume, None) is volume and resize_in_plane(volume, 16) is volume
    with pytest.raises(ValueError, match="resolution is 0"):
        resize_in_plane(volume, 0)
    assert read_pair(write_thin_ct(tmp_path / "a.nii.gz"), 4, resolution=7).thick.shape == (5, 7, 6)


def test_a_short_ct_is_named(tmp_path):
    path = write_thin_ct(tmp_path / "short.nii.gz")
    with pytest.raises(BadInput, match=r"short\.nii\.gz: 23 slices give 1 thick"):
        read_pair(path, 12)


def test_every_ct_once_per_ratio(tmp_path):
    write_manifest(tmp_path, {"a": "train", "b": "val", "c": "train"})
    cases = pair_cases(tmp_path, "train", [5, 3])
    assert [(case["case"], case["ratio"]) for case in cases] == [("a", 3), ("a", 5), ("c", 3), ("c", 5)]
    reader = PairReader(resolution=7)
    assert reader(cases[0]).thick.shape[0] == 7 and reader(cases[1]).thin.shape == (20, 7, 6)
    assert reader(cases[1]) is reader(cases[1])
    for ratios in ((), (1, 4)):
        with pytest.raises(ValueError, match="at least one integer of at least 2"):
            pair_cases(tmp_path, "train", ratios)
    with pytest.raises(BadInput, match="no row with split test"):
        pair_cases(tmp_path, "test", [5])
