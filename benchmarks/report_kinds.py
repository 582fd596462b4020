"""2,000 generated report sentences of the kinds that labellers get wrong, X-ray and CT: the share that is read right.

Answers after headings, double negation, what was seen before, words of change, the other side, exceptions, "if any",
places, lists without stops, mark-up, missing text, other languages; what each says is known by construction. Half of
them come from templates, words and findings with which the rules were written, half from others that were put down
before the rules. Prints one JSON line per half; `before` is what the labellers reached before the rules.

    python benchmarks/report_kinds.py [--sentences 2000] [--wrong]
"""

import argparse
import json
import platform
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.text.ct_labeller import label_ct  # noqa: E402
from common.text.cxr_labeller import label_cxr  # noqa: E402
from tests.text.report_kinds import is_right, kind_cases  # noqa: E402

GOAL = 0.97
BEFORE = {"MENDED": 0.378, "KEPT": 0.446}
WHAT = {"MENDED": "templates that the rules were written with", "KEPT": "other templates, words and findings"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--wrong", action="store_true", help="name the sentences that are read wrong")
    arguments = parser.parse_args()
    for suite in WHAT:
        right, total = Counter(), Counter()
        for case in kind_cases(suite, arguments.sentences // 2):
            found = {"cxr": label_cxr, "ct": label_ct}[case.labeller](case.report)
            total[case.kind] += 1
            right[case.kind] += is_right(case, found)
            if arguments.wrong and not is_right(case, found):
                print(f"{case.labeller} {case.report!r} expected {case.expected}")
        share = right.total() / total.total()
        line = {
            "name": f"report sentences of hard kinds read right, {suite.lower()}",
            "input": f"{total.total()} sentences, X-ray and CT, {WHAT[suite]}",
            "ours": round(share, 4),
            "reference": GOAL,
            "ratio": round(share / GOAL, 4),
            "before": BEFORE[suite],
            "kinds": {kind: f"{right[kind]} of {count}" for kind, count in total.items()},
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
