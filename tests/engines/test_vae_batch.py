import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from common.engines.vae_batch import PrepareVAEBatch
from common.inferers.autocast import AutocastInferer
from common.inferers.vae_reconstruction import VAEReconstructionInferer
from common.losses.vae_loss import VAELoss
from common.networks.maisi_vae import MaisiVAE


@pytest.mark.parametrize("decollate", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_vae_trains_with_monais_engines(decollate, dtype):
    torch.manual_seed(0)
    vae = MaisiVAE(num_channels=[8, 8, 8], norm_num_groups=4, num_res_blocks=[1, 1, 1])
    data, losses = [{"image": torch.rand(1, 1, 12, 12, 12)}], []
    loss = VAELoss()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=10,
        train_data_loader=data,
        network=vae,
        optimizer=torch.optim.AdamW(vae.parameters(), 3e-3),
        loss_function=loss,
        prepare_batch=PrepareVAEBatch(),
        inferer=AutocastInferer(dtype),
        train_handlers=[loss],
        decollate=decollate,
    )

    def keep(engine):
        output = engine.state.output[0] if decollate else engine.state.output
        losses.append(float(output["l1_loss"]))
        assert float(output["kl_loss"]) > 0

    trainer.add_event_handler("ITERATION_COMPLETED", keep)
    trainer.run()
    assert losses[-1] < losses[0]

    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        data,
        vae,
        prepare_batch=PrepareVAEBatch(),
        inferer=VAEReconstructionInferer(),
        decollate=False,
    )
    evaluator.run()
    with torch.no_grad():
        expected = vae.decode(vae.encode(data[0]["image"])[0])
    assert torch.equal(evaluator.state.output["pred"], expected)
    assert torch.equal(evaluator.state.output["label"], data[0]["image"])
