"""The X-ray labeller against human labels: 2,617 Open-i reports and their gold standard.

Positive against gold 1 over the eight findings that both have; text is findings + impression. Prints one JSON line with
all figures: per finding, micro over all reports and over the half whose reports were not read while the phrases were
written, the worst finding's confusion, and reports per second on one core.

    python benchmarks/cxr_labeller.py [--folder ../shared/data/reports]
"""

import argparse
import csv
import hashlib
import json
import platform
import time
from collections import Counter
from pathlib import Path

from common.text.cxr_labeller import label_cxr

COLUMNS = {
    "Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Consolidation": ("Consolidation",),
    "Edema": ("Edema",),
    "Lung Lesion": ("Mass", "Nodule"),
    "Pleural Effusion": ("Effusion",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax",),
}
SAID = {1.0: "positive", 0.0: "negative", -1.0: "uncertain", None: "not mentioned"}


def scores(table: Counter) -> dict[str, float]:
    """Precision, recall and F1 of counts of (said, gold)."""
    hit = table["positive", 1]
    said = hit + table["positive", 0]
    true = sum(count for (_, gold), count in table.items() if gold)
    return {
        "precision": round(hit / said, 4),
        "recall": round(hit / true, 4),
        "f1": round(2 * hit / (said + true), 4),
        "positive": true,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "reports")
    folder = parser.parse_args().folder
    with (folder / "openi_gld_std14.csv").open() as file:
        gold = {row["filename"].removeprefix("CXR"): row for row in csv.DictReader(file)}
    with (folder / "indiana_reports.csv").open(encoding="utf-8") as file:
        reports = {row["uid"]: row["findings"] + "\n\n" + row["impression"] for row in csv.DictReader(file)}
    label_cxr("")  # compiles the lexicon
    started = time.process_time()
    labels = {uid: label_cxr(text) for uid, text in reports.items()}
    speed = len(reports) / (time.process_time() - started)
    tables = {name: Counter() for name in COLUMNS}
    pooled, unseen = Counter(), Counter()
    for uid, found in labels.items():
        for name, columns in COLUMNS.items():
            cell = SAID[found[name]], int(any(gold[uid][column] == "1" for column in columns))
            tables[name][cell] += 1
            pooled[cell] += 1
            if int(hashlib.md5(uid.encode()).hexdigest(), 16) % 2:
                unseen[cell] += 1
    each = {name: scores(table) for name, table in tables.items()}
    worst = min(each, key=lambda name: each[name]["f1"])
    confusion = {f"{said}, gold {true}": count for (said, true), count in sorted(tables[worst].items())}
    print(
        json.dumps(
            {
                "name": "X-ray labeller, micro-F1",
                "input": f"{len(reports)} Open-i reports with human labels, 8 findings",
                "ours": scores(pooled),
                "ours_on_the_half_not_read": scores(unseen),
                "findings": each,
                "worst": {worst: confusion},
                "reports_per_second": round(speed),
                "reference": {"f1": 0.772, "precision": 0.687, "recall": 0.882, "reports_per_second": 340},
                "ratio": round(scores(pooled)["f1"] / 0.772, 3),
                "machine": f"{platform.machine()}, {platform.system()}, one core",
            }
        )
    )


if __name__ == "__main__":
    main()
