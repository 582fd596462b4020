"""What a bundle's evaluate.json names as `evaluation`: it measures, and says what is to be written about it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.io.output_folder import csv_text, write_text
from common.visualize.html_report import Page, render_page
from common.visualize.run_page import write_run_page
from common.visualize.run_summary import write_summary

__all__ = ["Evaluation", "Measured", "write_measured"]


@dataclass
class Measured:
    """The result of an evaluation.

    Attributes:
        tables: name -> rows; each becomes NAME.csv, `metrics` (a row per case or label) and `metrics_mean` among them.
            A table without rows is not written.
        result: the rows that a person is shown first; those of `metrics_mean` by default.
        cases: number of cases.
        data: hash or name of the data.
        parameters: "total" and "trainable" of what was measured.
        baselines: what simple methods reach, for summary.json.
        excluded: "path" and "reason" of each case that was left out.
        not_run: method -> why it was not measured.
        page: with its sections; without one it is made of metrics_mean.csv and `pictures/` in the folder.
        number_format: of the numbers in the CSV files, such as ".6g"; None writes them as they are.
        details: more for programs, beside the tables.
    """

    tables: dict[str, Sequence[Mapping[str, Any]]]
    result: Sequence[Mapping[str, Any]] = ()
    cases: int = 0
    data: str | None = None
    parameters: dict[str, int] = field(default_factory=lambda: {"total": 0, "trainable": 0})
    baselines: dict[str, Any] = field(default_factory=dict)
    excluded: Sequence[Mapping[str, str]] = ()
    not_run: dict[str, str] = field(default_factory=dict)
    page: Page | None = None
    number_format: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.result = self.result or self.tables["metrics_mean"]


class Evaluation(ABC):
    """Measures a trained network on cases whose truth is known; `evaluate --key value` changes its arguments."""

    @abstractmethod
    def run(self, output_dir: Path) -> Measured:
        """Measure; pictures may be written into OUTPUT_DIR/pictures.

        Raises:
            BadInput: if nothing can be measured.
            MissingWeights: without weights.
        """


def write_measured(folder: Path, measured: Measured, summary: Mapping[str, Any] | None = None) -> Path:
    """Write the tables, excluded.csv, summary.json if there is a summary, and index.html.

    Files of an earlier evaluation that this one has no rows for are removed, as they would be taken for this one's.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = dict(measured.tables) | {"excluded": measured.excluded}
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            cells = [{key: _cell(value, measured.number_format) for key, value in row.items()} for row in rows]
            write_text(path, csv_text(columns, cells))
        else:
            path.unlink(missing_ok=True)
    if summary is not None:
        write_summary(folder, summary)
    page, path = measured.page, folder / "index.html"
    if page is None:
        return write_run_page(folder)
    if summary is not None:
        commit = summary["git_commit"]
        origin = {
            "Data hash": str(summary["data_hash"])[:12] if summary["data_hash"] else "none",
            "Git commit": commit[:12] + commit[40:] if commit else "not in a repository",
        }
        title = f"{str(summary['bundle']).replace('_', ' ')}: {page.title[0].lower()}{page.title[1:]}"
        page = replace(page, title=title, facts=page.facts | origin)
    write_text(path, render_page(page))
    return path


def _cell(value: Any, number_format: str | None) -> Any:
    """A value for a CSV file: no value is a blank cell."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else value if number_format is None else f"{value:{number_format}}"
