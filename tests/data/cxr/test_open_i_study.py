from pathlib import Path

import pytest

from common.data.cxr.open_i import PROJECTION_COLUMNS, REPORT_COLUMNS
from common.data.cxr.open_i_study import find_open_i
from common.io.bad_input import BadInput
from tests.data.cxr.test_open_i import XML, report_row, table


def test_views_labels_and_notes(tmp_path: Path) -> None:
    rows = [report_row("1", "A left pleural effusion. No pneumothorax."), report_row("2"), report_row("3")]
    rows[1][3:5] = ["Portable chest", "Rule out pneumonia in XXXX"]
    table(tmp_path / "indiana_reports.csv", REPORT_COLUMNS, rows)
    projections = [("1", "1_a.dcm.png", "Frontal"), ("1", "1_b.dcm.png", "Lateral"), ("2", "2_a.dcm.png", "Frontal")]
    table(tmp_path / "indiana_projections.csv", PROJECTION_COLUMNS, [*projections, ("3", "3_a.dcm.png", "Frontal")])
    (tmp_path / "images").mkdir()
    for name in ("1_a.dcm.png", "1_b.dcm.png", "2_a.dcm.png", "extra.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    listing = find_open_i(tmp_path)
    assert [(row.case, row.patient, row.study, row.view) for row in listing.rows] == [
        ("1_a.dcm", "1", "1", "PA"), ("1_b.dcm", "1", "1", "LATERAL"), ("2_a.dcm", "2", "2", "AP"),
    ]  # fmt: skip
    assert listing.rows[0].labels["Pleural Effusion"] == 1.0 and listing.rows[0].labels["Pneumothorax"] == 0.0
    assert listing.rows[0].more == {"report": str(tmp_path / "indiana_reports.csv")}
    assert listing.notes == {"1": "XXXX", "2": "Rule out [REDACTED] in XXXX"}
    assert {problem.path.name for problem in listing.problems} == {
        "3_a.dcm.png", "extra.png", "indiana_reports.csv",
    }  # fmt: skip


def test_xml_names_its_file_and_no_view(tmp_path: Path) -> None:
    for folder in ("ecgen-radiology", "NLMCXR_png"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ecgen-radiology" / "7.xml").write_text(XML.format(uid="CXR7"), encoding="utf-8")
    (tmp_path / "ecgen-radiology" / "8.xml").write_text("<a>", encoding="utf-8")
    for view in ("1001", "2001"):
        (tmp_path / "NLMCXR_png" / f"CXR7_IM-0001-{view}.png").write_bytes(b"")
    listing = find_open_i(tmp_path)
    assert [(row.case, row.view) for row in listing.rows] == [("CXR7_IM-0001-1001", ""), ("CXR7_IM-0001-2001", "")]
    assert {row.more["report"] for row in listing.rows} == {str(tmp_path / "ecgen-radiology" / "7.xml")}
    assert listing.rows[0].labels["No Finding"] == 1.0
    (problem,) = listing.problems
    assert problem.path.name == "8.xml" and "no well-formed XML" in problem.reason


def test_reports_without_images_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "indiana_reports.csv", REPORT_COLUMNS, [report_row("1")])
    with pytest.raises(BadInput, match="has no folder of images, expected one of images/images_normalized"):
        find_open_i(tmp_path)
