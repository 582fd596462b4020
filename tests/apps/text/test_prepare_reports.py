import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import pytest

from common.apps.run.bundle import UsageError
from common.apps.run.prepare import prepare_virtual
from common.apps.text.prepare_reports import COLUMNS, prepare_reports
from common.data.ct.ct_rate import CT_RATE_LABELS, CT_RATE_REPORT
from common.io.bad_input import BadInput
from common.text.ct_labeller import label_ct

SMALL = {"shape": (24, 48, 48), "spacing": (6.0, 4.0, 4.0)}
NOT_GIVEN = dict.fromkeys(CT_RATE_REPORT, "Not given.")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def labels(*present: str) -> dict[str, int]:
    return {name: int(name in present) for name in CT_RATE_LABELS}


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A CT-RATE tree without voxels: a real report, a partly given one, two without, and one without labels."""
    root = tmp_path / "in" / "dataset"
    names = ["train_1_a_1", "train_1_a_2", "train_2_a_1", "train_3_a_1", "train_4_a_1", "train_5_a_1"]
    for name in [*names, "valid_1_a_1"]:
        split, number, scan, _ = name.split("_")
        path = root / f"{split}_fixed" / f"{split}_{number}" / f"{split}_{number}_{scan}" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"never opened")
    present = {"train_1_a_1": ("Emphysema",), "train_1_a_2": ("Emphysema",), "train_3_a_1": ("Consolidation",)}
    rows = [{"VolumeName": f"{name}.nii.gz"} | labels(*present.get(name, ())) for name in names[:-1]]
    table(root / "multi_abnormality_labels" / "train_predicted_labels.csv", rows)
    table(root / "multi_abnormality_labels" / "valid_predicted_labels.csv", [{"VolumeName": "valid_1_a_1"} | labels()])
    real = dict(zip(CT_RATE_REPORT, ("Cough", "CT", 'Emphysema, "both" lungs.\nEnd.', "Emphysema."), strict=True))
    rows = [
        {"VolumeName": "train_1_a_1.nii.gz"} | real,
        {"VolumeName": "train_2_a_1.nii.gz"} | NOT_GIVEN | {"Impressions_EN": "Normal."},
        {"VolumeName": "train_3_a_1.nii.gz"} | NOT_GIVEN,
    ]
    table(root / "radiology_text_reports" / "train_reports.csv", rows)
    people = [{"VolumeName": f"{name}.nii.gz", "PatientSex": "F", "PatientAge": "047Y"} for name in names[:4]]
    table(root / "metadata" / "train_metadata.csv", people)
    return tmp_path / "in"


def test_real_reports_stay_and_the_others_get_templates(tree: Path, tmp_path: Path) -> None:
    before = digest(tree)
    result = prepare_reports(tree, tmp_path / "out")
    assert digest(tree) == before
    train = {row["VolumeName"]: row for row in rows_of(tmp_path / "out" / "train_reports.csv")}
    assert list(train["train_1_a_1.nii.gz"]) == list(COLUMNS)
    assert train["train_1_a_1.nii.gz"]["Findings_EN"] == 'Emphysema, "both" lungs.\nEnd.'
    assert {name.removesuffix(".nii.gz"): row["source"] for name, row in train.items()} == {
        "train_1_a_1": "real", "train_1_a_2": "real", "train_2_a_1": "real", "train_3_a_1": "template",
        "train_4_a_1": "template",
    }  # fmt: skip
    assert train["train_2_a_1.nii.gz"]["Findings_EN"] == "Not given."
    template = train["train_3_a_1.nii.gz"]
    assert label_ct(template["Findings_EN"] + " " + template["Impressions_EN"]) == labels("Consolidation")
    degrees = ("mild", "small", "limited", "moderate", "patchy", "extensive", "large", "severe", "subtle")
    assert any(word in template["Findings_EN"].lower() for word in degrees)
    assert [row["source"] for row in rows_of(tmp_path / "out" / "validation_reports.csv")] == ["template"]
    assert result["counts"] == {
        "cases": 6, "scans": 5, "real": 3, "template": 3, "with_lesions": 0, "unknown_sex_or_age": 2, "excluded": 1,
    }  # fmt: skip
    (refused,) = rows_of(tmp_path / "out" / "excluded.csv")
    assert "train_5_a_1" in refused["path"] and "no usable row" in refused["reason"]
    written = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert written == {key: value for key, value in result.items() if key not in ("reports", "excluded")}


def test_templates_of_real_scans_make_nothing_up(tree: Path, tmp_path: Path) -> None:
    for seed in range(8):
        prepare_reports(tree, tmp_path / "out", seed)
        for row in rows_of(tmp_path / "out" / "train_reports.csv"):
            if row["source"] == "template":
                text = (row["Findings_EN"] + row["Impressions_EN"]).lower()
                assert " mm" not in text and " cm" not in text and "left" not in text and "lower lobe" not in text
                assert "previous examination," in text or "compared" not in text
                assert 50 <= len((row["Findings_EN"] + " " + row["Impressions_EN"]).split()) <= 200


def test_again_gives_the_same_and_another_seed_does_not(tree: Path, tmp_path: Path) -> None:
    prepare_reports(tree, tmp_path / "a", 1)
    first = digest(tmp_path / "a")
    prepare_reports(tree, tmp_path / "a", 1)
    assert digest(tmp_path / "a") == first
    prepare_reports(tree, tmp_path / "b", 2)
    assert (tmp_path / "a" / "train_reports.csv").read_text() != (tmp_path / "b" / "train_reports.csv").read_text()


def test_a_scan_keeps_its_template_whatever_else_is_there(tree: Path, tmp_path: Path) -> None:
    prepare_reports(tree, tmp_path / "a")
    (tree / "dataset/train_fixed/train_4/train_4_a/train_4_a_1.nii.gz").unlink()
    prepare_reports(tree, tmp_path / "b")
    one, two = ({row["VolumeName"]: row for row in rows_of(tmp_path / out / "train_reports.csv")} for out in "ab")
    assert one["train_3_a_1.nii.gz"] == two["train_3_a_1.nii.gz"] and "train_4_a_1.nii.gz" not in two


def test_sizes_and_places_come_from_the_maps_of_a_manifest(tmp_path: Path) -> None:
    prepare_virtual(tmp_path / "in", "nifti", n=8, seed=3, **SMALL)
    result = prepare_reports(tmp_path / "in", tmp_path / "out")
    assert result["counts"]["template"] == 8 and result["counts"]["with_lesions"] > 0
    truth = {row["case"]: row for row in rows_of(tmp_path / "in" / "labels.csv")}
    texts = []
    for path in result["reports"]:
        for row in rows_of(Path(path)):
            texts.append(row["Findings_EN"] + " " + row["Impressions_EN"])
            case = truth[row["VolumeName"].removesuffix(".nii.gz")]
            assert label_ct(texts[-1]) == {name: int(case[name]) for name in CT_RATE_LABELS}
    assert any(" mm" in text or " cm" in text for text in texts) and any(" lobe" in text for text in texts)
    assert result == prepare_reports(tmp_path / "in" / "manifest.csv", tmp_path / "out2") | {
        key: result[key] for key in ("input", "reports", "excluded")
    }


def test_bad_rows_and_bad_maps_are_listed_and_the_rest_is_written(tmp_path: Path) -> None:
    prepare_virtual(tmp_path / "in", "nifti", n=6, seed=1, **SMALL)
    manifest = rows_of(tmp_path / "in" / "manifest.csv")
    truth = {row["case"]: row for row in rows_of(tmp_path / "in" / "labels.csv")}
    Path(manifest[0]["lesions"]).write_bytes(b"")
    manifest[1]["split"] = "other"
    truth[manifest[2]["case"]]["Emphysema"] = "yes"
    del truth[manifest[3]["case"]]
    assert any(nib.load(row["lesions"]).get_fdata().any() for row in manifest[4:])
    for row in manifest[4:]:
        truth[row["case"]] |= dict.fromkeys(CT_RATE_LABELS, "0")
    table(tmp_path / "in" / "manifest.csv", manifest)
    table(tmp_path / "in" / "labels.csv", list(truth.values()))
    result = prepare_reports(tmp_path / "in", tmp_path / "out")
    assert result["counts"]["cases"] == 2
    reasons = [row["reason"] for row in rows_of(tmp_path / "out" / "excluded.csv")]
    for part in ("empty file", "split 'other'", "Emphysema = 'yes'", "has no labels", "deny, so it is not described"):
        assert any(part in reason for reason in reasons), part


def test_unusable_input_is_named(tmp_path: Path, tree: Path) -> None:
    with pytest.raises((BadInput, UsageError), match="nowhere"):
        prepare_reports(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(BadInput, match="lies inside the input"):
        prepare_reports(tree, tree / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is not a CT-RATE tree"):
        prepare_reports(tmp_path / "empty", tmp_path / "out")
    table(tmp_path / "m" / "manifest.csv", [{"case": "a", "split": "train", "image": "a.nii.gz"}])
    with pytest.raises(BadInput, match="has no column 'Medical material', expected the 18 labels of CT-RATE, or lab"):
        prepare_reports(tmp_path / "m", tmp_path / "out")
    table(tmp_path / "m" / "labels.csv", [{"case": "b"} | labels()])
    with pytest.raises(BadInput, match="has no usable case, see"):
        prepare_reports(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out" / "train_reports.csv").exists()


def test_the_tree_of_virtual_scans_counts_before_their_manifest(tmp_path: Path) -> None:
    prepare_virtual(tmp_path / "virtual", "ct_rate", n=2, shape=(16, 32, 32), spacing=(9.0, 10.0, 11.0))
    summary = prepare_reports(tmp_path / "virtual", tmp_path / "reports")
    assert summary["counts"]["cases"] == 2 and summary["counts"]["excluded"] == 0
