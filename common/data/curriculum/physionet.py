"""Files of MIMIC-CXR fetched from PhysioNet with the user's own login, which the data use agreement asks for."""

from __future__ import annotations

import base64
import http.client
import netrc
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from common.data.cxr.listing import XrayRow
from common.io.bad_input import BadInput, read_text
from common.io.output_folder import content_hash, named_if_disk_fails

__all__ = ["fetch_images", "fetch_tables"]

IMAGES = "https://physionet.org/files/mimic-cxr-jpg/2.1.0/"
REPORTS = "https://physionet.org/files/mimic-cxr/2.1.0/"
USER, PASSWORD = "PHYSIONET_USER", "PHYSIONET_PASSWORD"
SUMS = "SHA256SUMS.txt"
_BLOCK, _SECONDS = 1 << 18, 60


def fetch_tables(root: Path, labeller: str) -> None:
    """Fetch the tables that choose the images, and the checksums of all files, as far as they are not there.

    Raises:
        BadInput: naming what cannot be fetched.
    """
    sums = root / SUMS
    fetch(IMAGES + SUMS, sums, optional=True)
    names = [f"mimic-cxr-2.0.0-{name}" for name in ("metadata", "split", labeller)]
    known = _checksums(sums)
    for name in names:
        if not (root / f"{name}.csv").is_file():
            fetch(f"{IMAGES}{name}.csv.gz", root / f"{name}.csv.gz", known.get(f"{name}.csv.gz"))


def fetch_images(root: Path, rows: Sequence[XrayRow]) -> None:
    """Fetch images and their reports, as far as they are not there; a file that an earlier call left half goes on.

    Raises:
        BadInput: naming what cannot be fetched, or is not what its checksum says.
    """
    known = _checksums(root / SUMS)
    for row in tqdm(rows, unit="image", desc="download", dynamic_ncols=True):
        image = row.path.relative_to(root).as_posix()
        fetch(IMAGES + image, row.path, known.get(image))
        report = row.path.parent.with_suffix(".txt")
        fetch(REPORTS + report.relative_to(root).as_posix(), report)


def fetch(url: str, path: Path, sha256: str | None = None, optional: bool = False) -> None:
    """Fetch one file unless it is there; what there is of it lies in PATH.part until it is whole.

    Args:
        url: of the file.
        path: where it goes.
        sha256: that it must have; None believes what comes.
        optional: whether the server may not have it.

    Raises:
        BadInput: if it cannot be fetched, is refused, or is not what the checksum says.
    """
    if path.is_file():
        return
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    login = _login(urlsplit(url).hostname or "")
    if login:  # not told to a host that the answer redirects to
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer, named_if_disk_fails(part):
            goes_on = begin > 0 and answer.status == 206
            with part.open("ab" if goes_on else "wb") as file:
                while block := answer.read(_BLOCK):
                    file.write(block)
            length = answer.headers.get("Content-Length")
            whole = part.stat().st_size if length is None else int(length) + begin * goes_on
    except urllib.error.HTTPError as error:
        if optional and error.code == 404:
            return
        if error.code != 416 or not begin:  # nothing behind what is there already
            raise BadInput(url, f"cannot be fetched ({error.code} {error.reason}), expected {_allowed()}") from error
        whole = begin
    except (OSError, http.client.HTTPException) as error:
        raise BadInput(url, f"cannot be fetched ({error}), expected {_allowed()}; the same command goes on") from error
    if part.stat().st_size < whole:
        raise BadInput(url, f"ended after {part.stat().st_size} of {whole} bytes; the same command goes on")
    if sha256 is not None and content_hash(part) != sha256:
        part.unlink()
        raise BadInput(url, f"is not what {SUMS} says, expected SHA-256 {sha256}; the same command fetches it again")
    os.replace(part, path)


def _checksums(path: Path) -> Mapping[str, str]:
    """File -> SHA-256; empty where there is no list."""
    found = {}
    for line in read_text(path, "checksums").splitlines() if path.is_file() else ():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]?(?:\./)?(.+)", line)
        if match is None:
            raise BadInput(path, f"has the line {line[:80]!r}, expected a SHA-256 and a file")
        found[match[2]] = match[1]
    return found


def _login(host: str) -> str | None:
    """USER:PASSWORD of the environment, else of ~/.netrc, for a host; None if neither has one."""
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if user and password:
        return f"{user}:{password}"
    try:
        found = netrc.netrc().authenticators(host)
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        raise BadInput(error.filename, f"cannot be read (line {error.lineno}: {error.msg})") from error
    return None if found is None else f"{found[0]}:{found[2]}"


def _allowed() -> str:
    return f"a login that may read it in {USER} and {PASSWORD}, or in ~/.netrc"
