from pathlib import Path

from common.data.ct.listing import CTListing, list_folder
from tests.data.ct.bad_ct import tiny_series, write_series, write_volume


def listed(listing: CTListing) -> list[tuple[str, str | None]]:
    return [(row.case, row.patient) for row in listing.rows]


def test_kinds_decide_what_is_listed(tmp_path: Path) -> None:
    write_volume(tmp_path / "n.nii.gz")
    write_series(tmp_path / "d", tiny_series(1))
    assert listed(list_folder(tmp_path, ["nifti"])) == [("n", None)]
    assert listed(list_folder(tmp_path, ["dicom"])) == [("d", None)]
    assert listed(list_folder(tmp_path, ["nifti", "dicom"])) == [("d", None), ("n", None)]


def test_patients_come_from_their_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz")
    (tmp_path / "patients.csv").write_text("case,patient\na,007\nc,9\n")
    listing = list_folder(tmp_path, ["nifti"])
    assert listed(listing) == [("a", "007")]
    assert [problem.reason for problem in listing.problems] == [
        "has no row for case 'b' in patients.csv", "row 'c' has no image in the input",
    ]  # fmt: skip


def test_an_input_is_converted_only_where_it_must(tmp_path: Path) -> None:
    write_volume(tmp_path / "in" / "n.nii.gz")
    write_series(tmp_path / "in" / "d", tiny_series(1))
    series, nifti = list_folder(tmp_path / "in", ["nifti", "dicom"]).rows
    told = nifti.check(tmp_path / "out", False)
    assert set(told) == {"row"}
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    told = series.check(tmp_path / "out", False)
    assert (tmp_path / "out" / told["image"]).stat().st_size == told["bytes"]
