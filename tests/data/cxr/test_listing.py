import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.cxr import listing as cxr_listing
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.prepare import prepare_data
from common.data.virtual.cxr_layouts import write_mimic_cxr
from common.data.virtual.files import Cohort
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "cxr"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "mimic-cxr"
    write_mimic_cxr(root, Cohort(8, 0, (16, 32, 32), (9.0, 10.0, 11.0)))
    return root


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """30 patients with two images each."""
    root = tmp_path / "nih"
    (root / "images").mkdir(parents=True)
    lines = ["Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"]
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:03d}.png")
        lines.append(f"{i:03d}.png,{'Mass' if i % 3 else 'No Finding'},{i // 2},5{i % 10},F,PA")
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    return root


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_mimic_has_all_images_and_the_official_split(tree: Path, tmp_path: Path) -> None:
    result = prepare_data(tree, tmp_path / "out", "mimic_cxr")
    rows = table(result.manifest)
    assert list(rows[0]) == ["case", "patient", "split", "image", "study", "view", "report", "time", *CHEXPERT_LABELS]
    assert len(rows) == len(list(tree.rglob("*.jpg"))) == result.summary["counts"]["kept"]
    assert all(Path(row["image"]).is_absolute() and Path(row["image"]).is_file() for row in rows)
    assert {row[name] for row in rows for name in CHEXPERT_LABELS} == {"1.0", "0.0", "-1.0", ""}
    studies = {row["study"] for row in rows}
    notes, clinical = table(tmp_path / "out/notes.csv"), table(tmp_path / "out/clinical.csv")
    assert {row["study"] for row in notes} == {row["study"] for row in clinical} == studies
    assert list(clinical[0]) == ["study", *CLINICAL_COLUMNS]
    assert result.excluded.read_text() == "path,reason\n"
    assert json.loads(result.summary_file.read_text()) == result.summary


def test_split_is_by_patient_after_validation(nih: Path, tmp_path: Path) -> None:
    (nih / "images/007.png").write_bytes(b"")
    result = prepare_data(nih, tmp_path / "out", "nih", seed=1)
    rows = table(result.manifest)
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["patient"], set()).add(row["split"])
    assert len(rows) == 59 and len(splits) == 30 and all(len(names) == 1 for names in splits.values())
    assert [sum(names == {split} for names in splits.values()) for split in ("train", "val", "test")] == [21, 3, 6]
    (bad,) = table(result.excluded)
    assert bad["path"].endswith("007.png") and bad["reason"].startswith("is empty")
    assert "007" not in {row["study"] for row in table(tmp_path / "out/notes.csv")}
    again = prepare_data(nih, tmp_path / "other", "nih", seed=1, workers=2)
    assert again.summary == result.summary | {"input": str(nih)}
    assert again.manifest.read_bytes() == result.manifest.read_bytes()
    assert prepare_data(nih, tmp_path / "third", "nih", seed=2).manifest.read_bytes() != result.manifest.read_bytes()


def test_official_test_patients_stay_and_the_others_are_split(nih: Path, tmp_path: Path) -> None:
    names = [f"{i:03d}.png" for i in range(60)]
    (nih / "test_list.txt").write_text("\n".join(names[40:]))
    (nih / "train_val_list.txt").write_text("\n".join(names[:40]))
    counts = prepare_data(nih, tmp_path / "out", "nih").summary["counts"]
    assert counts["test"] == 20 and counts["train"] + counts["val"] == 40 and counts["val"] > 0


def test_damage_behind_the_header_is_found_unless_asked_not_to(nih: Path, tmp_path: Path) -> None:
    path = nih / "images/003.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    Image.new("L", (64, 64), 9).save(nih / "images/004.png")
    assert prepare_data(nih, tmp_path / "a", "nih", validate=False).summary["counts"]["bad"] == 0
    deep = prepare_data(nih, tmp_path / "b", "nih")
    assert {Path(row["path"]).name for row in table(deep.excluded)} == {"003.png", "004.png"}


def test_a_second_run_checks_nothing_twice(nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = cxr_listing.check_xray
    monkeypatch.setattr(cxr_listing, "check_xray", lambda path, deep: (checked.append(path.name), check(path, deep))[1])
    first = prepare_data(nih, tmp_path / "out", "nih")
    files = {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out") if "." in name[1:]}
    assert len(checked) == 60
    (record,) = (tmp_path / "out/.prepare").iterdir()
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:50]) + lines[50][:20])  # killed while writing
    checked.clear()
    (nih / "images/001.png").touch()
    assert prepare_data(nih, tmp_path / "out", "nih").summary == first.summary
    assert len(checked) == 11 and "001.png" in checked
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files


def test_strict_and_nothing_usable(nih: Path, tmp_path: Path) -> None:
    (nih / "images/007.png").unlink()
    with pytest.raises(BadInput, match="has 1 bad inputs and strict was asked for"):
        prepare_data(nih, tmp_path / "out", "nih", strict=True)
    assert not (tmp_path / "out/manifest.csv").exists() and (tmp_path / "out/excluded.csv").exists()
    shutil.rmtree(nih / "images")
    with pytest.raises(BadInput, match="has no usable image for layout 'nih'"):
        prepare_data(nih, tmp_path / "out", "nih")


def test_exclusion_list(nih: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("003  # blurred\nimages/004.png\n")
    result = prepare_data(nih, tmp_path / "out", "nih", exclusion_list=listed, strict=True)
    assert result.summary["counts"]["kept"] == 58 and result.summary["counts"]["bad"] == 0
    assert {Path(row["path"]).name for row in table(result.excluded)} == {"003.png", "004.png"}
    listed.write_text("nobody\n")
    with pytest.raises(BadInput, match="lists 'nobody', which matches no case"):
        prepare_data(nih, tmp_path / "out", "nih", exclusion_list=listed)


def test_wrong_places_are_refused(nih: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="lies inside the input"):
        prepare_data(nih, nih / "out", "nih")
    with pytest.raises(BadInput, match="does not exist"):
        prepare_data(tmp_path / "nothing", tmp_path / "out", "nih")
    with pytest.raises(ValueError, match="Layout is 'chexpert', expected one of nifti, .*, mimic_cxr, covid, nih"):
        prepare_data(nih, tmp_path / "out", "chexpert")


def test_a_damaged_image_of_mimic_leaves_the_others(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    images = sorted(copy.rglob("*.jpg"))
    images[0].write_bytes(images[0].read_bytes()[:500])
    images[1].unlink()
    result = prepare_data(copy, tmp_path / "out", "mimic_cxr")
    reasons = {row["path"]: row["reason"] for row in table(result.excluded)}
    assert set(reasons) == {str(images[0]), str(images[1])}
    assert "damaged JPEG" in reasons[str(images[0])] and "does not exist" in reasons[str(images[1])]
    assert result.summary["counts"]["kept"] == len(images) - 2


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the sample X-rays beside the repository")
@pytest.mark.parametrize(("layout", "kept", "bad"), [("covid", 191, 0), ("nih", 160, 0)])
def test_real_samples(tmp_path: Path, layout: str, kept: int, bad: int) -> None:
    result = prepare_data(DATA, tmp_path, layout, validate=True)
    assert (result.summary["counts"]["kept"], result.summary["counts"]["bad"]) == (kept, bad)
    assert list(table(tmp_path / "clinical.csv")[0]) == ["study", *CLINICAL_COLUMNS]
