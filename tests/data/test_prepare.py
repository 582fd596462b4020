import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.data import prepare as prepare_module
from common.data.ct import listing as ct_listing
from common.data.ct.listing import MANIFEST_COLUMNS
from common.data.ct.reader import read_ct
from common.data.manifest import read_manifest
from common.data.prepare import prepare_data
from common.io.bad_input import BadInput
from common.io.output_folder import locked
from tests.data.ct.bad_ct import (
    BAD_KEYWORDS,
    tiny_hu,
    tiny_series,
    write_bad_ct,
    write_good_ct,
    write_series,
    write_volume,
)

OUTPUTS = ("manifest.csv", "excluded.csv", "prepare.json")
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct"


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outputs(folder):
    """Bytes of the result, its own folder's name taken out so that two runs can be compared."""
    found = {name: (folder / name).read_bytes().replace(str(folder).encode(), b"OUT") for name in OUTPUTS}
    return found, hashes(folder / "images")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """20 good and 25 bad inputs in one folder, and what preparing them gives."""
    root = tmp_path_factory.mktemp("mixed")
    good, bad = write_good_ct(root / "in"), write_bad_ct(root / "in")
    before = hashes(root / "in")
    prepare_data(root / "in", root / "out", "ct")
    return root, good, bad, before


def test_what_a_killed_worker_half_wrote_is_removed(tmp_path, monkeypatch):
    """A bug: a worker killed while it wrote left `.NAME.tmp` in images/ until the next run."""
    write_volume(tmp_path / "in" / "a.nii.gz", tiny_hu())
    usable = prepare_module._usable

    def killed(listing, out, *options):
        kept = usable(listing, out, *options)
        for folder in ("images", ".prepare"):
            (out / folder).mkdir(exist_ok=True)
            (out / folder / ".part01234567_half").write_text("half")
        return kept

    monkeypatch.setattr(prepare_module, "_usable", killed)
    prepare_data(tmp_path / "in", tmp_path / "out", "ct")
    assert not list(tmp_path.rglob(".part*"))


def test_20_good_are_kept_and_25_bad_are_listed_with_their_reason(mixed):
    root, good, bad, _ = mixed
    kept = rows(root / "out" / "manifest.csv")
    assert tuple(kept[0]) == MANIFEST_COLUMNS
    assert {row["case"] for row in kept} == set(good) and len(kept) == 20
    reasons = {row["path"]: row["reason"] for row in rows(root / "out" / "excluded.csv")}
    assert set(reasons) == {str(path) for path in bad.values()} and len(reasons) == 25
    for name, keyword in BAD_KEYWORDS.items():
        assert keyword in reasons[str(bad[name])], name


def test_inputs_are_untouched_and_images_are_right(mixed):
    root, good, _, before = mixed
    assert hashes(root / "in") == before
    for row in rows(root / "out" / "manifest.csv"):
        image = Path(row["image"])
        assert (image == good[row["case"]]) == (row["case"].startswith("good_n")), "NIfTI is referenced, not copied"
        assert hashlib.sha256(image.read_bytes()).hexdigest() == row["sha256"]
        volume, source = read_ct(image), read_ct(good[row["case"]])
        np.testing.assert_array_equal(volume.hu, source.hu)
        np.testing.assert_allclose(volume.affine, source.affine, atol=1e-4)
        assert [float(row[f"spacing_{axis}"]) for axis in "xyz"] == pytest.approx(volume.spacing)
        assert tuple(int(row[f"shape_{axis}"]) for axis in "xyz") == volume.hu.shape


def test_split_is_by_patient(mixed):
    root, *_ = mixed
    kept = rows(root / "out" / "manifest.csv")
    splits = {}
    for row in kept:
        splits.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values()) and len(splits) == 16
    assert {row["patient"] for row in kept if row["case"] in ("good_d0", "good_d1")} == {"D0"}
    summary = json.loads((root / "out" / "prepare.json").read_text())
    assert summary["counts"]["kept"] == 20 and summary["counts"]["bad"] == 25
    assert {"numpy", "nibabel", "pydicom"} <= set(summary["versions"])
    assert min(summary["counts"][split] for split in ("train", "val", "test")) >= 1


def test_rerun_validates_nothing_and_is_byte_identical(mixed, monkeypatch):
    root, *_ = mixed
    before = hashes(root / "out")
    monkeypatch.setattr(ct_listing, "read_ct", lambda path: pytest.fail(f"{path} was read again"))
    prepare_data(root / "in", root / "out", "ct")
    assert hashes(root / "out") == before


def test_two_workers_give_the_same(mixed):
    root, *_ = mixed
    prepare_data(root / "in", root / "out2", "ct", workers=2)
    assert outputs(root / "out2") == outputs(root / "out")


def test_resume_after_an_interruption_gives_the_same(mixed, monkeypatch):
    root, *_ = mixed
    real, read = ct_listing.read_ct, []

    def interrupted(path):
        read.append(path)
        if len(read) == 17:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(ct_listing, "read_ct", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_data(root / "in", root / "out3", "ct")
    assert not (root / "out3" / "manifest.csv").exists()
    prepare_data(root / "in", root / "out3", "ct")
    assert len(read) == 45 + 1, "only the interrupted input is read twice"
    assert outputs(root / "out3") == outputs(root / "out")


def test_sigkill_then_the_same_command(mixed):
    root, *_ = mixed
    code = (
        "import sys, time; from common.data.ct import listing; from common.data.prepare import prepare_data\n"
        "real = listing.read_ct\n"
        "def slow(path): time.sleep(0.05); return real(path)\n"
        "listing.read_ct = slow; prepare_data(sys.argv[1], sys.argv[2], 'ct')"
    )
    project = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code, root / "in", root / "out4"], cwd=project, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while len(list((root / "out4" / ".prepare").glob("*.jsonl"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(BadInput, match=f"written by process {process.pid}"):
        prepare_data(root / "in", root / "out4", "ct")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (root / "out4" / "images").mkdir(exist_ok=True)
    (root / "out4" / "images" / ".part01234567_good_d7.nii.gz").write_bytes(b"half")
    prepare_data(root / "in", root / "out4", "ct")
    assert outputs(root / "out4") == outputs(root / "out")


def test_a_changed_input_is_validated_again(tmp_path):
    paths = [write_volume(tmp_path / "in" / f"{i}.nii.gz", tiny_hu(i)) for i in range(3)]
    prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    paths[1].write_bytes(b"")
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    assert result.summary["counts"]["kept"] == 2
    assert rows(result.excluded)[0]["reason"].startswith("is an empty file")


def test_a_lost_image_is_converted_again(tmp_path):
    write_series(tmp_path / "in" / "a")
    prepare_data(tmp_path / "in", tmp_path / "out", "dicom")
    before = hashes(tmp_path / "out")
    (tmp_path / "out" / "images" / "a.nii.gz").unlink()
    prepare_data(tmp_path / "in", tmp_path / "out", "dicom")
    assert hashes(tmp_path / "out") == before


def test_layout_decides_what_is_taken(tmp_path):
    write_volume(tmp_path / "in" / "n.nii.gz")
    write_series(tmp_path / "in" / "d", tiny_series(1))
    cases = {}
    for layout in ("nifti", "dicom", "ct"):
        result = prepare_data(tmp_path / "in", tmp_path / layout, layout)
        cases[layout] = [row["case"] for row in rows(result.manifest)]
    assert cases == {"nifti": ["n"], "dicom": ["d"], "ct": ["d", "n"]}
    with pytest.raises(ValueError, match="nrrd"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nrrd")


def test_files_of_one_name_are_told_apart(tmp_path):
    write_volume(tmp_path / "in" / "a" / "x.nii.gz", tiny_hu(1))
    write_volume(tmp_path / "in" / "b" / "x.nii", tiny_hu(2))
    write_volume(tmp_path / "in" / "b" / "x.nii.gz", tiny_hu(3))
    write_volume(tmp_path / "in" / "y.nii", tiny_hu(4))
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    found = {row["case"]: (row["patient"], Path(row["image"]).relative_to(tmp_path / "in").as_posix())
             for row in rows(result.manifest)}  # fmt: skip
    assert found == {
        "a_x": ("a_x", "a/x.nii.gz"),
        "b_x_nii": ("b_x", "b/x.nii"),  # the same scan twice, say, which must not be in two splits
        "b_x_nii_gz": ("b_x", "b/x.nii.gz"),
        "y": ("y", "y.nii"),
    }
    assert rows(result.excluded) == []


def test_patients_csv(tmp_path):
    for name in ("a", "b", "c"):
        write_volume(tmp_path / "in" / f"{name}.nii.gz", tiny_hu(ord(name)))
    (tmp_path / "in" / "patients.csv").write_text("case,patient\na,007\nb.nii.gz,007\nd,9\n")
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    assert [(row["case"], row["patient"]) for row in rows(result.manifest)] == [("a", "007"), ("b", "007")]
    reasons = [row["reason"] for row in rows(result.excluded)]
    assert reasons == ["has no row for case 'c' in patients.csv", "row 'd' has no image in the input"]
    (tmp_path / "in" / "patients.csv").write_text("case,who\n")
    with pytest.raises(BadInput, match="has no column 'patient'"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nifti")


def test_a_bad_row_of_patients_csv_costs_its_case(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_volume(tmp_path / "in" / f"{name}.nii.gz", tiny_hu(ord(name)))
    (tmp_path / "in" / "patients.csv").write_bytes(b"case;patient\na;1\na;2\nb;\nc;\xff\nd;27959241.0\n")
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    assert [(row["case"], row["patient"]) for row in rows(result.manifest)] == [("d", "27959241")]
    reasons = [row["reason"] for row in rows(result.excluded)]
    assert reasons == [
        *(f"has no row for case {name!r} in patients.csv" for name in "abc"),
        "line 3 gives case 'a' a second patient",
        "line 4 lacks a case or a patient",
        "line 5 is not UTF-8 text (byte 0xFF, as of Latin-1 or Windows-1252)",
    ]


def test_exclusion_list(tmp_path):
    for name in ("a", "b", "c.d"):
        write_volume(tmp_path / "in" / f"{name}.nii.gz", tiny_hu(ord(name[0])))
    listing = tmp_path / "skip.txt"
    listing.write_text("\ufeff# motion: b\na   # blurred\n\nc.d.nii.gz\na\n")
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti", exclusion_list=str(listing), strict=True)
    assert [row["case"] for row in rows(result.manifest)] == ["b"]
    assert {row["reason"] for row in rows(result.excluded)} == {f"on the exclusion list {listing}"}
    listing.write_text(f"{tmp_path / 'in' / 'x' / '..' / 'b.nii.gz'}\n")
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti", exclusion_list=listing)
    assert [row["case"] for row in rows(result.manifest)] == ["a", "c.d"]
    listing.write_text("nobody\n")
    with pytest.raises(BadInput, match=r"skip.txt: lists 'nobody', which matches no case of the input"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nifti", exclusion_list=listing)
    listing.write_bytes(b"a\xff\n")
    with pytest.raises(BadInput, match=r"is not UTF-8 text \(byte 1\)"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nifti", exclusion_list=listing)
    with pytest.raises(BadInput, match="none.txt: cannot be read"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nifti", exclusion_list=tmp_path / "none.txt")


def test_paths_on_an_exclusion_list_are_relative_to_the_folder_of_an_input_that_is_a_file(tmp_path):
    listing, image = tmp_path / "skip.txt", tmp_path / "in" / "a.nii.gz"
    write_volume(image)
    listing.write_text("./a.nii.gz\n")
    with pytest.raises(BadInput, match="has no usable case"):
        prepare_data(image, tmp_path / "out", "nifti", exclusion_list=listing)
    assert rows(tmp_path / "out" / "excluded.csv")[0]["reason"] == f"on the exclusion list {listing}"


def test_strict_and_nothing_left(tmp_path):
    write_volume(tmp_path / "in" / "a.nii.gz")
    write_volume(tmp_path / "in" / "b.nii.gz", np.zeros((4, 4, 4), np.int16))
    prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    with pytest.raises(BadInput, match="1 bad inputs and strict"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nifti", strict=True)
    assert not (tmp_path / "out" / "manifest.csv").exists()
    assert len(rows(tmp_path / "out" / "excluded.csv")) == 1
    (tmp_path / "in" / "a.nii.gz").unlink()
    with pytest.raises(BadInput, match="no usable case"):
        prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    assert len(rows(tmp_path / "out" / "excluded.csv")) == 1
    for source in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(BadInput, match="does not exist|no usable case"):
            prepare_data(source, tmp_path / "out", "nifti")


def test_output_inside_the_input_is_refused(tmp_path):
    write_volume(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(BadInput, match="lies inside the input"):
        prepare_data(tmp_path / "in", tmp_path / "in" / "out", "nifti")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.nii.gz"]


def test_lock_of_a_living_process_holds_and_of_a_dead_one_does_not(tmp_path):
    write_volume(tmp_path / "in" / "a.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    with locked(out), pytest.raises(BadInput, match=f"being written by process {os.getpid()}"):
        prepare_data(tmp_path / "in", out, "nifti")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (f"{dead.pid} 1", f"{os.getpid()} 1", "rubbish"):  # dead; its number reused; damaged
        (out / ".lock").write_text(owner)
        prepare_data(tmp_path / "in", out, "nifti")


def test_a_single_file_and_a_seed(tmp_path):
    path = write_volume(tmp_path / "in" / "a.nii.gz")
    result = prepare_data(path, tmp_path / "one", "nifti")
    assert [row["case"] for row in rows(result.manifest)] == ["a"]
    for i in range(20):
        write_volume(tmp_path / "in" / f"{i}.nii.gz", tiny_hu(i))
    splits = [
        [row["split"] for row in rows(prepare_data(tmp_path / "in", tmp_path / str(seed), "nifti", seed=seed).manifest)]
        for seed in (0, 1)
    ]
    assert splits[0] != splits[1]


def test_a_linked_input_keeps_the_name_of_its_link(tmp_path):
    blob = write_volume(tmp_path / "cache" / "0f3a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "case7.nii.gz").symlink_to(blob)
    for source in (tmp_path / "in", tmp_path / "in" / "case7.nii.gz"):
        assert rows(prepare_data(source, tmp_path / "out", "nifti").manifest)[0]["case"] == "case7"


def test_real_ct_folder(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    (tmp_path / "in").mkdir()
    for path in REAL.glob("*.nii.gz"):
        (tmp_path / "in" / path.name).symlink_to(path)
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti", workers=2)
    assert result.summary["counts"] | {"train": 0, "val": 0, "test": 0} == {
        "kept": 5, "excluded": 4, "bad": 4, "patients": 5, "train": 0, "val": 0, "test": 0,
    }  # fmt: skip
    assert all("not CT in HU" in row["reason"] for row in rows(result.excluded))
    shutil.rmtree(tmp_path / "out")


def test_series_folders_named_alike_are_told_apart(tmp_path):
    for patient in ("P1", "P2"):
        write_series(tmp_path / "in" / patient / "CT", tiny_series(0, patient))
    result = prepare_data(tmp_path / "in", tmp_path / "out", layout="dicom")
    with result.manifest.open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["P1_CT", "P2_CT"]


def test_what_the_system_refused_is_tried_again(tmp_path, monkeypatch):
    paths = [write_volume(tmp_path / "in" / f"{name}.nii.gz", tiny_hu(ord(name))) for name in "abc"]
    paths[2].write_bytes(b"no image")
    real = Path.open

    def failing(path, *args, **kwargs):
        if path == paths[0]:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
        reasons = {Path(row["path"]).name: row["reason"] for row in rows(result.excluded)}
        assert "Input/output error" in reasons["a.nii.gz"] and "gzip" in reasons["c.nii.gz"]
    read = []
    original = ct_listing.read_ct
    monkeypatch.setattr(ct_listing, "read_ct", lambda path: read.append(path.name) or original(path))
    result = prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    assert [row["case"] for row in rows(result.manifest)] == ["a", "b"]
    assert read == ["a.nii.gz"], "neither the good one nor the damaged one is looked at again"


@pytest.mark.parametrize("record", ["", "null\n", "[]\n", "{}\n", "\0\0\0\0", '["KEY", null]\n', '["KEY", {}]\n',
                                    '["KEY", {"row": 1}]\n', '["KEY", 7]\n', "\xff\xfe"])  # fmt: skip
def test_a_damaged_record_is_a_check_to_be_done_again(tmp_path, record):
    write_volume(tmp_path / "in" / "a.nii.gz")
    prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    before = outputs(tmp_path / "out")
    (path,) = (tmp_path / "out" / ".prepare").glob("*.jsonl")
    path.write_bytes(record.replace("KEY", json.loads(path.read_text())[0]).encode("latin-1"))
    prepare_data(tmp_path / "in", tmp_path / "out", "nifti")
    assert outputs(tmp_path / "out") == before


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_prepared_folder_may_be_moved_and_copied(tmp_path, monkeypatch, how):
    write_series(tmp_path / "in" / "a")
    write_volume(tmp_path / "in" / "n.nii.gz")
    prepare_data(tmp_path / "in", tmp_path / "out", "ct")
    how(tmp_path / "out", tmp_path / "other" / "place")
    place = tmp_path / "other" / "place"
    found = {row["case"]: row["image"] for row in read_manifest(place)}
    assert found == {"a": str(place / "images" / "a.nii.gz"), "n": str(tmp_path / "in" / "n.nii.gz")}
    monkeypatch.setattr(ct_listing, "read_ct", lambda path: pytest.fail(f"{path} was read again"))
    result = prepare_data(tmp_path / "in", place, "ct")
    assert {row["case"]: row["image"] for row in rows(result.manifest)} == found
    assert {row["case"]: row["image"] for row in read_manifest(place)} == found
