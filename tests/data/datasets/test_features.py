import json

import pytest
import torch
from safetensors.torch import save_file

from common.data.datasets.features import FeatureDataset
from common.io.bad_input import BadInput

LABELS = ["Edema", "Fracture", "Pneumonia"]
NAN = float("nan")


@pytest.fixture
def folder(tmp_path):
    tensors = {
        "vision": torch.arange(12.0).reshape(4, 3), "text": torch.rand(4, 2), "clinical": torch.rand(4, 45),
        "present": torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.bool),
        "label": torch.tensor([[1, 0, NAN], [0, 0, 1], [0, 1, NAN], [0, 0, 0.6]]),
    }  # fmt: skip
    save_file(tensors, tmp_path / "train.safetensors")
    listed = {"labels": LABELS, "cases": list("abcd"), "patients": list("wxyz")}
    (tmp_path / "train.json").write_text(json.dumps(listed))
    return tmp_path


def test_items(folder):
    data = FeatureDataset(folder, "train")
    assert len(data) == 4 and data.labels == tuple(LABELS)
    item = data[1]
    assert item["features"]["vision"].tolist() == [3, 4, 5] and set(item["features"]) == {"vision", "text", "clinical"}
    assert item["present"].tolist() == [True, False, True] and item["label"].tolist() == [0, 0, 1]
    assert (item["case"], item["patient"], item["index"]) == ("b", "x", 1)
    with pytest.raises(IndexError):
        data[4]


def test_a_subset_of_modalities_labels_and_cases(folder):
    data = FeatureDataset(folder, "train", ("clinical", "vision"), ["Pneumonia", "Edema"], limit=2)
    assert len(data) == 2 and data.modalities == ("vision", "clinical")
    assert set(data[0]["features"]) == {"vision", "clinical"}
    assert data.present.tolist() == [[True, False, True], [True, False, True]]  # text counts as absent
    assert data.label[:, 1].tolist() == [1, 0] and data.label[0, 0].isnan() and data.label[1, 0] == 1


def test_class_weights_grow_as_a_label_gets_rarer(folder):
    weights = FeatureDataset(folder, "train").class_weights()
    ratio = torch.tensor([3 / 1, 3 / 1, 1 / 1]).sqrt()  # negatives per positive; no negative of Pneumonia counts as one
    torch.testing.assert_close(weights, ratio / ratio.mean())
    assert weights.mean() == pytest.approx(1)


def test_what_is_missing_is_named(folder):
    with pytest.raises(BadInput, match=r"val.json: does not exist, expected what the features stage writes"):
        FeatureDataset(folder, "val")
    with pytest.raises(BadInput, match="has no label 'COVID-19', expected some of Edema, Fracture, Pneumonia"):
        FeatureDataset(folder, "train", labels=["COVID-19"])
    save_file({"clinical": torch.rand(4, 45), "present": torch.ones(4, 3) > 0, "label": torch.rand(4, 3)},
              folder / "train.safetensors")  # fmt: skip
    with pytest.raises(BadInput, match="has no vision features, expected those of a run of the features stage with"):
        FeatureDataset(folder, "train")
    assert len(FeatureDataset(folder, "train", ("clinical",))) == 4
