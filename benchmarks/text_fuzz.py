"""100,000 random and mutated texts through every reader of text: none may raise, and time must grow with length only.

Prints one JSON line per reader: texts read, errors, and the seconds of the slowest report of 1 MB.

    python benchmarks/text_fuzz.py [--texts 100000] [--folder ../shared/data/reports]
"""

import argparse
import csv
import json
import platform
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.text.ct_labeller import explain_ct
from common.text.cxr_labeller import explain_cxr
from common.text.sections import report_sections, split_sections
from common.text.sentences import split_sentences

SEEDS = (
    "FINDINGS: The heart is enlarged. No effusion, pneumothorax or consolidation. IMPRESSION: Possible pneumonia.",
    "Trachea and main bronchi are open. Pericardial effusion-thickening was not observed. Millimetric nodules.",
    "1. Mild cardiomegaly.\n2. Cannot exclude small effusion; atelectasis versus infiltrate.\n\nWET READ: ___ 5:32 PM",
)
ALPHABET = "aeinot EFIN.,;:/()-_?!\n\t\r0123456789'\"éİßﬁ漢\u00a0\u2028\x00\ud7ff😀*[]{}|^$\\<>&%#"
WORDS = (
    "no without possible cannot exclude effusion edema heart size is enlarged or and versus , ; . : / but not seen "
    "nodule normal FINDINGS: IMPRESSION: history of 1. 2) resolved pneumonia evaluate for - ( ) XXXX ___ \n \n\n"
).split(" ")
LONG = {
    "no": "no ",
    "no possible": "no possible ",
    "mentions": "effusion ",
    "list": "effusion, ",
    "or": "possible effusion or edema ",
    "either": "effusion versus edema ",
    "not seen": "effusion is not seen ",
    "gap": "heart size is the ",
    "newlines": "\n",
    "blank lines": " \n",
    "colons": ":",
    "headers": "FINDINGS: ",
    "header lines": "IMPRESSION:\n",
    "capitals": "A",
    "capital words": "ABC DEF ",
    "blanks": " ",
    "digits": "1. ",
    "brackets": "((",
    "quotes": '""',
    "stops": ".",
    "long word": "effusion",
    "dotless": "İ",
    "underscores": "_",
    "dashes": "- ",
    "tags": "<br>",
    "comments": "<!--",
    "styles": "<style>",
    "entities": "&amp;nbsp;",
    "soft hyphens": "effu\u00adsion ",
    "boxes": "[ ] effusion ",
    "prose": SEEDS[0] + " ",
}


def random_texts(count: int, seeds: list[str], rng: random.Random) -> Iterator[str]:
    """Yield noise, word salad, and real reports with pieces cut, doubled, swapped or replaced."""
    for k in range(count):
        if k % 4 == 0:
            yield "".join(rng.choices(ALPHABET, k=rng.randrange(200)))
        elif k % 4 == 1:
            yield " ".join(rng.choices(WORDS, k=rng.randrange(60)))
        else:
            text = list(rng.choice(seeds)[: rng.randrange(20, 1500)])
            for _ in range(rng.randrange(1, 12)):
                i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
                j = min(j, i + 40)
                text[i:j] = rng.choice(
                    ([], text[i:j] * 2, text[i:j][::-1], list(rng.choice(WORDS)), rng.choices(ALPHABET))
                )
            yield "".join(text)


def readers() -> dict[str, Callable[[str], object]]:
    """Every public reader of report text."""
    return {
        "split_sentences": split_sentences,
        "split_sections": split_sections,
        "report_sections": report_sections,
        "explain_cxr": explain_cxr,
        "explain_ct": explain_ct,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "reports")
    options = parser.parse_args()
    seeds = list(SEEDS)
    if options.folder.is_dir():
        for name, columns in (
            ("indiana_reports.csv", ("findings", "impression")),
            ("ctclip_text_classifier_train.csv", ("report_text",)),
        ):
            with (options.folder / name).open(encoding="utf-8") as file:
                seeds += ["\n\n".join(row[c] for c in columns) for row in csv.DictReader(file)]
    for name, read in readers().items():
        errors, first = 0, ""
        started = time.perf_counter()
        for text in random_texts(options.texts, seeds, random.Random(0)):
            try:
                read(text)
            except Exception as error:  # counted: that there is none is the claim
                errors += 1
                first = first or f"{type(error).__name__}: {error} on {text!r}"
        seconds = time.perf_counter() - started
        slowest, what = 0.0, ""
        for kind, piece in LONG.items():
            report = piece * (1_000_000 // len(piece.encode()))
            started = time.perf_counter()
            read(report)
            spent = time.perf_counter() - started
            if spent > slowest:
                slowest, what = spent, kind
        line = {
            "name": f"fuzz {name}",
            "input": f"{options.texts} texts from {len(seeds)} reports; {len(LONG)} kinds of 1 MB",
            "ours": {"errors": errors, "texts_per_second": round(options.texts / seconds)},
            "slowest_1MB": {"seconds": round(slowest, 2), "kind": what},
            "reference": "no error, under 2 s",
            "machine": f"{platform.machine()}, {platform.system()}",
        }
        print(json.dumps(line | ({"first_error": first[:500]} if first else {})), flush=True)


if __name__ == "__main__":
    main()
