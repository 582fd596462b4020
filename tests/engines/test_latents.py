import json
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from common.data.datasets.latents import LatentDataset
from common.engines.latents import LatentWriter
from common.inferers.chunked_vae import ChunkedVAE
from common.io.bad_input import BadInput
from common.networks.maisi_vae import MaisiVAE, estimate_scale_factor
from common.networks.slice_unet import ratio_condition
from common.networks.weights import freeze
from common.transforms.ct_pairs import read_pair
from common.transforms.slabs import interpolate_slices
from common.transforms.windows import scale_window
from tests.data.ct.thin_ct import write_manifest, write_thin_ct

SPLITS = {"a": "train", "b": "train", "c": "val", "d": "test"}


def tiny_vae(seed=0):
    torch.manual_seed(seed)
    return freeze(MaisiVAE(num_channels=[8, 8, 8], norm_num_groups=4, num_res_blocks=[1, 1, 1]))


def writer(root, vae=None, **kwargs):
    kwargs = {"ratios": (3, 5), "progress": False, **kwargs}
    chunked = ChunkedVAE(vae or tiny_vae(), 8, 2)
    return LatentWriter(chunked, root / "data" / "manifest.csv", root / "cache", root / "run", **kwargs)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    write_manifest(root / "data", SPLITS)
    stage = writer(root)
    root.joinpath("first.json").write_text(json.dumps(stage.run()))
    return root


def test_first_run_encodes_both_sides_of_every_pair(root):
    metrics = json.loads((root / "first.json").read_text())
    assert (metrics["pairs"], metrics["cases"]) == (6, 3)  # the test split stays out
    assert metrics["encode_calls"] == metrics["misses"] == 12 and metrics["hits"] == 0


def test_second_run_does_no_vae_work(root):
    vae = tiny_vae()
    vae.encode = vae.encoder.forward = None  # a call would fail
    for block in vae.encoder.blocks:
        block.forward = None
    stage = writer(root, vae)
    metrics = stage.run()
    assert metrics["encode_calls"] == metrics["misses"] == stage.encode_calls == 0 and metrics["hits"] == 12
    assert metrics["scale_factor"] == json.loads((root / "first.json").read_text())["scale_factor"]


def test_latents_are_the_vaes_and_the_index_describes_them(root):
    index = json.loads((root / "run" / "latents" / "latents.json").read_text())
    vae = tiny_vae()
    thin_latents = []
    for i, entry in enumerate(index["entries"]):
        pair = read_pair(entry["image"], entry["ratio"])
        assert entry["shape"] == list(pair.thin.shape)
        assert entry["condition"] == ratio_condition(pair.thick_mm, pair.thin_mm).tolist()
        item = LatentDataset(root / "run" / "latents", entry["split"])[i % 4]
        assert (item["case"], item["ratio"], item["image"]) == (entry["case"], entry["ratio"], entry["image"])
        for name, hu in (("latent", pair.thin), ("thick_latent", interpolate_slices(pair.thick, len(pair.thin)))):
            padding = [n for size in reversed(hu.shape) for n in (0, -size % 4)]
            image = torch.nn.functional.pad(scale_window(hu)[None, None], padding, mode="replicate")
            with torch.no_grad():
                z_mu, _ = vae.encode(image)
            torch.testing.assert_close(item[name], z_mu[0], atol=1e-4, rtol=0)
        if entry["split"] == "train":
            thin_latents.append(item["latent"].flatten())
    assert index["scale_factor"] == pytest.approx(estimate_scale_factor(torch.cat(thin_latents)), rel=1e-6)


def test_history(root):
    history = json.loads((root / "run" / "latents" / "history.json").read_text())
    assert history["stage"] == "latents" and history["iterations"] == history["validations"] == []
    assert history["metrics"]["pairs"] == 6 and len(history["notes"]) == 1


@pytest.mark.parametrize("change", ["weights", "resolution", "ratio", "input"])
def test_what_changes_the_latents_is_encoded_again(tmp_path, change):
    write_manifest(tmp_path / "data", {"a": "train", "c": "val"})
    writer(tmp_path, ratios=(5,)).run()
    if change == "input":
        write_thin_ct(tmp_path / "data" / "a.nii.gz", seed=9)
    kwargs = {"weights": {"vae": tiny_vae(1)}, "resolution": {"resolution": 8}, "ratio": {"ratios": (4,)}}.get(
        change, {}
    )
    metrics = writer(tmp_path, **{"ratios": (5,), **kwargs}).run()
    assert metrics["misses"] == (2 if change == "input" else 4)


def test_chunk_sizes_do_not_count(root):
    chunked = ChunkedVAE(tiny_vae(), 4, 1)
    args = (chunked, root / "data" / "manifest.csv", root / "cache", root / "run")
    assert LatentWriter(*args, ratios=(3, 5), progress=False).run()["misses"] == 0


def test_progress_bar(root, capsys):
    writer(root, progress=True).run()
    assert "6/6" in capsys.readouterr().err


def test_refusals(tmp_path):
    with pytest.raises(BadInput, match="expected the manifest"):
        writer(tmp_path).run()
    write_manifest(tmp_path / "data", {"a": "train"})
    with pytest.raises(BadInput, match="no row with split val"):
        writer(tmp_path).run()
    (tmp_path / "data" / "manifest.csv").write_text("a,b\n")
    with pytest.raises(BadInput, match="lacks case"):
        writer(tmp_path).run()
    for ratios in ((), (1, 4)):
        with pytest.raises(ValueError, match="at least one integer of at least 2"):
            writer(tmp_path, ratios=ratios)


def test_data_set_crops_depend_on_seed_epoch_and_index_only(root):
    def crops(epoch, **kwargs):
        data = LatentDataset(root / "run" / "latents", "train", crop=(3, 2, 2), **kwargs)
        data.set_epoch(epoch)
        return [item["latent"] for item in DataLoader(data, batch_size=None)]

    first = crops(1)
    assert all(item.shape == (4, 3, 2, 2) for item in first)
    assert all(torch.equal(a, b) for a, b in zip(first, crops(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, crops(2), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, crops(1, seed=1), strict=True))


def test_both_latents_are_cropped_at_the_same_place(root):
    whole = LatentDataset(root / "run" / "latents", "train", ratios=[5])[0]
    item = LatentDataset(root / "run" / "latents", "train", crop=(2, 2, 99), ratios=[5])[0]
    found = [
        (d, h)
        for d in range(whole["latent"].shape[1] - 1)
        for h in range(whole["latent"].shape[2] - 1)
        if torch.equal(whole["latent"][:, d : d + 2, h : h + 2], item["latent"])
    ]
    ((d, h),) = found
    assert torch.equal(whole["thick_latent"][:, d : d + 2, h : h + 2], item["thick_latent"])


def test_data_set_options_and_refusals(root, tmp_path):
    folder = root / "run" / "latents"
    assert len(LatentDataset(folder, "train")) == 4 and len(LatentDataset(folder, "train", limit=1)) == 1
    assert {item["ratio"] for item in LatentDataset(folder, "train", ratios=[3])} == {3}
    with pytest.raises(BadInput, match=r"split 'test'.*splits \['train', 'val'\]"):
        LatentDataset(folder, "test")
    with pytest.raises(BadInput, match="expected the index"):
        LatentDataset(tmp_path / "latents.json")
    with pytest.raises(ValueError, match="expected three positive sizes"):
        LatentDataset(folder, crop=(0, 1, 1))
    with pytest.raises(BadInput, match="lacks the thin latent of case a, run the latents stage again"):
        LatentDataset(folder, cache_dir=tmp_path / "empty")[0]
    (tmp_path / "latents.json").write_text("{}")
    with pytest.raises(BadInput, match="is not an index of the latents stage"):
        LatentDataset(tmp_path)


def test_a_moved_run_is_found(root, tmp_path):
    shutil.copytree(root, tmp_path / "moved")
    data = LatentDataset(tmp_path / "moved" / "run" / "latents", "train")
    assert data.cache.root == tmp_path / "moved" / "cache" and data[0]["latent"].shape[0] == 4
