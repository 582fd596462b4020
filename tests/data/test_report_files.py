from pathlib import Path

import pytest

from common.data.report_files import SectionedReport, iter_reports
from common.io.bad_input import BadInput

REPORT = " " * 33 + "FINAL REPORT\n INDICATION:  Cough.\n \n FINDINGS:  Clear.\n \n IMPRESSION:  Normal.\n"


def good(path, **more):
    return {r.study: {s.name: s.text.strip() for s in r.sections} for r in iter_reports(path, **more) if is_good(r)}


def bad(path, **more):
    return [item for item in iter_reports(path, **more) if isinstance(item, BadInput)]


def is_good(item):
    return isinstance(item, SectionedReport)


def write(path: Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_one_text(tmp_path):
    path = write(tmp_path / "any.report", REPORT)
    (report,) = iter_reports(path)
    assert report.study == "any" and report.columns is None
    assert [section.name for section in report.sections] == ["preamble", "indication", "findings", "impression"]


def test_the_tree_of_mimic_cxr(tmp_path):
    files = tmp_path / "files"
    for name in ("p11/p11000001/s50000003", "p10/p10000032/s50000002", "p10/p10000032/s50000001"):
        write(files / f"{name}.txt", REPORT)
    write(files / "p10/p10000032/s50000001/image.jpg", b"\xff")
    write(files / "p12/p12000001/s50000001.txt", REPORT)
    write(files / "p12/p12000001/s50000004.txt", b"IMPRESSION: caf\xe9")
    write(files / "p12/p12000001/s50000005.txt", " \n")
    write(files / "p12/p12000001/s50000006.txt", "IMPRESSION: a\0b")
    write(files / "p12/p12000001/s50000007.txt", b"\xef\xbb\xbfIMPRESSION: a")
    write(files / "LICENSE.txt", "terms")
    assert list(good(files)) == ["s50000001", "s50000002", "s50000003", "s50000007"]
    assert {problem.path.name: problem.reason for problem in bad(files)} == {
        "LICENSE.txt": "is no report by its name",
        "s50000001.txt": "is a second report of study 's50000001', expected each once",
        "s50000004.txt": "is not UTF-8 text (byte 15)",
        "s50000005.txt": "is empty, expected a report",
        "s50000006.txt": "holds a NUL character (byte 13), expected text",
    }


def test_other_trees_are_named_by_their_folders(tmp_path):
    write(tmp_path / "a" / "report.txt", "Findings: One.")
    write(tmp_path / "b" / "report.txt", "Two.")
    assert good(tmp_path) == {"a/report": {"findings": "One."}, "b/report": {"last_paragraph": "Two."}}


OPEN_I = "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"


def test_open_i(tmp_path):
    table = write(tmp_path / "indiana_reports.csv", OPEN_I + '1,,,Xray,XXXX,,"Chest: clear.",\n2,,,Xray,,,,\n')
    (report, problem) = iter_reports(table)
    assert [(s.name, s.text, s.start, s.end) for s in report.sections] == [
        ("examination", "Xray", 0, 4),
        ("indication", "XXXX", 0, 4),
        ("findings", "Chest: clear.", 0, 13),
    ]
    assert report.columns == ("image", "indication", "findings") and "line 3 (uid '2') has no text" in problem.reason
    write(tmp_path / "notes.txt", "more")
    assert list(good(tmp_path)) == ["1"] and "stands beside indiana_reports.csv" in bad(tmp_path)[-1].reason


def test_open_i_xml(tmp_path):
    text = '<e><uId id="CXR3"/><AbstractText Label="FINDINGS">Clear.</AbstractText></e>'
    path = write(tmp_path / "xml" / "3.xml", text)
    assert good(path) == good(tmp_path / "xml") == {"3": {"findings": "Clear."}}
    write(tmp_path / "xml" / "a.txt", "text")
    with pytest.raises(BadInput, match="holds .txt and .xml reports"):
        list(iter_reports(tmp_path / "xml"))


CT_RATE = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN\n"


def test_ct_rate(tmp_path):
    folder = tmp_path / "dataset" / "radiology_text_reports"
    rows = "valid_1_a_1.nii.gz,Cough,Not given.,Clear.,Normal.\nvalid_2_a_1.nii.gz,Not given.,,not given,Not given.\n"
    table = write(folder / "validation_reports.csv", CT_RATE + rows)
    expected = {"valid_1_a_1": {"history": "Cough", "findings": "Clear.", "impression": "Normal."}}
    assert good(table) == expected
    (problem,) = bad(table)
    assert "line 3 ('valid_2_a_1') has no text in ClinicalInformation_EN" in problem.reason
    write(folder / "train_reports.csv", CT_RATE + "train_1_a_1.nii.gz,,,Clear.,\n")
    assert list(good(tmp_path)) == ["train_1_a_1", "valid_1_a_1"]
    write(folder / "train_reports.csv", "")
    assert list(good(tmp_path / "dataset")) == ["valid_1_a_1"] and len(bad(tmp_path)) == 2


def test_a_table_with_a_column_per_section(tmp_path):
    table = write(tmp_path / "t.csv", "id,Findings,impression,report\n000123,Clear.,Normal.,x\n4,,,x\n,a,b,c\n")
    assert good(table) == {"000123": {"findings": "Clear.", "impression": "Normal."}}
    assert [problem.reason for problem in bad(table)] == [
        "line 3 ('4') has no text in Findings, impression, expected a report",
        "line 4 has no id, expected the name of the report",
    ]


def test_a_table_with_the_report_in_one_column(tmp_path):
    content = 'note_id,subject_id,text\n10-RR-1,10,"FINDINGS: Clear.\nIMPRESSION: Normal."\n10-RR-2,10,\n'
    table = write(tmp_path / "radiology.csv", content)
    expected = {"10-RR-1": {"findings": "Clear.", "impression": "Normal."}}
    assert good(table) == good(table, text_column="text") == expected
    report = next(iter_reports(table))
    assert report.columns == ("text", "text") and report.sections[1].start == len("FINDINGS: Clear.\nIMPRESSION: ")
    assert "line 4 ('10-RR-2') has no text in text" in bad(table)[0].reason
    with pytest.raises(BadInput, match="has no column 'note', expected one of note_id, subject_id, text"):
        list(iter_reports(table, "note"))


def test_a_table_without_names(tmp_path):
    table = write(tmp_path / "t.csv", "words,label\nClear.,0\nNormal.,1\n")
    assert list(good(table, text_column="words")) == ["1", "2"]
    with pytest.raises(BadInput, match="expected --text_column of words, label"):
        list(iter_reports(table))


def test_nothing_to_read(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        list(iter_reports(tmp_path / "none"))
    with pytest.raises(BadInput, match="holds no report"):
        list(iter_reports(tmp_path))
    path = write(tmp_path / "r.txt", "a")
    with pytest.raises(BadInput, match="is no table, so that it has no column 'text'"):
        list(iter_reports(path, "text"))
