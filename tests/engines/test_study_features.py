import json

import pytest
import torch
from monai.transforms import Compose

from common.data.datasets.features import FeatureDataset
from common.data.datasets.studies import StudyCollate, StudyDataset
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer
from common.engines.study_features import FeatureWriter
from common.inferers.autocast import AutocastInferer
from common.io.bad_input import BadInput
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.mdfnet import FeatureMDFNet, MDFNet
from common.networks.modality_fusion import FusionHead
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.transforms.xray_io import NormaliseXrayd, ReadXrayd
from tests.data.datasets.tiny_study import LABELS, NOTES, make_cases, make_scaler

VISION = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8,
          "intermediate_size": 16}  # fmt: skip
TEXT = {"model_type": "modernbert", "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 90, "pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2,
        "sep_token_id": 3, "eos_token_id": 3}  # fmt: skip


def make_network(modalities=MODALITIES, seed=0):
    torch.manual_seed(seed)
    parts = {
        "vision": lambda: VisionEncoder(config=VISION, image_size=16, embedding=10),
        "text": lambda: TextEncoder(config=TEXT),
        "clinical": lambda: ClinicalEncoder(45, (8,)),
    }
    own = {name: parts[name]() for name in modalities}
    sizes = {name: encoder.features for name, encoder in own.items()}
    return MDFNet(**own, fusion=FusionHead(modalities, len(LABELS), sizes, width=8, heads=2, hidden=(8, 8)))


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
        writer = FeatureWriter(
            self.network, {"train": self.dataset()}, self.tokenizer, LABELS, str(self.folder / "cache"), str(self.out),
            AutocastInferer(self.dtype), "cpu", 2, {"image_size": 16, "mean": self.mean}, progress=False,
        )  # fmt: skip
        found = writer.run()
        return found["images_encoded"], found["notes_encoded"]

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
        torch.testing.assert_close(data.features["vision"][i], image, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(data.features["text"][i], note, atol=1e-6, rtol=1e-5)
        assert torch.equal(data.features["clinical"][i], cases[i]["clinical"])
        assert data.present[i].tolist() == cases.present(i)
        torch.testing.assert_close(data.label[i], cases[i]["label"], equal_nan=True)
    assert (data.cases, data.patients) == ([f"c{i}" for i in range(6)], ["p0", "p0", "p1", "p1", "p2", "p2"])
    assert data.labels == LABELS


@torch.no_grad()
def test_stage_1_on_features_is_the_whole_network_with_frozen_encoders(study):
    study.run()
    data, network = study.features(), study.network.eval()
    batch = StudyCollate(study.tokenizer)([study.dataset()[i] for i in range(6)])
    whole = network(batch["image"], batch["note"], batch["clinical"], batch["present"])
    stage1 = FeatureMDFNet(network.clinical, network.fusion)(data.features, data.present)
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
    before = study.features().features["text"].clone()
    text = study.network.text
    study.network.text = TextEncoder(config=TEXT, pooling="mean")
    study.network.text.load_state_dict(text.state_dict())
    assert text.pooling == "cls" and study.run() == (0, 2)
    assert not torch.equal(study.features().features["text"], before)
    vision = study.network.vision
    study.network.vision = VisionEncoder(config=VISION | {"num_attention_heads": 4}, image_size=16, embedding=10)
    study.network.vision.load_state_dict(vision.state_dict())
    assert study.run() == (4, 0)
    study.network.text = TextEncoder(config=TEXT, pooling="mean", gradient_checkpointing=True)
    study.network.text.load_state_dict(text.state_dict())
    assert study.run() == (0, 0)  # that changes memory, not the features


def test_another_precision_encodes_again(study):
    study.run()
    before = study.features().features["text"].clone()
    study.dtype = "bfloat16"
    assert study.run() == (4, 2)
    assert not torch.equal(study.features().features["text"], before)
    study.dtype = "float32"
    assert study.run() == (0, 0) and torch.equal(study.features().features["text"], before)


def test_another_image_note_normalisation_or_tokenizer_encodes_again(study):
    study.run()
    before = study.features().features["vision"].clone()
    with open(study.cases[0]["image"], "rb") as file:
        content = bytearray(file.read())
    other = study.folder / "other.png"
    other.write_bytes(content)
    study.cases[0]["image"] = str(other)
    assert study.run() == (0, 0)  # the same bytes elsewhere are the same image
    study.cases[3]["image"] = study.cases[1]["image"]
    study.cases[3]["note"] = "Fever."
    assert study.run() == (0, 1)  # the image of c1 is known
    assert torch.equal(study.features().features["vision"][3], before[1])
    study.mean = 0.4
    assert study.run()[0] == 3
    study.tokenizer = build_note_tokenizer(
        ["Words of others, by ambulance: cough and fever, dyspnea."], study.folder / "second", 90
    )
    assert study.run() == (0, 3)


def test_background_passages_encode_the_notes_again(study):
    study.run()
    before = study.features().features["text"].clone()
    study.tokenizer = NoteTokenizer(study.folder / "tokenizer", background_passages=1, labels=LABELS)
    assert study.run() == (0, 2)
    after, present = study.features().features["text"], study.features().present[:, 1]
    assert (after != before).any(1).tolist() == present.tolist()  # a case without a note has no background
    assert study.run() == (0, 0)
    study.tokenizer = NoteTokenizer(study.folder / "tokenizer")
    assert study.run() == (0, 0) and torch.equal(study.features().features["text"], before)


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
        assert torch.equal(data.features[name], whole.features[name])
    assert torch.equal(data.present, whole.present)
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

    monkeypatch.setattr(study.network, "encode_image", run_out)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        study.run()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "features: memory ran out in the split train (CUDA out of memory); what helps, the mildest first: "
        "--eval_batch_size 16."
    ]
