import torch
from torch import nn

from common.handlers.model_parts import ModelPartSaver


def test_the_final_model_is_what_was_trained_last(tmp_path):
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    ModelPartSaver(str(tmp_path), "vae", first, {"size": 2})()
    ModelPartSaver(str(tmp_path), "refiner", second, {})()
    model, final = (torch.load(tmp_path / name, weights_only=True) for name in ("model.pt", "model_final.pt"))
    assert final.keys() == model.keys() == {"vae.weight", "vae.bias", "refiner.weight", "refiner.bias"}
    assert all(torch.equal(final[name], model[name]) for name in model)
    assert not list(tmp_path.glob(".*"))
