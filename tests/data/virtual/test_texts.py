import time

from common.apps.run.prepare import prepare_virtual
from common.data.manifest import read_manifest
from common.data.report_files import iter_reports
from common.data.virtual.findings import CT_RATE_LABELS
from common.data.virtual.texts import _LOOKS, virtual_texts
from common.data.virtual.xray_findings import XRAY_FINDINGS
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr
from common.text.sections import sections_text


def test_every_finding_has_a_look():
    assert set(_LOOKS) == {*CT_RATE_LABELS, *XRAY_FINDINGS}


def test_texts_say_their_labels_and_depend_on_the_seed_alone():
    first, again, later = list(virtual_texts(40, 700)), list(virtual_texts(40, 700)), list(virtual_texts(20, 720))
    assert first == again and later == first[20:]
    for text in first:
        read = label_cxr(f"{text['sections']['findings']} {text['sections']['impression']}")
        assert {k: v or 0 for k, v in read.items()} == {k: v or 0 for k, v in text["labels"].items()}
    assert {label for text in first for label, v in text["labels"].items() if v == 1.0} > {"No Finding", "Lung Opacity"}
    assert list(first[0]["labels"]) == list(CHEXPERT_LABELS)


def test_five_hundred_a_second():
    list(virtual_texts(5, 0))
    begin = time.process_time()
    list(virtual_texts(200, 0))
    assert time.process_time() - begin < 0.4


def test_as_a_layout(tmp_path):
    summary = prepare_virtual(tmp_path / "texts", "texts", n=30, seed=5)
    assert summary["counts"]["train"] == 30 and prepare_virtual(tmp_path / "texts", "texts", n=30, seed=5) == summary
    rows = read_manifest(tmp_path / "texts")
    reports = {report.study: report for report in iter_reports(tmp_path / "texts" / "reports.csv")}
    for row, text in zip(rows, virtual_texts(30, 5), strict=True):
        assert (row["case"], row["image"]) == (text["case"], "") and row["report"].endswith("reports.csv")
        sections = sections_text(reports[row["study"]].sections)
        assert all(sections[name] == text["sections"][name] for name in ("findings", "impression"))
        assert [row[label] for label in CHEXPERT_LABELS] == [
            "" if (value := text["labels"][label]) is None else str(value) for label in CHEXPERT_LABELS
        ]
