import numpy as np
import pytest
import torch
from monai.transforms import Compose
from torch.utils.data import DataLoader

from common.data.cxr.studies import StudyCollate, StudyDataset
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer
from common.io.bad_input import BadInput
from common.transforms.xray_io import NormaliseXrayd, ReadXrayd, xray_tensor
from tests.data.cxr.tiny_study import LABELS, make_cases, make_scaler

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
READ = Compose([ReadXrayd("image", size=16), NormaliseXrayd("image", MEAN, STD)])


@pytest.fixture
def cases(tmp_path):
    return make_cases(tmp_path)


def dataset(cases, modalities=MODALITIES, **options):
    return StudyDataset(cases, READ, make_scaler(cases), modalities, image_size=16, **options)


def test_what_a_case_has_and_lacks(cases):
    items = [dataset(cases)[i] for i in range(3)]
    assert [item["present"].tolist() for item in items] == [[True] * 3, [True, False, False], [False, True, True]]
    torch.testing.assert_close(items[0]["image"], xray_tensor(cases[0]["image"], 16, MEAN, STD), atol=1e-6, rtol=0)
    assert type(items[0]["image"]) is torch.Tensor and items[2]["image"].shape == (3, 16, 16)
    assert not items[2]["image"].any() and not items[1]["clinical"].any() and items[1]["note"] == ""
    expected = make_scaler(cases).transform([cases[0]["clinical"], cases[2]["clinical"]])
    np.testing.assert_array_equal(torch.stack([items[0]["clinical"], items[2]["clinical"]]).numpy(), expected)
    assert items[1]["label"][0] == 1 and items[1]["label"][1].isnan() and items[1]["label"].shape == (len(LABELS),)
    assert [(item["case"], item["patient"], item["index"]) for item in items] == [
        ("c0", "p0", 0), ("c1", "p0", 1), ("c2", "p1", 2),
    ]  # fmt: skip
    assert dataset(cases)[-1]["case"] == "c2"
    with pytest.raises(IndexError):
        dataset(cases)[3]


def test_a_blank_note_is_none(cases):
    """A bug: it counted as present, with nothing to read."""
    cases[0]["note"] = " \n"
    item = dataset(cases)[0]
    assert item["present"].tolist() == [True, False, True] and item["note"] == ""


def test_what_the_modalities_leave_out_is_not_read(cases):
    cases[0]["image"] = "there is no such file"
    item = dataset(cases, ("text",))[0]
    assert item["present"].tolist() == [False, True, False] and not item["image"].any() and not item["clinical"].any()
    assert item["note"] == cases[0]["note"]
    assert StudyDataset(cases, modalities=("text",))[0]["note"] == item["note"]


def test_what_is_needed_is_asked_for(cases):
    with pytest.raises(ValueError, match="vision is read without a transform"):
        StudyDataset(cases, None, make_scaler(cases))
    with pytest.raises(ValueError, match="clinical is read without a scaler"):
        StudyDataset(cases, READ)
    with pytest.raises(ValueError, match="modalities hold 'image', expected some of vision"):
        StudyDataset(cases, READ, modalities=["image"])


def test_a_case_without_what_is_required_is_refused(cases):
    assert dataset(cases, required=("clinical", "text"))[2]["case"] == "c2"
    with pytest.raises(BadInput, match="c2: has no input of this network, expected an X-ray"):
        dataset(cases, required=("vision",))[2]


def test_a_batch(cases, tmp_path):
    tokenizer = build_note_tokenizer([case["note"] or "" for case in cases], tmp_path / "t")
    batch = next(iter(DataLoader(dataset(cases), 3, collate_fn=StudyCollate(tokenizer))))
    assert batch["image"].shape == (3, 3, 16, 16) and batch["clinical"].shape == (3, 45)
    assert batch["present"].dtype == torch.bool and batch["case"] == ["c0", "c1", "c2"]
    longest = len(tokenizer.encode(cases[0]["note"]))
    assert batch["note"]["input_ids"].shape == (3, longest)
    assert batch["note"]["attention_mask"].sum(1).tolist() == [
        len(tokenizer.encode(case["note"])) for case in cases
    ]  # the missing note is [CLS] [SEP]
    pair = StudyCollate(tokenizer, ("text",))([dataset(cases)[0], dataset(cases)[2]])
    assert {"image", "clinical"}.isdisjoint(pair) and pair["index"].tolist() == [0, 2]
    assert "note" not in StudyCollate(None)([dataset(cases)[0]])
    assert "note" not in StudyCollate(tokenizer, ("vision",))([dataset(cases)[0]])


def test_a_batch_with_background_passages(cases, tmp_path):
    plain = build_note_tokenizer([case["note"] or "" for case in cases], tmp_path / "t")
    data, collate = dataset(cases), StudyCollate(NoteTokenizer(tmp_path / "t", background_passages=1, labels=LABELS))
    batch = collate([data[i] for i in range(3)])
    lengths, before = batch["note"]["attention_mask"].sum(1).tolist(), [len(plain.encode(c["note"])) for c in cases]
    assert lengths[0] > before[0] and lengths[2] > before[2] and lengths[1] == before[1] == 2
    assert batch["present"][:, 1].tolist() == [True, False, True]  # background makes no note of none
    assert data[0]["note"] == cases[0]["note"]  # what is shown of a case is the patient's own note


def test_class_weights_are_those_of_the_labels(cases):
    """A bug: only features had them, so that stage 2 ended where it began."""
    for case, label in zip(cases, ([1, 0], [0, np.nan], [0, 0.6]), strict=True):
        case["label"] = np.array(label, np.float32)
    ratio = torch.tensor([2 / 1, 1 / 1]).sqrt()  # no positive counts as one
    torch.testing.assert_close(dataset(cases).class_weights(), ratio / ratio.mean())
