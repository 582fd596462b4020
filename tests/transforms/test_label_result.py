import pytest
import torch
from monai.data import MetaTensor
from scipy.special import expit

from common.transforms.label_result import LabelResultd, ReportResultd

LABELS = ("Edema", "Fracture", "Pneumonia")


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1, 1)])
def test_probabilities_by_name_as_monai_label_reads_them(shape):
    logits = torch.tensor([0.0, -3.0, 30.0])
    image = MetaTensor(torch.rand(3, 4, 4), meta={"filename_or_obj": "x.png"})
    given = {"pred": logits.reshape(shape), "image": image, "image_meta_dict": {"a": 1}, "case": "x"}
    out = LabelResultd("pred", LABELS)(given)
    assert out["result"] == {
        name: pytest.approx(float(expit(x)), abs=1e-6) for name, x in zip(LABELS, logits.tolist(), strict=True)
    }
    assert all(type(value) is float for value in out["result"].values())
    assert isinstance(out["pred"], MetaTensor) and out["pred"].shape == (3,)
    torch.testing.assert_close(out["pred"].as_tensor(), logits.sigmoid())
    assert type(out["image"]) is torch.Tensor and torch.equal(out["image"], image.as_tensor())
    assert "image_meta_dict" not in out and out["case"] == "x"
    assert isinstance(given["image"], MetaTensor) and "result" not in given  # the item itself is not changed


def test_half_precision_and_a_case_without_image():
    out = LabelResultd("pred", LABELS)({"pred": torch.tensor([-20, 0.5, 1.0], dtype=torch.bfloat16)})
    assert 0 <= out["result"]["Edema"] < 1e-6 and out["pred"].dtype == torch.float32


def test_another_number_of_labels_is_refused():
    with pytest.raises(ValueError, match="pred has 2 values, expected one for each of 3 labels"):
        LabelResultd("pred", LABELS)({"pred": torch.zeros(2)})


def test_a_report_is_an_answer_with_an_empty_mask():
    written = [["No effusion.", "Clear."]]
    out = ReportResultd("pred")({"image": MetaTensor(torch.ones(3, 8, 6)), "pred": written, "image_meta_dict": {}})
    assert out["result"] == {"report": "No effusion.", "samples": ["No effusion.", "Clear."]}
    assert isinstance(out["pred"], MetaTensor) and out["pred"].shape == (8, 6) and not out["pred"].any()
    assert not isinstance(out["image"], MetaTensor) and "image_meta_dict" not in out
    assert ReportResultd("pred")({"image": torch.ones(3, 8, 6), "pred": [[""]]})["result"] == {"report": ""}
