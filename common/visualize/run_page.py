"""The page of a run, `index.html`, made from the files in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.io.bad_input import BadInput
from common.io.output_folder import write_text
from common.io.table import read_rows
from common.visualize.charts import label, metric_bars, training_curves
from common.visualize.html_report import Page, Picture, Section, Table, render_page
from common.visualize.run_summary import SUMMARY_KEYS, expect_keys, read_json
from common.visualize.tables import cell_text, json_text, parsed

MEANS = "metrics_mean.csv"
_BASELINE = "linear"


def write_run_page(run_dir: str | os.PathLike[str]) -> Path:
    """Write RUN_DIR/index.html from what lies in the folder of a run or of an evaluation.

    Read are summary.json and, in the folder itself and in that of each stage (those of the summary in its order, then
    others that hold a history, pictures or means): `metrics_mean.csv`, `history.json`, `pictures/*.png`, and, shown
    folded, `startup.json`, `config.json` (the configuration) and `texts/*.txt`. What has means comes first.

    Returns:
        Path of the page.

    Raises:
        BadInput: if there is no summary.json, or a file of the run cannot be read.
    """
    run = Path(run_dir)
    path = run / "summary.json"
    if not path.is_file():
        raise BadInput(path, "does not exist, expected the folder of a run or of an evaluation")
    summary = read_json(path)
    expect_keys(str(path), summary, SUMMARY_KEYS)
    entries = {stage["name"]: stage for stage in summary["stages"]}
    others = sorted(child.name for child in run.iterdir() if child.is_dir() and child.name not in entries)
    folders = [(run, "Results", None), *((run / n, _words(n), entries.get(n)) for n in [*entries, *others])]
    measured = [_section(*one) for one in folders if (one[0] / MEANS).is_file()]
    trained = [_section(*one) for one in folders if not (one[0] / MEANS).is_file() and _has_content(*one)]
    overview = [_overview(summary)] if entries or summary["baselines"] else []
    sections = [*measured, *overview, *trained, _origin(summary)]
    page = run / "index.html"
    title = _words(str(summary["bundle"]))
    write_text(page, render_page(Page(title, _lead(summary), _facts(summary), sections)))
    return page


def duration_text(seconds: float | None) -> str:
    """A time a person reads: 0.4 s, 48 s, 7 min 12 s, 85 h 14 min."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _lead(summary: Mapping[str, Any]) -> str:
    names = [stage["name"].replace("_", " ") for stage in summary["stages"]]
    stages = f"; stages: {', '.join(names)}" if names else ""
    return f"Scale {summary['scale']}, seed {summary['seed']}{stages}."


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    parameters, commit = summary["parameters"], summary["git_commit"]
    facts = {"Time": duration_text(sum(s["seconds"] or 0 for s in summary["stages"]))} if summary["stages"] else {}
    return facts | {
        "Parameters": f"{parameters['total']:,}",
        "Trainable": f"{parameters['trainable']:,}",
        "Data hash": str(summary["data_hash"])[:12] if summary["data_hash"] else "none",
        "Git commit": commit[:12] + commit[40:] if commit else "not in a repository",
        "Software": f"torch {summary['versions']['torch']}, MONAI {summary['versions']['monai']}",
    }


def _overview(summary: Mapping[str, Any]) -> Section:
    stages, baselines = summary["stages"], summary["baselines"]
    rows = [{"stage": s["name"].replace("_", " "), "time": duration_text(s["seconds"])} for s in stages]
    tables = [Table.of_rows(rows)] if rows else []
    nested = {name: values for name, values in baselines.items() if isinstance(values, Mapping)}
    flat = {name: value for name, value in baselines.items() if name not in nested}
    if nested:
        lines = [{"baseline": name.replace("_", " "), **values} for name, values in nested.items()]
        tables.append(Table.of_rows(lines, caption="Baselines"))
    if flat:
        tables.append(Table.of_values(flat, caption="Baselines"))
    return Section("Overview", tables=tables)


def _origin(summary: Mapping[str, Any]) -> Section:
    """Where the numbers come from: what is needed to get them again."""
    facts = {name: str(value) for name, value in summary["versions"].items()}
    facts |= {"seed": str(summary["seed"]), "git commit": str(summary["git_commit"] or "not in a repository")}
    facts |= {"data hash": str(summary["data_hash"] or "none")}
    return Section("Origin", facts, folded=[("summary.json", json_text(summary, indent=1))])


def _has_content(folder: Path, title: str, entry: Mapping[str, Any] | None) -> bool:
    return entry is not None or (folder / "history.json").is_file() or any((folder / "pictures").glob("*.png"))


def _section(folder: Path, title: str, entry: Mapping[str, Any] | None) -> Section:
    """What one folder has to show."""
    empty: dict = {"iterations": [], "validations": [], "metrics": {}, "notes": []}
    history = read_json(folder / "history.json") if (folder / "history.json").is_file() else empty
    metrics = dict(entry["metrics"] if entry else history["metrics"])
    nested = {name: values for name, values in metrics.items() if isinstance(values, Mapping)}
    facts = {"Time": duration_text(entry["seconds"])} if entry else {}
    of_all = [name for name in metrics if name not in nested and "/" not in name]  # METRIC/CLASS is among the details
    facts |= {_words(name): cell_text(metrics[name]) for name in of_all}
    tables = [Table.of_rows([values], caption=_words(name)) for name, values in nested.items()]
    pictures = []
    if (folder / MEANS).is_file():
        means = read_means(folder / MEANS)
        tables = _means_tables(means) + tables
        pictures += _means_bars(means)
    if history["iterations"] or history["validations"]:
        caption = f"Training, stage {title.lower()}: faint lines are single iterations, bold lines their running mean."
        pictures.append(_curves((folder / "history.json").read_text(encoding="utf-8"), caption))
    pictures += [Picture.of_file(path) for path in sorted((folder / "pictures").glob("*.png"))]
    return Section(title, facts, "", tables, pictures, history["notes"], _folded(folder, history, metrics))


@lru_cache(maxsize=32)
def _curves(history: str, caption: str) -> Picture:
    """Drawn once, though a run writes its page anew after every stage."""
    return Picture.of_figure(training_curves(json.loads(history), title=" "), caption)


def _folded(folder: Path, history: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, str | Table]]:
    families: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        family, of_class, member = name.partition("/")
        if of_class:
            families.setdefault(family, {})[member] = value
    folded: list[tuple[str, str | Table]] = [
        (f"{_words(family)} of each class", Table.of_values(values)) for family, values in families.items()
    ]
    if history["validations"]:
        rows = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in history["validations"]]
        folded.append(("Validations", Table.of_rows(rows)))
    for path, name in ((folder / "startup.json", "Start-up report"), (folder / "config.json", "Configuration")):
        if path.is_file():
            folded.append((name, json_text(read_json(path), indent=2)))
    for path in sorted((folder / "texts").glob("*.txt")):
        folded.append((_words(path.stem), path.read_text(encoding="utf-8")))
    return folded


def _means_tables(means: Sequence[Mapping[str, object]]) -> list[Table]:
    best = "in bold the best of a column"
    if {"mode", "window"} <= set(means[0]):
        return Table.pivot(means, "mode", "window", f"Means over the cases, per mode and window of HU; {best}")
    return [Table.of_rows(means, caption=f"Means over the cases; {best}")]


def _means_bars(means: Sequence[Mapping[str, object]]) -> list[Picture]:
    """The gain over linear interpolation, where the means are those of slice interpolation."""
    if not {"mode", "window", "psnr"} <= set(means[0]):
        return []
    modes = {row["mode"] for row in means}
    if _BASELINE not in modes or len(modes) < 2:
        return []
    caption = "Gain in mean PSNR over linear interpolation, per window of HU; above zero is better than linear."
    return [Picture.of_figure(metric_bars(means, "psnr", _BASELINE), caption)]


def read_means(path: Path) -> list[dict[str, object]]:
    """Rows of a metrics_mean.csv, numbers as numbers.

    Raises:
        BadInput: if it has none.
    """
    rows = [{name: parsed(text) for name, text in row.items()} for _, row in read_rows(path)]
    if not rows:
        raise BadInput(path, "has no rows, expected one per mode")
    return rows


def _words(name: str) -> str:
    """A name as a heading."""
    words = label(name)
    return words[0].upper() + words[1:] if words else name
