"""Folders as strangers have them: every file is read, listed as excluded, or counted by kind."""

import csv
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from common.apps.predict import predict
from common.apps.run.evaluate import evaluate
from common.apps.text.sections import write_sections
from common.data.ct.reader import read_ct
from common.data.ct.volume import ct_cases, find_ct
from common.data.cxr.cases import read_cxr_cases
from common.data.cxr.covid import find_covid
from common.data.cxr.inputs import xray_cases
from common.data.cxr.nih import find_nih
from common.data.cxr.reader import read_xray
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.folder_files import file_kind, others_text
from common.data.prepare import prepare_data
from common.io.bad_input import BadInput
from common.visualize.figures import save_picture
from tests.data.ct.bad_ct import tiny_hu, tiny_series, write_series, write_volume

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "data" / "cases"
CT_BUNDLE = ROOT / "bundles" / "ct_slice_interpolation"


def case(name: str) -> Path:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def picture(path: Path, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(len(path.name)).integers(0, 255, (40, 48)).astype(np.uint8)
    Image.fromarray(grey).save(path, format=kind)
    return path


def xray_dicom(path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    ds = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.1", generate_uid(), "CR"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 40, 48, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    pixels = np.random.default_rng(1).integers(0, 4095, (40, 48)).astype("<u2")
    ds.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def bare(path: Path, name: str, syntax: str = ImplicitVRLittleEndian) -> Path:
    """The data set of a file alone, without preamble, mark and file header."""
    ds = pydicom.dcmread(path)
    target = path.with_name(name)
    implicit = syntax == ImplicitVRLittleEndian
    path.unlink()
    with target.open("wb") as file:
        pydicom.filewriter.write_dataset(_writer(file, implicit), Dataset({tag: ds[tag] for tag in ds.keys()}))
    return target


def _writer(file, implicit: bool):
    out = pydicom.filebase.DicomFileLike(file)
    out.is_little_endian, out.is_implicit_VR = True, implicit
    return out


def listed(folder: Path, reader: Callable) -> tuple[list[str], dict[str, str], dict[str, int]]:
    """Names of the cases, file -> reason of what is excluded, and what is counted."""
    cases = reader(folder)
    return [c["case"] for c in cases], {Path(r["path"]).name: r["reason"] for r in cases.excluded}, cases.other


def xrays(folder: Path):
    return xray_cases(folder, ["Edema"])


# ---- the shared cases -------------------------------------------------------------------------------------------


def test_a_series_without_preamble_and_endings_is_read() -> None:
    folder = case("ct/no_preamble")
    assert [c["case"] for c in ct_cases(folder)] == ["no_preamble"]
    assert read_ct(folder).hu.shape[2] == 10


def test_xrays_without_endings_are_four() -> None:
    cases = xrays(case("cxr/no_extension"))
    assert [c["case"] for c in cases] == ["IM0001", "IM0002", "IM0003", "a"]
    assert all(read_xray(c["image"]).size == (240, 200) for c in cases)


def test_one_ct_that_is_thinner_than_the_target_leaves_the_others(tmp_path: Path) -> None:
    folder = case("ct/folder_one_thin")
    result = predict(CT_BUNDLE, folder, tmp_path, overrides={"mode": "linear", "target_spacing": 1.0})
    assert sorted(Path(path).name for path in result["outputs"]) == ["a_thick.nii.gz", "z_thick.nii.gz"]
    with (tmp_path / "excluded.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert Path(row["path"]).name == "m_thin.nii.gz" and "0.7" in row["reason"]


# ---- every file of a folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_data_sets_alone_are_dicom(tmp_path: Path, syntax: str) -> None:
    """https://github.com/pydicom/pydicom/issues/150 and https://github.com/pydicom/pydicom/issues/2231"""
    whole = write_series(tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "bare")
    for k, file in enumerate(sorted((tmp_path / "bare").iterdir())):
        bare(file, f"I{k:04d}", syntax)
    np.testing.assert_array_equal(read_ct(tmp_path / "bare").hu, read_ct(whole).hu)
    assert [c["case"] for c in ct_cases(tmp_path)] == ["bare", "whole"]
    one = xray_dicom(tmp_path / "x" / "a.dcm")
    pixels = read_xray(one).pixels
    np.testing.assert_array_equal(read_xray(bare(one, "A1", syntax)).pixels, pixels)
    assert listed(tmp_path / "x", xrays)[0] == ["A1"]


def test_what_lies_beside_slices_is_counted(tmp_path: Path) -> None:
    """https://github.com/Project-MONAI/MONAI/issues/6627, .../monai-deploy-app-sdk/issues/266 and .../pull/272"""
    folder = write_series(tmp_path / "LIDC")
    for slice_ in folder.iterdir():
        slice_.rename(folder / slice_.stem.replace("slice", "IM"))
    for name in ("158.xml", ".DS_Store", "._IM_000", "notes.docx", "thumb.png"):
        (folder / name).write_bytes(b"something else")
    cases, excluded, other = listed(tmp_path, ct_cases)
    assert (cases, excluded) == (["LIDC"], {})
    assert other == {".docx": 1, ".png": 1, ".xml": 1, "hidden": 2}
    assert read_ct(folder).hu.shape[2] == 12


def test_a_dicomdir_is_no_image_whatever_it_is_called(tmp_path: Path) -> None:
    """https://github.com/Project-MONAI/monai-deploy-app-sdk/issues/486, https://github.com/Slicer/Slicer/issues/3111"""
    write_series(tmp_path / "CT")
    directory = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID = "CD"
    for place in (tmp_path / "DICOMDIR", tmp_path / "CT" / "INDEX"):
        directory.save_as(place, enforce_file_format=True)
    xray_dicom(tmp_path / "XR" / "I1")
    assert listed(tmp_path / "CT", ct_cases) == (["CT"], {}, {"DICOMDIR": 1})
    assert read_ct(tmp_path / "CT").hu.shape[2] == 12
    shutil.copy(tmp_path / "DICOMDIR", tmp_path / "XR" / "DICOMDIR")
    assert listed(tmp_path / "XR", xrays) == (["I1"], {}, {"DICOMDIR": 1})


def test_a_disc_of_a_hospital(tmp_path: Path) -> None:
    """https://github.com/ayselafsar/dicomviewer/issues/15"""
    for name in ("INDEX.HTM", "VIEWER.EXE", "README.TXT", "AUTORUN.INF", "HELP/a.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"GIF89a" if name.endswith("gif") else b"MZ")
    for k in range(3):
        xray_dicom(tmp_path / "DICOM" / "P1" / f"IM{k}")
    cases, excluded, other = listed(tmp_path, xrays)
    assert cases == ["IM0", "IM1", "IM2"] and list(excluded) == ["a.gif"]
    assert others_text(other) == "4 other files: 1 .exe, 1 .htm, 1 .inf, 1 .txt"


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "WEBP", "JPEG2000"])
def test_pictures_of_other_kinds_are_named(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "scan", kind)
    cases, excluded, _ = listed(tmp_path, xrays)
    assert cases == ["a"]
    assert excluded == {"scan": f"is {kind.lower()}, expected a PNG, JPEG or DICOM image"}


def test_a_picture_of_another_kind_than_its_name_is_named(tmp_path: Path) -> None:
    """https://github.com/ncbi-nlp/COVID-19-CT-CXR/issues/1"""
    with pytest.raises(BadInput, match="expected a PNG, JPEG or DICOM image"):
        read_xray(picture(tmp_path / "nejm.png", "WEBP"))
    assert read_xray(picture(tmp_path / "nejm.jpg", "PNG")).size == (40, 48)


def test_images_by_content_under_other_names_are_named(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "download")
    write_volume(tmp_path / "b.nii")
    (tmp_path / "b.nii").rename(tmp_path / "b.img")
    (tmp_path / "empty").touch()
    write_volume(tmp_path / "c.nii.gz", tiny_hu(2))
    cases, excluded, other = listed(tmp_path, ct_cases)
    assert (cases, other) == (["c"], {})
    said = "is nifti by its content, expected a name ending in .nii.gz or .nii"
    assert excluded == {"download": said, "b.img": said, "empty": "is an empty file (0 bytes), expected an image"}
    result = prepare_data(tmp_path, tmp_path.with_name("out"), "nifti")
    assert result.summary["counts"]["kept"] == 1 and result.summary["counts"]["bad"] == 3


def test_the_data_file_of_a_header_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("ObjectType = Image\nNDims = 3\nElementDataFile = a.raw\n")
    (tmp_path / "a.raw").write_bytes(bytes(8))
    (tmp_path / "b.raw").write_bytes(bytes(8))
    (tmp_path / "empty.mhd").touch()
    assert listed(tmp_path, ct_cases) == (["a", "empty"], {}, {".raw": 1})


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with everything that is no file."""
    folder = tmp_path / "odd"
    (folder / "in.png").mkdir(parents=True)
    for end in (".png", ".nii.gz", ""):
        os.mkfifo(folder / f"pipe{end}")
        (folder / f"dead{end}").symlink_to("nowhere")
    (folder / "round").symlink_to("round")
    (folder / "loop").symlink_to(folder)
    here = Path.cwd()
    os.chdir(folder)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("sock.png")
    finally:
        os.chdir(here)
    return folder


def test_what_is_no_file_is_named_and_never_opened(odd: Path) -> None:
    picture(odd / "in.png" / "a.png")
    write_volume(odd / "v.nii.gz")
    for reader, names, kind in ((xrays, ["a"], ".nii.gz"), (ct_cases, ["v"], ".png")):
        cases, excluded, other = listed(odd, reader)
        assert cases == names and other == {kind: 1}
        assert set(excluded) == {f"{n}{e}" for n in ("pipe", "dead") for e in (".png", ".nii.gz", "")} | {
            "round", "sock.png",
        }  # fmt: skip
        assert excluded["pipe.png"] == "is a named pipe, expected a file"
        assert excluded["dead"].startswith("is a link to nowhere, which does not exist")
    for reader in (xrays, find_ct):
        with pytest.raises(BadInput, match="is a named pipe"):
            reader(odd / "pipe.png")


def test_prepare_counts_other_files_and_names_what_is_none(odd: Path, tmp_path: Path) -> None:
    write_volume(odd / "v.nii.gz")
    for name in ("a.txt", "b.txt", "c.json"):
        (odd / name).write_text("{}")
    summary = prepare_data(odd, tmp_path / "out", "ct").summary
    assert summary["other_files"] == {".json": 1, ".txt": 2} and summary["counts"]["kept"] == 1
    assert summary["counts"]["bad"] == 8
    assert json.loads((tmp_path / "out" / "prepare.json").read_text())["other_files"] == {".json": 1, ".txt": 2}


def test_a_folder_without_a_usable_file_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.json", "b.json", "c.txt"):
        (tmp_path / name).write_text("{}")
    for reader, what in ((ct_cases, "CT"), (xrays, "X-ray")):
        with pytest.raises(BadInput, match=rf"holds no {what} \(3 other files: 2 .json, 1 .txt\)"):
            reader(tmp_path)


def test_kinds_by_content(tmp_path: Path) -> None:
    texts = {"": "empty", "plain text, nothing more": "", "\x08\0 text": "", "NRRD0004\n": "nrrd"}
    for k, (text, kind) in enumerate(texts.items()):
        (tmp_path / str(k)).write_text(text)
        assert file_kind(tmp_path / str(k)) == kind
    assert file_kind(picture(tmp_path / "p", "PNG")) == "png"
    assert file_kind(xray_dicom(tmp_path / "d")) == "dicom"
    assert file_kind(write_volume(tmp_path / "n.nii.gz")) == "nifti"


# ---- what fails for one case ------------------------------------------------------------------------------------


def test_one_damaged_slice_does_not_end_the_other_series(tmp_path: Path) -> None:
    """https://github.com/rordenlab/dcm2niix/issues/283"""
    for k in range(3):
        write_series(tmp_path / "in" / f"s{k}", tiny_series(k))
    (tmp_path / "in" / "s1" / "slice_005.dcm").write_bytes(b"\0" * 200)
    result = predict(CT_BUNDLE, tmp_path / "in", tmp_path / "out", overrides={"mode": "linear", "target_slices": 24})
    assert [Path(path).name for path in result["outputs"]] == ["s0.nii.gz", "s2.nii.gz"]
    assert [Path(row["path"]).name for row in result["excluded"]] == ["s1"]
    assert "slice_005.dcm is not a DICOM file" in result["excluded"][0]["reason"]


def test_an_object_that_holds_no_image_is_named(tmp_path: Path) -> None:
    """https://github.com/Image-X-Institute/mri_distortion_toolkit/issues/156"""
    path = xray_dicom(tmp_path / "sr.dcm")
    ds = pydicom.dcmread(path)
    del ds.PixelData
    ds.save_as(path)
    with pytest.raises(BadInput, match="is a DICOM file without PixelData"):
        read_xray(path)


@pytest.mark.parametrize("name", ["a$\\frac{b$", "$$", 'Yelle - "Ba$$in"', "$x^$", "cost $5 and $6"])
def test_a_name_is_no_formula(tmp_path: Path, name: str) -> None:
    """https://github.com/matplotlib/matplotlib/issues/20266, https://github.com/telperion/nine-or-null/issues/14"""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 1000], [1, 1000], label=name)
    axes.set_yscale("log")
    axes.set_xticks([1, 2], [name, "b"])
    axes.set_title(name, loc="left")
    axes.legend(title=name)
    figure.suptitle(name)
    assert save_picture(figure, tmp_path / "p.png", "A name.").is_file()
    assert axes.yaxis.get_ticklabels()[0].get_parse_math(), "powers of ten stay powers"


# ---- tables of X-rays -------------------------------------------------------------------------------------------

COVID = "patientid,sex,age,finding,view,filename,clinical_notes\n"


def covid(folder: Path, rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text(COVID + rows)
    return folder


def test_images_without_a_row_are_counted(tmp_path: Path) -> None:
    """https://github.com/ieee8023/covid-chestxray-dataset/issues/33"""
    for name in ("a.jpg", "b.jpg", "c.png"):
        picture(tmp_path / "images" / name)
    (tmp_path / "README.md").write_text("")
    listing = find_covid(covid(tmp_path, "1,M,50,COVID-19,PA,a.jpg,\n"))
    assert [row.case for row in listing.rows] == ["a"] and not listing.problems
    assert {kind: n for kind, n in listing.other.items() if n} == {".jpg": 1, ".md": 1, ".png": 1}


def test_unknown_findings_views_and_sexes_are_named(tmp_path: Path) -> None:
    """https://github.com/armiro/COVID-CXNet/issues/3 (sexes in words)"""
    for k in range(4):
        picture(tmp_path / "images" / f"{k}.png")
    rows = "1,male,50,COVID-19,AP erect,0.png,\n2,F,50,Covid19,PA,1.png,\n"
    rows += "3,F,50,Pneumonia,Oblique,2.png,\n4,M,5,todo,PA,3.png,\n"
    listing = find_covid(covid(tmp_path, rows))
    assert [row.case for row in listing.rows] == ["0", "2"], "a spelling of COVID-19 is no negative"
    assert [problem.reason for problem in listing.problems] == [
        "has the finding 'Covid19', which the data set does not know"
    ]
    assert listing.facts["not_used"] == {"sex 'male' is none of F, M": 1, "view 'Oblique' is unknown": 1}


def test_unknown_sexes_of_nih_are_named(tmp_path: Path) -> None:
    head = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position\n"
    for k in range(3):
        picture(tmp_path / "images" / f"{k}.png")
    rows = "0.png,Mass,1.0,50,Female,PA\n1.png,Masses,2,50,F,PA\n2.png,No Finding,3,50,M,LL\n"
    (tmp_path / "Data_Entry_2017.csv").write_text(head + rows)
    listing = find_nih(tmp_path)
    assert [(row.case, row.patient) for row in listing.rows] == [("0", "1"), ("2", "3")]
    assert "has the finding 'Masses'" in listing.problems[0].reason
    assert listing.facts["not_used"] == {"sex 'Female' is none of F, M": 1, "view 'LL' is none of PA, AP": 1}


def test_notes_of_what_was_kept_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{k},M,50,COVID-19,PA,{k}.png,Cough and fever.\n" for k in range(6))
    for k in range(6):
        picture(tmp_path / "in" / "images" / f"{k}.png")
    (tmp_path / "in" / "images" / "5.png").write_bytes(b"damaged")
    counts = prepare_data(covid(tmp_path / "in", rows), tmp_path / "out", "covid").summary["counts"]
    assert (counts["studies"], counts["notes"]) == (5, 5)


# ---- values beside X-rays ---------------------------------------------------------------------------------------


def test_one_bad_row_of_values_costs_its_case(tmp_path: Path) -> None:
    for name in "abcde":
        picture(tmp_path / "x" / f"{name}.png")
    values = tmp_path / "values.csv"
    values.write_bytes("\ufeffcase;age;pain\na;60;1\nb;6x;\nc;61;2;3\nzz;1;1\ne;50;\ne;51;\n".encode())
    cases = xray_cases(tmp_path / "x", ["Edema"], clinical=values)
    assert [c["case"] for c in cases] == ["a", "c", "d"]
    assert [c["clinical"] is not None for c in cases] == [True, False, False]
    reasons = Counter(Path(row["path"]).name for row in cases.excluded)
    assert reasons == {"values.csv": 2, "b.png": 1, "e.png": 1}
    assert any("line 4 has 4 fields, expected 3" in row["reason"] for row in cases.excluded)


def test_values_whose_names_were_taken_for_numbers(tmp_path: Path) -> None:
    picture(tmp_path / "27959241.png")
    (tmp_path / "v.csv").write_text("case,age\n27959241.0,60\n")
    (found,) = xray_cases(tmp_path / "27959241.png", ["Edema"], clinical=tmp_path / "v.csv")
    assert found["clinical"][0] == 60


def test_a_bad_row_beside_a_manifest_costs_its_study_in_prediction_and_ends_training(tmp_path: Path) -> None:
    rows = [f"{n},{n},test,{n}.png,{n},PA,1.0" for n in "abcd"]
    (tmp_path / "manifest.csv").write_text("\n".join(["case,patient,split,image,study,view,Edema", *rows, ""]))
    (tmp_path / "notes.csv").write_text("study,note\na,Cough.\nb,Fever.\nb,Pain.\nc,\n")
    blank = "," * (len(CLINICAL_COLUMNS) - 1)
    values = [f"{name},{age}{blank}" for name, age in (("a", 60), ("b", 61), ("c", "old"), ("d", 62))]
    (tmp_path / "clinical.csv").write_text("\n".join([f"study,{','.join(CLINICAL_COLUMNS)}", *values, "e,1", ""]))
    cases = xrays(tmp_path)
    assert [c["case"] for c in cases] == ["a", "d"]
    assert [row["path"].rpartition("/")[2] for row in cases.excluded] == ["clinical.csv", "b", "c"]
    assert cases.excluded[2]["reason"] == "line 4 has age 'old', expected a number or a blank (clinical.csv)"
    with pytest.raises(BadInput, match="has two notes of study 'b'"):
        read_cxr_cases(tmp_path, "test", ["Edema"])


def test_what_lies_beside_reports_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in" / "p10").mkdir(parents=True)
    (tmp_path / "in" / "p10" / "s50414267.txt").write_text("IMPRESSION: Clear.")
    os.mkfifo(tmp_path / "in" / "pipe.txt")
    (tmp_path / "in" / "dead.txt").symlink_to("nowhere")
    for name in ("a.jpg", "b.jpg", "t.csv.gz"):
        (tmp_path / "in" / name).write_bytes(b"")
    result = write_sections(tmp_path / "in", tmp_path / "o.csv")
    assert (result["reports"], result["excluded"]) == (1, 2)
    assert result["other_files"] == {".csv.gz": 1, ".jpg": 2}


@pytest.mark.parametrize("verb", [predict, evaluate])
def test_a_folder_of_which_nothing_can_be_used_is_accounted_for_all_the_same(tmp_path: Path, verb: Callable) -> None:
    """A bug: the first reason was told, and those of the others were in no file."""
    place, out = tmp_path / "in", tmp_path / "out"
    write_volume(place / "a.nii.gz", np.zeros((8, 8, 4), np.int16))
    write_volume(place / "b.nii.gz", tiny_hu()[:, :, :1])
    bundle = Path(__file__).parents[2] / "bundles" / "ct_slice_interpolation"
    with pytest.raises(BadInput, match=r"holds no usable case, see .*excluded\.csv; the first of 2: "):
        verb(bundle, place, out, overrides={"mode": "linear"} if verb is predict else {"modes": ["linear"]})
    with (out / "excluded.csv").open(newline="") as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == ["a.nii.gz", "b.nii.gz"]
    assert [path.name for path in out.iterdir()] == ["excluded.csv"]
