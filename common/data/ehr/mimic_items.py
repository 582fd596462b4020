"""Laboratory tests and charted items of MIMIC-IV, found by name in d_labitems and d_items.

The same test has several item ids (three for white blood cells), and the same label several fluids (glucose of blood,
urine, pleural fluid): the dictionary table decides by label, fluid and category; no item id is written down here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from common.data.ehr.mimic_tables import parse_number
from common.data.ehr.vital_signs import O2_DEVICE_LABEL, VITAL_SIGNS
from common.io.table import TableCounts, stream_rows


@dataclass(frozen=True)
class LabTest:
    """One laboratory test of blood.

    Attributes:
        name: its label in d_labitems.
        unit: unit of the values that are given out.
        low: lowest value that is believed, in that unit.
        high: highest value that is believed.
        factors: further units -> factor to ``unit``; a unit that is not here is refused.
        aliases: other labels of the same test.
        categories: categories of d_labitems whose items count: not a blood gas analyser's haemoglobin, for example.
    """

    name: str
    unit: str
    low: float
    high: float
    factors: Mapping[str, float] | None = None
    aliases: tuple[str, ...] = ()
    categories: tuple[str, ...] = ("Chemistry", "Hematology")

    def factor(self, unit: str) -> float | None:
        """Return the factor from a charted unit to ``unit``, None for a unit that is refused."""
        return self._factors.get(_plain(unit))

    @cached_property
    def _factors(self) -> dict[str, float]:
        return {_plain(unit): factor for unit, factor in {**(self.factors or {}), self.unit: 1.0}.items()}


_MMOL = {"mmol/L": 1.0}
_PER_LITRE = {"g/L": 0.1}
_IU = {"U/L": 1.0}

LAB_TESTS: tuple[LabTest, ...] = (
    LabTest("White Blood Cells", "K/uL", 0, 1000, {"10^9/L": 1.0, "#/uL": 0.001}, ("WBC Count",)),
    LabTest("Neutrophils", "%", 0, 100),
    LabTest("Bands", "%", 0, 100),
    LabTest("Lymphocytes", "%", 0, 100),
    LabTest("Hemoglobin", "g/dL", 1, 30, _PER_LITRE),
    LabTest("Hematocrit", "%", 3, 80),
    LabTest("Platelet Count", "K/uL", 0, 3000, {"10^9/L": 1.0, "#/uL": 0.001}),
    LabTest("Sodium", "mEq/L", 80, 200, _MMOL),
    LabTest("Potassium", "mEq/L", 1, 15, _MMOL),
    LabTest("Chloride", "mEq/L", 50, 170, _MMOL),
    LabTest("Bicarbonate", "mEq/L", 1, 70, _MMOL),
    LabTest("Urea Nitrogen", "mg/dL", 0, 350, {"mmol/L": 2.801}),
    LabTest("Creatinine", "mg/dL", 0, 50, {"umol/L": 1 / 88.42}),
    LabTest("Glucose", "mg/dL", 5, 2500, {"mmol/L": 18.016}),
    LabTest("Albumin", "g/dL", 0.3, 8, _PER_LITRE),
    LabTest("Bilirubin, Total", "mg/dL", 0, 100, {"umol/L": 1 / 17.10}),
    LabTest("Alanine Aminotransferase (ALT)", "IU/L", 0, 50_000, _IU),
    LabTest("Asparate Aminotransferase (AST)", "IU/L", 0, 50_000, _IU, ("Aspartate Aminotransferase (AST)",)),
    LabTest("C-Reactive Protein", "mg/L", 0, 1000, {"mg/dL": 10.0}),
    LabTest("Troponin T", "ng/mL", 0, 100, {"ng/L": 0.001, "pg/mL": 0.001, "ug/L": 1.0}),
    LabTest("Troponin I", "ng/mL", 0, 1000, {"ng/L": 0.001, "pg/mL": 0.001, "ug/L": 1.0}),
    LabTest("NTproBNP", "pg/mL", 0, 1_000_000, {"ng/L": 1.0}),
    # A result without suffix is in FEU as well: its comment names the limit of 500.
    LabTest("D-Dimer", "ng/mL FEU", 0, 1_000_000, {"ng/mL": 1.0, "ng/mL DDU": 2.0, "ug/mL FEU": 1000.0}),
    LabTest("INR(PT)", "", 0.3, 30),
    LabTest("Lactate", "mmol/L", 0, 40, {"mg/dL": 0.111}, categories=("Blood Gas", "Chemistry")),
    LabTest("pH", "units", 6.3, 8.0, {"": 1.0}, categories=("Blood Gas",)),
    LabTest("pCO2", "mm Hg", 5, 250, {"mmHg": 1.0, "kPa": 7.50062}, categories=("Blood Gas",)),
)
"""The tests that are read, each in the unit that MIMIC-IV uses most."""


class LabReading(NamedTuple):
    """A result in the test's unit, or why there is none.

    Attributes:
        value: the number; the limit for a result such as "<0.01".
        comparator: "" or "<" or ">".
        refused: "" or "no number", "unknown unit", "out of bounds".
        low: lower limit of the reference range, None if there is none.
        high: its upper limit.
    """

    value: float = 0.0
    comparator: str = ""
    refused: str = ""
    low: float | None = None
    high: float | None = None


# "<0.01", ">=1.035", "GREATER THAN 70000. Remarks of the laboratory"
_LIMIT = re.compile(r"\s*(<=?|>=?|less than|greater than)\s*(\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)


def read_lab(
    test: LabTest, value: str, valuenum: str, valueuom: str, comments: str, lower: str = "", upper: str = ""
) -> LabReading:
    """Read the columns of one labevents row.

    Results beyond the measuring range have no ``valuenum``; the limit stands in ``value`` or begins the ``comments``.

    Args:
        test: which test it is.
        value: text of the result.
        valuenum: the result as a number, or blank.
        valueuom: unit, or blank.
        comments: remarks of the laboratory.
        lower: lower limit of the reference range in that unit, or blank.
        upper: its upper limit, or blank.
    """
    number, comparator = parse_number(valuenum), ""
    if number is None:
        match = _LIMIT.match(value) or _LIMIT.match(comments)
        if match:
            number = float(match[2].replace(",", ""))
            comparator = "<" if match[1][0] in "<lL" else ">"
        else:
            number = parse_number(value)
    if number is None:
        return LabReading(refused="no number")
    factor = test.factor(valueuom)
    if factor is None:
        return LabReading(refused="unknown unit")
    number *= factor
    if not test.low <= number <= test.high:
        return LabReading(refused="out of bounds")
    low, high = (None if limit is None else limit * factor for limit in map(parse_number, (lower, upper)))
    return LabReading(number, comparator, low=low, high=high)


def lab_items(d_labitems: str | os.PathLike[str], counts: TableCounts | None = None) -> dict[str, LabTest]:
    """Look up the item ids of `LAB_TESTS`.

    Args:
        d_labitems: the dictionary table.
        counts: its rows are counted into.

    Returns:
        Item id -> test, one or more ids per test; a test that the table does not have has none.

    Raises:
        BadInput: if the table cannot be read.
    """
    by_label = {_plain(label): test for test in LAB_TESTS for label in (test.name, *test.aliases)}
    items = {}
    columns = ("itemid", "label", "fluid", "category")
    for itemid, label, fluid, category in stream_rows(d_labitems, columns, counts=counts):
        test = by_label.get(_plain(label))
        if test and _plain(fluid) == "blood" and category.strip() in test.categories:
            items[itemid] = test
    return items


def chart_items(d_items: str | os.PathLike[str], counts: TableCounts | None = None) -> dict[str, str]:
    """Look up the item ids of vital signs and of the oxygen device in chartevents.

    Args:
        d_items: the dictionary table.
        counts: its rows are counted into.

    Returns:
        Item id -> name in ``VITAL_SIGNS``, or "o2_device".

    Raises:
        BadInput: if the table cannot be read.
    """
    by_label = {label: vital.name for vital in VITAL_SIGNS.values() for label in vital.item_labels}
    by_label[O2_DEVICE_LABEL] = "o2_device"
    return {
        itemid: by_label[_plain(label)]
        for itemid, label, linksto in stream_rows(d_items, ("itemid", "label", "linksto"), counts=counts)
        if linksto == "chartevents" and _plain(label) in by_label
    }


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
