"""Open-i as `prepare` takes it: its images with the labels of their reports; see `common.data.cxr.open_i`.

Open-i has no labels of CheXpert and no split. The labels are read from findings and impression; the manifest's `report`
is the file that holds the text, a table or an XML file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from common.data.cxr.listing import CXRListing, XrayRow
from common.data.cxr.open_i import IMAGE_FOLDERS, OpenIImage, OpenIReport, image_folder, list_open_i
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.redaction import redact

__all__ = ["find_open_i"]

_AP = re.compile(r"\b(?:AP|portable|supine)\b", re.IGNORECASE)


def find_open_i(source: str | os.PathLike[str]) -> CXRListing:
    """List the images, without opening them; a study is a patient, as each has one.

    A frontal image is PA, unless the study was "AP" or "portable"; XML does not tell, so its views are not stated.

    Args:
        source: the folder of the tables or XML files and of the images, or one of the tables.

    Raises:
        BadInput: if there is no report, no folder of images, or the projections are missing beside the reports.
    """
    root = Path(source)
    root = root if root.is_dir() else root.parent
    images = image_folder(root)
    if images is None:
        raise BadInput(root, f"has no folder of images, expected one of {', '.join(IMAGE_FOLDERS)}")
    reports, problems = list_open_i(root)
    listing = CXRListing([], problems, facts={"labels": "read from the reports"}, labels=CHEXPERT_LABELS)
    for report in reports:
        text = "\n\n".join(report.sections[name] for name in ("findings", "impression") if name in report.sections)
        labels, more = listing.read_labels(text), {"report": str(report.path)}
        for image in report.images:
            view, path = _view(report, image), images / image.file
            listing.rows.append(XrayRow(path.stem, report.uid, "", path, report.uid, view, labels, more))
        listing.notes[report.uid] = redact(report.sections.get("indication", ""), CHEXPERT_LABELS)
    return listing


def _view(report: OpenIReport, image: OpenIImage) -> str:
    if image.projection != "Frontal":
        return "LATERAL" if image.projection else ""
    return "AP" if _AP.search(report.sections.get("examination", "")) else "PA"
