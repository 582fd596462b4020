import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from common.data.datasets.feature_cache import FeatureCache, FeatureKey
from common.data.datasets.features import FeatureDataset, find_damaged_features, write_features
from common.io.bad_input import BadInput

LABELS = ["Edema", "Fracture", "Pneumonia"]
NAN = float("nan")


@pytest.fixture
def folder(tmp_path):
    """Vectors, labels and two maps of four cases."""
    cache, maps = FeatureCache(tmp_path / "cache"), {"latent": [], "thick": []}
    for i in range(4):
        for name, side in (("latent", 0), ("thick", 1000)):
            key = FeatureKey("weights", f"{i}", name)
            values = torch.arange(2 * 4 * 5 * 6.0).reshape(2, 4, 5, 6) + side
            cache.get_or_compute(key, lambda values=values: {"z": values, "shape": torch.tensor(values.shape)})
            maps[name].append(key.digest())
    vectors = {
        "vision": torch.arange(12.0).reshape(4, 3), "text": torch.rand(4, 2).half(), "clinical": torch.rand(4, 45),
        "present": torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.bool),
        "label": torch.tensor([[1, 0, NAN], [0, 0, 1], [0, 1, NAN], [0, 0, 0.6]]),
    }  # fmt: skip
    index = {
        "labels": LABELS, "scale_factor": 2.5, "features": ["vision", "text", "latent", "thick"],
        "cache_dir": "../cache", "columns": {"case": list("abcd"), "patient": list("wxyz"), "ratio": [3, 5, 3, 5]},
        "maps": {name: {"tensor": "z", "entries": digests} for name, digests in maps.items()},
    }  # fmt: skip
    folder = tmp_path / "features"
    folder.mkdir()
    save_file(vectors, folder / "train.safetensors")
    (folder / "train.json").write_text(json.dumps(index))
    return folder


def test_items(folder):
    data = FeatureDataset(folder, "train")
    assert len(data) == 4 and data.labels == tuple(LABELS) and data.scale_factor == 2.5
    item = data[1]
    assert set(item) == {
        "vision", "text", "latent", "thick", "clinical", "present", "label", "case", "patient", "ratio", "index"
    }  # fmt: skip
    assert item["vision"].tolist() == [3, 4, 5] and item["text"].dtype == torch.float16
    assert item["latent"].shape == (2, 4, 5, 6) and item["thick"][0, 0, 0, 0] == 1000
    assert item["present"].tolist() == [True, False, True] and item["label"].tolist() == [0, 0, 1]
    assert (item["case"], item["patient"], item["ratio"], item["index"]) == ("b", "x", 5, 1)
    with pytest.raises(IndexError):
        data[4]


def test_a_choice_of_features_labels_and_cases(folder):
    data = FeatureDataset(folder, "train", ("clinical", "vision"), ["Pneumonia", "Edema"], limit=2)
    assert len(data) == 2 and set(data[0]).isdisjoint({"text", "latent", "thick"}) and "vision" in data[0]
    assert data.vectors["present"].tolist() == [[True, True, True], [True, False, True]]
    label = data.vectors["label"]
    assert label[:, 1].tolist() == [1, 0] and label[0, 0].isnan() and label[1, 0] == 1


def test_class_weights_grow_as_a_label_gets_rarer(folder):
    weights = FeatureDataset(folder, "train").class_weights()
    ratio = torch.tensor([3 / 1, 3 / 1, 1 / 1]).sqrt()  # negatives per positive; no negative of Pneumonia counts as one
    torch.testing.assert_close(weights, ratio / ratio.mean())
    assert weights.mean() == pytest.approx(1)


def test_crops_depend_on_seed_epoch_and_index_only(folder):
    def crops(epoch, **kwargs):
        data = FeatureDataset(folder, "train", crop=(3, 2, 2), **kwargs)
        data.set_epoch(epoch)
        return [item["latent"] for item in DataLoader(data, batch_size=None)]

    first = crops(1)
    assert all(item.shape == (2, 3, 2, 2) for item in first)
    assert all(torch.equal(a, b) for a, b in zip(first, crops(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, crops(2), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, crops(1, seed=1), strict=True))


def test_all_maps_are_cropped_at_the_same_place(folder):
    item = FeatureDataset(folder, "train", crop=(2, 2, 99))[0]
    assert item["latent"].shape == (2, 2, 2, 6)  # what is smaller is taken whole
    assert torch.equal(item["thick"], item["latent"] + 1000)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(BadInput, match=r"val.json: does not exist, expected what the stage of the features writes"):
        FeatureDataset(folder, "val")
    with pytest.raises(BadInput, match="has no label 'COVID-19', expected some of Edema, Fracture, Pneumonia"):
        FeatureDataset(folder, "train", labels=["COVID-19"])
    with pytest.raises(BadInput, match="has no tokens features, expected those of a run of its stage with tokens"):
        FeatureDataset(folder, "train", ["tokens"])
    with pytest.raises(ValueError, match="expected positive sizes"):
        FeatureDataset(folder, crop=(0, 1, 1))
    with pytest.raises(BadInput, match="lacks latent of case a, which .*train.json names; run its stage again"):
        data = FeatureDataset(folder)
        shutil.rmtree(data.cache.root / "entries")
        data[0]


@pytest.mark.parametrize("index", [{"labels": LABELS, "cases": ["a"], "patients": ["w"]}, [], None])
def test_an_index_of_an_older_version_is_refused_in_one_sentence(folder, index):
    (folder / "train.json").write_text("" if index is None else json.dumps(index))
    with pytest.raises(BadInput, match="train.json: is no index of features that this version writes; run its stage"):
        FeatureDataset(folder)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_changed_byte_of_either_file_is_noticed(folder, suffix):
    """A bug: a network was trained on other features, or on those of another case."""
    index, vectors = json.loads((folder / "train.json").read_text()), load_file(folder / "train.safetensors")
    write_features(folder, "train", index, vectors)
    assert len(FeatureDataset(folder)) == 4
    path, choose, noticed = (folder / "train").with_suffix(suffix), random.Random(0), 0
    data = path.read_bytes()
    for place in choose.sample(range(len(data)), 150):
        changed = bytearray(data)
        changed[place] ^= choose.randrange(1, 256)
        path.write_bytes(changed)
        try:
            same = FeatureDataset(folder)
        except BadInput:
            noticed += 1
        else:  # a blank for another in JSON, or the word "checksum" itself
            assert same.columns == index["columns"] and torch.equal(same.vectors["vision"], vectors["vision"])
    assert noticed > 140
    path.write_bytes(data[:-9])
    with pytest.raises(BadInput, match="run its stage again"):
        FeatureDataset(folder)


def test_what_is_damaged_is_known_until_it_is_made_again(folder):
    """So that the stage which wrote it runs again."""
    assert find_damaged_features(folder) is None
    data = FeatureDataset(folder)
    digest = data.maps["thick"]["entries"][2]
    path = next((data.cache.root / "entries").rglob(f"{digest}.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="lacks thick of case c"):
        data[2]
    assert "had a damaged entry with thick" in find_damaged_features(folder)
    data.cache.get_or_compute(FeatureKey("weights", "2", "thick"), lambda: {"z": torch.ones(2, 4, 5, 6)})
    assert find_damaged_features(folder) is None and data[2]["thick"].sum() == 240
    (folder / "train.json").write_text("{}")
    assert "run its stage again" in find_damaged_features(folder)


def test_a_moved_run_is_found(folder, tmp_path):
    shutil.copytree(tmp_path, tmp_path.parent / "moved" / "here")
    data = FeatureDataset(tmp_path.parent / "moved" / "here" / "features")
    assert data.cache.root == tmp_path.parent / "moved" / "here" / "cache" and data[0]["latent"].shape[0] == 2
