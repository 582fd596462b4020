import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from common.engines.refiner_batch import PrepareRefinerBatch, base_of_patch
from common.inferers.autocast import AutocastInferer
from common.losses.slab_loss import SlabLoss
from common.networks.slice_refiner import SliceRefiner
from common.transforms.slabs import average_slabs, interpolate_slices, project_to_measurement


@pytest.fixture
def batch():
    thin = torch.randn(2, 28, 8, 8, generator=torch.Generator().manual_seed(0)) / 5
    return {"thick": average_slabs(thin, 7), "target": thin[:, 8:20], "ratio": torch.tensor([4, 4])}


def test_base_is_the_volumes_projected_linear_interpolation(batch):
    whole = project_to_measurement(interpolate_slices(batch["thick"], 28), batch["thick"])
    torch.testing.assert_close(base_of_patch(batch["thick"], 4, 3), whole[:, 8:20])


def test_inputs_targets_and_arguments(batch):
    thick, target, args, kwargs = PrepareRefinerBatch()(batch)
    assert thick is batch["thick"] and not kwargs
    assert torch.equal(target[:, 1], batch["target"])
    assert torch.equal(target[:, 0], args[0])
    sample = torch.randn_like(batch["target"])
    assert PrepareRefinerBatch()(batch | {"sample": sample})[2][1] is sample


def test_mixed_ratios_are_refused(batch):
    with pytest.raises(ValueError, match=r"ratios \[4, 5\]"):
        PrepareRefinerBatch()(batch | {"ratio": torch.tensor([4, 5])})


def test_monai_trainer_lowers_the_loss(batch):
    torch.manual_seed(0)
    network = SliceRefiner(context=5, channels=(8, 8), blocks=(1, 1))
    losses = []
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=30,
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=3e-3),
        loss_function=SlabLoss(),
        prepare_batch=PrepareRefinerBatch(),
        inferer=AutocastInferer("bfloat16"),
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"].detach()))
    )
    trainer.run()
    assert losses[-1] < 0.9 * losses[0]
