"""Tables as strangers have them: one reader for all verbs, and ids that a program took for numbers."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from common.apps.text.label import label_table
from common.apps.text.score_labels import score_labels
from common.apps.text.sections import write_sections
from common.data.cxr.inputs import xray_cases
from common.data.cxr.mimic_cxr import find_mimic_cxr
from common.data.ehr.mimic_iv import Study, parse_study_time, read_contexts
from common.data.ehr.mimic_stays import read_emergency_stays
from common.io.bad_input import BadInput
from common.io.table import TableCounts, iter_rows, read_columns, read_rows
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.data.ehr.mimic_rows import HADM, NOON, STUDY, SUBJECT, admission, edstay, lab, patient, triage, write_table

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases"


def case(name: str) -> Path:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- the shared cases -------------------------------------------------------------------------------------------


def test_emergency_stays_whose_admissions_are_floats_stay() -> None:
    root = case("tables/edstays_float_hadm")
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    times = {row["study_id"]: parse_study_time(row["StudyDate"], row["StudyTime"]) for row in rows}
    studies = {row["study_id"]: row["subject_id"] for row in rows}
    asked = [Study(int(subject), int(study), times[study]) for study, subject in studies.items()]
    found = read_contexts(root / "mimic-iv", root / "mimic-iv-ed", asked)
    assert found.report.in_emergency_stay == 12
    assert "ed/edstays" not in found.report.left_out()


def test_one_bad_row_and_a_packed_table(tmp_path: Path) -> None:
    bad, packed = case("text/one_bad_row.csv"), case("text/table.csv.gz")
    result = label_table("cxr", bad, ["report"], tmp_path / "a.csv")
    assert (result["rows"], result["excluded"]) == (1, 1)
    assert "line 2 has 3 fields, expected 2" in Path(result["excluded_file"]).read_text()
    assert label_table("cxr", packed, ["report"], tmp_path / "b.csv")["rows"] == 1
    for table, counts in ((bad, (1, 1)), (packed, (1, 0))):
        found = write_sections(table, tmp_path / "s.csv")
        assert (found["reports"], found["excluded"]) == counts


# ---- one reader for all verbs -----------------------------------------------------------------------------------

SPELLINGS = {
    "comma": b"case,age,pain\nheart,60,1\nlung,61,2\n",
    "byte order mark": b"\xef\xbb\xbfcase,age,pain\r\nheart,60,1\r\nlung,61,2\r\n",  # pandas-dev/pandas/issues/13497
    "quoted byte order mark": b'\xef\xbb\xbf"case","age","pain"\n"heart","60","1"\n"lung","61","2"',  # .../issues/4793
    "semicolon": b"case;age;pain\nheart;60;1\nlung;61;2\n",
    "tab": b"case\tage\tpain\nheart\t60\t1\nlung\t61\t2\n",
    "separator line": b"sep=;\r\ncase;age;pain\r\nheart;60;1\r\nlung;61;2\r\n",
    "carriage return": b"case,age,pain\rheart,60,1\rlung,61,2\r",
    "empty columns": b"case,age,pain,,\nheart,60,1,,\nlung,61,2,,\n",
    "gzip": gzip.compress(b"case,age,pain\nheart,60,1\nlung,61,2\n"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_verb_reads_a_table_as_programs_write_it(tmp_path: Path, spelling: str) -> None:
    """https://github.com/pandas-dev/pandas/issues/13497, https://github.com/biolab/orange3/issues/7000"""
    table = write(tmp_path / "t.csv", SPELLINGS[spelling])
    assert read_columns(table) == ["case", "age", "pain"]
    assert [row["pain"] for _, row in read_rows(table)] == ["1", "2"]
    assert [c["case"] for c in xray_cases(table, ["Edema"])] == ["heart", "lung"]
    assert label_table("cxr", table, ["age"], tmp_path / "l.csv")["rows"] == 2
    assert write_sections(table, tmp_path / "s.csv", "case")["reports"] == 2
    packed = spelling == "gzip"
    text = gzip.decompress(SPELLINGS[spelling]) if packed else SPELLINGS[spelling]
    text = text.replace(b"60", b"0").replace(b"61", b"1")
    truth = write(tmp_path / "r.csv", gzip.compress(text) if packed else text)
    scored = score_labels(truth, truth, labels="age", draws=2)
    assert scored["labels"] == ["age"]


def test_a_workbook_is_named(tmp_path: Path) -> None:
    """https://github.com/opensafely-core/opencodelists/issues/1474"""
    table = write(tmp_path / "reports.csv", b"PK\x03\x04\x14\0\6\0")
    for verb in (
        lambda: label_table("cxr", table, ["report"], tmp_path / "o.csv"),
        lambda: write_sections(table, tmp_path / "o.csv"),
        lambda: xray_cases(table, ["Edema"]),
        lambda: score_labels(table, table),
    ):
        with pytest.raises(BadInput, match="is a zip archive or an Excel workbook, expected a CSV table"):
            verb()


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_other_encodings_are_named_by_their_bytes(tmp_path: Path, encoding: str) -> None:
    """https://github.com/pyexcel/pyexcel/issues/79"""
    table = write(tmp_path / "t.csv", "id,report\n1,Ren\u00e9: clear\n2,Clear\n".encode(encoding))
    result = label_table("cxr", table, ["report"], tmp_path / "o.csv")
    assert (result["rows"], result["excluded"]) == (1, 1)
    assert (
        "line 2 is not UTF-8 text (byte 0xE9, as of Latin-1 or Windows-1252)"
        in Path(result["excluded_file"]).read_text()
    )
    with pytest.raises(BadInput, match="is UTF-16 text"):
        read_columns(write(tmp_path / "u.csv", "id,report\n".encode("utf-16")))


def test_more_fields_than_the_header_cost_their_row(tmp_path: Path) -> None:
    """https://github.com/ismael-araujo/testing-libraries/issues/2"""
    table = write(tmp_path / "t.csv", "report\n" + "clear\n" * 4 + "effusion, left\n" + "clear\n")
    rows = list(iter_rows(table))
    assert [isinstance(row, BadInput) for row in rows] == [False] * 4 + [True, False]
    assert rows[4].reason == "line 6 has 2 fields, expected 1"


def test_rows_without_findings_and_impression_are_named(tmp_path: Path) -> None:
    """https://github.com/HKU-MedAI/MGCA/issues/42"""
    table = write(tmp_path / "master.csv", "study_id,findings,impression\n1.0,Clear.,\n2.0,,\n3.0,nan,nan\n")
    result = write_sections(table, tmp_path / "o.csv")
    assert (result["reports"], result["excluded"]) == (1, 2)
    assert "line 3" in Path(result["excluded_file"]).read_text()


def test_a_row_that_cannot_be_read_is_named_where_a_score_needs_all(tmp_path: Path) -> None:
    pred = write(tmp_path / "p.csv", "case,Edema\na,0.1\nb,0.2,0.3\n")
    with pytest.raises(BadInput, match="line 3 has 3 fields, expected 2"):
        score_labels(pred, write(tmp_path / "r.csv", "case,Edema\na,0\nb,1\n"))


# ---- ids --------------------------------------------------------------------------------------------------------


def test_ids_of_two_tables_meet_though_one_went_through_floats(tmp_path: Path) -> None:
    """https://github.com/pandas-dev/pandas/issues/28335, https://github.com/calpaterson/csvbase/issues/11"""
    pred = write(tmp_path / "p.csv", "study_id,Edema\n50414267.0,0.1\n5.0414268E7,0.9\n000123,0.2\n")
    ref = write(tmp_path / "r.csv", "study_id,Edema\n50414267,0\n50414268,1\n000123,0\n")
    assert score_labels(pred, ref, draws=2)["labels"] == ["Edema"]
    with pytest.raises(BadInput, match="lacks 1 ids"):
        score_labels(pred, write(tmp_path / "q.csv", "study_id,Edema\n50414267,0\n50414268,1\n123,0\n"))


def test_an_id_whose_digits_were_lost_is_none(tmp_path: Path) -> None:
    """https://github.com/pandas-dev/pandas/issues/48175"""
    counts = TableCounts()
    rows = [edstay(), edstay(stay_id=2, hadm_id="2.79592E+07"), edstay(stay_id="1.2345678901234568e+18")]
    found = read_emergency_stays(write_table(tmp_path, "ed/edstays", rows), {str(SUBJECT)}, counts)
    assert [row.hadm_id for row in found[SUBJECT]] == [HADM]
    assert counts.bad == {"stay_id or hadm_id is not an id": 2}


def as_floats(row: dict) -> dict:
    return {name: f"{value}.0" if name.endswith("_id") or name in ("itemid", "anchor_age") else value
            for name, value in row.items()}  # fmt: skip


def test_every_table_of_mimic_may_have_gone_through_floats(tmp_path: Path) -> None:
    """https://github.com/pandas-dev/pandas/issues/20717"""
    results = []
    for change in (dict, as_floats):
        root = tmp_path / change.__name__
        tables = {
            "hosp/patients": [patient()], "hosp/admissions": [admission()], "ed/edstays": [edstay()],
            "ed/triage": [triage()], "hosp/labevents": [lab("2150-03-05 10:00:00", 7, hadm_id=HADM)],
            "hosp/d_labitems": [
                {"itemid": 1, "label": "White Blood Cells", "fluid": "Blood", "category": "Hematology"}
            ],
            "hosp/diagnoses_icd": [{"subject_id": SUBJECT, "hadm_id": HADM, "icd_code": "I10", "icd_version": 10}],
        }  # fmt: skip
        for name, rows in tables.items():
            write_table(root, name, [change(row) for row in rows])
        results.append(read_contexts(root, root, [STUDY]))
    plain, floats = results
    assert floats.contexts == plain.contexts and floats.targets == plain.targets
    assert plain.contexts[STUDY.study_id].vitals and plain.contexts[STUDY.study_id].labs
    assert floats.report.left_out() == plain.report.left_out() == {}


def test_what_the_tables_of_mimic_leave_out_is_counted_per_table_and_reason(tmp_path: Path) -> None:
    write_table(tmp_path, "hosp/patients", [patient(), patient(subject_id="")])
    write_table(tmp_path, "ed/edstays", [edstay(), edstay(stay_id=2, intime="?"), edstay(stay_id="x")])
    write_table(tmp_path, "ed/triage", [triage(heartrate="fast", sbp="9999")])
    found = read_contexts(tmp_path, tmp_path, [STUDY, Study(7, 70000001, NOON)])
    assert found.report.left_out() == {
        "hosp/patients": {"no row of the patient of a study, which has no note": 1, "subject_id is not an id": 1},
        "ed/edstays": {"stay_id or hadm_id is not an id": 1, "unreadable time": 1},
        "ed/triage": {"heartrate: no number": 1, "sbp: out of bounds": 1},
    }
    json.dumps(found.report.left_out())


def test_the_tables_of_mimic_cxr_may_have_gone_through_floats(tmp_path: Path) -> None:
    ids, labels = "study_id,subject_id", ",".join(CHEXPERT_LABELS)
    image = tmp_path / "files" / "p10" / "p10000032" / "s50414267" / "aa.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    tables = {
        "split": f"dicom_id,{ids},split\naa,50414267.0,10000032.0,train\n",
        "chexpert": f"{ids},{labels}\n50414267.0,10000032.0,1.0{',' * 13}\n",
        "metadata": f"dicom_id,{ids},ViewPosition,StudyDate,StudyTime\n"
        "aa,50414267.0,10000032.0,PA,21800506.0,213014.531\n",
    }
    for name, text in tables.items():
        write(tmp_path / f"mimic-cxr-2.0.0-{name}.csv", text)
    (row,), problems = find_mimic_cxr(tmp_path)
    assert (row.patient, row.study, problems) == ("10000032", "s50414267", [])
