import json

import pytest
import torch
from monai.transforms import Compose

from common.data.cxr.studies import StudyCollate, StudyDataset
from common.data.datasets.features import FeatureDataset
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer
from common.engines.frozen_features import FeatureWriter
from common.inferers.autocast import AutocastInferer
from common.inferers.frozen_encoders import ImageFeatures
from common.inferers.note_features import NoteFeatures
from common.io.bad_input import BadInput
from common.networks.mdfnet import FeatureMDFNet
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.transforms.xray_io import NormaliseXrayd, ReadXrayd
from tests.data.cxr.tiny_study import LABELS, NOTES, make_cases, make_scaler
from tests.networks.tiny_mdfnet import TEXT, VISION, make_network


class Study:
    """A features stage over six cases that one test changes in one respect."""

    def __init__(self, folder):
        self.folder, self.cases = folder, make_cases(folder, 6)
        self.network, self.modalities, self.mean, self.runs = make_network(), MODALITIES, 0.5, 0
        self.dtype = "float32"
        self.tokenizer = build_note_tokenizer([note or "" for note in NOTES], folder / "tokenizer", 90)

    def dataset(self):
        read = Compose([ReadXrayd("image", size=16), NormaliseXrayd("image", [self.mean] * 3, [0.25] * 3)])
        return StudyDataset(self.cases, read, make_scaler(self.cases), self.modalities, 16)

    def run(self):
        self.runs += 1
        self.out = self.folder / f"run{self.runs}"
        data, inferer = self.dataset(), AutocastInferer(self.dtype)
        settings, network = {"image_size": 16, "mean": self.mean}, self.network
        encoders = {
            "vision": network.vision and ImageFeatures(network.vision, inferer, data.transform, settings),
            "text": network.text and NoteFeatures(network.text, inferer, self.tokenizer),
        }
        columns = ["case", "patient", "clinical", "present", "label"]
        writer = FeatureWriter(
            encoders, {"train": data.records()}, columns, self.folder / "cache", self.out, batch_size=2,
            settings={"labels": LABELS}, oom_advice=["--eval_batch_size 16"],
        )  # fmt: skip
        found = writer.run()
        return found.get("images_encoded", 0), found.get("notes_encoded", 0)

    def features(self, modalities=MODALITIES):
        return FeatureDataset(self.out / "features", "train", modalities)


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


@torch.no_grad()
def test_features_are_what_the_encoders_give_directly(study):
    assert study.run() == (4, 2)  # two cases lack their image, two their note, and two have the notes of others
    data, cases = study.features(), study.dataset()
    for i, case in enumerate(study.cases):
        image = study.network.vision(cases[i]["image"][None])[0] if case["image"] else torch.zeros(10)
        note = torch.zeros(12)
        if case["note"]:
            note = study.network.text(torch.tensor([study.tokenizer.encode(case["note"])]))[0]
        torch.testing.assert_close(data.vectors["vision"][i], image, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(data.vectors["text"][i], note, atol=1e-6, rtol=1e-5)
        assert torch.equal(data.vectors["clinical"][i], cases[i]["clinical"])
        assert data.vectors["present"][i].tolist() == cases.present(i)
        torch.testing.assert_close(data.vectors["label"][i], cases[i]["label"], equal_nan=True)
    assert data.columns["case"] == [f"c{i}" for i in range(6)]
    assert data.columns["patient"] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert data.labels == LABELS


@torch.no_grad()
def test_stage_1_on_features_is_the_whole_network_with_frozen_encoders(study):
    study.run()
    data, network = study.features(), study.network.eval()
    batch = StudyCollate(study.tokenizer)([study.dataset()[i] for i in range(6)])
    whole = network(batch["image"], batch["note"], batch["clinical"], batch["present"])
    stage1 = FeatureMDFNet(network.clinical, network.fusion)(data.vectors, data.vectors["present"])
    torch.testing.assert_close(stage1, whole, atol=1e-5, rtol=1e-4)


def test_a_second_run_encodes_nothing(study):
    study.run()
    first = (study.out / "features" / "train.safetensors").read_bytes()
    assert study.run() == (0, 0)
    assert (study.out / "features" / "train.safetensors").read_bytes() == first
    history = json.loads((study.out / "features" / "history.json").read_text())
    assert history["stage"] == "features" and history["metrics"]["hits"] == 8 and history["metrics"]["misses"] == 0
    assert history["metrics"]["cases"] == 6 and "others from the cache" in history["notes"][0]


def test_another_weight_encodes_again(study):
    study.run()
    with torch.no_grad():
        study.network.vision.projection.weight[0, 0] += 1e-3
    assert study.run() == (4, 0)
    with torch.no_grad():
        study.network.text.model.embeddings.tok_embeddings.weight[5] += 1e-3
    assert study.run() == (0, 2)
    assert study.run() == (0, 0)
    # what stage 1 trains is no part of the features
    with torch.no_grad():
        study.network.clinical.layers[0].weight += 1
        study.network.fusion.head[0].weight += 1
    assert study.run() == (0, 0)


def test_other_settings_of_an_encoder_encode_again(study):
    """A bug: pooling and heads are no weights, so an encoder with others was given the features of the first."""
    study.run()
    before = study.features().vectors["text"].clone()
    text = study.network.text
    study.network.text = TextEncoder(config=TEXT, pooling="mean")
    study.network.text.load_state_dict(text.state_dict())
    assert text.pooling == "cls" and study.run() == (0, 2)
    assert not torch.equal(study.features().vectors["text"], before)
    vision = study.network.vision
    study.network.vision = VisionEncoder(config=VISION | {"num_attention_heads": 4}, image_size=16, embedding=10)
    study.network.vision.load_state_dict(vision.state_dict())
    assert study.run() == (4, 0)
    study.network.text = TextEncoder(config=TEXT, pooling="mean", gradient_checkpointing=True)
    study.network.text.load_state_dict(text.state_dict())
    assert study.run() == (0, 0)  # that changes memory, not the features


def test_another_precision_encodes_again(study):
    study.run()
    before = study.features().vectors["text"].clone()
    study.dtype = "bfloat16"
    assert study.run() == (4, 2)
    assert not torch.equal(study.features().vectors["text"], before)
    study.dtype = "float32"
    assert study.run() == (0, 0) and torch.equal(study.features().vectors["text"], before)


def test_another_image_note_normalisation_or_tokenizer_encodes_again(study):
    study.run()
    before = study.features().vectors["vision"].clone()
    with open(study.cases[0]["image"], "rb") as file:
        content = bytearray(file.read())
    other = study.folder / "other.png"
    other.write_bytes(content)
    study.cases[0]["image"] = str(other)
    assert study.run() == (0, 0)  # the same bytes elsewhere are the same image
    study.cases[3]["image"] = study.cases[1]["image"]
    study.cases[3]["note"] = "Fever."
    assert study.run() == (0, 2)  # with the other note of its batch; the image of c1 is known
    assert torch.equal(study.features().vectors["vision"][3], before[1])
    study.mean = 0.4
    assert study.run()[0] == 4  # one of them in two batches
    study.tokenizer = build_note_tokenizer(
        ["Words of others, by ambulance: cough and fever, dyspnea."], study.folder / "second", 90
    )
    assert study.run() == (0, 4)  # one of them in two batches


def test_background_passages_encode_the_notes_again(study):
    study.run()
    before = study.features().vectors["text"].clone()
    study.tokenizer = NoteTokenizer(study.folder / "tokenizer", background_passages=1, labels=LABELS)
    assert study.run() == (0, 2)
    after, present = study.features().vectors["text"], study.features().vectors["present"][:, 1]
    assert (after != before).any(1).tolist() == present.tolist()  # a case without a note has no background
    assert study.run() == (0, 0)
    study.tokenizer = NoteTokenizer(study.folder / "tokenizer")
    assert study.run() == (0, 0) and torch.equal(study.features().vectors["text"], before)


@pytest.mark.parametrize("modalities", [("vision",), ("text", "clinical"), ("clinical",)])
def test_a_subset_has_its_own_features_only(study, modalities):
    study.run()
    whole = study.features(modalities)
    study.network, study.modalities = make_network(modalities), modalities
    with torch.no_grad():  # the encoders of the first run
        study.network.load_state_dict(make_network().state_dict() | study.network.state_dict(), strict=False)
        for name in {"vision", "text"} & set(modalities):
            getattr(study.network, name).load_state_dict(getattr(make_network(), name).state_dict())
    assert study.run() == (0, 0)  # encoded before, for all three
    data = study.features(modalities)
    for name in modalities:
        assert torch.equal(data.vectors[name], whole.vectors[name])
    own = [MODALITIES.index(name) for name in modalities]
    assert torch.equal(data.vectors["present"][:, own], whole.vectors["present"][:, own])
    for name in {"vision", "text"} - set(modalities):
        with pytest.raises(BadInput, match=f"has no {name} features"):
            study.features((name,))


def test_an_image_that_cannot_be_read_is_named(study):
    broken = study.folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    study.cases[0]["image"] = str(broken)
    with pytest.raises((BadInput, RuntimeError)) as caught:
        study.run()
    assert "broken.png" in str(caught.value) + str(caught.value.__cause__)
    assert not (study.out / "features" / "train.safetensors").exists()


def test_when_memory_runs_out_the_overrides_are_named(study, monkeypatch, caplog):
    """A bug: the handler with the advice follows trainers, and this stage has none."""

    def run_out(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    monkeypatch.setattr(study.network.vision, "forward", run_out)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        study.run()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "features: memory ran out in the split train (CUDA out of memory); what helps, the mildest first: "
        "--eval_batch_size 16."
    ]
