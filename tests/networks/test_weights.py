import copy
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.networks.weights import (
    ChosenWeights,
    MissingWeights,
    count_parameters,
    freeze,
    load_exactly,
    load_part,
    read_checkpoint,
    read_state,
    save_parts,
    unfreeze,
    weights_hash,
)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_another_size_is_refused_and_changes_nothing():
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(ValueError, match="1 unexpected, 1 of another shape"):
        load_exactly(module, {"weight": torch.zeros(9, 9), "bias": torch.zeros(3), "more": torch.zeros(1)}, "x")
    assert torch.equal(module.weight, before)


def test_retraining_a_part_replaces_it(tmp_path):
    save_parts(tmp_path / "model.pt", {"refiner": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))})
    save_parts(tmp_path / "model.pt", {"refiner": nn.Linear(2, 3)})
    assert set(read_state(tmp_path / "model.pt")) == {"refiner.weight", "refiner.bias"}


def test_missing_weights_name_the_command(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(MissingWeights, match="does not exist; make it with python -m common run BUNDLE --scale demo"):
        read_state(path)
    with pytest.raises(MissingWeights, match="does not exist; make it with make x, then --ckpt_dir RUN/models"):
        load_part(nn.Linear(2, 3), path, "unet", make_weights="make x")
    save_parts(path, {"refiner": nn.Linear(2, 3)})
    with pytest.raises(MissingWeights, match="model.pt holds no unet weights; make it with make x"):
        load_part(nn.Linear(2, 3), path, "unet", make_weights="make x")


def test_files_of_weights_are_read_without_running_code(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["a"], torch.ones(2))
    with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
        read_checkpoint(tmp_path / "b.pt")
    torch.save([1], tmp_path / "b.pt")
    with pytest.raises(ValueError, match="holds a list, expected a state dict"):
        read_checkpoint(tmp_path / "b.pt")
    torch.save({"run": print}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="cannot be read as a file of weights"):
        read_state(tmp_path / "b.pt")


def test_frozen_survives_train_pickle_and_copy():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
            self.head = nn.Linear(2, 2)

    parent = Parent().train()
    for p in (parent, copy.deepcopy(parent).train(), pickle.loads(pickle.dumps(parent.vae)).train()):
        vae = getattr(p, "vae", p)
        assert not any(m.training for m in vae.modules())
        assert not any(q.requires_grad for q in vae.parameters())
    assert parent.head.training
    clone = copy.deepcopy(parent.vae)
    clone[1].training = True
    clone.train()
    assert not clone[1].training, "the copy guards itself, not the original"
    assert unfreeze(parent.vae)[1].training and all(q.requires_grad for q in parent.vae.parameters())
    assert not parent.eval().vae.training


def test_weights_hash():
    a, b = small(1), small(1)
    assert weights_hash(a) == weights_hash(b) == weights_hash(freeze(copy.deepcopy(a)))
    b[0].bias.data[0] += 1e-7
    assert weights_hash(a) != weights_hash(b)
    assert weights_hash(a) != weights_hash(copy.deepcopy(a).bfloat16())
    with torch.device("meta"), pytest.raises(ValueError, match="meta device"):
        weights_hash(small())


def test_parameters_are_counted_on_the_meta_device_too():
    with torch.device("meta"):
        assert count_parameters(small()) == 9 + 6 + 4


def test_chosen_weights_stand_for_the_module_wherever_its_state_is_asked_for():
    network, other = small(1), small(2)
    chosen = ChosenWeights(network, ["1.*", "2.weight"])
    names = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "2.weight"}
    assert chosen.state_dict().keys() == names
    assert {name for name, _ in chosen.named_parameters()} == {"1.weight", "1.bias", "2.weight"}
    first = other[0].weight.clone()
    ChosenWeights(other, ["1.*", "2.weight"]).load_state_dict(chosen.state_dict())
    assert torch.equal(other[2].weight, network[2].weight) and torch.equal(other[0].weight, first)
    for state in ({}, network.state_dict()):
        with pytest.raises(RuntimeError, match="expected the 6 that"):
            chosen.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        chosen.load_state_dict({name: torch.zeros(9, 9) for name in names})
    with pytest.raises(ValueError, match=r"names has '9\.\*', expected a pattern of a weight of Sequential"):
        ChosenWeights(network, ["1.*", "9.*"])
