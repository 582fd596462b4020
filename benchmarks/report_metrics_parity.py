"""Report metrics against pycocoevalcap and against RadEval's published values: largest differences and speed.

Prints one JSON line per claim: {name, input, ours, reference, ratio, machine}. A difference stands beside the tolerance
1e-6, seconds of ours beside those of pycocoevalcap on the same texts in the same process, medians of rounds in
alternation. Texts: Open-i impressions as if generated for the findings, and each findings as if generated for the next
case; pairs with an empty text are left out, where pycocoevalcap gives an empty text a word.

    python benchmarks/report_metrics_parity.py        # about a minute; needs ../shared/data
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.metrics.report.bleu import bleu  # noqa: E402
from common.metrics.report.cider import cider  # noqa: E402
from common.metrics.report.rouge import google_rouge, rouge_l  # noqa: E402
from common.metrics.report.text import clean_report  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
TOLERANCE = 1e-6


def report(name: str, given: str, ours: float, reference: float | None) -> None:
    ratio = None if not reference else float(f"{ours / reference:.4g}")
    line = {"name": f"report_metrics.{name}", "input": given, "ours": ours, "reference": reference, "ratio": ratio}
    print(json.dumps(line | {"machine": f"{platform.machine()}, numpy {np.__version__}"}), flush=True)


def open_i() -> dict[str, tuple[list[str], list[str]]]:
    with (DATA / "reports" / "indiana_reports.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if clean_report(row["findings"])]
    findings = [row["findings"] for row in rows]
    with_impression = [row for row in rows if clean_report(row["impression"])]
    return {
        "impression for findings": (
            [r["impression"] for r in with_impression],
            [r["findings"] for r in with_impression],
        ),
        "findings of the next case": (findings[1:] + findings[:1], findings),
    }


def their_score(scorer: Bleu | Rouge | Cider, hypotheses: list[str], references: list[str]) -> tuple:
    given = {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}
    return scorer.compute_score(*given, verbose=0) if isinstance(scorer, Bleu) else scorer.compute_score(*given)


def parity(rounds: int) -> None:
    pairs = ((bleu, Bleu(4)), (rouge_l, Rouge()), (cider, Cider()))
    for name, texts in open_i().items():
        for variant, change in (("raw", str), ("cleaned", clean_report)):
            hypotheses, references = ([change(text) for text in side] for side in texts)
            given = f"{len(references)} Open-i pairs, {name}, {variant}"
            for ours, theirs in pairs:
                metric = ours(hypotheses, references)
                total, each = their_score(theirs, hypotheses, references)
                corpus = np.abs(np.array(list(metric.value().values())) - np.atleast_1d(total)).max()
                single = np.abs(metric.per_report() - np.atleast_2d(each).T).max()
                report(f"max_abs_difference.{ours.__name__}.corpus", given, float(corpus), TOLERANCE)
                report(f"max_abs_difference.{ours.__name__}.per_report", given, float(single), TOLERANCE)
                seconds(f"seconds.{ours.__name__}", given, rounds, ours, theirs, hypotheses, references)


def seconds(
    name: str, given: str, rounds: int, ours: Callable, theirs: object, hypotheses: list[str], references: list[str]
) -> None:
    taken: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, call in enumerate((ours, lambda h, r: their_score(theirs, h, r))):
            start = time.perf_counter()
            call(hypotheses, references)
            taken[side].append(time.perf_counter() - start)
    report(name, given, *(round(statistics.median(side), 4) for side in taken))


def fixtures() -> None:
    folder = DATA / "oracles" / "metrics"
    texts = json.loads((folder / "radeval_regression_5.json").read_text())
    expected = json.loads((folder / "radeval_expected_scores_cpu.json").read_text())["per_sample"]
    found = {"bleu": bleu(texts["hyps"], texts["refs"]).per_report()[:, 3]}
    google = google_rouge(texts["hyps"], texts["refs"])
    found |= dict(zip(google.names, google.per_report().T, strict=True))
    for name, values in found.items():
        difference = float(np.abs(values - expected[name]).max())
        report(
            f"max_abs_difference.radeval_{name}.per_report", "5 pairs of radeval_regression_5", difference, TOLERANCE
        )


def bootstrap(draws: int = 1000, recomputed: int = 5) -> None:
    hypotheses, references = open_i()["findings of the next case"]
    start = time.perf_counter()
    bleu(hypotheses, references).intervals(draws)
    ours = (time.perf_counter() - start) / draws
    start = time.perf_counter()
    for seed in range(recomputed):
        drawn = np.random.default_rng(seed).integers(0, len(references), len(references))
        their_score(Bleu(4), [hypotheses[i] for i in drawn], [references[i] for i in drawn])
    theirs = (time.perf_counter() - start) / recomputed
    report("seconds_per_bootstrap_draw.bleu", f"{len(references)} Open-i pairs, {draws} draws", ours, theirs)


def cleaning() -> None:
    for name, (hypotheses, references) in open_i().items():
        raw = bleu(hypotheses, references).value()["bleu_4"]
        cleaned = bleu([clean_report(t) for t in hypotheses], [clean_report(t) for t in references]).value()["bleu_4"]
        report("bleu_4_cleaned_against_raw", f"{len(references)} Open-i pairs, {name}", cleaned, raw)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each timing, in alternation")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there, expected the folder with reports and oracles")
    parity(arguments.rounds)
    fixtures()
    bootstrap()
    cleaning()
