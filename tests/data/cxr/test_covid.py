import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.cxr import covid
from common.data.cxr.covid import COVID_LABEL, find_covid
from common.io.bad_input import BadInput
from common.text.redaction import REDACTED, find_leaks

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "cxr"
COLUMNS = (
    "patientid", "offset", "sex", "age", "finding", "RT_PCR_positive", "survival", "intubated", "went_icu",
    "temperature", "pO2_saturation", "leukocyte_count", "neutrophil_count", "lymphocyte_count", "view", "modality",
    "folder", "filename", "url", "clinical_notes", "",
)  # fmt: skip


def write(root: Path, rows: list[dict]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for row in rows:
        image = root / "images" / row["filename"]
        if not row.pop("no_file", False):
            Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(image)
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return root


def case(name: str, **more: str) -> dict:
    base = {
        "patientid": name,
        "finding": "Pneumonia/Viral/COVID-19",
        "view": "PA",
        "modality": "X-ray",
        "folder": "images",
    }
    return base | {"filename": f"{name}.png"} | more


def test_covid_against_every_other_named_finding(tmp_path: Path) -> None:
    rows = [
        case("1"), case("2", finding="COVID-19, ARDS", view="AP Supine"), case("3", finding="Pneumonia", view="L"),
        case("4", finding="No Finding", view="?"), case("5", finding="todo"), case("6", finding="Unknown"),
        case("7", modality="CT"), case("8", finding="todo", no_file=True),
    ]  # fmt: skip
    listing = find_covid(write(tmp_path, rows))
    found = {row.case: (row.labels[COVID_LABEL], row.view) for row in listing.rows}
    assert found == {"1": (1.0, "PA"), "2": (1.0, "AP"), "3": (0.0, "LATERAL"), "4": (0.0, "")}
    assert {path.stem: reason for path, reason in listing.left_out} == {
        "5": "has the finding 'todo', which is no label", "6": "has the finding 'Unknown', which is no label",
        "7": "is CT, expected an X-ray", "8": "has the finding 'todo', which is no label",
    }  # fmt: skip
    assert not listing.problems and all(row.split == "" for row in listing.rows)


def test_rows_of_one_image_make_one_patient(tmp_path: Path) -> None:
    rows = [
        case("a"), case("b", filename="a.png"), case("b", filename="b2.png"), case("c"),
        case("d", filename="x.png"), case("e", filename="x.png", finding="Pneumonia"),
    ]  # fmt: skip
    listing = find_covid(write(tmp_path, rows))
    patients = {row.case: row.patient for row in listing.rows}
    assert set(patients) == {"a", "b2", "c"} and patients["a"] == patients["b2"] != patients["c"]
    assert [reason for _, reason in listing.left_out] == ["has a second row (patient b), the first is kept"]
    assert [p.reason for p in listing.problems] == ["has rows with and without COVID-19, expected one answer"]


def test_only_values_known_before_the_image_are_used(tmp_path: Path) -> None:
    known = case(
        "1", age="54.0", sex="M", temperature="38.6", pO2_saturation="89", leukocyte_count="4.0",
        neutrophil_count="3.1", lymphocyte_count="0.6", clinical_notes="Fever for 2 days. Died in the ICU with fever.",
    )  # fmt: skip
    later = {"offset": "9", "survival": "N", "intubated": "Y", "went_icu": "Y", "RT_PCR_positive": "Y"}
    first = find_covid(write(tmp_path / "a", [dict(known)]))
    assert first.clinical["1"] == {
        "age": 54, "sex": 1, "temperature": 38.6, "o2sat": 89, "wbc": 4.0, "neutrophils": 3.1, "lymphocytes": 0.6,
    }  # fmt: skip
    assert (
        first.notes["1"]
        == "54-year-old man.\nFever for 2 days.\nVital signs: temperature 38.6 C, oxygen saturation 89 %."
    )
    second = find_covid(write(tmp_path / "b", [known | later]))
    assert (second.notes, second.clinical) == (first.notes, first.clinical)


def test_notes_are_redacted_whatever_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences with a term are left out before; this holds if one slips through."""
    monkeypatch.setattr(covid, "presentation", lambda notes, labels: notes)
    told = "Fever for 2 days. Her husband had COVID-19."
    listing = find_covid(write(tmp_path, [case("1", age="54", sex="F", clinical_notes=told)]))
    note = listing.notes["1"]
    assert find_leaks(told, [COVID_LABEL]) and not find_leaks(note, [COVID_LABEL])
    assert note == f"54-year-old woman.\nFever for 2 days. Her husband had {REDACTED}."


def test_unknown_and_impossible_values(tmp_path: Path) -> None:
    rows = [
        case("1", age="?", sex="?", temperature="?", pO2_saturation="165", leukocyte_count="many"),
        case("2", pO2_saturation="80", url="https://github.com/ml-workgroup/covid-19-image-repository"),
    ]
    listing = find_covid(write(tmp_path, rows))
    assert listing.clinical == {"1": {}, "2": {}} and listing.notes == {"1": "", "2": ""}
    assert listing.facts["not_used"] == {
        "leukocyte_count is no number": 1, "o2sat out of bounds": 1, "pO2_saturation is a pressure": 1,
    }  # fmt: skip


def test_rows_that_are_no_use_are_named(tmp_path: Path) -> None:
    root = write(tmp_path, [case("1"), case("2", no_file=True), case("", filename="3.png")])
    with (root / "metadata.csv").open("a") as file:
        file.write("too,few\n")
    listing = find_covid(root)
    assert [row.case for row in listing.rows] == ["1"]
    reasons = {problem.path.name: problem.reason for problem in listing.problems}
    assert reasons["2.png"] == "does not exist, but has a row"
    assert reasons["3.png"].startswith("has no patientid")
    assert reasons["metadata.csv"].startswith("line 5 has 2 fields, expected ")


def test_a_row_cannot_point_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (64, 64)).save(secret)
    listing = find_covid(write(tmp_path / "in", [case("1", filename="../../secret.png", no_file=True)]))
    assert not listing.rows and len(listing.problems) == 1


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no table, expected one of metadata.csv, covid_cdc_metadata.csv"):
        find_covid(tmp_path)
    (tmp_path / "metadata.csv").write_text("patientid,sex\n1,M\n")
    with pytest.raises(BadInput, match="has no column 'age'"):
        find_covid(tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, [case("1", clinical_notes="Ren\u00e9 coughs"), case("2")])
    table = root / "metadata.csv"
    table.write_bytes(table.read_bytes().decode().encode("latin-1"))
    listing = find_covid(root)
    assert [str(problem) for problem in listing.problems] == [
        f"{table}: line 2 is not UTF-8 text (byte 0xE9, as of Latin-1 or Windows-1252)."
    ]
    assert [row.case for row in listing.rows] == ["2"]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the sample X-rays beside the repository")
def test_the_real_sample() -> None:
    listing = find_covid(DATA)
    assert len(listing.rows) == 191 and not listing.problems
    assert sum(reason.startswith("has the finding 'todo'") for _, reason in listing.left_out) == 47
    assert sum("second row" in reason for _, reason in listing.left_out) == 3
    assert sum(row.labels[COVID_LABEL] for row in listing.rows) == 127
    later = (
        "x-ray",
        "radiograph",
        "opacit",
        "consolidat",
        "ground",
        "intubat",
        "discharg",
        "died",
        "recover",
        "diagnos",
    )
    for row in listing.rows:
        note = listing.notes[row.study]
        assert not find_leaks(note, [COVID_LABEL]), note
        assert not any(word in note.lower() for word in later), note
    assert sum("\n" in note for note in listing.notes.values()) > 50  # of which something is told
