import pytest
import torch
from torch import nn

from common.networks.slice_interpolator import SliceInterpolator, parts_for
from common.networks.weights import MissingWeights, read_state, save_parts


def test_parts_accumulate_in_one_plain_file(tmp_path):
    path = tmp_path / "models" / "model.pt"
    refiner, unet = nn.Linear(2, 3), nn.Linear(4, 5)
    save_parts(path, {"refiner": refiner})
    save_parts(path, {"unet": unet, "scale_factor": torch.tensor(0.5)})
    assert set(read_state(path)) == {"refiner.weight", "refiner.bias", "unet.weight", "unet.bias", "scale_factor"}
    both = SliceInterpolator(unet=nn.Linear(4, 5), refiner=nn.Linear(2, 3)).load(path)
    assert torch.equal(both.refiner.weight, refiner.weight) and torch.equal(both.unet.weight, unet.weight)
    assert both.scale_factor == 0.5 and not both.training


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(MissingWeights, match="python -m common run"):
        SliceInterpolator(refiner=nn.Linear(2, 3)).load(tmp_path / "model.pt")
    save_parts(tmp_path / "model.pt", {"refiner": nn.Linear(2, 3)})
    with pytest.raises(MissingWeights, match="no unet weights"):
        SliceInterpolator(unet=nn.Linear(2, 3)).load(tmp_path / "model.pt")


def test_no_part_needs_no_file(tmp_path):
    assert SliceInterpolator().load(tmp_path / "nothing.pt").parts() == ()


def test_parts_of_the_modes():
    assert parts_for("refiner") == ("refiner",)
    assert parts_for("diffusion", refine_samples=False) == ("vae", "unet")
    with pytest.raises(ValueError, match="'sinc'"):
        parts_for("sinc")


def test_a_whole_file_loads_into_the_parts_that_are_there(tmp_path):
    path = tmp_path / "model.pt"
    save_parts(path, {"unet": nn.Linear(4, 5), "refiner": nn.Linear(2, 3)})
    state = torch.load(path, weights_only=True)
    network = SliceInterpolator(refiner=nn.Linear(2, 3))
    network.load_state_dict(state)
    assert torch.equal(network.refiner.weight, state["refiner.weight"]) and "unet.weight" in state
    with pytest.raises(RuntimeError, match="size mismatch"):
        SliceInterpolator(refiner=nn.Linear(3, 3)).load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        SliceInterpolator(vae=nn.Linear(2, 3), refiner=nn.Linear(2, 3)).load_state_dict(state)
