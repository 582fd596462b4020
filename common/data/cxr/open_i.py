"""Open-i, the chest X-rays and reports of Indiana University: as two CSV tables, and as XML of the NLM.

    indiana_reports.csv         uid,MeSH,Problems,image,indication,comparison,findings,impression
    indiana_projections.csv     uid,filename,projection
    images/images_normalized/1_IM-0001-4001.dcm.png

    ecgen-radiology/1.xml       <uId id="CXR1"/> <AbstractText Label="FINDINGS"> <parentImage id="CXR1_1_IM-0001-4001">
    NLMCXR_png/CXR1_1_IM-0001-4001.png

`XXXX` stands for text that was removed; it is part of the report and kept as it is.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.io.bad_input import BadInput
from common.io.table import iter_rows

REPORT_COLUMNS = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
PROJECTION_COLUMNS = ("uid", "filename", "projection")
PROJECTIONS = ("Frontal", "Lateral")
REPORTS_CSV, PROJECTIONS_CSV = "indiana_reports.csv", "indiana_projections.csv"
IMAGE_FOLDERS = ("images/images_normalized", "images_normalized", "NLMCXR_png", "images")

_TEXTS = ("indication", "comparison", "findings", "impression")


@dataclass(frozen=True)
class OpenIImage:
    """One X-ray of a study: its file name, and "Frontal" or "Lateral", None where the XML does not tell."""

    file: str
    projection: str | None


@dataclass(frozen=True)
class OpenIReport:
    """One study.

    Attributes:
        uid: the number of the study, as text, in either form.
        path: the table or XML file it was read from.
        sections: "examination" (what was imaged), "indication", "comparison", "findings", "impression" -> text as it
            is in the file; a blank one is left out.
        images: of the study; none where the reports were read alone.
    """

    uid: str
    path: Path
    sections: dict[str, str] = field(default_factory=dict)
    images: tuple[OpenIImage, ...] = ()


def is_open_i(columns: list[str]) -> bool:
    """Whether a table with these columns holds the reports of Open-i."""
    return set(REPORT_COLUMNS) <= set(columns)


def iter_open_i(path: str | os.PathLike[str]) -> Iterator[OpenIReport | BadInput]:
    """Yield the reports of a table, or of a folder of XML files, one at a time; what cannot be used in its place.

    Args:
        path: indiana_reports.csv (or .csv.gz), an XML file, or a folder that holds either.

    Raises:
        BadInput: if there is no report to be found, or the table cannot be read at all.
    """
    path = Path(path)
    if path.is_dir():
        table = path / REPORTS_CSV
        files = [] if table.is_file() else sorted(path.rglob("*.xml"), key=lambda file: (len(file.stem), str(file)))
        if not files and not table.is_file():
            raise BadInput(path, f"is not Open-i, expected {REPORTS_CSV} or .xml reports in it")
        found = _unread(files) if files else _iter_table(table)
    else:
        found = _unread([path]) if path.suffix.lower() == ".xml" else _iter_table(path)
    seen: set[str] = set()
    for report in found:
        if isinstance(report, OpenIReport):
            if report.uid in seen:
                yield BadInput(report.path, f"has the uid {report.uid!r} again, expected each once")
                continue
            seen.add(report.uid)
        yield report


def list_open_i(root: str | os.PathLike[str]) -> tuple[list[OpenIReport], list[BadInput]]:
    """List the studies that have a report and images.

    Args:
        root: the folder of the CSV tables, or of the XML files; no files of images are checked where it has none of
            `IMAGE_FOLDERS`.

    Returns:
        Studies in the order of the reports, and everything that cannot be used: bad rows or files, reports without an
        image, images without a report, files without a row and rows without a file.

    Raises:
        BadInput: as `iter_open_i`; if the projections are missing beside the reports.
    """
    root = Path(root)
    reports: list[OpenIReport] = []
    problems: list[BadInput] = []
    for item in iter_open_i(root):
        if isinstance(item, BadInput):
            problems.append(item)
        else:
            reports.append(item)
    if (root / REPORTS_CSV).is_file():
        of_report, bad = _read_projections(root / PROJECTIONS_CSV, {report.uid for report in reports})
        problems += bad
        reports = [replace(report, images=tuple(of_report.get(report.uid, ()))) for report in reports]
    reports, bad = _with_files(root, reports, image_folder(root))
    return reports, problems + bad


def image_folder(root: Path) -> Path | None:
    """The folder of the PNG files: the first of `IMAGE_FOLDERS` that is there, None if none is."""
    return next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)


def read_open_i_xml(path: str | os.PathLike[str]) -> OpenIReport:
    """Read one XML report.

    Raises:
        BadInput: if it is no XML, not of Open-i, names no study, has a section without label, or no text at all.
    """
    path = Path(path)
    try:
        root = ET.parse(path).getroot()
    except FileNotFoundError as error:
        raise BadInput(path, "does not exist, expected an Open-i report") from error
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror}), expected an Open-i report") from error
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: of an encoding that does not exist
        raise BadInput(path, f"is no well-formed XML ({error})") from error
    uid = next((found.get("id", "").strip() for tag in ("uId", "pmcId") for found in root.iter(tag)), "")
    if not uid:
        raise BadInput(path, "has no uId, expected the number of the study")
    texts: dict[str, str] = {}
    for element in root.iter("AbstractText"):
        label = element.get("Label", "").strip().lower()
        if not label:
            raise BadInput(path, "has an AbstractText without Label, expected FINDINGS, IMPRESSION and the like")
        text = "".join(element.itertext())
        if text.strip():
            texts[label] = f"{texts[label]}\n{text}" if label in texts else text
    if not texts:
        raise BadInput(path, "has no text in any AbstractText, expected a report")
    captions = ("".join(found.itertext()).strip() for found in root.iter("caption"))
    caption = next((text for text in captions if text), None)
    names = [found.get("id", "").strip() for found in root.iter("parentImage")]
    if not all(names) or len(set(names)) < len(names):
        raise BadInput(path, f"has parentImage ids {', '.join(map(repr, names))}, expected one for each image")
    return OpenIReport(
        uid=uid.upper().removeprefix("CXR"),
        path=path,
        sections=({"examination": caption} if caption else {}) | texts,
        images=tuple(OpenIImage(f"{name}.png", None) for name in names),
    )


def _unread(files: list[Path]) -> Iterator[OpenIReport | BadInput]:
    for file in files:
        try:
            yield read_open_i_xml(file)
        except BadInput as error:
            yield error


def _iter_table(path: Path) -> Iterator[OpenIReport | BadInput]:
    for row in iter_rows(path, REPORT_COLUMNS):
        if isinstance(row, BadInput):
            yield row
            continue
        line, cells = row
        uid = cells["uid"].strip()
        texts = {name: cells[name] for name in _TEXTS if cells[name].strip()}
        if not uid:
            yield BadInput(path, f"line {line} has no uid, expected the number of the study")
        elif not texts:
            yield BadInput(path, f"line {line} (uid {uid!r}) has no text, expected one of {', '.join(_TEXTS)}")
        else:
            examination = {"examination": cells["image"]} if cells["image"].strip() else {}
            yield OpenIReport(uid, path, examination | texts)


def _read_projections(path: Path, uids: set[str]) -> tuple[dict[str, list[OpenIImage]], list[BadInput]]:
    of_report: dict[str, list[OpenIImage]] = {}
    problems: list[BadInput] = []
    seen: set[str] = set()
    for row in iter_rows(path, PROJECTION_COLUMNS):
        if isinstance(row, BadInput):
            problems.append(row)
            continue
        line, cells = row
        uid, file, projection = (cells[name].strip() for name in PROJECTION_COLUMNS)
        if not uid or not file:
            problems.append(BadInput(path, f"line {line} has no {'filename' if uid else 'uid'}, expected one"))
        elif file in seen:
            problems.append(BadInput(path, f"line {line} has the file {file!r} again, expected each once"))
        elif projection not in PROJECTIONS:
            expected = " or ".join(PROJECTIONS)
            problems.append(
                BadInput(path, f"line {line} ({file!r}) has projection {projection!r}, expected {expected}")
            )
        elif uid not in uids:
            problems.append(BadInput(path, f"line {line} ({file!r}) has uid {uid!r}, which has no usable report"))
        else:
            of_report.setdefault(uid, []).append(OpenIImage(file, projection))
        seen.add(file)
    return of_report, problems


def _with_files(
    root: Path, reports: list[OpenIReport], folder: Path | None
) -> tuple[list[OpenIReport], list[BadInput]]:
    """The studies of which an image is there, and what is missing on either side."""
    files = {file.name for file in folder.iterdir() if file.suffix.lower() == ".png"} if folder else set()
    kept: list[OpenIReport] = []
    problems: list[BadInput] = []
    for report in reports:
        images = report.images
        if folder:
            absent = [image.file for image in images if image.file not in files]
            problems += [BadInput(folder / name, f"does not exist, uid {report.uid!r} names it") for name in absent]
            images = tuple(image for image in images if image.file in files)
        if images:
            kept.append(replace(report, images=images))
        else:
            problems.append(BadInput(report.path, f"has uid {report.uid!r}, of which there is no image"))
    if folder:
        named = {image.file for report in reports for image in report.images}
        problems += [BadInput(folder / name, "belongs to no usable report") for name in sorted(files - named)]
    return kept, problems
