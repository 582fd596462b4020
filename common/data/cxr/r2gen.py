"""The layout of R2Gen, in which IU X-ray and MIMIC-CXR are shared for the generation of reports.

annotation.json     {"train": [{"id", "report", "image_path": [..], "split"}, ..], "val": [..], "test": [..]}
images/CXR2384_IM-0942/{0,1}.png        IU X-ray: frontal, then lateral, of one study
images/p10/p10000032/s50414267/ID.jpg   MIMIC-CXR, whose entries have subject_id and study_id as well
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from common.data.cxr.listing import CXRListing, XrayRow, named_files, of_one_split
from common.data.splits import SPLITS
from common.io.bad_input import BadInput, read_text
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.plain_text import has_text

__all__ = ["ANNOTATION", "annotation_reports", "find_r2gen"]

ANNOTATION = "annotation.json"
_PAIR = ("PA", "LATERAL")


def find_r2gen(source: str | os.PathLike[str]) -> CXRListing:
    """List the images, without opening them.

    The images of an entry are one study, and a row each; the split is the list that the entry stands in. Of two images
    the first is frontal and the second lateral, as in IU X-ray; of others the view is not stated.

    Args:
        source: the folder with annotation.json, or that file; images lie in `images` beside it, or beside it.

    Raises:
        BadInput: if the file is missing, is no JSON, or has not the three lists.
    """
    annotation = Path(os.path.abspath(source))
    annotation = annotation / ANNOTATION if annotation.is_dir() else annotation
    content = _read(annotation)
    root = annotation.parent / "images" if (annotation.parent / "images").is_dir() else annotation.parent
    listing = CXRListing(facts={"labels": "read from the reports"}, labels=CHEXPERT_LABELS)
    seen: set[str] = set()
    named: set[Path] = set()
    for split in SPLITS:
        for number, entry in enumerate(content[split], 1):
            try:
                name, report, paths = _entry(annotation, f"{split} {number}", entry, split)
                files = [root / path for path in paths]
                named.update(map(_real, files))
                if name in seen:
                    raise BadInput(annotation, f"entry {name!r} ({split} {number}) has an id that another one has")
                seen.add(name)
                if not has_text(report):
                    raise BadInput(annotation, f"entry {name!r} has an empty report, expected its text")
                patient, study = _ids(annotation, name, entry)
            except BadInput as problem:
                listing.problems.append(problem)
                continue
            labels, more = listing.read_labels(report), {"report": str(annotation)}
            for k, file in enumerate(files):
                if not file.is_file() or not _real(file).is_relative_to(_real(root)):
                    problem = "does not exist" if not file.is_file() else "lies outside the folder of images"
                    listing.problems.append(BadInput(file, f"{problem}, entry {name!r} names it"))
                    continue
                case = name if len(files) == 1 else f"{name}_{k}"
                view = _PAIR[k] if len(files) == len(_PAIR) else ""
                listing.rows.append(XrayRow(case, patient, split, file, study, view, labels, more))
    listing.rows = of_one_split(listing.rows, listing.problems)
    for file in sorted(path for paths in named_files(root, listing, [annotation]).values() for path in paths):
        if _real(file) not in named:
            listing.problems.append(BadInput(file, f"has no entry in {annotation.name}"))
    return listing


def annotation_reports(annotation: str | os.PathLike[str]) -> dict[str, str]:
    """Study -> its report with single blanks, findings without a header, of the entries that are sound.

    Raises:
        BadInput: if the file is missing, is no JSON, or has not the three lists.
    """
    path, found = Path(annotation), {}
    for split, entries in _read(path).items():
        for number, entry in enumerate(entries, 1):
            try:
                name, report, _ = _entry(path, f"{split} {number}", entry, split)
                _, study = _ids(path, name, entry)
            except BadInput:
                continue  # `prepare` has listed it
            found.setdefault(study, " ".join(report.split()))
    return found


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(read_text(path, "the annotation of R2Gen"))
    except json.JSONDecodeError as error:
        raise BadInput(path, f"is no JSON ({error})") from error
    expected = f"expected the lists {', '.join(SPLITS)}"
    if not isinstance(content, dict):
        raise BadInput(path, f"holds a {type(content).__name__}, {expected}")
    wrong = [name for name in (*content, *SPLITS) if name not in SPLITS or not isinstance(content.get(name), list)]
    if wrong:
        raise BadInput(path, f"has {wrong[0]!r} as no list of entries, {expected}")
    return content


def _entry(path: Path, where: str, entry: Any, split: str) -> tuple[str, str, list[str]]:
    """Id, report and image paths of an entry."""
    if not isinstance(entry, dict):
        raise BadInput(path, f"entry {where} is a {type(entry).__name__}, expected id, report and image_path")
    name, report, paths = (entry.get(key) for key in ("id", "report", "image_path"))
    if not isinstance(name, str | int) or not str(name).strip():
        raise BadInput(path, f"entry {where} has the id {name!r}, expected a text")
    if not isinstance(report, str):
        raise BadInput(path, f"entry {str(name)!r} has the report {report!r}, expected its text")
    if not isinstance(paths, list) or not paths or not all(isinstance(text, str) and text for text in paths):
        raise BadInput(path, f"entry {str(name)!r} has image_path {paths!r}, expected a list of paths")
    if len(set(paths)) < len(paths):
        raise BadInput(path, f"entry {str(name)!r} names the image {max(paths, key=paths.count)!r} twice")
    if entry.get("split", split) != split:
        raise BadInput(path, f"entry {str(name)!r} is in {split} and says {entry['split']!r}, expected one split")
    return str(name), report, paths


def _ids(path: Path, name: str, entry: dict[str, Any]) -> tuple[str, str]:
    """Patient and study: of MIMIC-CXR by their numbers, else the entry itself."""
    patient, study = str(entry.get("subject_id", name)), str(entry.get("study_id", name))
    if not patient.strip() or not study.strip():
        raise BadInput(path, f"entry {name!r} has a blank subject_id or study_id, expected numbers")
    return patient, f"s{study}" if "study_id" in entry and study.isdigit() else study


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
