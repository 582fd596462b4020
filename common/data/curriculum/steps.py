"""From the folders of MIMIC-CXR and MIMIC-IV to the curriculum of a report model, in six steps.

    subset       selected_images.csv   one frontal X-ray of each study, of patients who are drawn whole
    impressions  impressions.csv       the impression of each report
    chexpert     chexpert.csv          the 14 labels, four values
    manifest     phase_a.jsonl         image, impression and labels of each study
    ehr          ehr.jsonl             what was known of the patient, and the ICD groups of the stay
    curriculum   curriculum_{train,val,test}.jsonl   rows of both stages

What is left out stands in excluded.csv, counts in steps.json. A step whose input has not changed does nothing, and one
that was interrupted is done again with the same result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.curriculum import subset as made
from common.data.curriculum.rows import CURRICULUM, curriculum
from common.data.layouts import LAYOUTS
from common.io.bad_input import BadInput, read_text
from common.io.inputs import reading, refuse_output_folder
from common.io.output_folder import content_hash, csv_text, locked, remove_unfinished, write_text
from common.io.strict_json import parse_object
from common.io.table import read_rows
from common.text import reasoning

__all__ = ["STEPS", "image_folder", "run_steps"]

STEPS_FILE, EXCLUDED = "steps.json", "excluded.csv"
_VERSION = 1  # raised whenever a step writes something else from the same input
_DOCUMENT = {
    "subset": {"images": 10003, "gb": "15 to 18"},
    "ehr": {"tables_gb": 4.2},
    "curriculum": {"rows": {"train": 10142, "val": 1125}, "mb": 81},
}
"""What the document of the original tells of these steps, to stand beside what was counted."""

_RULES = Path(reasoning.__file__).parent
_LAYOUT = LAYOUTS["mimic_cxr"]
_DEFAULTS = {option.name: option.default for option in (*_LAYOUT.options, *_LAYOUT.step_options)}


def _nothing(source: Path, out: Path, **_: Any) -> list[Path]:
    """What a step reads that needs the files of others alone."""
    return []


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        make: takes the folder of MIMIC-CXR, the output folder and the options by name.
        writes: its files.
        needs: the steps whose files it reads.
        options: that it takes.
        reads: gives the files outside of the output folder that it reads, from the same arguments.
        rules: files of `common.text` that its texts are made by.
    """

    make: Callable[..., made.StepResult]
    writes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    reads: Callable[..., list[Path]] = _nothing
    rules: tuple[str, ...] = ()


STEPS: dict[str, Step] = {
    "subset": Step(
        made.subset, (made.SELECTED,), (), ("n_images", "seed", "labeller", "download"), made.subset_reads
    ),
    "impressions": Step(made.impressions, (made.IMPRESSIONS,), ("subset",), (), made.impressions_reads),
    "chexpert": Step(made.chexpert, (made.LABELS,), ("subset",), ("labeller",), made.chexpert_reads),
    "manifest": Step(made.manifest, (made.PHASE_A,), ("subset", "impressions", "chexpert")),
    "ehr": Step(made.ehr, (made.RECORDS,), ("subset",), ("ehr",), made.ehr_reads),
    "curriculum": Step(
        curriculum, tuple(CURRICULUM.values()), ("manifest", "ehr"),
        ("stage_a_share", "without_ehr", "split_by_patient", "seed"),
        rules=("reasoning.yaml", "report_prompts.yaml", "cxr_lexicon.yaml"),
    ),
}  # fmt: skip


def run_steps(
    source: str | os.PathLike[str], output_dir: str | os.PathLike[str], step: str = "all", **options: Any
) -> dict[str, Any]:
    """Run one step, or all of them in their order.

    Args:
        source: folder of MIMIC-CXR-JPG, with the reports beside the images.
        output_dir: created; the same for all steps.
        step: a name in `STEPS`, or "all".
        options: of the step, as the entry of mimic_cxr in `common.data.layouts` lists them.

    Returns:
        Step -> ``done`` (it had nothing to do), ``counts``, ``excluded`` (how many lines of excluded.csv it wrote),
        ``document`` (what that of the original tells of the same) and ``files``.

    Raises:
        BadInput: if a step is missing whose files this one reads, naming the command; a table is missing; nothing is
            left; the curriculum cannot be made; or the output folder lies in the input.
        ValueError: for an unknown step, or an option that it does not take.
    """
    if step != "all" and step not in STEPS:
        raise ValueError(f"step is {step!r}, expected one of {', '.join(STEPS)} or all")
    names = list(STEPS) if step == "all" else [step]
    taken = {name for known in names for name in STEPS[known].options}
    for name in options:
        if name not in taken:
            expected = f"some of {', '.join(sorted(taken))}" if taken else "no option"
            raise ValueError(f"step {step} takes no {name}, expected {expected}")
    root, out = Path(os.path.abspath(source)), Path(os.path.abspath(output_dir))
    if not root.is_dir() and not options.get("download"):
        raise BadInput(root, "does not exist, expected the folder of MIMIC-CXR-JPG")
    with reading(root):
        refuse_output_folder(out)
    with locked(out):
        remove_unfinished(out)
        return {name: _run(name, root, out, options) for name in names}


def image_folder(out: Path) -> Path:
    """The folder that the images of the steps' files lie in, as seen from where the output folder is now.

    Raises:
        BadInput: if no step has been run there.
    """
    known = _read(out)
    if not known:
        raise BadInput(out / STEPS_FILE, "does not exist, expected it beside the files of the steps")
    return Path(os.path.normpath(out / known["input"]))


def _run(name: str, root: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    step, known = STEPS[name], _read(out)
    input_ = os.path.relpath(root, out)
    if known and known["input"] != input_:
        raise BadInput(out, f"holds steps from {known['input']}, expected the same input, or a new folder")
    used = {option: options.get(option, _DEFAULTS.get(option)) for option in step.options}
    for needed in step.needs:
        _check_step(needed, known, root, out)
    reads = {file: content_hash(out / file) for needed in step.needs for file in STEPS[needed].writes}
    key = _key(name, root, out, used, reads)
    before = known.get(name)
    done = before is not None and before["key"] == key and _is_whole(before, out)
    if not done:
        result = step.make(root, out, **used)
        if used.get("download"):
            key = _key(name, root, out, used, reads)  # of what has been fetched
        for file, text in result.files.items():
            write_text(out / file, text)
        _write_excluded(out, name, result.excluded)
        writes = {file: content_hash(out / file) for file in step.writes}
        facts = {"key": key, "options": used, "reads": reads, "writes": writes, "counts": result.counts}
        facts |= {"excluded": len(result.excluded), "document": _DOCUMENT.get(name, {})}
        known |= {"input": input_, name: facts}
        ordered = {word: known[word] for word in ("input", *STEPS) if word in known}
        write_text(out / STEPS_FILE, json.dumps(ordered, indent=1, default=str) + "\n")
    told = {word: known[name][word] for word in ("counts", "excluded", "document")}
    return {"done": done, **told, "files": [str(out / file) for file in step.writes]}


def _key(name: str, root: Path, out: Path, used: Mapping[str, Any], reads: Mapping[str, str]) -> str:
    """Another one if what the step reads, or how, has changed."""
    state = [
        (os.path.relpath(path, root), path.stat().st_size, path.stat().st_mtime_ns)
        for path in STEPS[name].reads(root, out, **used)
        if path.exists()
    ]
    rules = [content_hash(_RULES / file) for file in STEPS[name].rules]
    return hashlib.sha256(json.dumps([_VERSION, name, used, reads, state, rules], default=str).encode()).hexdigest()


def _check_step(name: str, known: Mapping[str, Any], root: Path, out: Path) -> None:
    """Refuse to go on from a step that is missing, or older than what it was made from."""
    command = f"run first: python -m common prepare mimic_cxr --step {name} --input {root} --output_dir {out}"
    if name not in known or not _is_whole(known[name], out):
        raise BadInput(out / STEPS[name].writes[0], f"is missing or was changed, {command}")
    for needed in STEPS[name].needs:
        _check_step(needed, known, root, out)
    if any(content_hash(out / file) != found for file, found in known[name]["reads"].items()):
        raise BadInput(out / STEPS[name].writes[0], f"was made from other files than those here, {command}")


def _is_whole(facts: Mapping[str, Any], out: Path) -> bool:
    return all((out / file).is_file() and content_hash(out / file) == found for file, found in facts["writes"].items())


def _read(out: Path) -> dict[str, Any]:
    """What is known of the steps that were run; empty if none was."""
    path = out / STEPS_FILE
    if not path.is_file():
        return {}
    found = parse_object(read_text(path, "the record of the steps"))
    if found is None or "input" not in found:
        raise BadInput(path, "is not the record of the steps as JSON, expected it, or none to do all again")
    return found


def _write_excluded(out: Path, name: str, excluded: list[tuple[str, str]]) -> None:
    path, columns = out / EXCLUDED, ("step", "path", "reason")
    rows = [row for _, row in read_rows(path, columns)] if path.is_file() else []
    rows = [row for row in rows if row["step"] != name]
    rows += [{"step": name, "path": where, "reason": reason} for where, reason in excluded]
    write_text(path, csv_text(columns, sorted(rows, key=lambda row: list(STEPS).index(row["step"]))))
