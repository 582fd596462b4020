"""What a report model must beat on Open-i: the real text through sections, tokens, difficulty and metrics.

Prints one JSON line for the reports (how many have the section, cases of each stage of the curriculum, tokens of a
report by a tokenizer made from the training texts, reports that are longer than xr2text writes) and one for each floor:
the most frequent training report, and that of the training case whose indication is nearest (BM25). A part of the
reports, chosen by the hash of their number, is for testing.

    python benchmarks/open_i_floor.py ../shared/data/reports [--target findings]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.data.cxr.reports import TARGETS  # noqa: E402
from common.data.report_files import iter_reports  # noqa: E402
from common.data.splits import split_by_patient  # noqa: E402
from common.handlers.report_quality import report_figures  # noqa: E402
from common.io.bad_input import BadInput  # noqa: E402
from common.llm.tokens import build_tokenizer  # noqa: E402
from common.text.difficulty import report_difficulty  # noqa: E402
from common.text.notes.bm25 import BM25  # noqa: E402
from common.text.sections import sections_text  # noqa: E402

TRAIN = ROOT / "bundles" / "xr2text" / "configs" / "train.json"
DOCUMENT = {"warmup": 4460, "easy": 12161, "medium": 15000, "hard": 24506, "finetune": 24506}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path)
    parser.add_argument("--target", choices=list(TARGETS), default="findings")
    args = parser.parse_args()
    if not args.reports.exists():
        raise SystemExit(f"{args.reports} is not here, expected the reports of Open-i")
    start = time.monotonic()
    config = json.loads(TRAIN.read_text(encoding="utf-8"))
    table = args.reports / "indiana_reports.csv" if args.reports.is_dir() else args.reports
    read = [sections_text(r.sections) | {"study": r.study} for r in iter_reports(table) if not isinstance(r, BadInput)]
    whole = [r for r in read if all(r.get(name) for name in TARGETS[args.target])]
    texts = {r["study"]: " ".join(r[name] for name in TARGETS[args.target]) for r in whole}
    indication = {r["study"]: r.get("indication", "") for r in whole}
    split = split_by_patient({study: study for study in texts}, (7, 1, 2), seed=0)
    train, test = ([study for study in texts if split[study] == name] for name in ("train", "test"))
    scores = np.array([report_difficulty(texts[study]).score() for study in train])
    thresholds = {name: float("inf") if isinstance(t, str) else t for name, t in config["difficulty"].items()}
    stages = {name: int((scores <= threshold).sum()) for name, threshold in thresholds.items()}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer([texts[study] for study in train], folder, 4000)
        lengths = np.array([len(ids) for ids in tokenizer(list(texts.values()))["input_ids"]])
    most = config["max_tokens"]
    machine = f"{platform.machine()}, {platform.system()}"
    print(json.dumps({
        "name": f"Open-i reports, {args.target}", "input": table.name, "reports": len(read), "with_target": len(texts),
        "train": len(train), "test": len(test), "stages": stages,
        "shares": {name: round(n / len(train), 3) for name, n in stages.items()},
        "reference": {name: round(n / DOCUMENT["hard"], 3) for name, n in DOCUMENT.items()},
        "tokens": {f"p{q}": int(np.percentile(lengths, q)) for q in (50, 95, 99, 100)},
        "longer_than_max_tokens": int((lengths > most).sum()), "max_tokens": most, "machine": machine,
    }))  # fmt: skip
    real = [texts[study] for study in test]
    frequent = Counter(texts[study] for study in train).most_common(1)[0][0]
    index = BM25([indication[study] or "none" for study in train])
    nearest = [(index.best(indication[study], 1) or [None])[0] for study in test]
    floors = {
        "most frequent report": [frequent] * len(test),
        "nearest indication (BM25)": [frequent if n is None else texts[train[n]] for n in nearest],
    }
    for name, written in floors.items():
        figures = {key: round(value, 4) for key, value in report_figures(written, real).items()}
        print(json.dumps({"name": name, "input": f"{len(test)} test reports, {args.target}", "ours": figures["bleu_4"],
                          "figures": figures, "reference": None, "machine": machine}))  # fmt: skip
    print(json.dumps({"name": "time of all", "ours": round(time.monotonic() - start, 1), "unit": "s", "reference": 60,
                      "machine": machine}))  # fmt: skip


if __name__ == "__main__":
    main()
