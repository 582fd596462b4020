"""Section parser on Open-i reports laid out in ways that reports are written, and read back.

Prints one JSON line per layout: {name, input, ours, reference, ratio, machine}; ours is the share of the reports with
findings or impression of which comparison, indication, findings and impression all come back as they went in (single
blanks). The reference of the MIMIC layouts is what MIT-LCP's parser reached on the 3,927 reports of the whole
collection; with --official, a copy of its `section_parser.py`, it is measured here on the same texts. The reports that
fail are named before the line. The last line is the speed.

    python benchmarks/sections_open_i.py [--reports ../shared/data/reports/indiana_reports.csv] [--official FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.data.cxr.open_i import iter_open_i  # noqa: E402
from common.io.bad_input import BadInput  # noqa: E402
from common.text.mimic_report import TITLE, render_mimic  # noqa: E402
from common.text.sections import normalise, report_sections  # noqa: E402

NAMES = ("comparison", "indication", "findings", "impression")
MIT_LCP = 3904 / 3927
Texts = Mapping[str, str]
Layout = Callable[[Texts], str]


def mimic(texts: Texts, header_on_its_line: bool) -> str:
    """Lines of 79 columns that begin with a blank, broken at blanks and hyphens as any program would."""
    lines = [TITLE]
    for name, text in texts.items():
        head = f"{name.upper()}: "
        body = [head, "", *textwrap.wrap(text, 78)] if header_on_its_line else textwrap.wrap(f"{head} {text}", 78)
        lines += [f" {line}" for line in [*body, ""]]
    return "\n".join(lines) + "\n"


def plain(texts: Texts, form: Callable[[str], str], between: str, width: int = 0) -> str:
    """`Findings: ...` in lines as long as the text, or wrapped."""
    parts = [f"{form(name)} {text}" for name, text in texts.items()]
    return between.join(textwrap.fill(part, width) if width else part for part in parts)


MIMIC_LAYOUTS: dict[str, Layout] = {
    "mimic": lambda texts: mimic(texts, header_on_its_line=False),
    "mimic_header_on_its_line": lambda texts: mimic(texts, header_on_its_line=True),
    "render_mimic": render_mimic,
}
OTHER_LAYOUTS: dict[str, Layout] = {
    "title_case_wrapped": lambda texts: plain(texts, lambda name: f"{name.title()}:", "\n", 80),
    "lower_case_wrapped_crlf": lambda texts: plain(texts, "{}:".format, "\n", 80).replace("\n", "\r\n"),
    "capitals_without_colon": lambda texts: plain(texts, lambda name: f"{name.upper()}\n", "\n"),
    "markdown": lambda texts: plain(texts, lambda name: f"**{name.title()}:**", "\n\n"),
    "one_line_capitals": lambda texts: plain(texts, lambda name: f"{name.upper()}:", " "),
    "one_line_title_case": lambda texts: plain(texts, lambda name: f"{name.title()}:", " "),
}


def official_parser(path: Path) -> Callable[[str], dict[str, str]]:
    """MIT-LCP's parser: the last section of each name, with single blanks."""
    spec = importlib.util.spec_from_file_location("section_parser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def sections(report: str) -> dict[str, str]:
        texts, names, _ = module.section_text(report)
        return {name: " ".join(text.split()) for name, text in zip(names, texts, strict=True)}

    return sections


def failures(reports: Mapping[str, Texts], layout: Layout, parse: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """Reports that do not come back, with the section at fault and what was read."""
    found = {}
    for uid, texts in reports.items():
        read = parse(layout(texts))
        # Three reports have mark-up in their text (<BR>, &gt;), which is decoded.
        wrong = [name for name in NAMES if normalise(read.get(name, "")) != normalise(texts.get(name, ""))]
        if wrong:
            found[uid] = f"{wrong[0]}: {read.get(wrong[0])!r}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT.parent / "shared" / "data" / "reports" / "indiana_reports.csv"
    parser.add_argument("--reports", type=Path, default=default)
    parser.add_argument("--official", type=Path, help="section_parser.py of MIT-LCP/mimic-cxr")
    args = parser.parse_args()
    reports = {}
    for report in iter_open_i(args.reports):
        if not isinstance(report, BadInput) and {"findings", "impression"} & set(report.sections):
            texts = {name: " ".join(report.sections.get(name, "").split()) for name in NAMES}
            reports[report.uid] = {name: text for name, text in texts.items() if text}
    official = official_parser(args.official) if args.official else None
    machine = f"{platform.machine()}, Python {platform.python_version()}, 1 process"
    given = f"{len(reports)} Open-i reports with findings or impression"

    for name, layout in (MIMIC_LAYOUTS | OTHER_LAYOUTS).items():
        wrong = failures(reports, layout, report_sections)
        for uid, reason in list(wrong.items())[:20]:
            print(f"{name}: uid {uid}, {reason[:150]}")
        ours = 1 - len(wrong) / len(reports)
        reference = MIT_LCP if name in MIMIC_LAYOUTS else None
        if official:
            reference = 1 - len(failures(reports, layout, official)) / len(reports)
        report_line(f"sections_open_i.{name}", given, round(ours, 5), reference, machine)

    texts = [MIMIC_LAYOUTS["mimic"](sections) for sections in reports.values()]
    start = time.perf_counter()
    for text in texts:
        report_sections(text)
    report_line(
        "sections_open_i.reports_per_second", given, round(len(texts) / (time.perf_counter() - start)), None, machine
    )


def report_line(name: str, given: str, ours: float, reference: float | None, machine: str) -> None:
    ratio = round(ours / reference, 4) if reference else None
    reference = None if reference is None else round(reference, 5)
    line = {"name": name, "input": given, "ours": ours, "reference": reference, "ratio": ratio, "machine": machine}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
