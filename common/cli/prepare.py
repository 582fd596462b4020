"""What `prepare` does on the command line; each layout of `common.data.layouts` is a verb, with its help from there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from common.apps.run.bundle import UsageError
from common.cli.parse import Verb
from common.data.layouts import LAYOUTS, Option

Result = dict[str, Any]
_MOST_REASONS = 3  # that are printed of a table


def prepare_virtual(
    output_dir: str,
    layout: str = "nifti",
    n: int = 20,
    seed: int = 0,
    shape: str = "96,192,192",
    spacing: str = "1.5,1,1",
    workers: int = 1,
) -> Result:
    """Write seeded virtual patients in the layout of a real data set.

    The same call always writes the same patients, and goes on with what an interrupted one left. manifest.csv,
    excluded.csv and prepare.json are written beside them, as for real data. They are made once per machine: later calls
    copy them from THORAX_CACHE (default: ~/.cache/thorax-bundles), which may be deleted.

    Args:
        output_dir: DIR created
        layout: NAME nifti (with masks and labels), dicom (shuffled series), ct_rate (its tree, with reports), or
            X-rays of the patients with their reports: mimic_cxr (with MIMIC-IV and -ED tables), open_i, r2gen
        n: N number of patients
        seed: N of the first patient; patient i has seed + i
        shape: Z,Y,X voxels of a volume
        spacing: Z,Y,X millimetres of a voxel
        workers: N processes that make them

    Examples:
        python -m common prepare virtual --layout nifti --output_dir data/virtual --n 20
        python -m common prepare virtual --layout dicom --output_dir data/series --n 4 --shape 48,96,96 --spacing 3,2,2
        python -m common prepare virtual --layout mimic_cxr --output_dir data/cxr --n 8
    """
    from common.apps.run.prepare import prepare_virtual as write

    size = _numbers("shape", shape, int)
    return _told(write(output_dir, layout, n, seed, size, _numbers("spacing", spacing, float), workers))


def layout_verb(name: str) -> Verb:
    """The verb that prepares a layout."""
    layout = LAYOUTS[name]
    folders = {option.name for option in layout.options if option.folders}

    def prepare(**given: Any) -> Result:
        from common.apps.run.prepare import prepare as write

        lists = {key: _folders(given[key]) for key in folders if given.get(key) is not None}
        return _told(write(name, **given | lists))

    def described(*own: Option) -> dict[str, tuple[type, Any, str]]:
        return {o.name: (o.kind if o.default is None else type(o.default), o.default, o.note) for o in own}

    options = described(*layout.options)
    options |= {
        "strict": (bool, False, "refuse, with exit code 1, if anything had to be excluded as bad"),
        "workers": (int, 1, "N processes that check"),
        "engine": (str, "local", "NAME where they run: local, or ray (pip install 'thorax-bundles[cluster]')"),
        "seed": (int, 0, "N of the split"),
        "exclusion_list": (str, None, "FILE cases or paths to leave out, one per line; of X-rays also studies"),
        "address": (str, None, "HOST of a Ray cluster, whose machines see the same files (default: one here)"),
    }
    if layout.official_split:
        del options["seed"]
    options |= described(*layout.step_options)
    kind = inspect.Parameter
    required = [kind(word, kind.KEYWORD_ONLY, annotation=str) for word in ("input", "output_dir")]
    optional = [
        kind(word, kind.KEYWORD_ONLY, default=default, annotation=type_ if default is not None else type_ | None)
        for word, (type_, default, _) in options.items()
    ]
    prepare.__signature__ = inspect.Signature([*required, *optional])
    notes = {"input": layout.input, "output_dir": f"DIR created, outside the input: {layout.writes}"}
    notes |= {word: note for word, (_, _, note) in options.items()}
    split = "" if layout.official_split else " and the split, by patient, is made after"
    examples = (
        "--input data/raw --output_dir data/prepared",
        *layout.examples,
        "--input data/raw --output_dir data/prepared --workers 4 --strict",
    )
    prepare.__doc__ = "\n".join([
        f"{layout.title}\n",
        f"{layout.details} The input is never changed. Every input is checked first{split}.",
        "A second call checks nothing twice and writes the same bytes.\n",
        "Args:",
        *(f"    {word}: {note}" for word, note in notes.items()),
        "\nExamples:",
        *(f"    python -m common prepare {name} {words}" for words in examples),
    ])  # fmt: skip
    return Verb(prepare, f"prepare {name}", resumes=True)


def _folders(text: str) -> list[str]:
    return [] if text == "none" else [name.strip() for name in text.split(",")]


def _told(summary: Result) -> Result:
    """Print what a preparation came to, or each of its steps."""
    from common.data.folder_files import others_text

    for name, found in summary.get("steps", {}).items():
        said, document = (", ".join(f"{n} {what}" for what, n in _flat(found[key])) for key in ("counts", "document"))
        print(f"{name}: {'nothing to do' if found['done'] else said}", *found["files"], sep="\n  ")
        if found["excluded"]:
            print(f"  {found['excluded']} left out, with reasons in excluded.csv")
        if document:
            print(f"  of the document: {document}")
    if "steps" in summary:
        return summary
    counts = summary["counts"]
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    views = ", ".join(f"{n} {view}" for view, n in counts.get("views", {}).items())
    what = f"{counts['kept']} {'images' if views else 'cases'} of {counts['patients']} patients"
    print(f"{what} ({splits}{f'; {views}' if views else ''}): {summary['manifest']}")
    if summary.get("ehr") == {}:
        print("MIMIC-IV was not found, so notes and clinical values are blank; --ehr names its folders")
    elif "notes" in counts:
        print(f"{counts['notes']} of {counts['studies']} studies have a note")
    for table, reasons in summary.get("left_out", {}).items():
        print(f"{table}: {sum(reasons.values())} rows or values left out: {_most(reasons)}")
    if summary.get("not_used"):
        print(f"values not used: {_most(summary['not_used'])}")
    if others_text(summary.get("other_files", {})):
        print(others_text(summary["other_files"]))
    if counts["excluded"]:
        print(f"{counts['excluded']} left out, with reasons: {summary['excluded']}")
    return summary


def _flat(counts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Counts, and those within one, such as "train stage_a"; steps.json has all."""
    for name, found in counts.items():
        inner = found.items() if isinstance(found, Mapping) else ()
        numbers = [(name, found), *((f"{name} {word}", n) for word, n in inner)]
        yield from ((what, n) for what, n in numbers if isinstance(n, int | float | str) and n)


def _most(reasons: Mapping[str, int]) -> str:
    """`5 REASON; 2 REASON; 1 for 1 other reasons in prepare.json`, the most frequent ones first."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    said, rest = [f"{n} {reason}" for reason, n in ranked[:_MOST_REASONS]], ranked[_MOST_REASONS:]
    said += [f"{sum(n for _, n in rest)} for {len(rest)} other reasons in prepare.json"] if rest else []
    return "; ".join(said)


def _numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        values = tuple(kind(part) for part in text.strip("()[] ").split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        what = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{name} is {text!r}, expected three {what} Z,Y,X")
    return values
