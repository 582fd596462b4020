"""500 CT and 500 X-ray template reports: length, variety, speed, and whether the labellers read what was meant.

Labels, findings, sizes, places and devices are drawn at random; the truth is what the templates were asked to say.
Prints two JSON lines. `ours` is the micro-F1 of the labeller (CT: label 1; X-ray: every one of the values 1.0, 0.0 and
-1.0 of every label counts), `reference` the wanted .99. `distinct_2` is of 200 reports; beside it that of 200 real
reports and of one template sentence set repeated 200 times.

    python benchmarks/template_reports.py [--reports 500] [--folder ../shared/data/reports]
"""

import argparse
import csv
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.metrics.report.diversity import distinct_n  # noqa: E402
from common.text.ct_labeller import label_ct  # noqa: E402
from common.text.ct_template import ct_report  # noqa: E402
from common.text.cxr_labeller import label_cxr  # noqa: E402
from common.text.cxr_template import cxr_report  # noqa: E402
from common.text.virtual_report import VirtualReport  # noqa: E402
from tests.text.template_cases import ct_case, cxr_case  # noqa: E402

GOAL = 0.99
VARIETY = 200


def f1(hits: Counter, said: Counter, meant: Counter) -> float:
    """Micro-F1 of counts of statements."""
    return 2 * sum(hits.values()) / (sum(said.values()) + sum(meant.values()))


def measure(
    name: str,
    reports: list[VirtualReport],
    seconds: float,
    label: Callable[[str], dict],
    stated: Callable[[object], bool],
    real: list[str],
) -> dict:
    """One line of figures; `stated` says which values of a label are statements."""
    label("")  # compiles the lexicon
    hits, said, meant, wrong = Counter(), Counter(), Counter(), Counter()
    for report in reports:
        found = label(report.narrative)
        for finding, truth in report.labels.items():
            said[finding] += stated(found[finding])
            meant[finding] += stated(truth)
            hits[finding] += stated(truth) and found[finding] == truth
            if found[finding] != truth:
                wrong[f"{finding}: {truth} read as {found[finding]}"] += 1
    words = [len(report.narrative.split()) for report in reports]
    texts = [report.narrative for report in reports]
    score = f1(hits, said, meant)
    return {
        "name": name,
        "input": f"{len(reports)} template reports, random labels and findings",
        "ours": round(score, 4),
        "reference": GOAL,
        "ratio": round(score / GOAL, 4),
        "words": {"min": min(words), "mean": round(sum(words) / len(words), 1), "max": max(words)},
        "distinct_2": round(distinct_n(texts[:VARIETY], 2)["distinct_2"], 4),
        "distinct_2_real": round(distinct_n(real[:VARIETY], 2)["distinct_2"], 4) if real else "not run",
        "distinct_2_fixed": round(distinct_n(texts[:1] * VARIETY, 2)["distinct_2"], 4),
        "reports_per_second": round(len(reports) / seconds),
        "most_often_wrong": dict(wrong.most_common(5)),
        "machine": platform.processor() or platform.machine(),
    }


def real_texts(path: Path, columns: tuple[str, ...]) -> list[str]:
    """Reports of a table, none if it is not there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [" ".join(row[column] for column in columns) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reports", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "reports")
    arguments = parser.parse_args()
    cases = [ct_case(seed) for seed in range(arguments.reports)]
    start = time.process_time()
    ct = [ct_report(findings, labels, "F", 60, seed) for seed, (findings, labels) in enumerate(cases)]
    seconds = time.process_time() - start
    real = real_texts(arguments.folder / "ctclip_text_classifier_train.csv", ("report_text",))
    print(json.dumps(measure("CT labeller on template reports, micro-F1", ct, seconds, label_ct, bool, real)))

    cases = [cxr_case(seed) for seed in range(arguments.reports)]
    start = time.process_time()
    cxr = [cxr_report(findings, labels, "M", 60, seed) for seed, (findings, labels) in enumerate(cases)]
    seconds = time.process_time() - start
    real = real_texts(arguments.folder / "indiana_reports.csv", ("findings", "impression"))
    name = "X-ray labeller on template reports, micro-F1 over values"
    print(json.dumps(measure(name, cxr, seconds, label_cxr, lambda value: value is not None, real)))


if __name__ == "__main__":
    main()
