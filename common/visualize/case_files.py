"""What `predict` writes about cases: predictions.csv for all, and CASE.json, CASE.png and CASE_note.html for each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.data.prediction_table import write_predictions
from common.io.output_folder import write_text
from common.visualize.figures import save_picture
from common.visualize.tables import json_text

__all__ = ["write_case_files", "write_case_table"]

TABLE = "predictions.csv"


def write_case_table(output_dir: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]]) -> Path:
    """Write OUTPUT_DIR/predictions.csv from the files of the cases: `case`, then one column per label.

    Args:
        output_dir: where CASE.json lie.
        files: what was written for the cases, in their order; each `.json` is one that `write_case_files` wrote.

    Returns:
        The path.

    Raises:
        ValueError: if there is no case, or labels differ between cases.
    """
    path = Path(output_dir) / TABLE
    contents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files if str(file).endswith(".json")]
    predictions: dict[str, dict[str, float]] = {content["case"]: content["labels"] for content in contents}
    if not predictions:
        raise ValueError(f"{path}: there is no case to write, expected one at least.")
    labels = list(next(iter(predictions.values())))
    for case, values in predictions.items():
        if set(values) != set(labels):
            raise ValueError(f"{path}: {case!r} has the labels {', '.join(values)}, expected {', '.join(labels)}.")
    table = np.array([[values[label] for label in labels] for values in predictions.values()], float)
    return write_predictions(path, list(predictions), None, labels, table.reshape(len(predictions), len(labels)))


def write_case_files(
    output_dir: str | os.PathLike[str],
    case: str,
    labels: Mapping[str, float],
    picture: Figure | np.ndarray | None = None,
    note_page: str = "",
    **more: Any,
) -> list[Path]:
    """Write OUTPUT_DIR/CASE.json, CASE.png if there is a picture, and CASE_note.html if there is a page of the note.

    Args:
        output_dir: made if it is missing.
        case: name of the case; inner dots stay.
        labels: label -> probability.
        picture: a figure (`common.visualize.attention.case_figure`) or uint8 pixels (H, W, 3).
        note_page: the note with the attention over its tokens (`common.visualize.attention.token_attention_page`).
        more: further keys of the JSON, such as `report`, `modalities`, `thresholds`.

    Returns:
        The paths that were written.

    Raises:
        ValueError: if the case cannot name a file, or a value is no probability.
    """
    if not case or case != Path(case).name or case.startswith("."):
        raise ValueError(f"The case is {case!r}, expected a name that a file can have.")
    for label, value in labels.items():
        if math.isnan(value) or not 0 <= value <= 1:
            raise ValueError(f"Case {case!r} has {label} = {value}, expected a probability.")
    out = Path(output_dir)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{case}.json"]
    content = {"case": case, "labels": {label: float(value) for label, value in labels.items()}, **more}
    write_text(paths[0], json_text(content, indent=1))
    if picture is not None:
        paths.append(save_picture(picture, out / f"{case}.png", f"Case {case}: input and probabilities."))
    if note_page:
        paths.append(out / f"{case}_note.html")
        write_text(paths[-1], note_page)
    return paths
