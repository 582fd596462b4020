"""MIMIC-CXR with what MIMIC-IV and MIMIC-IV-ED knew of each study: its note of the emergency department and its values.

The two clinical data sets are found beside the images or in their folder, by their tables (`hosp/patients`,
`ed/edstays`), whatever version their folders name: `mimic-iv`, `mimiciv/3.1`, `mimic-iv-ed-2.2`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.data.cxr.listing import CXRListing, XrayRow
from common.data.cxr.mimic_cxr import find_mimic_cxr
from common.data.ehr.clinical_vector import clinical_row
from common.data.ehr.mimic_iv import Study, read_contexts
from common.data.ehr.mimic_tables import find_table
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.notes.ed_note import ed_note
from common.text.redaction import find_leaks, redact

__all__ = ["find_ehr", "list_mimic", "studies_of"]

_MARKS = {"hosp": "hosp/patients", "ed": "ed/edstays"}


def list_mimic(
    source: str | os.PathLike[str],
    labeller: str = "chexpert",
    ehr: Sequence[str | os.PathLike[str]] | None = None,
    redacted: bool = True,
) -> CXRListing:
    """List images, notes and clinical values of all studies.

    Args:
        source: the folder with ``files`` and the tables of MIMIC-CXR-JPG.
        labeller: "chexpert" or "negbio".
        ehr: folders of MIMIC-IV and MIMIC-IV-ED; None looks for them, an empty list does without.
        redacted: take the terms of the 14 labels out of the notes.

    Raises:
        BadInput: if a table is missing or cannot be read, a folder of `ehr` holds neither data set, or a data set is
            found in two places.
        ValueError: for an unknown labeller.
    """
    other: Counter[str] = Counter()
    images, problems = find_mimic_cxr(source, labeller, other=other)
    listing = CXRListing(images, problems, other=other, labels=CHEXPERT_LABELS)
    roots = find_ehr(source, ehr)
    listing.facts = {"labeller": labeller, "redacted": redacted, "ehr": {k: str(v) for k, v in roots.items()}}
    if "hosp" not in roots:
        if "ed" in roots:
            raise BadInput(roots["ed"], "is there without MIMIC-IV, expected hosp/patients as well, for age and sex")
        return listing
    read = read_contexts(roots["hosp"], roots.get("ed"), studies_of(images))
    listing.problems += read.report.problems
    notes_with_terms = 0
    for study_id, context in read.contexts.items():
        study = f"s{study_id}"
        note = ed_note(context)
        if redacted and find_leaks(note, CHEXPERT_LABELS):
            notes_with_terms += 1
            note = redact(note, CHEXPERT_LABELS)
        listing.notes[study] = note
        listing.clinical[study] = clinical_row(context)
    report = read.report
    listing.facts["studies"] = {
        "contexts": report.contexts, "in_emergency_stay": report.in_emergency_stay,
        "without_stay": report.without_stay, "without_patient": len(report.excluded),
        "notes_with_redacted_terms": notes_with_terms, "values_after_study_not_used": sum(report.after_study.values()),
        "values_out_of_bounds": sum(report.out_of_bounds.values()), "missing_tables": report.missing_tables,
    }  # fmt: skip
    listing.facts["left_out"] = report.left_out()
    return listing


def studies_of(images: Iterable[XrayRow]) -> list[Study]:
    """The studies of some images of `find_mimic_cxr`, each once."""
    found = {image.study: Study(int(image.patient), int(image.study[1:]), image.time) for image in images}
    return list(found.values())


def find_ehr(source: str | os.PathLike[str], named: Sequence[str | os.PathLike[str]] | None = None) -> dict[str, Path]:
    """Find the folders of MIMIC-IV ("hosp") and of MIMIC-IV-ED ("ed"), as far as they are there.

    Args:
        source: the folder of the X-rays; they are looked for in it and beside it.
        named: folders that the user gave, which alone are looked at.

    Raises:
        BadInput: if one of them is found in two places, or a folder that was given holds neither.
    """
    found: dict[str, Path] = {}
    places = _places(Path(os.path.abspath(source))) if named is None else map(Path, named)
    expected = "expected one, or the folder by --ehr" if named is None else "expected one of each"
    for place in places:
        names = [name for name, table in _MARKS.items() if find_table(place, table) is not None]
        if not names and named is not None:
            raise BadInput(place, f"holds neither {' nor '.join(_MARKS.values())}, expected MIMIC-IV or MIMIC-IV-ED")
        for name in names:
            if found.setdefault(name, place) != place:
                raise BadInput(place, f"holds {_MARKS[name]} as {found[name]} does, {expected}")
    return found


def _places(source: Path) -> Iterator[Path]:
    """The folder itself, then folders called mimic* in it and beside it, and the versions in these."""
    yield source
    seen = {source}
    for parent in (source, source.parent):
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            if not folder.name.lower().startswith("mimic") or folder in seen or not folder.is_dir():
                continue
            seen.add(folder)
            yield folder
            yield from (inner for inner in sorted(folder.iterdir()) if inner.name[0].isdigit() and inner.is_dir())
