"""Preparation of a folder with 20 good and 25 bad CT inputs: what is kept, what is named, what stays untouched.

Prints one JSON line, and the excluded.csv before it.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.data.prepare import prepare_data  # noqa: E402
from tests.data.ct.bad_ct import BAD_KEYWORDS, write_bad_ct, write_good_ct  # noqa: E402


def digest(folder: Path) -> str:
    """Hash of every file below a folder, names included."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        write_good_ct(source)
        write_bad_ct(source)
        before = digest(source)
        start = time.perf_counter()
        result = prepare_data(source, out, layout="ct")
        seconds = time.perf_counter() - start
        files = [result.manifest, result.excluded, result.summary_file]
        first = [path.read_bytes() for path in files]
        prepare_data(source, out, layout="ct")
        text = result.excluded.read_text()
        print(text.replace(str(source), "IN"))
        named = sum(1 for name, keyword in BAD_KEYWORDS.items() if name in text and keyword in text)
        line = {
            "name": "prepare 20 good and 25 bad CTs",
            "kept": len(result.manifest.read_text().splitlines()) - 1,
            "named_with_reason": named,
            "input_untouched": digest(source) == before,
            "rerun_identical": [path.read_bytes() for path in files] == first,
            "seconds": round(seconds, 2),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
