import json
import math

import pytest

from common.visualize.tables import cell_text, column_texts, format_table, json_text, parsed


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([28.123, 5.0], ["28.12", "5.00"]),
        ([1.5, 0.25], ["1.500", "0.250"]),
        ([0.81234, None], ["0.8123", "-"]),
        ([1e-4, 2.5e-5], ["1.00e-04", "2.50e-05"]),
        ([28, 28.5], ["28.00", "28.50"]),
        ([3, 264616708], ["3", "264,616,708"]),
        ([math.nan, math.inf, 2.0], ["nan", "inf", "2.000"]),
        (["a", None], ["a", "-"]),
        ([0.0], ["0.0000"]),
    ],
)
def test_columns_are_rounded_together(values, texts):
    assert column_texts(values) == texts


def test_single_values():
    assert [cell_text(v) for v in (0.00123456, 12, 1234567, [1, 0.5], True)] == [
        "0.001235",
        "12",
        "1,234,567",
        "1, 0.5",
        "True",
    ]


def test_a_table_is_aligned():
    rows = [{"mode": "linear", "psnr": 29.9}, {"mode": "refiner", "psnr": 134.456, "ssim": 0.9}]
    assert format_table(rows).splitlines() == [
        "mode       psnr    ssim",
        "-------  ------  ------",
        "linear    29.90       -",
        "refiner  134.46  0.9000",
    ]
    assert format_table(rows, ["psnr"]).splitlines()[0] == "  psnr"
    assert format_table([], ["a", "b"]) == "a  b\n-  -"


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("-1", -1), ("000123", "000123"), ("1.50", 1.5), ("1e-3", 1e-3), ("inf", math.inf), ("", None)]
    + [(t, t) for t in ("1_000", "1.2.840", "2026-01-01", "e", "-", "wide", "+")] + [("0", 0), ("-inf", -math.inf)],
)  # fmt: skip
def test_fields_of_a_csv(text, value):
    assert parsed(text) == value and type(parsed(text)) is type(value)


def test_json_has_no_nan():
    text = json_text({"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, 1.5, [None]], "b": {"c": None}}
    assert text.endswith("\n")
