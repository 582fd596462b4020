"""EHR context of an X-ray in the middle of every stay of the MIMIC-IV(-ED) demo: what is found, how fast, how large.

    python benchmarks/ehr_context.py [FOLDER WITH mimic-iv-demo-2.2 AND mimic-iv-ed-demo-2.2]

The demo has no X-rays, so a study is put into the middle of each of its emergency stays and admissions. The table that
is ten times as long holds nine copies of labevents under the ids of other patients: the contexts must stay the same.
The six steps to the curriculum of a report model are run on the same studies, with blank pictures and one report.
Prints one JSON line per measurement; says so and ends if the demo is not there.
"""

import gzip
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.data.ehr.mimic_iv import EHRRead, Study, read_contexts  # noqa: E402
from common.data.ehr.mimic_stays import read_admissions, read_emergency_stays  # noqa: E402
from common.io.table import TableCounts, stream_rows  # noqa: E402

LAYOUTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "layouts"
HOSP, ED = "mimic-iv-demo-2.2", "mimic-iv-ed-demo-2.2"
COPIES = 10


def studies_of(layouts: Path) -> tuple[list[Study], int]:
    """A study in the middle of every emergency stay, then of every admission; and how many are of the first kind."""
    subjects = {subject for (subject,) in stream_rows(layouts / HOSP / "hosp" / "patients.csv.gz", ["subject_id"])}
    stays = read_emergency_stays(layouts / ED / "ed" / "edstays.csv.gz", subjects, TableCounts())
    admissions = read_admissions(layouts / HOSP / "hosp" / "admissions.csv.gz", subjects, TableCounts())
    spans = [(row.subject_id, row.intime, row.outtime) for rows in stays.values() for row in rows]
    n_emergency = len(spans)
    spans += [(row.subject_id, row.admittime, row.dischtime) for rows in admissions.values() for row in rows]
    return [
        Study(subject, 50_000_001 + i, begin + (end - begin) / 2) for i, (subject, begin, end) in enumerate(spans)
    ], n_emergency


def longer(layouts: Path, folder: Path) -> Path:
    """The same tables, labevents with the rows of nine times as many other patients behind the real ones."""
    root = folder / HOSP
    for table in (layouts / HOSP).glob("*/*.csv.gz"):
        (root / table.parent.name).mkdir(parents=True, exist_ok=True)
        if table.name != "labevents.csv.gz":
            (root / table.parent.name / table.name).symlink_to(table)
    text = gzip.decompress((layouts / HOSP / "hosp" / "labevents.csv.gz").read_bytes())
    header, _, rows = text.partition(b"\n")
    with gzip.open(root / "hosp" / "labevents.csv.gz", "wb", compresslevel=1) as file:
        file.write(header + b"\n" + rows)
        for k in range(1, COPIES):  # 10000032 becomes 2x000032 ...
            file.write(re.sub(rb"(?m)^(\d+),1(\d)", rb"\1,%d\2" % (k + 1), rows))
    return root


def steps(layouts: Path, folder: Path) -> dict:
    """Counts of the six steps, in which every third patient validates."""
    from PIL import Image  # here, so that the memory measured above is not that of these modules

    from common.data.curriculum.steps import run_steps
    from common.data.curriculum.subset import read_json_lines
    from common.io.output_folder import csv_text
    from common.text.cxr_labeller import CHEXPERT_LABELS

    tables = {"metadata": [], "split": [], "chexpert": []}
    for study in studies_of(layouts)[0]:
        subject, case, taken = str(study.subject_id), f"{study.study_id:x}", study.study_time
        place = folder / f"files/p{subject[:2]}/p{subject}/s{study.study_id}"
        place.mkdir(parents=True)
        Image.new("L", (64, 64)).save(place / f"{case}.jpg")
        place.with_suffix(".txt").write_text(" FINAL REPORT\n\n IMPRESSION: No acute process.\n")
        ids = {"dicom_id": case, "subject_id": subject, "study_id": study.study_id}
        day = {"ViewPosition": "AP", "StudyDate": f"{taken:%Y%m%d}", "StudyTime": f"{taken:%H%M%S.%f}"}
        tables["metadata"].append(ids | day)
        tables["split"].append(ids | {"split": "train" if study.subject_id % 3 else "validate"})
        tables["chexpert"].append(ids | dict.fromkeys(CHEXPERT_LABELS) | {"No Finding": "1.0"})
    for name, rows in tables.items():
        (folder / f"mimic-cxr-2.0.0-{name}.csv").write_text(csv_text(list(rows[0]), rows))
    out, clock = folder.with_name("steps"), time.perf_counter
    start = clock()
    found = run_steps(folder, out, ehr=[str(layouts / HOSP), str(layouts / ED)])
    line = {"seconds": round(clock() - start, 2)} | {name: facts["counts"] for name, facts in found.items()}
    line["chexpert"].pop("labels")
    records = read_json_lines(out / "ehr.jsonl")
    values = [value for record in records for value in (*record["vitals"], *record["labs"])]
    return line | {"values": len(values), "values_after_the_study": sum(value["hours"] < 0 for value in values)}


def peak_kib() -> int:
    """Largest resident memory of this program; unlike getrusage's it does not begin with that of its parent."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def digest(found: EHRRead) -> str:
    return json.dumps([context.to_dict() for context in found.contexts.values()])


def measure(hosp: str, ed: str, layouts: str) -> None:
    """In a process of its own: seconds, peak memory, and the outcome."""
    studies, n_emergency = studies_of(Path(layouts))
    before = peak_kib()
    start = time.perf_counter()
    found = read_contexts(hosp, ed, studies)
    seconds = time.perf_counter() - start
    peak = peak_kib()
    series = [(c, s) for c in found.contexts.values() for s in (*c.vitals.values(), *c.labs.values())]
    later = sum(value.charted > c.study_time for c, s in series for value in (s.first, s.latest))
    report = found.report
    line = {
        "studies": len(studies), "in_emergency_stays": n_emergency, "contexts": report.contexts,
        "joined_to_a_stay": len(found.encounters), "with_target": report.with_target, "variables": len(series),
        "values_after_the_study": later, "rows_after_the_study_refused": sum(report.after_study.values()),
        "rows": sum(counts.rows for counts in report.tables.values()),
        "bad_rows": sum(sum(counts.bad.values()) for counts in report.tables.values()),
        "celsius": report.other_unit["temperature"], "out_of_bounds": sum(report.out_of_bounds.values()),
        "not_a_number": sum(report.not_a_number.values()), "unknown_unit": sum(report.unknown_unit.values()),
        "seconds": round(seconds, 2), "peak_mib": round(peak / 1024, 1), "growth_mib": round((peak - before) / 1024, 1),
        "digest": hash(digest(found)), "filled": dict(sorted(report.filled.items())),
    }  # fmt: skip
    print(json.dumps(line))


def run(hosp: Path, ed: Path, layouts: Path) -> dict:
    command = [sys.executable, __file__, "--measure", str(hosp), str(ed), str(layouts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "0"})
    return json.loads(done.stdout)


def main(layouts: Path) -> None:
    if not (layouts / HOSP).is_dir() or not (layouts / ED).is_dir():
        print(json.dumps({"name": "EHR context", "not run": f"{HOSP} and {ED} are not in {layouts}"}))
        return
    machine = platform.processor() or platform.machine()
    one = run(layouts / HOSP, layouts / ED, layouts)
    filled = one.pop("filled")
    with tempfile.TemporaryDirectory() as folder:
        ten = run(longer(layouts, Path(folder)), layouts / ED, layouts)
    same = one.pop("digest") == ten["digest"]
    print(json.dumps({"name": "EHR context of every stay of the MIMIC-IV(-ED) demo", **one, "machine": machine}))
    print(json.dumps({"name": "EHR context, studies that have a field", **filled}))
    line = {"name": "EHR context, labevents ten times as long", "input": f"{ten['rows']} rows", "same_contexts": same}
    line |= {"ours": ten["peak_mib"], "reference": one["peak_mib"], "unit": "MiB peak"}
    line |= {"ratio": round(ten["peak_mib"] / one["peak_mib"], 3), "growth_mib": [one["growth_mib"], ten["growth_mib"]]}
    more = ten["rows"] - one["rows"]
    line["rows_per_second"] = round(more / (ten["seconds"] - one["seconds"]))
    print(json.dumps(line | {"machine": machine}))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"name": "Six steps on the MIMIC-IV(-ED) demo", **steps(layouts, Path(folder) / "mimic")}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else LAYOUTS)
