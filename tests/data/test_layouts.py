import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from common.data.layouts import LAYOUTS, VIRTUAL_LAYOUTS, find_layout
from common.data.listing import Listing


def test_every_function_that_is_named_exists() -> None:
    for layout in LAYOUTS.values():
        assert callable(resolve_name(layout.lister))
    assert all(callable(resolve_name(name)) for name in VIRTUAL_LAYOUTS.values())


def test_what_is_written_can_be_read() -> None:
    assert set(VIRTUAL_LAYOUTS) <= set(LAYOUTS)


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


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Layout is 'chexpert', expected one of nifti, dicom, ct, ct_rate, mimic_cxr"):
        find_layout("chexpert")
    with pytest.raises(ValueError, match="labeller is no option of this layout, expected one of none"):
        LAYOUTS["nih"].list(tmp_path, labeller="chexpert")
    with pytest.raises(ValueError, match="--labeller is 'x', expected chexpert or negbio"):
        LAYOUTS["mimic_cxr"].list(tmp_path, labeller="x")
