import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.networks.schedulers import DDPMScheduler
from torch import nn
from torch.utils.data import DataLoader

from common.data.datasets.features import FeatureDataset
from common.engines.diffusion_batch import PrepareDiffusionBatch, PrepareSamplingBatch
from common.handlers.diffusion_quality import DiffusionQuality
from common.inferers.chunked_vae import ChunkedVAE
from common.inferers.diffusion_samplers import DDIMSampler, SamplingInferer
from common.metrics.image_quality import psnr, ssim
from common.networks.slice_unet import SliceUNet
from common.transforms.ct_pairs import read_pair
from common.transforms.slabs import interpolate_slices, project_to_measurement
from common.transforms.windows import unscale_window
from tests.data.ct.thin_ct import write_manifest
from tests.inferers.test_slice_latents import latent_writer, tiny_vae


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    root = tmp_path_factory.mktemp("quality")
    vae = tiny_vae()
    write_manifest(root / "data", {"a": "train", "b": "val", "c": "val"})
    latent_writer(root, vae, ratios=[5]).run()
    vae, data = ChunkedVAE(vae, 8, 2), FeatureDataset(root / "run" / "latents", "val")
    unet = SliceUNet(
        num_channels=(8, 8),
        num_res_blocks=(1, 1),
        attention_levels=(False, False),
        num_head_channels=(0, 8),
        norm_num_groups=4,
    )
    return vae, data, unet


def evaluator(setting, quality):
    _, data, unet = setting
    return SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(data, batch_size=1),
        unet,
        prepare_batch=PrepareSamplingBatch(data.scale_factor),
        inferer=SamplingInferer(DDIMSampler(2)),
        key_val_metric={"psnr": quality},
        decollate=False,
    )


def test_metrics_against_a_calculation_by_hand(setting):
    vae, data, unet = setting
    quality = DiffusionQuality(vae, data.scale_factor)
    engine = evaluator(setting, quality)
    engine.run()
    expected = []
    for item in data:
        pair = read_pair(item["image"], 5)
        thick = item["thick_latent"][None] * data.scale_factor
        drawn = DDIMSampler(2)(unet, thick, item["spacing"][None], 0) / data.scale_factor
        images = [unscale_window(vae.decode(z, shape=pair.thin.shape)[0, 0]) for z in (drawn, item["latent"][None])]
        images.append(interpolate_slices(pair.thick, len(pair.thin)))
        sample, ceiling, linear = (project_to_measurement(image, pair.thick) for image in images)
        mse = (drawn - item["latent"]).mul(data.scale_factor).square().mean().item()
        values = [psnr(sample, pair.thin), ssim(sample, pair.thin), psnr(linear, pair.thin), psnr(ceiling, pair.thin)]
        expected.append([*values, mse])
    names = ["psnr", "ssim", "psnr_linear", "psnr_vae", "latent_mse"]
    for name, values in zip(names, zip(*expected, strict=True), strict=True):
        assert engine.state.metrics[name] == pytest.approx(sum(values) / 2, rel=1e-3), name
    assert engine.state.best_metric == engine.state.metrics["psnr"]
    assert quality.example["case"] == "b" and quality.example["sample"].shape == (20, 14, 12)


def test_the_same_every_time_and_with_the_training_loss(setting):
    vae, data, unet = setting
    scheduler = DDPMScheduler(1000, "cosine", prediction_type="v_prediction")
    prepare = PrepareDiffusionBatch(scheduler, data.scale_factor, seed=4)
    quality = DiffusionQuality(vae, data.scale_factor, training=(prepare, SimpleInferer(), nn.MSELoss()))
    engine = evaluator(setting, quality)
    engine.run()
    first = dict(engine.state.metrics)
    engine.run()
    assert first == engine.state.metrics
    again, losses = PrepareDiffusionBatch(scheduler, data.scale_factor, seed=4), []
    for batch in DataLoader(data, batch_size=1):
        for _ in range(4):
            x, target, args, kwargs = again(batch)
            with torch.no_grad():
                losses.append(nn.functional.mse_loss(unet.eval()(x, *args, **kwargs), target).item())
    assert first["loss"] == pytest.approx(sum(losses) / 8)
