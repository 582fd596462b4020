import json
import re

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from PIL import Image
from torch.utils.data import DataLoader

from common.data.cxr.studies import StudyCollate, StudyDataset
from common.data.note_tokenizer import build_note_tokenizer
from common.engines.cxr_batch import PrepareStudyBatch
from common.evaluation.study_pictures import StudyPictures
from common.handlers.case_results import LabelResults
from common.handlers.label_predictions import predict_labels
from common.inferers.note_attention import note_attention
from common.networks.mdfnet import MDFNet
from common.networks.modality_fusion import FusionHead
from common.networks.vision_encoder import VisionEncoder
from common.transforms.xray_io import xray_tensor
from tests.data.cxr.tiny_study import LABELS, NOTES, make_cases, make_scaler
from tests.networks.tiny_mdfnet import make_network


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    cases = make_cases(folder, 3)
    tokenizer = build_note_tokenizer([case["note"] or "" for case in cases], folder / "tokenizer", 90)
    data = StudyDataset(
        cases, lambda item: item | {"image": xray_tensor(item["image"], 16)}, make_scaler(cases), image_size=16
    )
    return DataLoader(data, 2, collate_fn=StudyCollate(tokenizer))


def run(loader, network, results):
    SupervisedEvaluator(
        "cpu", loader, network, prepare_batch=PrepareStudyBatch(), val_handlers=[results], decollate=False
    ).run()


def test_files_of_every_case(loader, tmp_path):
    network = make_network().eval()
    results = LabelResults(str(tmp_path / "out"), LABELS, StudyPictures(network))
    run(loader, network, results)
    _, _, p, _ = predict_labels(network, loader, PrepareStudyBatch(), lambda x, net, *a, **kw: net(x, *a, **kw), "cpu")
    there = {"c0": ["vision", "text", "clinical"], "c1": ["vision"], "c2": ["text", "clinical"]}
    for i, (case, modalities) in enumerate(there.items()):
        content = json.loads((tmp_path / "out" / f"{case}.json").read_text())
        assert content["case"] == case and content["modalities"] == modalities
        assert content["labels"] == pytest.approx(dict(zip(LABELS, p[i], strict=True)), abs=1e-6)
        assert Image.open(tmp_path / "out" / f"{case}.png").size[0] > 100
    files = [f"{case}.{end}" for case in there for end in ("json", "png")]
    assert results.written == [str(tmp_path / "out" / name) for name in files]


def test_the_picture_shows_the_attention_of_the_encoder(loader, tmp_path):
    """With another encoder the same image gets another picture; without a network none of it is drawn."""
    network = make_network().eval()
    attended = network.vision.attention
    for name, flat in (("as it is", False), ("elsewhere", True)):

        def attention(image, rollout=False, flat=flat):
            found = attended(image, rollout=rollout)
            return torch.flip(found, (-1,)) if flat else found

        network.vision.attention = attention
        run(loader, network, LabelResults(str(tmp_path / name), LABELS, StudyPictures(network)))
    run(loader, network, LabelResults(str(tmp_path / "without"), LABELS, StudyPictures()))
    c0 = [np.asarray(Image.open(tmp_path / name / "c0.png").convert("RGB")).astype(int) for name in
          ("as it is", "elsewhere", "without")]  # fmt: skip
    assert c0[0].shape == c0[1].shape and (c0[0] != c0[1]).any()
    assert c0[2].shape != c0[0].shape or (c0[2] != c0[0]).any()


def test_the_note_is_shown_with_the_attention_over_its_tokens(loader, tmp_path):
    network = make_network().eval()
    tokenizer, data = loader.collate_fn.tokenizer, loader.dataset
    results = LabelResults(str(tmp_path), LABELS, StudyPictures(network, tokenizer=tokenizer, dataset=data))
    run(loader, network, results)
    # c1 has no note
    assert sorted(path.name for path in tmp_path.glob("*_note.html")) == ["c0_note.html", "c2_note.html"]
    page = (tmp_path / "c0_note.html").read_text()
    _, _, weights = note_attention(network.text, tokenizer, NOTES[0])
    assert re.findall(r'title="([\d.]+)"', page) == [f"{weight:.4f}" for weight in weights[1:-1]]  # [CLS], [SEP]
    assert re.sub(r"<[^>]*>", "", page.split("note-attention")[1].split(">", 1)[1]).strip() == NOTES[0]
    assert str(tmp_path / "c2_note.html") in results.written


def test_without_pictures(loader, tmp_path):
    network = make_network().eval()
    run(loader, network, LabelResults(str(tmp_path), LABELS, StudyPictures(network, pictures=False)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c0.json", "c1.json", "c2.json"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "resnet", "embeddings_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
        {
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 1],
            "window_size": 2,
            "patch_size": 2,
        },
    ],
    ids=lambda config: config["model_type"],
)
def test_encoders_without_class_token_have_pictures_too(loader, tmp_path, config):
    """A bug: asking them for their attention ended the prediction."""
    encoder = VisionEncoder(config=config, embedding=6, image_size=16)
    network = MDFNet(encoder, fusion=FusionHead(("vision",), 2, {"vision": 6}, width=8, heads=2, hidden=(8, 8))).eval()
    run(loader, network, LabelResults(str(tmp_path), LABELS, StudyPictures(network)))
    assert (tmp_path / "c0.png").is_file()
