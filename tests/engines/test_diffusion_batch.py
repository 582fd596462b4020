import copy

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.networks.schedulers import DDPMScheduler, PNDMScheduler, RFlowScheduler
from torch import nn

from common.engines.diffusion_batch import PrepareDiffusionBatch, PrepareSamplingBatch, draw_timesteps
from common.networks.slice_unet import SliceUNet


def batch(size=2, dtype=torch.float32):
    torch.manual_seed(0)
    shape = (size, 4, 3, 4, 4)
    return {
        "latent": torch.randn(shape, dtype=dtype),
        "thick_latent": torch.randn(shape),
        "spacing": torch.rand(size, 3),
    }


def scheduler(kind):
    if kind == "flow":
        return RFlowScheduler()
    return DDPMScheduler(1000, "cosine", prediction_type=kind, clip_sample=False)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample", "flow"])
def test_input_and_target_lead_back_to_the_latent(kind):
    data = batch()
    prepare = PrepareDiffusionBatch(scheduler(kind), scale_factor=2.0, seed=3)
    for _ in range(5):
        image, target, (t,), kwargs = prepare(data)
        noisy, thick = image.split(4, dim=1)
        x0 = 2 * data["latent"]
        assert torch.equal(thick, 2 * data["thick_latent"]) and torch.equal(kwargs["spacing_tensor"], data["spacing"])
        t = t.view(-1, 1, 1, 1, 1)
        if kind == "flow":
            torch.testing.assert_close(noisy + t / 1000 * target, x0)
            continue
        a = prepare.scheduler.alphas_cumprod[t].double()
        found = {
            "v_prediction": a.sqrt() * noisy - (1 - a).sqrt() * target,
            "epsilon": (noisy - (1 - a).sqrt() * target) / a.sqrt(),
            "sample": target.double(),
        }[kind]
        torch.testing.assert_close(found, x0.double(), atol=1e-3 if kind == "epsilon" else 1e-5, rtol=1e-3)


def test_noise_depends_on_seed_and_place_only_and_resumes():
    def run(prepare, count):
        return [prepare(batch())[0] for _ in range(count)]

    first = run(PrepareDiffusionBatch(scheduler("v_prediction")), 4)
    torch.manual_seed(99)
    torch.randn(7)
    again = PrepareDiffusionBatch(scheduler("v_prediction"))
    head = run(again, 2)
    state = copy.deepcopy(again.state_dict())
    resumed = PrepareDiffusionBatch(scheduler("v_prediction"), seed=5)
    resumed.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(first, head + run(resumed, 2), strict=True))
    assert not torch.equal(first[0], first[1])
    other = PrepareDiffusionBatch(scheduler("v_prediction"), seed=1)
    assert not torch.equal(first[0], run(other, 1)[0])


def test_two_processes_draw_what_one_would_with_twice_the_batch(monkeypatch):
    latent = {key: value.repeat_interleave(2, 0) for key, value in batch().items()}
    one = PrepareDiffusionBatch(scheduler("v_prediction"))
    whole = [one(latent)[0] for _ in range(2)]
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        prepare = PrepareDiffusionBatch(scheduler("v_prediction"))
        for expected in whole:
            dealt = {key: value[rank::2] for key, value in latent.items()}
            assert torch.equal(prepare(dealt)[0], expected[rank::2])


def test_as_a_handler_it_starts_anew():
    prepare = PrepareDiffusionBatch(scheduler("flow"))
    engine = Engine(lambda engine, data: prepare(data)[0])
    prepare.attach(engine)
    outputs = [engine.run([batch()]).output for _ in range(2)]
    assert torch.equal(*outputs) and prepare.samples == len(batch()["latent"])


def test_half_precision_latents_do_not_spoil_the_scheduler():
    prepare = PrepareDiffusionBatch(scheduler("v_prediction"))
    image, target, _, _ = prepare(batch(dtype=torch.bfloat16))
    assert image.dtype == target.dtype == prepare.scheduler.alphas_cumprod.dtype == torch.float32


def moments(x):
    return torch.stack([x.mean(), x.std()])


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"use_discrete_timesteps": False},
        {"sample_method": "logit-normal", "loc": 0.5, "scale": 0.7},
        {"use_timestep_transform": True, "base_img_size_numel": 8},
    ],
)
def test_timesteps_are_distributed_as_monais(kwargs):
    flow, count = RFlowScheduler(**kwargs), 20_000
    shape = torch.Size([count, 1, 4, 4, 4])
    found = draw_timesteps(flow, shape, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    reference = flow.sample_timesteps(torch.empty(shape))
    assert found.dtype == reference.dtype and found.shape == (count,)
    torch.testing.assert_close(moments(found.float()), moments(reference.float()), atol=8.0, rtol=0)


def test_ddpm_timesteps_are_uniform():
    t = draw_timesteps(scheduler("epsilon"), torch.Size([50_000, 1, 1, 1, 1]), torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64 and t.min() == 0 and t.max() == 999
    assert abs(t.float().mean() - 499.5) < 5


def test_unknown_prediction_is_refused():
    odd = PNDMScheduler(10)
    odd.prediction_type = "noise_level"
    with pytest.raises(ValueError, match="'noise_level', expected one of"):
        PrepareDiffusionBatch(odd)


def test_sampling_batch():
    data = batch()
    image, target, args, kwargs = PrepareSamplingBatch(scale_factor=3.0)(data, "cpu")
    assert torch.equal(image, 3 * data["thick_latent"]) and torch.equal(target, 3 * data["latent"])
    assert args == () and torch.equal(kwargs["spacing_tensor"], data["spacing"])


def test_trains_with_monais_trainer():
    torch.manual_seed(0)
    sizes = {"num_channels": (8, 8), "num_res_blocks": (1, 1), "attention_levels": (False, False)}
    unet = SliceUNet(**sizes, num_head_channels=(0, 8), norm_num_groups=4)
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=15,
        train_data_loader=[batch()],
        network=unet,
        optimizer=torch.optim.AdamW(unet.parameters(), 3e-3),
        loss_function=nn.MSELoss(),
        prepare_batch=PrepareDiffusionBatch(scheduler("v_prediction")),
        inferer=SimpleInferer(),
        accumulation_steps=1,
        decollate=False,
    )
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: losses.append(engine.state.output["loss"].item()))
    trainer.run()
    assert sum(losses[-5:]) < sum(losses[:5])
