"""The CT labeller against human labels: 800 translated reports with the 18 labels of CT-RATE.

Prints one JSON line: macro-F1 over all reports and by five folds of reports, per label precision, recall, F1, the worst
label's confusion and the phrases behind its false positives, and reports per second on one core. The rules have no
fitted numbers, so that the folds only show the spread; the phrases were written with all reports at hand.

    python benchmarks/ct_labeller.py [--table ../shared/data/reports/ctclip_text_classifier_train.csv]
"""

import argparse
import csv
import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.text.ct_labeller import explain_ct, label_ct
from common.text.ct_labels import CT_RATE_LABELS

REFERENCE = {"18 regular expressions with sentence negation": 0.90, "TF-IDF and logistic regression, 5 folds": 0.76}
TABLE = Path(__file__).parents[2] / "shared" / "data" / "reports" / "ctclip_text_classifier_train.csv"
FOLDS = 5


def confusion(rows: Sequence[dict[str, str]], found: Sequence[dict[str, int]], label: str) -> Counter:
    """Counts of (said, gold)."""
    return Counter((said[label], int(row[label])) for row, said in zip(rows, found, strict=True))


def scores(table: Counter) -> dict[str, float]:
    """Precision, recall and F1."""
    hit, said, true = table[1, 1], table[1, 1] + table[1, 0], table[1, 1] + table[0, 1]
    return {
        "precision": round(hit / said, 4),
        "recall": round(hit / true, 4),
        "f1": round(2 * hit / (said + true), 4),
        "positive": true,
    }


def macro(rows: Sequence[dict[str, str]], found: Sequence[dict[str, int]]) -> float:
    """Mean F1 of the labels."""
    return sum(scores(confusion(rows, found, label))["f1"] for label in CT_RATE_LABELS) / len(CT_RATE_LABELS)


def rules_of_errors(rows: Sequence[dict[str, str]], found: Sequence[dict[str, int]], label: str) -> dict[str, int]:
    """The phrases that said the label where people did not, most frequent first."""
    wrong = Counter()
    for row, said in zip(rows, found, strict=True):
        if said[label] and row[label] == "0":
            wrong.update({item.rule for item in explain_ct(row["report_text"]) if item.label == label and item.value})
    return dict(wrong.most_common(5))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", type=Path, default=TABLE)
    with parser.parse_args().table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    label_ct("")  # compiles the lexicon
    started = time.process_time()
    found = [label_ct(row["report_text"]) for row in rows]
    speed = len(rows) / (time.process_time() - started)
    # Equal reports share a fold.
    fold = [int(hashlib.md5(row["report_text"].encode()).hexdigest(), 16) % FOLDS for row in rows]
    folds = [[i for i, k in enumerate(fold) if k == one] for one in range(FOLDS)]
    by_fold = [macro([rows[i] for i in part], [found[i] for i in part]) for part in folds]
    each = {label: scores(confusion(rows, found, label)) for label in CT_RATE_LABELS}
    worst = min(each, key=lambda label: each[label]["f1"])
    table = {f"said {said}, gold {gold}": n for (said, gold), n in sorted(confusion(rows, found, worst).items())}
    long = " ".join(row["report_text"] for row in rows)[:1_000_000]
    started = time.process_time()
    label_ct(long)
    print(
        json.dumps(
            {
                "name": "CT labeller, macro-F1",
                "input": f"{len(rows)} translated CT reports with human labels, 18 labels",
                "ours": round(macro(rows, found), 4),
                "by_fold": [round(value, 4) for value in by_fold],
                "reference": REFERENCE,
                "ratio": round(macro(rows, found) / max(REFERENCE.values()), 3),
                "labels": each,
                "worst": {worst: table, "rules of its false positives": rules_of_errors(rows, found, worst)},
                "reports_per_second": round(speed),
                "characters_per_report": round(sum(len(row["report_text"]) for row in rows) / len(rows)),
                "seconds_for_1_MB": round(time.process_time() - started, 2),
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
