import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from common.apps.run.bundle import UsageError
from common.apps.run.prepare import prepare_virtual
from common.apps.run.run_data import SEEN, make_virtual, provide_data, read_manifest
from common.io.bad_input import BadInput
from tests.toy_bundle import make_manifest

VIRTUAL = {"n": 5, "shape": [16, 32, 32], "spacing": [9.0, 10.0, 11.0], "seed": 100}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images that were not prepared."""
    folder = tmp_path_factory.mktemp("scans")
    prepare_virtual(folder, n=3, shape=VIRTUAL["shape"], spacing=VIRTUAL["spacing"])
    return folder / "images"


def splits(folder: Path) -> dict[str, str]:
    with (folder / "manifest.csv").open() as file:
        return {row["case"]: row["split"] for row in csv.DictReader(file)}


def test_prepared_data_is_used_where_it_lies(tmp_path: Path) -> None:
    data = make_manifest(tmp_path / "prepared")
    assert provide_data(tmp_path / "run", data, None).folder == data
    assert not (tmp_path / "run").exists()


def test_other_data_is_prepared_into_the_run(tmp_path: Path, scans: Path) -> None:
    found = provide_data(tmp_path / "run", scans, None)
    assert found.folder == tmp_path / "run"
    assert found.data_hash == json.loads((tmp_path / "run" / "prepare.json").read_text())["data_hash"]
    assert len(splits(found.folder)) == 3
    assert provide_data(tmp_path / "run", scans, None) == found


def test_virtual_patients_alone_keep_their_split(tmp_path: Path) -> None:
    found = provide_data(tmp_path, None, VIRTUAL)
    assert splits(found.folder) == splits(tmp_path / "virtual")
    assert set(splits(found.folder).values()) == {"train", "val", "test"}
    assert found.data_hash == json.loads((tmp_path / "virtual" / "prepare.json").read_text())["data_hash"]
    assert all(Path(row["image"]).is_file() for row in read_manifest(found.folder / "manifest.csv"))
    for n in (5, 2):  # other settings replace what this run made
        assert len(splits(provide_data(tmp_path, None, VIRTUAL | {"n": n}).folder)) == n


def test_virtual_patients_join_the_training_set(tmp_path: Path, scans: Path) -> None:
    found = provide_data(tmp_path, scans, VIRTUAL)
    merged, given = splits(found.folder), splits(tmp_path / "prepared")
    assert {case: merged[case] for case in given} == given and "val" in given.values()
    assert {merged[case] for case in set(merged) - set(given)} == {"train"} and len(merged) == 8


def test_virtual_patients_validate_if_nobody_else_can(tmp_path: Path, scans: Path) -> None:
    one = next(scans.iterdir())
    found = provide_data(tmp_path, one, VIRTUAL)
    assert sorted(splits(found.folder).values()) == ["train"] * 5 + ["val"]
    assert splits(found.folder)[one.name.removesuffix(".nii.gz")] == "train"


def test_the_same_case_twice_is_refused(tmp_path: Path, scans: Path) -> None:
    with pytest.raises(BadInput, match="has the case 'virtual_000000' that a virtual patient has too"):
        provide_data(tmp_path, scans, VIRTUAL | {"seed": 0})


def test_hashes_follow_content_and_not_place(tmp_path: Path) -> None:
    first = provide_data(tmp_path, make_manifest(tmp_path / "a"), None)
    second = provide_data(tmp_path, make_manifest(tmp_path / "b"), None)
    assert (first.data_hash, first.fingerprint) == (second.data_hash, second.fingerprint)
    manifest = tmp_path / "b" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("val", "test"))
    third = provide_data(tmp_path, tmp_path / "b", None)
    assert third.data_hash == second.data_hash and third.fingerprint != second.fingerprint


def test_without_hashes_the_state_of_the_files_counts(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("case,split,image\na,train,a.nii.gz\n")
    with pytest.raises(BadInput, match=r"lists .*a\.nii\.gz, which does not exist"):
        provide_data(tmp_path, tmp_path, None)
    (tmp_path / "a.nii.gz").write_text("1")
    before = provide_data(tmp_path, tmp_path, None)
    os.utime(tmp_path / "a.nii.gz", ns=(1, 1))
    assert provide_data(tmp_path, tmp_path, None) != before


@pytest.mark.parametrize("name", ["notes.csv", "clinical.csv"])
def test_hashes_follow_notes_and_values(tmp_path: Path, name: str) -> None:
    """A bug: a run took no notice of changed notes and values, which lie beside the manifest."""
    (tmp_path / "manifest.csv").write_text("case,split,image\na,train,a.png\n")
    (tmp_path / "a.png").write_text("1")
    found = [provide_data(tmp_path, tmp_path, None)]
    for text in ("study,x\na,1\n", "study,x\na,2\n"):
        (tmp_path / name).write_text(text)
        found.append(provide_data(tmp_path, tmp_path, None))
    assert len({data.fingerprint for data in found}) == len({data.data_hash for data in found}) == 3
    assert provide_data(tmp_path, tmp_path, None) == found[-1]


def reported(folder: Path) -> Path:
    """A manifest of X-rays with hashes, a report in a file of its own and one in a table."""
    folder.mkdir()
    rows = []
    for case, report in (("a", "s1.txt"), ("b", "reports.csv")):
        (folder / f"{case}.png").write_text(case)
        (folder / report).write_text(f"uid,findings\n{case},Clear.\n")
        digest = hashlib.sha256(case.encode()).hexdigest()
        rows.append(f"{case},train,{folder / case}.png,{folder / report},{digest}\n")
    (folder / "notes.csv").write_text("study,note\n")
    (folder / "manifest.csv").write_text("case,split,image,report,sha256\n" + "".join(rows))
    for path in folder.glob("*.png"):
        os.utime(path, ns=(1, 1))
    return folder


@pytest.mark.parametrize("report", ["s1.txt", "reports.csv"])
def test_an_edited_report_counts(tmp_path: Path, report: str) -> None:
    """A bug: a run took no notice of an edited report, whose file the manifest names."""
    folder = reported(tmp_path / "data")
    before = provide_data(tmp_path, folder, None)
    assert provide_data(tmp_path, folder, None) == before
    (folder / report).write_text("uid,findings\nx,A nodule.\n")
    after = provide_data(tmp_path, folder, None)
    assert after.fingerprint != before.fingerprint and after.data_hash == before.data_hash
    (folder / report).unlink()
    with pytest.raises(BadInput, match=f"manifest.csv: lists .*{report}, which does not exist"):
        provide_data(tmp_path, folder, None)


def test_where_reports_lie_does_not_count(tmp_path: Path) -> None:
    first = provide_data(tmp_path, reported(tmp_path / "a"), None)
    assert provide_data(tmp_path, reported(tmp_path / "b"), None).fingerprint == first.fingerprint


def test_an_image_changed_in_place_counts_although_the_manifest_has_its_hash(tmp_path: Path) -> None:
    """A bug: the hash in the manifest hid that the image had changed since."""
    folder = reported(tmp_path / "data")
    before = provide_data(tmp_path, folder, None)
    os.utime(folder / "a.png")  # newer, and the same
    assert provide_data(tmp_path, folder, None) == before
    (folder / "a.png").write_text("A")
    after = provide_data(tmp_path, folder, None)
    assert after.fingerprint != before.fingerprint and after.data_hash == before.data_hash


@pytest.mark.parametrize("memory", ["kept", "damaged"])
def test_an_image_changed_in_place_counts_although_it_keeps_size_and_time(tmp_path: Path, memory: str) -> None:
    """A bug: a copy in its place, older than the manifest, was taken for the image. And reading it costs one time."""
    folder, out = reported(tmp_path / "data"), tmp_path / "out"
    before = provide_data(out, folder, None)
    assert provide_data(out, folder, None) == before
    for path in folder.glob("*.png"):  # copied again: read, and the same
        os.replace(shutil.copy2(path, tmp_path / "copy"), path)
    assert provide_data(out, folder, None) == before
    (folder / "a.png").write_text("A")
    os.utime(folder / "a.png", ns=(1, 1))
    after = provide_data(out, folder, None)
    assert after.fingerprint != before.fingerprint and after.data_hash == before.data_hash
    assert provide_data(out, folder, None) == after
    if memory == "damaged":
        (out / SEEN).write_text("{")
        assert provide_data(out, folder, None) == before  # the manifest's word, as in a new run


@pytest.mark.parametrize(
    ("text", "reason"), [("case,split\na,b\n", "has no column 'image'"), ("case,split,image\n", "no case")]
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(BadInput, match=f"manifest.csv: .*{reason}"):
        read_manifest(tmp_path / "manifest.csv")


def test_virtual_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="virtual has the unknown key 'm'"):
        make_virtual(tmp_path, VIRTUAL | {"m": 3})
    with pytest.raises(UsageError, match="virtual lacks 'seed'"):
        make_virtual(tmp_path, {key: value for key, value in VIRTUAL.items() if key != "seed"})
    (tmp_path / "images").mkdir()  # of somebody else: never removed
    with pytest.raises(FileExistsError, match="was not written by this command"):
        make_virtual(tmp_path, VIRTUAL)
