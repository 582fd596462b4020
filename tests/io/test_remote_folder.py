import os
from pathlib import Path

import fsspec
import pytest

from common.io.bad_input import BadInput
from common.io.remote_folder import fetch, fetch_files, publish, to_url, working_copy
from common.io.remote_store import Remote, _modified, is_url, list_remote

STORE = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty store, and an empty cache."""
    monkeypatch.delenv("THORAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    STORE.store.clear()
    STORE.pseudo_dirs[:] = [""]


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))


def there() -> dict[str, str]:
    return {name: STORE.cat(name).decode() for name in STORE.find("/")}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are fetched from now on."""
    names: list[str] = []
    download = Remote.download
    monkeypatch.setattr(Remote, "download", lambda self, to: (names.append(self.url), download(self, to)))
    return names


@pytest.mark.parametrize("url", ["gs://b/x", "s3://b", "memory://a", "file:///tmp", "filecache::s3://b/x"])
def test_what_is_a_url(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize("path", ["data/mimic", "/data", "a:b", "note with ://", None, Path("s3:/b")])
def test_what_is_none(path: object) -> None:
    assert not is_url(path)


def test_a_folder_is_fetched_once_and_what_changed_again(fetched: list[str]) -> None:
    STORE.pipe({"/b/data/a.txt": b"1", "/b/data/deep/b.txt": b"2", "/b/database/c.txt": b"3"})
    folder = fetch("memory://b/data")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")} == {"a.txt", "deep/b.txt"}
    assert sorted(fetched) == ["memory://b/data/a.txt", "memory://b/data/deep/b.txt"]
    fetched.clear()
    assert fetch("memory://b/data/") == folder and fetched == []
    STORE.pipe("/b/data/a.txt", b"4")  # of the same size
    assert (fetch("memory://b/data") / "a.txt").read_text() == "4"
    assert fetched == ["memory://b/data/a.txt"]
    STORE.rm("/b/data/deep/b.txt")
    assert not (fetch("memory://b/data") / "deep" / "b.txt").exists()


def test_a_file_is_fetched_alone(fetched: list[str]) -> None:
    STORE.pipe({"/b/xray.png": b"1", "/b/xray.png.txt": b"2"})
    assert fetch("memory://b/xray.png").read_bytes() == b"1"
    assert fetched == ["memory://b/xray.png"]
    copies = fetch_files(["memory://b/xray.png", "memory://b/xray.png.txt"])
    assert {url: path.read_bytes() for url, path in copies.items()} == {
        "memory://b/xray.png": b"1", "memory://b/xray.png.txt": b"2",
    }  # fmt: skip
    assert fetched == ["memory://b/xray.png", "memory://b/xray.png.txt"]


def test_local_urls(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("1")
    url = f"file://{tmp_path}/data"
    assert (fetch(url) / "a.txt").read_text() == "1"
    assert to_url(f"{fetch(url)}/a.txt") == f"{url}/a.txt"
    with working_copy(f"file://{tmp_path}/new/run") as folder:
        (folder / "b.txt").write_text("2")
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://b/nothing", "does not exist"),
        ("foo://b/data", "unknown protocol foo://"),
        ("gs://b/data", "gcsfs"),
        ("s3://b/data", "s3fs"),
        ("memory://", "names no folder"),
        ("memory://b/../c", "names no folder"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcsfs", "s3fs"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(BadInput) as caught:
        fetch(url)
    assert str(caught.value).startswith(f"{url}: ") and reason in str(caught.value)


def test_a_store_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no credentials\nat all")

    monkeypatch.setattr(type(STORE), "find", refuse)
    with pytest.raises(BadInput) as caught:
        fetch("memory://b/data")
    assert str(caught.value) == "memory://b/data: cannot be listed (PermissionError: no credentials at all)."


def test_names_do_not_leave_the_folder() -> None:
    STORE.store["/b/data/../../../x.txt"] = STORE.open("/tmp.txt", "wb")
    with pytest.raises(BadInput, match="leaves the folder"):
        fetch("memory://b/data")


def test_what_changed_is_uploaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    STORE.pipe({"/b/run/of the user.txt": b"mine", "/b/other.txt": b"5"})
    with working_copy("memory://b/run") as folder:
        (folder / "a.txt").write_text("1")
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text("2")
        (folder / ".a.txt.tmp").write_text("half")
        (folder / "cache").mkdir()
        (folder / "cache" / "c.txt").write_text("made again")
        publish(folder / "deep")
        assert there() == {
            "/b/run/a.txt": "1", "/b/run/deep/b.txt": "2", "/b/run/of the user.txt": "mine", "/b/other.txt": "5",
        }  # fmt: skip
        (folder / "a.txt").write_text("3")
        (folder / "deep" / "b.txt").unlink()
    assert there() == {"/b/run/a.txt": "3", "/b/run/of the user.txt": "mine", "/b/other.txt": "5"}
    another_machine(monkeypatch, tmp_path)
    with working_copy("memory://b/run") as folder:
        assert (folder / "a.txt").read_text() == "3" and not (folder / "cache").exists()


def test_nothing_is_uploaded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    upload = Remote.upload
    monkeypatch.setattr(Remote, "upload", lambda self, source: (names.append(source.name), upload(self, source))[1])
    for content in ("1", "1", "2"):
        with working_copy("memory://b/run") as folder:
            if not (folder / "a.txt").is_file() or (folder / "a.txt").read_text() != content:
                (folder / "a.txt").write_text(content)
            publish(folder)
    assert names == ["a.txt", "a.txt"]


def test_what_says_that_something_is_complete_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    upload = Remote.upload
    monkeypatch.setattr(Remote, "upload", lambda self, source: (names.append(source.name), upload(self, source))[1])
    with working_copy("memory://b/run") as folder:
        for i, name in enumerate(("finished.json", "iteration_0010.pt", "model.pt", "a.json")):
            (folder / name).write_text("1")
            os.utime(folder / name, (100 - i, 100 - i))
    assert set(names[:2]) == {"model.pt", "a.json"}
    assert names[2:] == ["iteration_0010.pt", "finished.json"]  # in the order in which they were written


def test_it_is_uploaded_where_the_work_fails() -> None:
    with pytest.raises(KeyboardInterrupt), working_copy("memory://b/run") as folder:
        (folder / "a.txt").write_text("1")
        raise KeyboardInterrupt
    assert there() == {"/b/run/a.txt": "1"}


def test_a_fresh_copy_ignores_what_is_there(fetched: list[str]) -> None:
    STORE.pipe({"/b/out/large.txt": b"1", "/b/out/a.txt": b"1"})
    for content in ("2", "3"):
        with working_copy("memory://b/out", go_on=False) as folder:
            assert list(folder.iterdir()) == []
            (folder / "a.txt").write_text(content)
    assert there() == {"/b/out/large.txt": "1", "/b/out/a.txt": "3"} and fetched == []


def test_another_run_in_the_folder_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="memory://b/run/a.txt: was changed by another run"):
        with working_copy("memory://b/run") as folder:
            (folder / "a.txt").write_text("1")
            publish(folder)
            STORE.pipe("/b/run/a.txt", b"of another machine")
            (folder / "a.txt").write_text("2")
    assert there() == {"/b/run/a.txt": "of another machine"}


def test_two_runs_of_one_machine_in_the_folder() -> None:
    with working_copy("memory://b/run"), pytest.raises(BadInput, match="memory://b/run: is being written by process"):
        with working_copy("memory://b/run"):
            pass


def test_a_manifest_is_uploaded_so_that_it_can_be_used_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    STORE.pipe("/b/raw/x.jpg", b"1")
    raw = fetch("memory://b/raw")
    with working_copy("memory://b/run") as folder:
        (folder / "data").mkdir()
        lines = ["case,image", f"a,{folder}/data/images/a.jpg", f"b,{raw}/x.jpg", "c,/mnt/c.jpg"]
        (folder / "data" / "manifest.csv").write_text("\n".join(lines))
    lines = ["case,image", "a,images/a.jpg", "b,memory://b/raw/x.jpg", "c,/mnt/c.jpg"]
    assert there()["/b/run/data/manifest.csv"] == "\n".join(lines)
    with working_copy("memory://b/run") as folder:
        assert (folder / "data" / "manifest.csv").read_text() == "\n".join(lines)


def test_paths_are_shown_as_urls() -> None:
    STORE.pipe("/b/data/a.txt", b"1")
    folder = fetch("memory://b/data")
    assert to_url({"page": f"{folder}/a.txt", "n": 1, "all": [f"see {folder}."]}) == {
        "page": "memory://b/data/a.txt", "n": 1, "all": ["see memory://b/data."],
    }  # fmt: skip
    assert to_url("/mnt/data/a.txt") == "/mnt/data/a.txt"


def test_stores_tell_the_time_in_different_ways() -> None:
    listed = {"LastModified": "2026-01-02T03:04:05.678+00:00", "ETag": '"abc"'}
    alone = {"LastModified": "2026-01-02T03:04:05+00:00", "ETag": '"abc"'}
    assert _modified(listed) == _modified(alone)
    assert _modified(alone) != _modified(alone | {"ETag": '"abd"'})
    assert _modified({"updated": "2026-01-02T03:04:05.678Z"}) == _modified({"mtime": 1767323045.678})


def test_an_empty_file_that_marks_a_folder_is_no_file() -> None:
    STORE.pipe("/b/data/a.txt", b"1")
    STORE.store["/b/data/deep/"] = STORE.store["/b/data/a.txt"]
    assert list(list_remote("memory://b/data")) == ["a.txt"]
