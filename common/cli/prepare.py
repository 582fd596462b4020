"""What the verbs of `python -m common` do that prepare labelled X-rays; see `common.cli.verbs`."""

from __future__ import annotations

from typing import Any

from common.cli.parse import Verb

Result = dict[str, Any]


def prepare_mimic_cxr(
    input: str,
    output_dir: str,
    ehr: str | None = None,
    labeller: str = "chexpert",
    validate: bool = False,
    strict: bool = False,
    workers: int = 1,
    engine: str = "local",
    exclusion_list: str | None = None,
    address: str | None = None,
) -> Result:
    """Prepare MIMIC-CXR-JPG with the notes and values that MIMIC-IV and MIMIC-IV-ED have of its studies.

    The official split, views and labels are taken by name. Notes and values hold what was known when the X-ray was
    taken, never a later row, and no term of the 14 labels. The input is never changed, images stay where they are. A
    second call checks no image twice and writes the same bytes.

    Args:
        input: DIR with files/ and the tables mimic-cxr-2.0.0-*.csv[.gz]
        output_dir: DIR created, outside the input: manifest.csv (a row per image), notes.csv, clinical.csv,
            excluded.csv (path,reason), prepare.json
        ehr: A,B folders of MIMIC-IV and MIMIC-IV-ED (default: those in the input or beside it; without them notes
            and values are blank); none does without
        labeller: NAME chexpert or negbio
        validate: decode every image, instead of looking at its header and end
        strict: refuse, with exit code 1, if anything had to be excluded as bad
        workers: N processes that check images
        engine: NAME where they run: local, or ray (pip install 'thorax-bundles[cluster]')
        exclusion_list: FILE cases, studies or paths to leave out, one per line
        address: HOST of a Ray cluster, whose machines see the same files (default: one on this machine)

    Examples:
        python -m common prepare mimic_cxr --input mimic-cxr-jpg/2.1.0 --output_dir data/mimic --workers 8
        python -m common prepare mimic_cxr --input mimic-cxr-jpg --ehr mimic-iv/3.1,mimic-iv-ed/2.2 --output_dir data/m
    """
    folders = None if ehr is None else [] if ehr == "none" else [name.strip() for name in ehr.split(",")]
    return _prepared(
        "mimic_cxr", input, output_dir, strict, workers, engine, 0, exclusion_list, address, validate, labeller, folders
    )


def prepare_labelled(layout: str, title: str, details: str, tables: str) -> Verb:
    """The verb that prepares a layout whose labels stand in one table; they differ in their help only."""

    def prepare(
        input: str,
        output_dir: str,
        validate: bool = False,
        strict: bool = False,
        workers: int = 1,
        engine: str = "local",
        seed: int = 0,
        exclusion_list: str | None = None,
        address: str | None = None,
    ) -> Result:
        return _prepared(layout, input, output_dir, strict, workers, engine, seed, exclusion_list, address, validate)

    prepare.__doc__ = f"""{title}

    {details} Patients are split after the images were checked. The input is never changed, images stay
    where they are. A second call checks no image twice and writes the same bytes.

    Args:
        input: PATH folder with {tables}, or that table
        output_dir: DIR created, outside the input: manifest.csv (a row per image), notes.csv, clinical.csv,
            excluded.csv (path,reason), prepare.json
        validate: decode every image, instead of looking at its header and end
        strict: refuse, with exit code 1, if anything had to be excluded as bad
        workers: N processes that check images
        engine: NAME where they run: local, or ray (pip install 'thorax-bundles[cluster]')
        seed: N of the split
        exclusion_list: FILE cases or paths to leave out, one per line
        address: HOST of a Ray cluster, whose machines see the same files (default: one on this machine)

    Examples:
        python -m common prepare {layout} --input data/raw --output_dir data/prepared
        python -m common prepare {layout} --input data/raw --output_dir data/prepared --validate true --strict
    """
    return Verb(prepare, f"prepare {layout}")


def _prepared(layout: str, *arguments: Any) -> Result:
    from common.apps.run.prepare import prepare_xrays

    summary = prepare_xrays(layout, *arguments)
    counts = summary["counts"]
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    views = ", ".join(f"{n} {view}" for view, n in counts["views"].items())
    print(f"{counts['kept']} images of {counts['patients']} patients ({splits}; {views}): {summary['manifest']}")
    if layout == "mimic_cxr" and not summary["ehr"]:
        print("MIMIC-IV was not found, so notes and clinical values are blank; --ehr names its folders")
    else:
        print(f"{counts['notes']} of {counts['studies']} studies have a note")
    if counts["excluded"]:
        print(f"{counts['excluded']} left out, with reasons: {summary['excluded']}")
    return summary
