"""What the verbs of `python -m common` do that read and score reports and labels; see `common.cli.verbs`."""

from __future__ import annotations

from typing import Any

from common.apps.run.bundle import UsageError

Result = dict[str, Any]


def sections(path: str, out: str, text_column: str | None = None) -> Result:
    """Cut radiology reports into their sections.

    Writes study,impression,findings,last_paragraph,comparison and further sections, a row per report; where each
    stands in its report goes to OUT.spans.jsonl, and what could not be read, with a reason, to OUT.excluded.csv.

    Args:
        path: PATH a report, a table of reports (Open-i, CT-RATE, or any with --text_column), or a folder of reports
        out: FILE O.csv, written, its folder is created
        text_column: NAME of the column that holds the report, in a table of an unknown layout

    Examples:
        python -m common sections mimic-cxr/files --out sections.csv
        python -m common sections indiana_reports.csv --out sections.csv
        python -m common sections reports.csv --text_column text --out sections.csv
    """
    from common.apps.text.sections import write_sections

    result = write_sections(path, out, text_column)
    print(f"{result['reports']} reports, {result['excluded']} left out: {out}")
    return result


def label(kind: str, table: str, text_columns: str, out: str, explain: bool = False) -> Result:
    """Read which findings the reports of a table state, by rules that explain themselves.

    cxr gives the 14 findings of CheXpert as 1.0 (there), 0.0 (said not to be there), -1.0 (uncertain) or blank (not
    mentioned); ct the 18 of CT-RATE as 1 or 0. The input's columns come first; one with a label's name becomes
    input_<name>.

    Args:
        kind: cxr or ct
        table: TABLE T.csv, a report per row
        text_columns: A,B columns that hold the report, in this order
        out: FILE O.csv, written, its folder is created
        explain: also write OUT.spans.jsonl, with the words and the rule of every decision

    Examples:
        python -m common label cxr reports.csv --text_columns findings,impression --out labels.csv --explain
        python -m common label ct reports.csv --text_columns report_text --out labels.csv
    """
    from common.apps.text.label import label_table
    from common.visualize.tables import format_table

    result = label_table(kind, table, _names("text_columns", text_columns), out, explain)
    values = sorted({value for counts in result["counts"].values() for value in counts})
    shown = [
        {"label": name} | {value or "blank": counts.get(value, 0) for value in values}
        for name, counts in result["counts"].items()
    ]
    print(format_table(shown, ["label", *(value or "blank" for value in values)]))
    print(f"{result['rows']} reports: {', '.join(p for p in (result['out'], result['spans']) if p)}")
    return result


def score_report(
    pred: str,
    ref: str,
    pred2: str | None = None,
    out: str | None = None,
    kind: str = "cxr",
    bertscore: str | None = None,
    bertscore_layer: int | None = None,
    chexbert: str | None = None,
    radgraph: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Result:
    """Score generated reports against real ones: wording, findings and form, with bootstrap intervals.

    A report per line, as {"id": ..., "report": ...}. With a second system the two are compared report by report, by a
    paired randomisation test. The result is printed as JSON.

    Args:
        pred: FILE P.jsonl, generated reports
        ref: FILE R.jsonl, real reports, of the same ids
        pred2: FILE Q.jsonl, the reports of a second system
        out: FILE S.json, also written there
        kind: NAME whose findings are compared: cxr (14) or ct (18)
        bertscore: DIR a BERT model of Hugging Face; without it BERTScore is not run, and the result says so
        bertscore_layer: N its layer (default: the last)
        chexbert: DIR with the weights of CheXbert and its BERT
        radgraph: DIR with the weights of RadGraph, whose package must be installed
        draws: N of the bootstrap and of the test
        seed: N of both

    Examples:
        python -m common score report --pred generated.jsonl --ref real.jsonl
        python -m common score report --pred ours.jsonl --pred2 theirs.jsonl --ref real.jsonl --out scores.json
    """
    from common.apps.text.score import score_reports

    models = {"bertscore": bertscore, "bertscore_layer": bertscore_layer, "chexbert": chexbert, "radgraph": radgraph}
    return _printed(score_reports(pred, ref, pred2, out, draws, seed, kind, **models))


def score_labels(
    pred: str,
    ref: str,
    pred2: str | None = None,
    out: str | None = None,
    thresholds: str | None = None,
    labels: str | None = None,
    uncertain: str = "ignore",
    not_mentioned: str = "ignore",
    id_column: str | None = None,
    patient_column: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Result:
    """Score predicted labels or probabilities against true ones: AUROC, AUPRC, F1, calibration, with intervals.

    Labels are matched by their names. One with a single class has no AUROC: it is named, and left out of the mean. With
    a second system the two are compared on the same cases: paired intervals, and DeLong's test per label. The result
    is printed as JSON.

    Args:
        pred: FILE P.csv, probabilities, or 1, 0, -1 and blank
        ref: FILE R.csv, true labels, 1.0, 0.0, -1.0 (uncertain) and blank (not mentioned), of the same ids
        pred2: FILE Q.csv, the predictions of a second system
        out: FILE S.json, also written there
        thresholds: FILE T.json, a threshold per label, or the result for other cases (default: 0.5)
        labels: A,B only these (default: those of the reference)
        uncertain: NAME what -1.0 counts as: ignore, zeros or ones
        not_mentioned: NAME what blank counts as: ignore or zeros
        id_column: NAME of the case (default: case, id, VolumeName, study_id ..., else the first column)
        patient_column: NAME in the reference; whole patients are then resampled, and cases of one are not independent
        draws: N of the bootstrap
        seed: N of the bootstrap

    Examples:
        python -m common score labels --pred predictions.csv --ref labels.csv
        python -m common score labels --pred ours.csv --pred2 theirs.csv --ref labels.csv --patient_column subject_id
    """
    from common.apps.text.score_labels import score_labels as measure

    chosen = None if labels is None else _names("labels", labels)
    policies = {"uncertain": uncertain, "not_mentioned": not_mentioned}
    columns = {"id_column": id_column, "patient_column": patient_column}
    return _printed(measure(pred, ref, out, thresholds, draws, seed, pred2=pred2, labels=chosen, **policies, **columns))


def prepare_reports(input: str, output_dir: str, seed: int = 0) -> Result:
    """Write template reports for the CT-RATE scans that have none.

    A real report is never replaced; the column `source` says which are real and which are templates, made from the
    labels, and from the sizes and places of lesions where there are masks.

    Args:
        input: PATH the tree of CT-RATE; never changed
        output_dir: DIR created: {train,validation}_reports.csv, excluded.csv (path,reason), prepare.json
        seed: N of the wording

    Examples:
        python -m common prepare reports --input data/ct_rate --output_dir data/reports
    """
    from common.apps.text.prepare_reports import prepare_reports as write

    result = write(input, output_dir, seed)
    print(", ".join(f"{count} {name}" for name, count in result["counts"].items()) + f": {output_dir}")
    return result


def _names(name: str, text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"--{name} is {text!r}, expected names with commas between them")
    return names


def _printed(result: Result) -> Result:
    from common.visualize.tables import json_text

    print(json_text(result, indent=1), end="")
    return result
