import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.data.layouts import VIRTUAL_LAYOUTS
from common.data.virtual import layouts
from common.data.virtual.cache import write_virtual
from common.data.virtual.files import Cohort

SIZE: dict[str, Any] = {"shape": (16, 32, 32), "spacing": (9.0, 10.0, 11.0)}


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THORAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "virtual"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the patients that are really made."""
    seeds: list[int] = []
    make = layouts.make_virtual_patient
    monkeypatch.setattr(
        layouts, "make_virtual_patient", lambda seed, *a, **k: (seeds.append(seed), make(seed, *a, **k))[1]
    )
    return seeds


def entries(shelf: Path) -> list[Path]:
    return [path for path in shelf.iterdir() if not path.name.startswith(".")]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("layout", VIRTUAL_LAYOUTS)
def test_a_copy_is_what_the_writer_writes(tmp_path: Path, shelf: Path, layout: str) -> None:
    rows = write_virtual(tmp_path / "a", layout, Cohort(2, 3, **SIZE), workers=2)
    assert write_virtual(tmp_path / "b", layout, Cohort(2, 3, **SIZE)) == rows
    (entry,) = entries(shelf)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(entry)
    assert all((tmp_path / "b" / row["image"]).exists() for row in rows)


def test_patients_are_made_once(tmp_path: Path, shelf: Path, made: list[int]) -> None:
    for name in ("a", "b"):
        write_virtual(tmp_path / name, "nifti", Cohort(2, 3, **SIZE))
    assert made == [3, 4]
    for wanted in ({"n": 1, "seed": 3}, {"n": 2, "seed": 4}):
        write_virtual(tmp_path / f"{wanted}", "nifti", Cohort(**wanted, **SIZE))
    write_virtual(tmp_path / "c", "nifti", Cohort(2, 3, SIZE["shape"], (9.0, 10.0, 12.0)))
    assert len(entries(shelf)) == 4


def test_an_edited_copy_changes_nothing_else(tmp_path: Path, shelf: Path) -> None:
    (row, _) = write_virtual(tmp_path / "a", "nifti", Cohort(2, 3, **SIZE))
    with (tmp_path / "a" / row["image"]).open("r+b") as file:  # in place, not by a new file
        file.write(b"spoilt")
    write_virtual(tmp_path / "b", "nifti", Cohort(2, 3, **SIZE))
    assert not (tmp_path / "b" / row["image"]).read_bytes().startswith(b"spoilt")
    os.remove(tmp_path / "a" / row["image"])
    write_virtual(tmp_path / "a", "nifti", Cohort(2, 3, **SIZE))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_an_interrupted_generation_is_no_entry_and_is_gone_on_with(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, seeds = layouts.make_virtual_patient, []

    def interrupted(seed: int, *args: Any, **more: Any) -> Any:
        seeds.append(seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return make(seed, *args, **more)

    monkeypatch.setattr(layouts, "make_virtual_patient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_virtual(tmp_path / "a", "nifti", Cohort(2, 3, **SIZE))
    assert entries(shelf) == []
    write_virtual(tmp_path / "a", "nifti", Cohort(2, 3, **SIZE))
    assert seeds == [3, 4, 4] and len(entries(shelf)) == 1


def test_two_processes_at_once_make_one_entry(tmp_path: Path, shelf: Path) -> None:
    code = (
        "import sys; from common.data.virtual.cache import write_virtual\n"
        "from common.data.virtual.files import Cohort\n"
        "write_virtual(sys.argv[1], 'nifti', Cohort(2, 3, (16, 32, 32), (9.0, 10.0, 11.0)))"
    )
    words = [sys.executable, "-c", code]
    places = [tmp_path / "a", tmp_path / "b"]
    running = [subprocess.Popen([*words, str(place)], cwd=Path(__file__).parents[3]) for place in places]
    assert [process.wait() for process in running] == [0, 0]
    (entry,) = entries(shelf)
    assert content(places[0]) == content(places[1]) == content(entry)


def test_what_was_made_survives_the_cache(tmp_path: Path, shelf: Path, made: list[int]) -> None:
    write_virtual(tmp_path / "a", "nifti", Cohort(1, 3, **SIZE))
    before = content(tmp_path / "a")
    subprocess.run(["rm", "-r", str(shelf)], check=True)
    (tmp_path / "a" / "manifest.csv").touch()  # says that all was made
    write_virtual(tmp_path / "a", "nifti", Cohort(1, 3, **SIZE))
    assert made == [3] and not shelf.exists()
    assert content(tmp_path / "a") == before | {"manifest.csv": b""}


def test_a_cache_that_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THORAX_CACHE", str(tmp_path / "file"))
    rows = write_virtual(tmp_path / "a", "nifti", Cohort(1, 3, **SIZE))
    assert (tmp_path / "a" / rows[0]["image"]).is_file()
    assert "the cache of virtual patients cannot be used" in capsys.readouterr().out


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, shelf: Path) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="was not written by this command"):
        write_virtual(tmp_path / "a", "nifti", Cohort(1, 3, **SIZE))
    assert not shelf.exists()
