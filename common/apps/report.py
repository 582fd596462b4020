"""`report`: several runs beside each other, as a page and as a table for other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.apps.run.remote_paths import takes_urls
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text, write_text
from common.visualize.charts import comparison_curves, label
from common.visualize.html_report import Page, Picture, Section, Table, render_page
from common.visualize.run_page import MEANS, duration_text, read_means
from common.visualize.run_summary import SUMMARY_KEYS, expect_keys, read_json

__all__ = ["compare_runs", "summary_rows"]

_FIRST = ["run", "bundle", "scale", "seed", "stage", "seconds", "parameters", "trainable", "git_commit", "data_hash"]


@takes_urls(reads=["runs"], writes=["output_dir"])
def compare_runs(
    runs: Sequence[str | os.PathLike[str]], output_dir: str | os.PathLike[str] = "runs/report"
) -> dict[str, Any]:
    """Compare runs: a page with their metrics and curves side by side, and a table for other programs.

    Args:
        runs: DIR ... folders of run, demo or evaluate; each is named by what distinguishes its path from the others'
        output_dir: DIR created, none of the runs; gets index.html and results_summary.csv

    Returns:
        `page`, `table` (paths) and `rows` (content of the table).

    Raises:
        BadInput: if a folder holds no summary.json, is given twice or is the output folder.

    Examples:
        python -m common report runs/a runs/b
        python -m common report runs/* --output_dir comparison
    """
    folders = [Path(run) for run in runs]
    resolved = [folder.resolve() for folder in folders]
    out = Path(output_dir)
    for folder, real in zip(folders, resolved, strict=True):
        if not (folder / "summary.json").is_file():
            raise BadInput(folder, "holds no summary.json, expected the folder of a run or of an evaluation")
        if resolved.count(real) > 1:
            raise BadInput(folder, "is given twice, expected each run once")
        if real == out.resolve():
            raise BadInput(out, "is one of the runs, expected another --output_dir")
    names = _names(resolved)
    summaries = dict(zip(names, map(_summary, folders), strict=True))
    rows = summary_rows(summaries)
    columns = list(dict.fromkeys([*_FIRST, *(key for row in rows for key in row)]))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "results_summary.csv", csv_text(columns, rows))
    places = dict(zip(names, folders, strict=True))
    sections = [_overview(summaries), *_stages(rows, places), *_evaluations(places)]
    bundles = ", ".join(dict.fromkeys(str(summary["bundle"]).replace("_", " ") for summary in summaries.values()))
    page = Page("Comparison of runs", f"{len(names)} runs of {bundles}.", {}, sections)
    write_text(out / "index.html", render_page(page))
    return {"page": str(out / "index.html"), "table": str(out / "results_summary.csv"), "rows": rows}


def summary_rows(summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per run and stage; per run without stages (an evaluation) one row.

    Args:
        summaries: name of the run to its summary.json.

    Returns:
        Rows with the run's facts and the stage's metrics, nested ones as `name.key`.
    """
    rows = []
    for name, summary in summaries.items():
        facts = {"run": name, **{key: summary[key] for key in ("bundle", "scale", "seed", "git_commit", "data_hash")}}
        facts |= {"parameters": summary["parameters"]["total"], "trainable": summary["parameters"]["trainable"]}
        for stage in summary["stages"] or [{"name": None, "seconds": None, "metrics": {}}]:
            row = facts | {"stage": stage["name"], "seconds": stage["seconds"]}
            for key, value in stage["metrics"].items():
                inner = value if isinstance(value, Mapping) else {"": value}
                row |= {f"{key}.{part}".rstrip("."): number for part, number in inner.items()}
            rows.append(row)
    return rows


def _summary(folder: Path) -> dict[str, Any]:
    summary = read_json(folder / "summary.json")
    expect_keys(str(folder / "summary.json"), summary, SUMMARY_KEYS)
    return summary


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path that tells it from the others."""
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _overview(summaries: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = [
        {
            "run": name,
            "scale": summary["scale"],
            "seed": summary["seed"],
            "time": duration_text(sum(stage["seconds"] or 0 for stage in summary["stages"])),
            "parameters": summary["parameters"]["total"],
            "commit": str(summary["git_commit"] or "-")[:8],
            "data": str(summary["data_hash"] or "-")[:8],
        }
        for name, summary in summaries.items()
    ]
    differing = {str(summary["data_hash"]) for summary in summaries.values()}
    notes = [f"The runs saw {len(differing)} different data sets."] if len(differing) > 1 else []
    return Section("Runs", tables=[Table.of_rows(rows)], notes=notes)


def _stages(rows: Sequence[Mapping[str, Any]], places: Mapping[str, Path]) -> list[Section]:
    sections = []
    for stage in dict.fromkeys(row["stage"] for row in rows if row["stage"] is not None):
        mine = [row for row in rows if row["stage"] == stage]
        metrics = [{"run": row["run"], **{k: v for k, v in row.items() if k not in _FIRST}} for row in mine]
        histories = {
            row["run"]: read_json(places[row["run"]] / stage / "history.json")
            for row in mine
            if (places[row["run"]] / stage / "history.json").is_file()
        }
        pictures = []
        if any(history["iterations"] or history["validations"] for history in histories.values()):
            figure = comparison_curves(histories)
            pictures.append(
                Picture.of_figure(figure, f"Stage {stage}: running means over the iterations, a line a run.")
            )
        title = label(stage)
        sections.append(Section(title[0].upper() + title[1:], tables=[Table.of_rows(metrics)], pictures=pictures))
    return sections


def _evaluations(places: Mapping[str, Path]) -> list[Section]:
    """What `evaluate` measured, where several runs hold it."""
    rows = [
        {"run": name, **row} for name, folder in places.items() if (folder / MEANS).is_file()
        for row in read_means(folder / MEANS)
    ]  # fmt: skip
    return [Section("Evaluation", tables=[Table.of_rows(rows, caption="Means over the cases")])] if rows else []
