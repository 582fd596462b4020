import csv
from pathlib import Path

import pytest

from common.data.cxr.open_i import (
    PROJECTION_COLUMNS,
    REPORT_COLUMNS,
    OpenIImage,
    iter_open_i,
    list_open_i,
    read_open_i_xml,
)
from common.io.bad_input import BadInput

REPORTS = Path(__file__).resolve().parents[4] / "shared" / "data" / "reports"
LAYOUT = Path(__file__).resolve().parents[4] / "shared" / "data" / "layouts" / "open-i"

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <meta type="rr"/><uId id="{uid}"/><pmcId id="7"/>
  <MedlineCitation><Article><Abstract>
    <AbstractText Label="COMPARISON"></AbstractText>
    <AbstractText Label="INDICATION">XXXX-year-old with cough &amp; fever</AbstractText>
    <AbstractText Label="FINDINGS">Heart <i>size</i> is normal.</AbstractText>
    <AbstractText Label="IMPRESSION">No acute disease.</AbstractText>
  </Abstract></Article></MedlineCitation>
  <MeSH><major>Cicatrix/lung/upper lobe/left</major><major>Opacity</major><automatic>heart</automatic></MeSH>
  <parentImage id="CXR7_IM-0001-1001"><caption>PA and lateral chest</caption></parentImage>
  <parentImage id="CXR7_IM-0001-2001"><caption/></parentImage>
</eCitation>
"""


def table(path, columns, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def report_row(uid, findings="Clear.", impression="Normal.", mesh="normal"):
    return [uid, mesh, "normal", "Xray Chest", "XXXX", "", findings, impression]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "open_i"
    images = folder / "images" / "images_normalized"
    images.mkdir(parents=True)
    rows = [report_row("1", mesh="Cicatrix/lung;Opacity"), report_row("2"), report_row("3"), report_row("1")]
    rows += [report_row(""), ["4", "", "", "Xray", "", " ", "", ""], ["5"], report_row("6")]
    table(folder / "indiana_reports.csv", REPORT_COLUMNS, rows)
    projections = [
        ["1", "1_a.png", "Frontal"], ["1", "1_b.png", "Lateral"], ["2", "2_a.png", "Oblique"],
        ["3", "1_a.png", "Frontal"], ["9", "9_a.png", "Frontal"], ["", "x.png", "Frontal"], ["6", "6_a.png", "Frontal"],
    ]  # fmt: skip
    table(folder / "indiana_projections.csv", PROJECTION_COLUMNS, projections)
    for name in ("1_a.png", "1_b.png", "extra.png"):
        (images / name).write_bytes(b"")
    return folder


def test_csv(root):
    reports, problems = list_open_i(root)
    (report,) = reports
    assert report.uid == "1"
    assert report.sections == {
        "examination": "Xray Chest",
        "indication": "XXXX",
        "findings": "Clear.",
        "impression": "Normal.",
    }
    assert report.images == (OpenIImage("1_a.png", "Frontal"), OpenIImage("1_b.png", "Lateral"))
    said = "\n".join(str(problem) for problem in problems)
    for expected in (
        "has the uid '1' again",
        "line 6 has no uid",
        "line 7 (uid '4') has no text",
        "line 8 has 1 fields, expected 8",
        "line 4 ('2_a.png') has projection 'Oblique', expected Frontal or Lateral",
        "line 5 has the file '1_a.png' again",
        "line 6 ('9_a.png') has uid '9', which has no usable report",
        "line 7 has no uid",
        "has uid '2', of which there is no image",
        "has uid '3', of which there is no image",
        "has uid '6', of which there is no image",
        "6_a.png: does not exist, uid '6' names it",
        "extra.png: belongs to no usable report",
    ):
        assert expected in said, expected
    assert len(problems) == 13


def test_images_missing_and_unchecked(root):
    for file in (root / "images" / "images_normalized").iterdir():
        file.unlink()
    reports, _ = list_open_i(root)
    assert reports == []
    (root / "images" / "images_normalized").rmdir()
    (root / "images").rmdir()
    reports, _ = list_open_i(root)
    assert [report.uid for report in reports] == ["1", "6"]
    (root / "indiana_projections.csv").unlink()
    with pytest.raises(BadInput, match="indiana_projections.csv: does not exist"):
        list_open_i(root)


def test_xml(tmp_path):
    path = tmp_path / "7.xml"
    path.write_text(XML.format(uid="CXR7"), encoding="utf-8")
    report = read_open_i_xml(path)
    assert report.uid == "7" and report.path == path
    assert report.sections == {
        "examination": "PA and lateral chest",
        "indication": "XXXX-year-old with cough & fever",
        "findings": "Heart size is normal.",
        "impression": "No acute disease.",
    }
    assert [image.file for image in report.images] == ["CXR7_IM-0001-1001.png", "CXR7_IM-0001-2001.png"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no well-formed XML"),
        (XML.format(uid="CXR7").encode()[:400], "no well-formed XML"),
        (XML.format(uid="CXR7").replace("cough", "caf\u00e9").encode("latin-1"), "no well-formed XML"),
        (XML.format(uid="CXR7").replace("utf-8", "klingon").encode(), "no well-formed XML"),
        (b"<eCitation/>", "has no uId"),
        (XML.format(uid=" ").replace('<pmcId id="7"/>', "").encode(), "has no uId"),
        (XML.format(uid="CXR7").replace(' Label="FINDINGS"', "").encode(), "AbstractText without Label"),
        (b'<a><uId id="CXR7"/><AbstractText Label="FINDINGS"> </AbstractText></a>', "has no text in any AbstractText"),
        (XML.format(uid="CXR7").replace("0001-2001", "0001-1001").encode(), "has parentImage ids"),
    ],
)
def test_bad_xml(tmp_path, content, says):
    (tmp_path / "7.xml").write_bytes(content)
    with pytest.raises(BadInput, match=says):
        read_open_i_xml(tmp_path / "7.xml")


def test_a_folder_of_xml(tmp_path):
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir()
    for name, uid in (("10", "CXR10"), ("9", "CXR9"), ("11", "CXR9")):
        (folder / f"{name}.xml").write_text(XML.format(uid=uid), encoding="utf-8")
    (folder / "12.xml").write_text("<a>", encoding="utf-8")
    found = list(iter_open_i(folder))
    assert [item.uid for item in found if not isinstance(item, BadInput)] == ["9", "10"]
    assert [Path(item.path).name for item in found if isinstance(item, BadInput)] == ["11.xml", "12.xml"]
    reports, problems = list_open_i(tmp_path)
    assert [report.uid for report in reports] == ["9", "10"] and len(problems) == 2


def test_nothing_there(tmp_path):
    with pytest.raises(BadInput, match="is not Open-i"):
        list(iter_open_i(tmp_path))
    table(tmp_path / "t.csv", REPORT_COLUMNS[:-1], [])
    with pytest.raises(BadInput, match="has no column 'impression'"):
        list(iter_open_i(tmp_path / "t.csv"))


def test_the_columns_of_the_real_tables():
    if not LAYOUT.is_dir():
        pytest.skip("the headers of Open-i are not there")
    for name, columns in (("reports", REPORT_COLUMNS), ("projections", PROJECTION_COLUMNS)):
        assert (LAYOUT / f"indiana_{name}.header.csv").read_text().strip().split(",") == list(columns)


def test_the_real_tables():
    if not (REPORTS / "indiana_reports.csv").is_file():
        pytest.skip("the reports of Open-i are not there")
    reports, problems = list_open_i(REPORTS)
    assert len(reports) == 2603 and sum(len(report.images) for report in reports) == 5055
    without_text = [problem for problem in problems if "has no text" in problem.reason]
    assert len(without_text) == 14 and len(problems) == 38
    assert all("has no usable report" in problem.reason for problem in problems if problem not in without_text)
