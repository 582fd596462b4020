import pytest
import torch

from common.engines.cxr_batch import PrepareFeatureBatch, PrepareStudyBatch
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.mdfnet import FeatureMDFNet
from common.networks.modality_fusion import FusionHead


def test_features_go_where_the_network_expects_them():
    batch = {
        "vision": torch.rand(2, 4),
        "text": torch.rand(2, 3),
        "clinical": torch.rand(2, 5),
        "present": torch.tensor([[True, False, True], [False, False, True]]),
        "label": torch.tensor([[1.0, float("nan")], [0.0, 1.0]]),
        "case": ["a", "b"],
    }
    inputs, target, args, kwargs = PrepareFeatureBatch(("vision", "clinical"))(batch, "cpu")
    assert torch.equal(inputs["vision"], batch["vision"]) and set(inputs) == {"vision", "clinical"}
    assert target is not None and target[0, 1].isnan() and args == () and set(kwargs) == {"present"}
    modalities = ("vision", "clinical")
    fusion = FusionHead(modalities, 2, {"vision": 4, "clinical": 3}, width=8, heads=2, hidden=(4, 4))
    assert FeatureMDFNet(ClinicalEncoder(5, (3,)), fusion)(inputs, *args, **kwargs).shape == (2, 2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_everything_of_a_study_moves(device):
    note = {"input_ids": torch.ones(2, 7, dtype=torch.int64), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    batch = {"image": torch.rand(2, 3, 4, 4), "note": note, "clinical": torch.rand(2, 45), "label": torch.rand(2, 3)}
    batch["present"] = torch.ones(2, 3, dtype=torch.bool)
    image, label, args, kwargs = PrepareStudyBatch()(batch, torch.device(device))
    moved = [image, label, *kwargs["note"].values(), kwargs["clinical"], kwargs["present"]]
    assert all(tensor.device.type == device for tensor in moved) and args == ()
    assert list(kwargs) == ["note", "clinical", "present"] and set(kwargs["note"]) == set(note)


def test_what_the_configuration_leaves_out_is_none():
    image, label, _, kwargs = PrepareStudyBatch()({"present": torch.ones(1, 3, dtype=torch.bool)}, "cpu")
    assert image is None and label is None and kwargs["note"] is None and kwargs["clinical"] is None
