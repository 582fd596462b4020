"""Questions about images with their answers, and a tiny model that can read them."""

import torch

from common.llm.tokens import build_tokenizer, load_tokenizer
from common.text.reasoning import ehr_lines
from common.text.report_answers import answer_a, answer_b

RECORD = {
    "age": 72,
    "sex": "F",
    "vitals": [{"name": "temperature", "value": 38.4, "unit": "C", "hours": 0.7}],
    "labs": [
        {
            "name": "White Blood Cells",
            "value": 15.2,
            "unit": "K/uL",
            "hours": 3.5,
            "flag": "abnormal",
            "low": 4.0,
            "high": 11.0,
        },
        {"name": "Sodium", "value": 139.0, "unit": "mEq/L", "hours": 9.0, "flag": "", "low": 133.0, "high": 145.0},
    ],
    "o2_device": None,
    "chronic_conditions": [],
}
CASES = [
    {"case": "one_a", "stage": "a", "lines": None, "answer": answer_a("Pneumonia.", {"Pneumonia": 1.0, "Edema": 0.0})},
    {"case": "two_b", "stage": "b", "lines": ehr_lines(RECORD), "answer": answer_b(["pneumonia: x"], "Pneumonia.", [])},
    {"case": "three_b", "stage": "b", "lines": None, "answer": answer_b(["none"], "No effusion.", ["pneumonia"])},
]


def cases(image_tokens=4, size=32):
    """The cases with tokens of an image, as a frozen tower gives them."""
    draw = torch.Generator().manual_seed(0)
    return [case | {"tokens": torch.randn(image_tokens, size, generator=draw)} for case in CASES]


def small_tokenizer(folder):
    """Of the cases, with `<image>` as one token, as a conversion adds it."""
    from common.llm.answer_batch import all_texts

    build_tokenizer(all_texts(CASES), folder, 600, end=False)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer
