import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import pytest

from common.apps.run.bundle import UsageError
from common.apps.run.prepare import prepare, prepare_virtual
from common.data.ct.listing import MANIFEST_COLUMNS
from common.data.ct.reader import read_ct
from common.data.cxr.cases import read_cxr_cases
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS

SMALL = {"shape": (16, 32, 32), "spacing": (9.0, 10.0, 11.0)}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def test_virtual_nifti_has_the_three_files_of_prepare(tmp_path: Path) -> None:
    out = tmp_path / "virtual"
    summary = prepare_virtual(out, "nifti", n=4, seed=7, **SMALL)
    rows = rows_of(out)
    assert list(rows[0])[: len(MANIFEST_COLUMNS)] == list(MANIFEST_COLUMNS)
    assert [row["case"] for row in rows] == [f"virtual_{seed:06d}" for seed in (7, 8, 9, 10)]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    for row in rows:
        image = nib.load(row["image"])
        assert image.shape == tuple(int(row[f"shape_{axis}"]) for axis in "xyz") == (32, 32, 16)
        assert image.header.get_zooms() == tuple(float(row[f"spacing_{axis}"]) for axis in "xyz") == (11, 10, 9)
        assert hashlib.sha256(Path(row["image"]).read_bytes()).hexdigest() == row["sha256"]
        assert Path(row["lesions"]).is_file() and Path(row["regions"]).is_file()
    assert (out / "excluded.csv").read_text() == "path,reason\n"
    written = json.loads((out / "prepare.json").read_text())
    assert written == {key: value for key, value in summary.items() if key not in ("manifest", "excluded")}
    assert written["counts"]["kept"] == 4 and written["seed"] == 7 and written["shape"] == [16, 32, 32]


def test_preparing_virtual_images_gives_the_same_data_hash(tmp_path: Path) -> None:
    made = prepare_virtual(tmp_path / "virtual", "nifti", n=3, **SMALL)
    again = prepare("nifti", tmp_path / "virtual" / "images", tmp_path / "prepared")
    assert again["data_hash"] == made["data_hash"]
    assert {row["case"]: row["split"] for row in rows_of(tmp_path / "virtual")} == {
        row["case"]: row["split"] for row in rows_of(tmp_path / "prepared")
    }


def test_virtual_dicom_can_be_read(tmp_path: Path) -> None:
    prepare_virtual(tmp_path, "dicom", n=1, **SMALL)
    (row,) = rows_of(tmp_path)
    volume = read_ct(row["image"])
    assert volume.hu.shape == (32, 32, 16) and volume.patient == row["patient"]


def test_virtual_ct_rate_keeps_its_own_split(tmp_path: Path) -> None:
    summary = prepare_virtual(tmp_path, "ct_rate", n=5, **SMALL)
    rows = rows_of(tmp_path)
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"]
    assert all(Path(row["image"]).is_file() for row in rows)
    assert summary["counts"]["train"] == 4


def test_the_same_call_resumes_and_another_is_refused(tmp_path: Path) -> None:
    prepare_virtual(tmp_path, n=2, **SMALL)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "images").iterdir()}
    manifest = (tmp_path / "manifest.csv").read_bytes()
    prepare_virtual(tmp_path, n=2, **SMALL)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "images").iterdir()} == before
    assert (tmp_path / "manifest.csv").read_bytes() == manifest
    with pytest.raises(FileExistsError, match="holds virtual patients made with"):
        prepare_virtual(tmp_path, n=3, **SMALL)


@pytest.mark.parametrize("layout", ["mimic_cxr", "open_i", "r2gen"])
def test_virtual_x_rays_are_listed_by_image(tmp_path: Path, layout: str) -> None:
    summary = prepare_virtual(tmp_path, layout, n=4, seed=2, **SMALL)
    rows = rows_of(tmp_path)
    columns = ["case", "patient", "split", "image", "study", "view", "report"]
    columns += ["time"] if layout == "mimic_cxr" else []
    assert list(rows[0]) == [*columns, *CHEXPERT_LABELS, "sha256"]
    assert len({row["case"] for row in rows}) == len(rows) == summary["counts"]["kept"]
    assert summary["counts"]["patients"] == len({row["patient"] for row in rows}) == 4
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert all(
        len({row["split"] for row in rows if row["patient"] == p}) == 1 for p in {row["patient"] for row in rows}
    )
    for row in rows:
        assert hashlib.sha256(Path(row["image"]).read_bytes()).hexdigest() == row["sha256"]
        assert Path(row["report"]).is_file() and row["view"] in ("PA", "AP", "LATERAL")
        assert {row[name] for name in CHEXPERT_LABELS} <= {"1.0", "0.0", "-1.0", ""}
    assert prepare_virtual(tmp_path, layout, n=4, seed=2, **SMALL) == summary
    with pytest.raises(FileExistsError, match="holds virtual patients made with"):
        prepare_virtual(tmp_path, layout, n=3, seed=2, **SMALL)


def test_virtual_mimic_has_the_tables_of_prepare_mimic_cxr(tmp_path: Path) -> None:
    made = prepare_virtual(tmp_path / "virtual", "mimic_cxr", n=4, seed=2, **SMALL)
    read = prepare("mimic_cxr", tmp_path / "virtual", tmp_path / "prepared")
    for name in ("notes.csv", "clinical.csv"):
        assert (tmp_path / "virtual" / name).read_bytes() == (tmp_path / "prepared" / name).read_bytes()
    ours = [{k: v for k, v in row.items() if k != "sha256"} for row in rows_of(tmp_path / "virtual")]
    assert ours == rows_of(tmp_path / "prepared")
    assert made["counts"]["kept"] == read["counts"]["kept"] == len(ours)
    cases = read_cxr_cases(tmp_path / "virtual", "train")
    assert cases and all(case["note"] and case["clinical"] is not None for case in cases)


def test_prepare_x_rays_checks_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(BadInput, match=f"does not exist.*the nearest is {tmp_path / 'scans'}"):
        prepare("nih", tmp_path / "scan", tmp_path / "out")
    with pytest.raises(
        UsageError, match="--labeller is 'chexprt', expected chexpert or negbio; the nearest is chexpert"
    ):
        prepare("mimic_cxr", tmp_path, tmp_path / "out", labeller="chexprt")
    with pytest.raises(UsageError, match="layout is 'nhi', expected .*; the nearest is nih"):
        prepare("nhi", tmp_path, tmp_path / "out")
    with pytest.raises(BadInput, match="has no mimic-cxr-2.0.0-split.csv"):
        prepare("mimic_cxr", tmp_path / "scans", tmp_path / "out")


@pytest.mark.parametrize("layout", ["open_i", "r2gen"])
def test_virtual_reports_are_the_same_cases_when_they_are_prepared(tmp_path: Path, layout: str) -> None:
    prepare_virtual(tmp_path / "virtual", layout, n=6, seed=3, **SMALL)
    read = prepare(layout, tmp_path / "virtual", tmp_path / "prepared")
    made, found = (sorted(rows_of(tmp_path / name), key=lambda row: row["case"]) for name in ("virtual", "prepared"))
    assert [*found[0], "sha256"] == list(made[0]) and read["counts"]["bad"] == 0
    assert read["counts"]["studies"] == 6 and read["labels"] == "read from the reports"
    # Labels too: what the words of the reports say. Open-i has no official split.
    told = [name for name in found[0] if layout == "r2gen" or name != "split"]
    assert [[row[name] for name in told] for row in found] == [[row[name] for name in told] for row in made]
    assert {row["split"] for row in found} == {"train", "val", "test"}
    studies = {(row["study"], row["split"]) for row in found}
    assert len(studies) == 6, "the images of a study are in one split"
    assert read_cxr_cases(tmp_path / "prepared", None, views=None)


def test_a_step_instead_of_preparing(tmp_path: Path) -> None:
    prepare_virtual(tmp_path / "virtual", "mimic_cxr", n=4, seed=2, **SMALL)
    source, out = tmp_path / "virtual", tmp_path / "out"
    found = prepare("mimic_cxr", source, out, step="subset", n_images=3)
    assert list(found["steps"]) == ["subset"] and found["steps"]["subset"]["counts"]["wanted"] == 3
    assert (out / "selected_images.csv").is_file() and not (out / "manifest.csv").exists()
    with pytest.raises(UsageError, match="--step is 'manifst', expected subset or .* or all; the nearest is manifest"):
        prepare("mimic_cxr", source, out, step="manifst")
    with pytest.raises(UsageError, match="--n_images is for a step, expected --step with the name of one"):
        prepare("mimic_cxr", source, out, n_images=3)
    with pytest.raises(UsageError, match="--strict, --workers and --engine are not for a step"):
        prepare("mimic_cxr", source, out, step="subset", workers=2)
    with pytest.raises(UsageError, match="prepare nih has no option --step"):
        prepare("nih", source, out, step="subset")
    with pytest.raises(ValueError, match="step subset takes no without_ehr, expected some of download, labeller"):
        prepare("mimic_cxr", source, out, step="subset", without_ehr=0.1)


def test_layouts_and_options_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prepare nih has no option --labeller"):
        prepare("nih", tmp_path, tmp_path / "out", labeller="negbio")
    with pytest.raises(UsageError, match="prepare ct has no option --validate"):
        prepare("ct", tmp_path, tmp_path / "out", validate=True)
    with pytest.raises(UsageError, match="layout is 'nifty', expected .*; the nearest is nifti"):
        prepare_virtual(tmp_path, "nifty")
    with pytest.raises(UsageError, match="layout is 'dicm', expected .*; the nearest is dicom"):
        prepare("dicm", tmp_path, tmp_path / "out")


def test_prepare_checks_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(BadInput, match=f"does not exist.*the nearest is {tmp_path / 'scans'}"):
        prepare("ct", tmp_path / "scan", tmp_path / "out")
    with pytest.raises(UsageError, match="--engine is 'locl', expected local"):
        prepare("ct", tmp_path, tmp_path / "out", engine="locl")
    with pytest.raises(UsageError, match="--workers is 0"):
        prepare("ct", tmp_path, tmp_path / "out", workers=0)
