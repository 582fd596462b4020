"""One self-contained HTML page: pictures inside as base64, so that the single file can be mailed; no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from common.visualize.charts import label
from common.visualize.figures import figure_png, picture_caption
from common.visualize.tables import column_texts, is_number_column

DISCLAIMER = "Research software, not a medical device: not for diagnosis, treatment or any other clinical use."

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "hist_distance": False, "consistency_hu": False}
"""The metrics whose best value a table shows in bold."""

_TEMPLATE = "run_page.html.j2"


@dataclass(frozen=True)
class Picture:
    """A PNG with the sentence under it.

    Attributes:
        png: the file.
        caption: the sentence.
        below: HTML that stands under it as it is, so every text in it is escaped (as `token_attention_html` does).
    """

    png: bytes
    caption: str
    below: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Picture:
        """Read a PNG and the caption stored in it."""
        return cls(path.read_bytes(), picture_caption(path))

    @classmethod
    def of_figure(cls, figure: Figure, caption: str) -> Picture:
        """Draw a figure."""
        return cls(figure_png(figure), caption)

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Card:
    """A small picture, or none, with a title and lines of text under it; cards stand beside each other."""

    title: str
    lines: Sequence[str]
    picture: Picture | None = None


@dataclass(frozen=True)
class Cell:
    """Text of a table's cell, and how it looks."""

    text: str
    number: bool = False
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `groups` is an optional row above the heads: (text, columns that it spans)."""

    heads: list[Cell]
    rows: list[list[Cell]]
    caption: str = ""
    groups: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of_rows(
        cls, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None, caption: str = ""
    ) -> Table:
        """A table of dictionaries; columns in order of appearance by default."""
        names = list(dict.fromkeys(name for row in rows for name in row)) if columns is None else list(columns)
        columns_of_values = [[row.get(name) for row in rows] for name in names]
        return cls(*_cells([label(name) for name in names], columns_of_values, names), caption)

    @classmethod
    def of_values(cls, values: Mapping[str, object], caption: str = "") -> Table:
        """A table of names and values, each rounded on its own."""
        rows = [[Cell(label(name)), Cell(column_texts([value])[0], True)] for name, value in values.items()]
        return cls([], rows, caption)

    @classmethod
    def pivot(
        cls, rows: Sequence[Mapping[str, object]], row: str, column: str, caption: str = "", widest: int = 8
    ) -> list[Table]:
        """Tables with a line per value of `row` and, for every other numeric column, a column per value of `column`.

        A metric that does not depend on `column` is shown once. The best value of each column is marked. A further
        table begins where one would have more than `widest` columns of numbers.
        """
        lines = list(dict.fromkeys(str(entry[row]) for entry in rows))
        spans = list(dict.fromkeys(str(entry[column]) for entry in rows))
        by_key = {(str(entry[row]), str(entry[column])): entry for entry in rows}
        metrics = [n for n in rows[0] if n not in (row, column) and is_number_column([entry.get(n) for entry in rows])]
        first = [line.replace("_", " ") for line in lines]
        tables: list[Table] = []
        heads, values, names, groups = [""], [first], [""], [("", 1)]

        def finish() -> None:
            tables.append(cls(*_cells(heads, values, names), "" if tables else caption, groups))

        for name in metrics:
            block = [[by_key.get((line, span), {}).get(name) for line in lines] for span in spans]
            once = len(spans) > 1 and all(other == block[0] for other in block[1:])
            shown = [""] if once else [span.replace("_", " ") for span in spans]
            if len(heads) > 1 and len(heads) - 1 + len(shown) > widest:
                finish()
                heads, values, names, groups = [""], [first], [""], [("", 1)]
            heads = heads + shown
            values = values + block[: len(shown)]
            names = names + [name] * len(shown)
            groups = [*groups, (label(name), len(shown))]
        finish()
        return tables


@dataclass(frozen=True)
class Section:
    """A part of the page; everything but the title may be missing.

    Attributes:
        title: its heading.
        facts: name -> value, shown as a grid.
        text: a paragraph.
        tables: in order.
        pictures: in order.
        notes: sentences that deserve attention.
        folded: (title, content) of details shown on a click; a content is text or a `Table`.
        cards: in order, several in a row, above the details.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    folded: Sequence[tuple[str, str | Table]] = ()
    cards: Sequence[Card] = ()


@dataclass(frozen=True)
class Page:
    """The whole page: a title, a line under it, facts and sections."""

    title: str
    lead: str
    facts: Mapping[str, str]
    sections: Sequence[Section]


def render_page(page: Page) -> str:
    """The page as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["table"] = lambda content: isinstance(content, Table)
    return environment.get_template(_TEMPLATE).render(page=page, disclaimer=DISCLAIMER)


def _cells(heads: list[str], columns: list[list[object]], names: list[str]) -> tuple[list[Cell], list[list[Cell]]]:
    numeric = [is_number_column(values) for values in columns]
    cells = []
    for values, name, number in zip(columns, names, numeric, strict=True):
        present = [value for value in values if value is not None]
        best = None
        if name in HIGHER_IS_BETTER and number and len(present) > 1:
            best = max(present) if HIGHER_IS_BETTER[name] else min(present)
        cells.append(
            [Cell(t, number, v is not None and v == best) for t, v in zip(column_texts(values), values, strict=True)]
        )
    return [Cell(h, n) for h, n in zip(heads, numeric, strict=True)], [list(row) for row in zip(*cells, strict=True)]
