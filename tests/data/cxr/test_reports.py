import csv
import json

import numpy as np
import pytest
import torch

from common.apps.run.prepare import prepare_virtual
from common.data.cxr.finding_sentences import FindingSentences
from common.data.cxr.reports import read_report_cases, read_report_splits, report_dataset, text_cases
from common.data.manifest import read_manifest
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr
from common.text.difficulty import REGIONS, finding_regions, report_difficulty
from common.text.sections import report_sections

SIZE = {"n": 8, "shape": (16, 32, 32), "spacing": (9, 10, 11)}


@pytest.fixture(scope="module", params=["mimic_cxr", "open_i", "r2gen"])
def prepared(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    prepare_virtual(folder, request.param, **SIZE)
    return request.param, folder


@pytest.fixture
def mimic(tmp_path):
    prepare_virtual(tmp_path / "mimic", "mimic_cxr", **SIZE)
    return tmp_path / "mimic"


def rows(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_study_once_with_its_report(prepared):
    layout, folder = prepared
    splits = read_report_splits(folder)
    frontal = {row["study"] for row in read_manifest(folder) if row["view"] in ("PA", "AP")}
    cases = [case for cases in splits.values() for case in cases]
    assert len(cases) == len(frontal) == len({case["study"] for case in cases})
    for case in cases:
        assert case["regions"].shape == (7,) and case["difficulty"] == report_difficulty(case["report"]).score()
        found = {region for where in finding_regions(case["report"]).values() for region in where}
        assert [REGIONS[i] for i in np.flatnonzero(case["regions"])] == [r for r in REGIONS if r in found]
        assert case["report"] == " ".join(case["report"].split())
    if layout == "mimic_cxr":
        report = {row["study"]: row["report"] for row in read_manifest(folder)}
        for case in cases:
            with open(report[case["study"]]) as file:
                assert case["report"] == report_sections(file.read())["findings"]
    if layout == "r2gen":
        with pytest.raises(BadInput, match="has no report with impression for split None"):
            read_report_cases(folder, None, target="impression")


def test_targets(mimic):
    found = {target: read_report_cases(mimic, None, target=target) for target in ("findings", "impression", "both")}
    for a, b, both in zip(*found.values(), strict=True):
        assert both["report"] == f"{a['report']} {b['report']}"
    with pytest.raises(ValueError, match="target is 'all', expected one of findings, impression, both"):
        read_report_cases(mimic, None, target="all")


def test_what_cannot_be_used_is_listed(mimic):
    studies = list(dict.fromkeys(row["study"] for row in rows(mimic)))
    report = {row["study"]: mimic / row["report"] for row in rows(mimic)}
    report[studies[0]].write_text("")
    report[studies[1]].write_text("FINAL REPORT\n IMPRESSION: No acute process.\n")
    report[studies[2]].write_bytes(b" FINDINGS: Gr\xf6\xdfe \xff\xfe.\n")
    found = read_report_cases(mimic, None)
    reasons = [row["reason"] for row in found.excluded if "view" not in row["reason"]]
    assert "is empty, expected a report" in reasons and "has a report without findings" in reasons
    assert not {case["study"] for case in found} & set(studies[:2])
    only_lateral = {r["study"] for r in rows(mimic)} - {r["study"] for r in rows(mimic) if r["view"] in ("PA", "AP")}
    assert sum("without a view PA or AP" in row["reason"] for row in found.excluded) == len(only_lateral)


def test_a_study_that_is_refused_has_one_reason(mimic):
    study = rows(mimic)[0]["study"]
    with (mimic / "notes.csv").open("a") as file:
        file.write(f"{study},another note\n")
    found = read_report_cases(mimic, None)
    cases = {row["case"] for row in rows(mimic) if row["study"] == study}
    reasons = [row["reason"] for row in found.excluded if row["path"] in cases]
    assert reasons and all("two notes" in reason for reason in reasons) and study not in {c["study"] for c in found}


def test_what_is_left_out_is_counted_and_listed(mimic, tmp_path, caplog):
    report = {row["study"]: mimic / row["report"] for row in rows(mimic) if row["view"] in ("PA", "AP")}
    study = next(row["study"] for row in rows(mimic) if row["split"] == "train")
    report[study].write_text(" ")
    with caplog.at_level("WARNING", "train"):
        splits = read_report_splits(mimic, excluded_dir=str(tmp_path / "warmup"))
    total = 1 + sum(map(len, splits.values()))
    assert f"1 of {total} studies are left out, with reasons in" in caplog.text
    with (tmp_path / "warmup" / "excluded.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["is empty, expected a report"]


def test_images_or_tokens(mimic, tmp_path):
    cases = read_report_cases(mimic, "train")
    data = report_dataset(cases, "train", lambda item: item | {"image": torch.zeros(3, 4, 4)})
    assert data[1]["index"] == 1 and data[1]["image"].shape == (3, 4, 4) and data[1]["report"] == cases[1]["report"]
    with pytest.raises(BadInput, match="run it first"):
        report_dataset(cases, "train", dict, str(tmp_path))


def test_texts_without_images():
    cases = text_cases(20, 900, CHEXPERT_LABELS, "impression")
    for case in cases:
        read = label_cxr(case["report"])
        for label, value in zip(CHEXPERT_LABELS, case["label"], strict=True):
            assert read[label] in ({1.0: 1.0, 0.5: -1.0}.get(float(value)), None, 0.0)
    assert json.dumps([case["report"] for case in cases]) == json.dumps(
        [case["report"] for case in text_cases(20, 900, CHEXPERT_LABELS, "impression")]
    )


def test_findings_in_sentences():
    write = FindingSentences("both")
    for label in set(CHEXPERT_LABELS) - {"No Finding"}:
        read = label_cxr(write({label: 1.0, "No Finding": 1.0}, 3))
        assert [name for name, value in read.items() if value == 1.0 and name != "No Finding"] == [label]
    assert label_cxr(FindingSentences("impression")({}, 1))["No Finding"] == 1.0
