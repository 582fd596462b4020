import pytest
import torch

from common.data.ct.reader import read_ct
from common.data.datasets.feature_cache import FeatureCache
from common.data.datasets.features import FeatureDataset
from common.engines.frozen_features import FeatureWriter
from common.inferers.chunked_vae import ChunkedVAE
from common.inferers.slice_latents import SliceLatents
from common.networks.maisi_vae import MaisiVAE
from common.networks.weights import freeze
from common.transforms.ct_pairs import PairReader, pair_cases, read_pair
from common.transforms.slabs import interpolate_slices, ratio_condition
from common.transforms.windows import scale_window
from tests.data.ct.thin_ct import write_manifest, write_thin_ct

SPLITS = {"a": "train", "b": "train", "c": "val", "d": "test"}


def tiny_vae(seed=0):
    torch.manual_seed(seed)
    return freeze(MaisiVAE(num_channels=[8, 8, 8], norm_num_groups=4, num_res_blocks=[1, 1, 1]))


def latent_writer(root, vae=None, ratios=(3, 5), resolution=None, chunks=(8, 2), splits=("train", "val"), **kwargs):
    chunked, pairs = ChunkedVAE(vae or tiny_vae(), *chunks), PairReader(resolution)
    return FeatureWriter(
        {"latent": SliceLatents(chunked, "thin", pairs), "thick_latent": SliceLatents(chunked, "thick", pairs)},
        {split: pair_cases(root / "data", split, ratios) for split in splits}, ["case", "patient", "image", "ratio"],
        root / "cache", root / "run", "latents", scaled="latent", **kwargs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    write_manifest(root / "data", SPLITS)
    return root, latent_writer(root).run()


def test_first_run_encodes_both_sides_of_every_pair(latents):
    metrics = latents[1]
    assert metrics["cases"] == 6  # the test split stays out
    assert metrics["volumes_encoded"] == metrics["misses"] == 12 and metrics["hits"] == 0


def test_a_ct_is_read_once_for_both_sides(latents, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("common.transforms.ct_pairs.read_ct", lambda path: read.append(path) or read_ct(path))
    stage = latent_writer(latents[0], splits=["val"], ratios=[5])
    stage.cache = FeatureCache(tmp_path)
    assert stage.run()["misses"] == 2 and len(read) == 1
    assert stage.run()["hits"] == 2 and len(read) == 1  # and not at all where the cache knows it


def test_second_run_does_no_vae_work(latents):
    vae = tiny_vae()
    vae.encode = vae.encoder.forward = None  # a call would fail
    for block in vae.encoder.blocks:
        block.forward = None
    metrics = latent_writer(latents[0], vae).run()
    assert metrics["volumes_encoded"] == metrics["misses"] == 0 and metrics["hits"] == 12
    assert metrics["scale_factor"] == latents[1]["scale_factor"]


def test_latents_are_the_vaes(latents):
    root, _ = latents
    vae, thin = tiny_vae(), []
    for split, count in (("train", 4), ("val", 2)):
        data = FeatureDataset(root / "run" / "latents", split)
        assert len(data) == count and data.scale_factor == latents[1]["scale_factor"]
        for item in data:
            pair = read_pair(item["image"], item["ratio"])
            assert torch.equal(item["spacing"], ratio_condition(pair.thick_mm, pair.thin_mm))
            for name, hu in (("latent", pair.thin), ("thick_latent", interpolate_slices(pair.thick, len(pair.thin)))):
                padding = [n for size in reversed(hu.shape) for n in (0, -size % 4)]
                image = torch.nn.functional.pad(scale_window(hu)[None, None], padding, mode="replicate")
                with torch.no_grad():
                    z_mu, _ = vae.encode(image)
                torch.testing.assert_close(item[name], z_mu[0], atol=1e-4, rtol=0)
            if split == "train":
                thin.append(item["latent"].flatten())
    assert data.scale_factor == pytest.approx(1 / torch.cat(thin).double().std().item(), rel=1e-6)


@pytest.mark.parametrize("change", ["weights", "resolution", "ratio", "input"])
def test_what_changes_the_latents_is_encoded_again(tmp_path, change):
    write_manifest(tmp_path / "data", {"a": "train", "c": "val"})
    latent_writer(tmp_path, ratios=(5,)).run()
    if change == "input":
        write_thin_ct(tmp_path / "data" / "a.nii.gz", seed=9)
    kwargs = {"weights": {"vae": tiny_vae(1)}, "resolution": {"resolution": 8}, "ratio": {"ratios": (4,)}}.get(
        change, {}
    )
    metrics = latent_writer(tmp_path, **{"ratios": (5,), **kwargs}).run()
    assert metrics["misses"] == (2 if change == "input" else 4)


def test_chunk_sizes_do_not_count(latents):
    assert latent_writer(latents[0], chunks=(4, 1)).run()["misses"] == 0
