import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from common.apps.run.prepare import prepare
from common.cli.parse import help_of
from common.cli.prepare import layout_verb
from common.data.ct.listing import CTInput, CTListing
from common.data.layouts import LAYOUTS, VIRTUAL_LAYOUTS, Layout, Option, find_layout
from common.data.listing import Listing
from tests.data.ct.bad_ct import write_volume


def test_every_function_that_is_named_exists() -> None:
    for layout in LAYOUTS.values():
        assert callable(resolve_name(layout.lister))
    assert all(callable(resolve_name(name)) for name in VIRTUAL_LAYOUTS.values())


def test_what_is_written_can_be_read() -> None:
    assert set(VIRTUAL_LAYOUTS) - {"texts"} <= set(LAYOUTS)  # a table, which `label` and `sections` read


def test_the_registry_imports_no_reader() -> None:
    code = (
        "import sys, common.data.layouts; sys.exit(any(n in sys.modules for n in ('numpy', 'PIL', 'common.data.ct')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_layout_lists_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    listing = LAYOUTS["nifti"].list(tmp_path)
    assert isinstance(listing, Listing) and [row.case for row in listing.rows] == ["a"]
    assert LAYOUTS["dicom"].list(tmp_path).rows == []


def list_toy(source: Path, ending: str) -> CTListing:
    """The lister of a layout that this library does not know."""
    listing = CTListing()
    listing.rows = [
        CTInput(path, f"toy_{path.stem}", str(path), path.stem) for path in sorted(source.glob(f"*{ending}"))
    ]
    return listing


def test_a_new_layout_is_one_function_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = Option("ending", "TEXT of the names", ".nii", (".nii", ".img"))
    toy = Layout("Prepare toys.", "They are small.", f"{__name__}:list_toy", "DIR of toys", "toys", (option,))
    monkeypatch.setitem(LAYOUTS, "toy", toy)
    (tmp_path / "in").mkdir()
    for name in ("1.nii", "2.nii"):
        write_volume(tmp_path / "in" / name)
    (tmp_path / "in" / "3.img").touch()
    summary = prepare("toy", tmp_path / "in", tmp_path / "out", ending=".nii")
    assert summary["counts"]["kept"] == 2 and summary["layout"] == "toy"
    told = help_of(layout_verb("toy"))
    assert (
        "python -m common prepare toy --input DIR --output_dir DIR [--ending TEXT]" in told
        and "They are small." in told
    )
    call = layout_verb("toy").function(input=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), ending=".nii")
    assert call["data_hash"] == summary["data_hash"]


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Layout is 'chexpert', expected one of nifti, dicom, ct, ct_rate, mimic_cxr"):
        find_layout("chexpert")
    with pytest.raises(TypeError, match="labeller"):
        LAYOUTS["nih"].list(tmp_path, labeller="chexpert")
    with pytest.raises(ValueError, match="labeller is 'x', expected chexpert or negbio"):
        LAYOUTS["mimic_cxr"].list(tmp_path, labeller="x")
