import csv
import gzip
import io
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.cxr.mimic_cxr import find_mimic_cxr
from common.data.cxr.mimic_study import find_ehr, list_mimic, studies_of
from common.data.ehr.mimic_iv import read_contexts
from common.data.virtual.cxr_layouts import write_mimic_cxr
from common.data.virtual.files import Cohort
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.redaction import find_leaks

DEMO = Path(__file__).parents[3].parent / "shared" / "data" / "layouts"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "mimic-cxr"
    write_mimic_cxr(root, Cohort(12, 0, (16, 32, 32), (9.0, 10.0, 11.0)))
    return root


def read_table(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def test_every_study_has_note_and_values(tree: Path) -> None:
    listing = list_mimic(tree)
    studies = {row.study for row in listing.rows}
    assert not listing.problems and set(listing.notes) == set(listing.clinical) == studies
    assert {row.view for row in listing.rows} == {"PA", "AP", "LATERAL"}
    assert all(listing.clinical[study]["age"] > 0 for study in studies)
    assert sum("Chief complaint" in note for note in listing.notes.values()) > len(studies) / 2
    assert listing.facts["studies"]["values_after_study_not_used"] > 0  # there was something to leave out
    assert list(listing.labels) == list(CHEXPERT_LABELS)
    first = listing.rows[0]
    assert first.more["report"].endswith(f"{first.study}.txt")


def test_notes_hold_no_term_of_a_label_and_no_identifier(tree: Path) -> None:
    listing = list_mimic(tree)
    plain = list_mimic(tree, redacted=False)
    changed = [study for study in listing.notes if listing.notes[study] != plain.notes[study]]
    assert len(changed) == listing.facts["studies"]["notes_with_redacted_terms"] > 0
    for row in listing.rows:
        note = listing.notes[row.study]
        assert find_leaks(note, CHEXPERT_LABELS) == []
        assert row.patient not in note and row.study[1:] not in note and "21" + row.patient not in note
    assert all(find_leaks(plain.notes[study], CHEXPERT_LABELS) for study in changed)


def test_nothing_written_after_the_x_ray_changes_note_or_value(tree: Path, tmp_path: Path) -> None:
    """Every row charted after the last moment before a study is deleted: notes and values stay the same, byte for byte.

    Patients with one study only, so that one moment decides; diagnoses of stays that had not ended go as well.
    """
    images, _ = find_mimic_cxr(tree)
    of_patient: dict[str, set] = {}
    for study in studies_of(images):
        of_patient.setdefault(str(study.subject_id), set()).add(study)
    single = {patient: next(iter(found)) for patient, found in of_patient.items() if len(found) == 1}
    assert len(single) >= 4
    full = read_contexts(tree / "mimic-iv", tree / "mimic-iv-ed", single.values())
    clocks = ("charttime", "storetime", "chartdate")
    dropped = 0
    ended = {}
    for table in ("mimic-iv/hosp/admissions", "mimic-iv-ed/ed/edstays"):
        for row in read_table(tree / f"{table}.csv.gz"):
            key = row.get("stay_id") if "stay_id" in row else row["hadm_id"]
            ended[key] = row.get("dischtime") or row.get("outtime")
    for path in sorted(tree.glob("mimic-iv*/**/*.csv.gz")):
        rows = read_table(path)
        kept = []
        for row in rows:
            study = single.get(row.get("subject_id", ""))
            times = [row[name] for name in clocks if row.get(name)]
            late = study is not None and any(datetime.fromisoformat(time) > study.study_time for time in times)
            if study is not None and path.name.startswith("diagnos"):
                late = datetime.fromisoformat(ended[row.get("stay_id") or row["hadm_id"]]) > study.study_time
            dropped += late
            if not late:
                kept.append(row)
        write_table(tmp_path / path.relative_to(tree), kept or rows[:1])
    assert dropped > 50
    cut = read_contexts(tmp_path / "mimic-iv", tmp_path / "mimic-iv-ed", single.values())
    assert cut.contexts == full.contexts
    for context in full.contexts.values():
        known = [*context.body.values(), *filter(None, [context.o2_device])]
        known += [m for s in (context.vitals | context.labs).values() for m in (s.first, s.latest)]
        assert all(measurement.charted <= context.study_time for measurement in known)


def test_what_was_written_between_two_images_of_a_study_is_not_known(tree: Path, tmp_path: Path) -> None:
    """The note and the values are those before the first image, whichever row it has and whether or not it is there."""
    root = tmp_path / "mimic"
    shutil.copytree(tree, root)
    table = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    listing, rows = list_mimic(root), read_table(table)
    cases = {study: [r["dicom_id"] for r in rows if f"s{r['study_id']}" == study] for study in listing.notes}
    # a study with two images, and of which vital signs or tests are known
    known = [s for s in cases if len(cases[s]) > 1 and {"heartrate", "wbc"} & set(listing.clinical[s])]
    study = known[0]
    before = (listing.notes[study], listing.clinical[study])
    (row,) = [r for r in rows if r["dicom_id"] == cases[study][0]]
    day, clock = row["StudyDate"], row["StudyTime"]
    for late in cases[study]:  # one image is taken a day later, in turn
        moved = (datetime.strptime(day, "%Y%m%d") + timedelta(days=1)).strftime("%Y%m%d")
        write_table(table, [r | ({"StudyDate": moved} if r["dicom_id"] == late else {}) for r in rows])
        found = list_mimic(root)
        assert (found.notes[study], found.clinical[study]) == before
    others = [image for image in find_mimic_cxr(root)[0] if image.study == study and image.case != late]
    for image in others:
        image.path.unlink()  # only the late one is left
    found = list_mimic(root)
    assert {row.case for row in found.rows if row.study == study} == {late}
    assert (found.notes[study], found.clinical[study]) == before
    # the proof that there was something to leak
    write_table(table, [r | {"StudyDate": moved, "StudyTime": clock} for r in rows])
    assert list_mimic(root).notes[study] != before[0]


def test_the_clinical_data_are_found_by_their_tables(tree: Path, tmp_path: Path) -> None:
    assert find_ehr(tree) == {"hosp": tree / "mimic-iv", "ed": tree / "mimic-iv-ed"}
    (tmp_path / "cxr").mkdir()
    assert find_ehr(tmp_path / "cxr") == {}
    for name, table in (("mimiciv/3.1", "hosp/patients"), ("mimic-iv-ed-2.2", "ed/edstays")):
        path = tmp_path / name / f"{table}.csv.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    assert find_ehr(tmp_path / "cxr") == {"hosp": tmp_path / "mimiciv/3.1", "ed": tmp_path / "mimic-iv-ed-2.2"}
    other = tmp_path / "mimic-iv-2.2" / "hosp"
    other.mkdir(parents=True)
    (other / "patients.csv").write_text("")
    with pytest.raises(BadInput, match="holds hosp/patients as .* does, expected one, or the folder by --ehr"):
        find_ehr(tmp_path / "cxr")
    assert find_ehr(tmp_path / "cxr", [tmp_path / "mimic-iv-2.2"]) == {"hosp": tmp_path / "mimic-iv-2.2"}
    with pytest.raises(BadInput, match="holds neither hosp/patients nor ed/edstays"):
        find_ehr(tmp_path / "cxr", [tmp_path / "cxr"])
    with pytest.raises(BadInput, match="expected one of each"):
        find_ehr(tmp_path / "cxr", [tmp_path / "mimic-iv-2.2", tmp_path / "mimiciv/3.1"])


def test_without_the_clinical_data_notes_are_blank(tree: Path) -> None:
    listing = list_mimic(tree, ehr=[])
    assert listing.rows and listing.notes == {} and listing.clinical == {} and listing.facts["ehr"] == {}
    with pytest.raises(BadInput, match="is there without MIMIC-IV"):
        list_mimic(tree, ehr=[tree / "mimic-iv-ed"])


@pytest.mark.skipif(not DEMO.is_dir(), reason="needs the tables of the MIMIC-IV demo beside the repository")
def test_the_real_demo_tables_joined_to_x_rays_of_the_same_subjects(tmp_path: Path) -> None:
    with (DEMO / "mimic-iv-ed-demo-2.2/ed/edstays.csv.gz").open("rb") as raw, gzip.open(raw, "rt") as file:
        stays = list(csv.DictReader(file))[::7]
    rows = {"metadata": [], "split": [], "chexpert": []}
    for number, stay in enumerate({stay["subject_id"]: stay for stay in stays}.values()):
        subject, study, case = stay["subject_id"], str(50_000_000 + number), f"{number:08x}-0-0-0-0"
        time = datetime.fromisoformat(stay["intime"]) + timedelta(hours=1)
        path = tmp_path / f"cxr/files/p{subject[:2]}/p{subject}/s{study}/{case}.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path)
        ids = {"dicom_id": case, "subject_id": subject, "study_id": study}
        day = {"ViewPosition": "PA", "StudyDate": f"{time:%Y%m%d}", "StudyTime": f"{time:%H%M%S}.0"}
        rows["metadata"].append(ids | day)
        rows["split"].append(ids | {"split": "train"})
        rows["chexpert"].append({"subject_id": subject, "study_id": study} | dict.fromkeys(CHEXPERT_LABELS, ""))
    for name, table in rows.items():
        write_table(tmp_path / f"cxr/mimic-cxr-2.0.0-{name}.csv.gz", table)
    ehr = [DEMO / "mimic-iv-demo-2.2", DEMO / "mimic-iv-ed-demo-2.2"]
    listing = list_mimic(tmp_path / "cxr", ehr=ehr)
    assert len(listing.rows) == len(listing.notes) >= 15 and not listing.problems
    for study, values in listing.clinical.items():
        assert {"age", "sex", "hours_since_arrival"} <= set(values) and values["hours_since_arrival"] == pytest.approx(
            1
        )
        assert find_leaks(listing.notes[study], CHEXPERT_LABELS) == []
    assert sum("heartrate" in values for values in listing.clinical.values()) > len(listing.rows) * 0.8
    assert sum("Chief complaint: " in note for note in listing.notes.values()) > len(listing.rows) * 0.8
