"""What was known before an X-ray was read: why it was taken, and the patient's report before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.case_list import CaseList
from common.data.cxr.r2gen import annotation_reports
from common.data.manifest import read_manifest
from common.data.report_files import iter_reports
from common.io.bad_input import BadInput, read_text
from common.text.sections import report_sections, sections_text

__all__ = ["SOURCES", "PreparedReports", "context_text", "with_context"]

SOURCES = ("indication", "prior_report")
_TOLD = ("findings", "impression")
"""Of the report before."""


def context_text(sources: Sequence[str], indication: str = "", prior: Mapping[str, str] | None = None) -> str:
    """One text of what was known; "" if nothing was.

    Args:
        sources: what of it is told, of `SOURCES`.
        indication: that section of the report of the X-ray.
        prior: sections of the report before.

    Raises:
        ValueError: for an unknown source.
    """
    unknown = [name for name in sources if name not in SOURCES]
    if unknown:
        raise ValueError(f"context is {', '.join(sources)}, expected some of {', '.join(SOURCES)}")
    told = " ".join(" ".join((prior or {}).get(name, "") for name in _TOLD).split())
    parts = {"indication": ("Indication", " ".join(indication.split())), "prior_report": ("Prior report", told)}
    return " ".join(f"{parts[name][0]}: {parts[name][1]}" for name in SOURCES if name in sources and parts[name][1])


class PreparedReports:
    """Reports of a prepared folder of X-rays, and what was known before each.

    Args:
        manifest: its file.
        sources: of the context, some of `SOURCES`.

    Raises:
        BadInput: if the manifest names no reports, or no times where reports before are asked for.
    """

    def __init__(self, manifest: Path, sources: Sequence[str] = ()) -> None:
        context_text(sources)
        self.path, self.sources = manifest, tuple(sources)
        self.rows = {row["case"]: row for row in read_manifest(manifest)}
        first = next(iter(self.rows.values()))
        if "report" not in first:
            expected = "expected a layout with reports: mimic_cxr, open_i or r2gen"
            raise BadInput(manifest, f"has no column 'report', {expected}")
        if "prior_report" in self.sources and "time" not in first:
            raise BadInput(manifest, "has no column 'time', expected a layout whose studies have one: mimic_cxr")
        self._tables: dict[str, Mapping[str, Mapping[str, str]]] = {}
        self._studies: dict[str, dict[str, dict[str, str]]] = {}
        if "prior_report" in self.sources:
            for row in self.rows.values():
                self._studies.setdefault(row["patient"], {}).setdefault(row["study"], row)

    def sections(self, row: Mapping[str, str]) -> Mapping[str, str]:
        """Name -> text of the report of a row.

        Raises:
            BadInput: if it has none, or one that cannot be read.
        """
        if not row["report"]:
            raise BadInput(self.path, "has no report")
        path = Path(row["report"])
        if path.suffix.lower() == ".txt":
            text = read_text(path, "a report")
            if not text.strip():
                raise BadInput(path, "is empty, expected a report")
            return report_sections(text)
        if str(path) not in self._tables:
            self._tables[str(path)] = _table(path)
        found = self._tables[str(path)].get(row["study"])
        if found is None:
            raise BadInput(path, f"has no report of study {row['study']!r}")
        return found

    def context(self, row: Mapping[str, str]) -> str:
        """What was known before the X-ray of a row; a report that cannot be read tells nothing."""
        told = [self._told(row).get("indication", "") if "indication" in self.sources else "", None]
        if "prior_report" in self.sources:
            before = [other for other in self._studies[row["patient"]].values() if other["time"] < row["time"]]
            told[1] = self._told(max(before, key=lambda other: other["time"])) if before else None
        return context_text(self.sources, *told)

    def _told(self, row: Mapping[str, str]) -> Mapping[str, str]:
        try:
            return self.sections(row)
        except BadInput:
            return {}


def with_context(
    cases: CaseList,
    path: str | os.PathLike[str],
    sources: Sequence[str],
    indication: str | None = None,
    prior_report: str | os.PathLike[str] | None = None,
) -> CaseList:
    """Cases to predict with their `context`, for a network that reads one.

    Args:
        cases: of `common.data.cxr.inputs.xray_cases`.
        path: what they were read from; a prepared folder knows the context itself.
        sources: that the network was trained with; none leaves the cases as they are.
        indication: of a single case.
        prior_report: file with the report before, of a single case.

    Raises:
        BadInput: if something is given that the network does not read, that the folder knows itself, or for several
            cases.
    """
    given = {"indication": indication, "prior_report": prior_report}
    for name, value in given.items():
        if value is not None and name not in sources:
            raise BadInput(path, f"is given --{name}, which the weights do not read; expected some trained with it")
    if not sources:
        return cases
    prepared = (Path(path) / "manifest.csv").is_file()
    named = [name for name, value in given.items() if value is not None]
    if named and (prepared or len(cases) != 1):
        held = "knows its reports itself" if prepared else f"holds {len(cases)} cases"
        raise BadInput(path, f"{held}, expected a single X-ray for --{named[0]}")
    if prepared:
        reports = PreparedReports(Path(path) / "manifest.csv", sources)
        by_image = {row["image"]: row for row in reports.rows.values()}
        told: list[str] = [reports.context(by_image[case["image"]]) for case in cases]
    else:
        prior = None if prior_report is None else report_sections(read_text(prior_report, "a report"))
        if prior is not None and not any(prior.get(name, "").strip() for name in _TOLD):
            raise BadInput(prior_report, "has neither findings nor an impression, expected the report before")
        told = [context_text(sources, indication or "", prior)] * len(cases)
    return CaseList(
        [case | {"context": text} for case, text in zip(cases, told, strict=True)], cases.excluded, cases.other
    )


def _table(path: Path) -> dict[str, dict[str, str]]:
    """Study -> its sections, of Open-i and of R2Gen, whose reports are findings."""
    if path.suffix.lower() == ".json":
        return {study: {"findings": text} for study, text in annotation_reports(path).items()}
    return {r.study: sections_text(r.sections) for r in iter_reports(path) if not isinstance(r, BadInput)}
