from types import SimpleNamespace

import torch
from ignite.engine import Engine

from common.engines.feature_scale import FeatureScaleFitter
from common.networks.mdfnet import FeatureMDFNet
from common.networks.modality_fusion import FusionHead


def test_it_is_fitted_when_the_training_starts_and_not_again():
    sizes = {"vision": 4, "text": 3}
    network = FeatureMDFNet(None, FusionHead(("vision", "text"), 2, sizes, 8, 2, (6,), dropout_head=0.0))
    data = SimpleNamespace(
        vectors={
            "vision": torch.randn(20, 4) * 3 + 1,
            "text": torch.randn(20, 3),
            "present": torch.tensor([[True, True, False]]).expand(20, -1),
        }
    )
    fitter = FeatureScaleFitter(SimpleNamespace(module=network), data)  # as wrapped for several processes
    seen = []
    engine = Engine(lambda engine, batch: seen.append(network.fusion.projections["vision"][0].mean.clone()))
    fitter.attach(engine)
    engine.run([0])
    assert torch.allclose(seen[0], data.vectors["vision"].mean(0))
    data.vectors["vision"] = data.vectors["vision"] + 10
    engine.run([0])
    assert torch.equal(seen[1], seen[0])
