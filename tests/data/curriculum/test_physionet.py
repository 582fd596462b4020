"""Fetching against a server of this machine that knows logins and parts of files, as PhysioNet does."""

import base64
import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest

from common.data.curriculum import physionet
from common.data.curriculum.physionet import fetch
from common.data.curriculum.steps import run_steps
from common.io.bad_input import BadInput
from tests.data.cxr.mimic_tree import make_tree

LOGIN = "Basic " + base64.b64encode(b"jane:secret:1").decode()
DATA = bytes(range(256)) * 400


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `folder`, ranges included; a name that begins with "short" breaks off, "moved" sends to another host."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        path = server.folder / self.path.removeprefix("/")
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{server.server_port}/open/a.jpg")
            self.end_headers()
            return
        if not self.path.startswith("/open") and self.headers.get("Authorization") != LOGIN:
            self.send_error(403)
        elif not path.is_file():
            self.send_error(404)
        else:
            self.send_file(path.read_bytes())

    def send_file(self, data):
        begin = 0
        if self.headers.get("Range") and self.server.ranges:
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin : len(data) // 2 if self.path.startswith("/short") else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    monkeypatch.setenv("PHYSIONET_USER", "jane")
    monkeypatch.setenv("PHYSIONET_PASSWORD", "secret:1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.asked, server.ranges = tmp_path / "served", [], True
    server.url = f"http://127.0.0.1:{server.server_port}/"
    (server.folder / "open").mkdir(parents=True)
    for name in ("a.jpg", "short.jpg", "open/a.jpg"):
        (server.folder / name).write_bytes(DATA)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_with_the_login_of_the_environment(server, tmp_path):
    target = tmp_path / "to" / "a.jpg"
    for _ in range(2):
        fetch(server.url + "a.jpg", target, hashlib.sha256(DATA).hexdigest())
    assert target.read_bytes() == DATA and [p.name for p in target.parent.iterdir()] == ["a.jpg"]
    assert server.asked == [("/a.jpg", None, LOGIN)]


def test_the_login_may_stand_in_netrc(server, tmp_path, monkeypatch):
    monkeypatch.delenv("PHYSIONET_PASSWORD")
    with pytest.raises(BadInput, match=r"a.jpg: cannot be fetched \(403 Forbidden\), expected a login .* PHYSIO"):
        fetch(server.url + "a.jpg", tmp_path / "a.jpg")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login jane password secret:1\n")
    (tmp_path / ".netrc").chmod(0o600)
    fetch(server.url + "a.jpg", tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == DATA
    (tmp_path / ".netrc").write_text("machine\n")
    with pytest.raises(BadInput, match=r"\.netrc: cannot be read \(line"):
        fetch(server.url + "a.jpg", tmp_path / "b.jpg")


def test_a_redirection_to_another_host_is_not_told_the_login(server, tmp_path):
    fetch(server.url + "moved.jpg", tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == DATA
    assert [login for _, _, login in server.asked] == [LOGIN, None]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("begun", [1000, len(DATA)])
def test_what_was_begun_goes_on(server, tmp_path, ranges, begun):
    server.ranges = ranges
    (tmp_path / "a.jpg.part").write_bytes(DATA[:begun])
    fetch(server.url + "a.jpg", tmp_path / "a.jpg", hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "a.jpg").read_bytes() == DATA and not (tmp_path / "a.jpg.part").exists()
    assert [asked[1] for asked in server.asked] == [f"bytes={begun}-"]


def test_a_broken_connection_leaves_what_there_is(server, tmp_path):
    with pytest.raises(BadInput, match="short.jpg: .*the same command goes on"):
        fetch(server.url + "short.jpg", tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg.part").read_bytes() == DATA[: len(DATA) // 2] and not (tmp_path / "a.jpg").exists()
    fetch(server.url + "a.jpg", tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == DATA and server.asked[-1][1] == f"bytes={len(DATA) // 2}-"


def test_what_is_not_its_checksum_is_thrown_away(server, tmp_path):
    (tmp_path / "a.jpg.part").write_bytes(b"something else")
    with pytest.raises(BadInput, match=r"is not what SHA256SUMS.txt says, expected SHA-256 [0-9a-f]{64}; the same"):
        fetch(server.url + "a.jpg", tmp_path / "a.jpg", hashlib.sha256(DATA).hexdigest())
    assert not list(tmp_path.glob("a.jpg*"))
    fetch(server.url + "a.jpg", tmp_path / "a.jpg", hashlib.sha256(DATA).hexdigest())


def test_what_is_not_there_and_who_does_not_answer(server, tmp_path):
    with pytest.raises(BadInput, match="b.jpg: cannot be fetched .404 Not Found."):
        fetch(server.url + "b.jpg", tmp_path / "b.jpg")
    fetch(server.url + "b.jpg", tmp_path / "b.jpg", optional=True)
    assert not list(tmp_path.glob("b.jpg*"))
    server.shutdown()
    server.server_close()
    with pytest.raises(BadInput, match="a.jpg: cannot be fetched .*, expected a login .*; the same command goes on"):
        fetch(server.url + "a.jpg", tmp_path / "a.jpg")


def test_the_subset_is_chosen_from_the_tables_and_fetched(server, made_once, tmp_path, monkeypatch):
    tree = made_once("mimic_steps", make_tree)[0] / "mimic"
    shutil.copytree(tree, server.folder / "jpg")
    files = [path for path in sorted((server.folder / "jpg").rglob("*")) if path.suffix in (".jpg", ".gz")]
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(server.folder / 'jpg')}\n" for path in files
    )
    (server.folder / "jpg" / "SHA256SUMS.txt").write_text(sums)
    for name in ("IMAGES", "REPORTS"):
        monkeypatch.setattr(physionet, name, f"{server.url}jpg/")
    root, out = tmp_path / "mimic", tmp_path / "out"
    run_steps(root, out, "subset", download=True, n_images=6)
    chosen = (out / "selected_images.csv").read_text().splitlines()[1:]
    assert len(chosen) == 6
    paths = [Path(row.split(",")[-1]) for row in chosen]
    for path in (*paths, *(path.parent.with_suffix(".txt") for path in paths)):
        assert (root / path).read_bytes() == (tree / path).read_bytes()
    asked = len(server.asked)
    assert asked == 1 + 3 + 2 * 6 and len(list(root.rglob("*.jpg"))) == 6
    assert run_steps(root, out, "subset", download=True, n_images=6)["subset"]["done"]
    # the same X-rays, as those that are there
    assert run_steps(root, tmp_path / "again", "subset", n_images=6)["subset"]["counts"]["images"] == 6
    assert (tmp_path / "again" / "selected_images.csv").read_text().splitlines()[1:] == chosen
    (root / paths[0]).unlink()
    (root / "SHA256SUMS.txt").write_text(sums.replace(f" {paths[0]}", "0").replace("\n", f" {paths[0]}\n", 1))
    with pytest.raises(BadInput, match=r"SHA256SUMS.txt: has the line '.*', expected a SHA-256 and a file"):
        run_steps(root, out, "subset", download=True, n_images=6)
    (root / "SHA256SUMS.txt").write_text(f"{'0' * 64}  {paths[0]}\n")
    with pytest.raises(BadInput, match=rf"{paths[0]}: is not what SHA256SUMS.txt says, expected SHA-256 0000"):
        run_steps(root, out, "subset", download=True, n_images=6)
    (root / "SHA256SUMS.txt").write_text(sums)
    asked = len(server.asked)
    run_steps(root, out, "subset", download=True, n_images=6)
    assert (root / paths[0]).is_file() and len(server.asked) == asked + 1
    assert run_steps(root, out, "impressions")["impressions"]["counts"]["studies"] == 6
