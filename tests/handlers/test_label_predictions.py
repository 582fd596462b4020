import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch.utils.data import DataLoader, Dataset

from common.data.cxr.studies import StudyCollate, StudyDataset
from common.data.datasets.case_loader import CaseLoader
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import build_note_tokenizer
from common.data.prediction_table import align_predictions, find_predictions, read_predictions, read_truth
from common.engines.cxr_batch import PrepareStudyBatch
from common.handlers.engine_state import notes
from common.handlers.label_predictions import LabelPredictions, predict_labels
from common.inferers.autocast import AutocastInferer
from common.io.bad_input import BadInput
from common.transforms.xray_io import xray_tensor
from tests.data.cxr.tiny_study import LABELS, make_cases, make_scaler
from tests.networks.tiny_mdfnet import make_network


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    cases = make_cases(folder, 5)
    tokenizer = build_note_tokenizer([case["note"] or "" for case in cases], folder / "tokenizer", 90)
    data = StudyDataset(
        cases, lambda item: item | {"image": xray_tensor(item["image"], 16)}, make_scaler(cases), image_size=16
    )
    return data, DataLoader(data, 2, collate_fn=StudyCollate(tokenizer)), tokenizer


def predictions(folder, loader, network, **settings):
    return LabelPredictions(
        str(folder), "all", LABELS, network, {"test": loader, "val": loader}, PrepareStudyBatch(),
        AutocastInferer("float32"), "cpu", MODALITIES, **settings,
    )  # fmt: skip


def test_what_an_earlier_training_left_out_is_removed(study, tmp_path):
    """A bug: without one input, the file of the network that had it was compared as if it were of this one."""
    _, loader, _ = study
    others = ["other_without_text_test.csv", "all_stage1_test.csv", "all_without_text_train.csv"]
    for name in ("all_without_text_test.csv", "all_without_vision_val.csv", *others):
        (tmp_path / name).write_text("old\n")
    predictions(tmp_path, loader, make_network(), drop=["clinical"])()
    made = {f"{name}_{split}.csv" for name in ("all", "all_without_clinical", "labels") for split in ("test", "val")}
    assert {path.name for path in tmp_path.iterdir()} == made | set(others)
    assert all((tmp_path / name).read_text() == "old\n" for name in others)


@torch.no_grad()
def alone(network, tokenizer, item, hidden=None):
    """One case without any batch: what it does not have is not given at all."""
    given = {}
    if item["present"][0] and hidden != 0:
        given["image"] = item["image"][None]
    if item["present"][1] and hidden != 1:
        given["note"] = tokenizer([item["note"]])
    if item["present"][2] and hidden != 2:
        given["clinical"] = item["clinical"][None]
    present = None if given else torch.zeros(1, 3, dtype=torch.bool)
    return network.eval()(**given, present=present).sigmoid()[0].double().numpy()


def test_without_any_usable_case_it_says_so():
    class Gone(Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise BadInput("gone.png", "is gone")

    loader = CaseLoader(Gone(), [{"case": "c0", "image": "gone.png"}])
    with pytest.raises(ValueError, match="none of the cases can be used, gone.png: is gone, expected one at least"):
        predict_labels(make_network(), loader, PrepareStudyBatch(), AutocastInferer("float32"), "cpu")


@pytest.mark.parametrize("hidden", [None, 0, 1, 2])
def test_every_case_gets_what_it_gets_alone(study, hidden):
    data, loader, tokenizer = study
    network = make_network().train()
    cases, patients, p, y = predict_labels(
        network, loader, PrepareStudyBatch(), AutocastInferer("float32"), "cpu", hidden
    )
    assert network.training and cases == [f"c{i}" for i in range(5)] and patients == ["p0", "p0", "p1", "p1", "p2"]
    for i in range(5):
        np.testing.assert_allclose(p[i], alone(network, tokenizer, data[i], hidden), atol=1e-6)
    np.testing.assert_array_equal(y, np.stack([case["label"] for case in data.cases]).astype(float))


def test_the_files_of_a_training(study, tmp_path):
    data, loader, _ = study
    network, engine = make_network(), Engine(lambda *_: None)
    predictions(tmp_path / "p", loader, network, drop=MODALITIES).attach(engine)
    engine.run([0])
    expected = {"all", *(f"all_without_{name}" for name in MODALITIES)}
    assert set(find_predictions(tmp_path / "p", "test")) == set(find_predictions(tmp_path / "p", "val")) == expected
    truth = read_truth(tmp_path / "p" / "labels_test.csv")
    assert truth.labels == LABELS and np.isnan(truth.values[1, 1]) and truth.patients[2] == "p1"
    found = {name: read_predictions(tmp_path / "p" / f"{name}_test.csv") for name in expected}
    direct = {
        name: predict_labels(network, loader, PrepareStudyBatch(), AutocastInferer("float32"), "cpu", hidden)[2]
        for hidden, name in zip((None, 0, 1, 2), ("all", *(f"all_without_{m}" for m in MODALITIES)), strict=True)
    }
    for name, table in found.items():
        np.testing.assert_allclose(align_predictions(table, truth), direct[name], atol=1e-6)
    # a case that lacks a modality anyway loses nothing with it, any other does
    assert np.allclose(direct["all"][2], direct["all_without_vision"][2], atol=1e-6)
    assert not np.allclose(direct["all"][0], direct["all_without_vision"][0], atol=1e-6)
    assert notes(engine) == ["predictions for test, val are in p/."]


def test_nothing_is_dropped_unless_asked_and_no_loader_writes_nothing(study, tmp_path):
    _, loader, _ = study
    predictions(tmp_path, loader, make_network())()
    assert set(find_predictions(tmp_path, "val")) == {"all"}
    handler = predictions(tmp_path / "none", loader, make_network())
    handler.loaders = {}
    handler()
    assert not (tmp_path / "none").exists()
