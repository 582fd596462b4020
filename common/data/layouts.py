"""The layouts of data that `prepare` reads, and those in which `prepare virtual` writes.

A layout is one entry here and one file, whose function lists the inputs of a folder. Nothing else knows it: the command
line, its help, the loop of `common.data.prepare` and the virtual patients take it from here. The functions are named by
text, so that asking for help imports none of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.data.listing import Listing

__all__ = ["LAYOUTS", "VIRTUAL_LAYOUTS", "Layout", "Option", "find_layout"]


@dataclass(frozen=True)
class Option:
    """What can be said about one layout beyond what can be said about all.

    Attributes:
        name: as it is typed after `--`.
        note: its help; it may start with a placeholder in capitals.
        default: if it is not given.
        choices: its values, where these are few.
        folders: whether it is a list of folders, typed with commas between them; `none` is an empty one.
        kind: of its values, that of the default unless it has none.
    """

    name: str
    note: str
    default: Any = None
    choices: tuple[str, ...] = ()
    folders: bool = False
    kind: type = str


VALIDATE = Option("validate", "decode every image; false looks at its header and end only", True)


@dataclass(frozen=True)
class Layout:
    """One layout of real data.

    Attributes:
        title: first line of its help.
        details: further lines.
        lister: `module:function`, which takes the input and the options, and gives a `common.data.listing.Listing`.
        input: help of what is given.
        expects: what is missing where the input does not exist.
        options: its own ones. `validate` is for `prepare_data`, the others are for the lister.
        fixed: what the lister is told beside them.
        steps: `module:function` of steps that are run one by one by `--step`, see `step_options`; "" if it has none.
        step_options: `step`, whose choices are their names, and what can be said about them beside the options above.
        official_split: whether the data set says all of the split itself.
        writes: help of the output folder.
        examples: command lines for its help, beside one that every layout has.
    """

    title: str
    details: str
    lister: str
    input: str
    expects: str
    options: tuple[Option, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    steps: str = ""
    step_options: tuple[Option, ...] = ()
    official_split: bool = False
    writes: str = ""
    examples: tuple[str, ...] = ()

    def list(self, source: str | os.PathLike[str], **options: Any) -> Listing:
        """List the inputs of a folder, without opening one.

        Raises:
            BadInput: if the folder is none of this layout, or a table in it cannot be read.
            TypeError: for an option that this layout lacks.
        """
        return resolve_name(self.lister)(source, **self.fixed, **options)


def _ct(title: str, details: str, lister: str, **more: Any) -> Layout:
    writes = "manifest.csv, excluded.csv (path,reason), prepare.json, images/"
    given = {"input": "PATH folder, or a single case", "expects": "a folder of CTs", "writes": writes} | more
    return Layout(title, details, lister, **given)


def _xrays(title: str, details: str, lister: str, input: str, *options: Option, **more: Any) -> Layout:
    tables = "manifest.csv (a row per image), notes.csv, clinical.csv, excluded.csv (path,reason), prepare.json"
    given = {"expects": "a folder of X-rays and their tables", "writes": tables} | more
    return Layout(title, f"{details} Images stay where they are.", lister, input, options=(*options, VALIDATE), **given)


_CURRICULUM_STEPS = (
    Option(
        "step",
        "NAME one step to the curriculum of a report model, instead of preparing: subset (selected_images.csv), "
        "impressions (impressions.csv), chexpert (chexpert.csv), manifest (phase_a.jsonl), ehr (ehr.jsonl), curriculum "
        "(curriculum_train, _val, _test.jsonl), or all; with excluded.csv and steps.json",
        choices=("subset", "impressions", "chexpert", "manifest", "ehr", "curriculum", "all"),
    ),
    Option("n_images", "N of step subset: the most X-rays, of whole patients", 10003),
    Option(
        "download",
        "of step subset: fetch into the input what it lacks, with your own login of PhysioNet (PHYSIONET_USER and "
        "PHYSIONET_PASSWORD, or ~/.netrc)",
        False,
    ),
    Option("stage_a_share", "SHARE of step curriculum: of stage a (image alone) in the rows of training", 0.35),
    Option("without_ehr", "SHARE of step curriculum: of the rows of stage b for training without their record", 0.3),
    Option(
        "split_by_patient",
        "SHARE of step curriculum: of the patients for training, the others validate (default: the official split)",
        kind=float,
    ),
    Option("seed", "N of steps subset and curriculum: of what is drawn", 0),
)
_FOLDER = "common.data.ct.listing:list_folder"

LAYOUTS: dict[str, Layout] = {
    "nifti": _ct(
        "Prepare a folder of NIfTI files.",
        "Files are used where they lie.",
        _FOLDER,
        fixed={"kinds": ("nifti",)},
    ),
    "dicom": _ct(
        "Prepare folders or zips of DICOM series.",
        "Series become NIfTI in HU.",
        _FOLDER,
        fixed={"kinds": ("dicom",)},
    ),
    "ct": _ct(
        "Prepare a folder of NIfTI, NRRD, MetaImage and DICOM.",
        "All but NIfTI become NIfTI in HU.",
        _FOLDER,
        fixed={"kinds": ("nifti", "itk", "dicom")},
    ),
    "ct_rate": _ct(
        "Prepare the tree of CT-RATE.",
        "One reconstruction per scan is kept. The folders train and valid give the splits train and val.",
        "common.data.ct.listing:list_scans",
    ),
    "mimic_cxr": _xrays(
        "Prepare MIMIC-CXR-JPG with the notes and values that MIMIC-IV and MIMIC-IV-ED have of its studies.",
        "The official split, views and labels are taken by name. Notes and values hold what was known when the X-ray "
        "was taken, never a later row, and no term of the 14 labels.",
        "common.data.cxr.mimic_study:list_mimic",
        "DIR with files/ and the tables mimic-cxr-2.0.0-*.csv[.gz]",
        Option(
            "ehr",
            "A,B folders of MIMIC-IV and MIMIC-IV-ED (default: those in the input or beside it; without them notes and "
            "values are blank); none does without",
            folders=True,
        ),
        Option("labeller", "NAME chexpert or negbio", "chexpert", ("chexpert", "negbio")),
        steps="common.data.curriculum.steps:run_steps",
        step_options=_CURRICULUM_STEPS,
        official_split=True,
        examples=(
            "--input mimic-cxr-jpg --ehr mimic-iv/3.1,mimic-iv-ed/2.2 --output_dir data/m",
            "--step subset --input mimic-cxr-jpg --output_dir data/c --n_images 10003 --download",
            "--step all --input mimic-cxr-jpg --output_dir data/c --split_by_patient 0.9",
        ),
    ),
    "covid": _xrays(
        "Prepare covid-chestxray-dataset: COVID-19 against every other named finding.",
        "Rows without a finding are left out; notes keep what was known before the image.",
        "common.data.cxr.covid:find_covid",
        "PATH folder with metadata.csv, or that table",
    ),
    "nih": _xrays(
        "Prepare NIH ChestX-ray14: 14 findings and No Finding.",
        "The official lists of test patients are followed where they are there.",
        "common.data.cxr.nih:find_nih",
        "PATH folder with Data_Entry_2017_v2020.csv, or that table",
    ),
    "open_i": _xrays(
        "Prepare Open-i, the X-rays and reports of Indiana University, as CSV tables or as XML.",
        "Labels are read from findings and impression by `label cxr`; notes are the indications, without the terms of "
        "the labels. XXXX, which marks removed text, stays.",
        "common.data.cxr.open_i_study:find_open_i",
        "DIR with indiana_reports.csv and indiana_projections.csv, or with .xml reports; and images/ or NLMCXR_png/",
    ),
    "r2gen": _xrays(
        "Prepare annotation.json of R2Gen with its images, IU X-ray or MIMIC-CXR.",
        "The images of an entry are one study, and the lists give the split. Labels are read from the reports by "
        "`label cxr`.",
        "common.data.cxr.r2gen:find_r2gen",
        "PATH folder with annotation.json and images/, or that file",
        official_split=True,
    ),
}

VIRTUAL_LAYOUTS: dict[str, str] = {
    "nifti": "common.data.virtual.layouts:write_nifti",
    "dicom": "common.data.virtual.layouts:write_dicom",
    "ct_rate": "common.data.virtual.layouts:write_ct_rate",
    "mimic_cxr": "common.data.virtual.cxr_layouts:write_mimic_cxr",
    "open_i": "common.data.virtual.cxr_layouts:write_open_i",
    "r2gen": "common.data.virtual.cxr_layouts:write_r2gen",
    "texts": "common.data.virtual.texts:write_texts",
}
"""Layout -> what writes virtual patients in it, see `common.data.virtual.cache`."""


def find_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"Layout is {name!r}, expected one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]
