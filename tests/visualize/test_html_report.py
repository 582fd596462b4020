import base64
import html
import io
import re
from html.parser import HTMLParser

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.visualize.figures import save_picture
from common.visualize.html_report import DISCLAIMER, Card, Page, Picture, Section, Table, render_page

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Checks that every element is closed where it should be, and keeps the text per element."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def of(self, tag: str) -> list[str]:
        return [text for element, text in self.texts if element == tag]


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def rows() -> list[dict]:
    values = {"linear": ((30.0, 0.8), (22.0, 0.7)), "refiner": ((34.5, 0.9), (26.0, 0.65))}
    return [
        {"mode": mode, "window": window, "psnr": p, "ssim": s, "consistency_hu": 0.5 if mode == "refiner" else 20.0}
        for mode, pairs in values.items()
        for window, (p, s) in zip(("wide", "soft_tissue"), pairs, strict=True)
    ]


def test_a_page_holds_what_it_was_given_and_nothing_from_outside(tmp_path):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    saved = save_picture(np.full((3, 5, 3), 7, dtype=np.uint8), tmp_path / "a.png", "Five by three.")
    section = Section(
        "Diffusion",
        {"Time": "7 min"},
        "A paragraph.",
        [Table.of_rows([{"baseline": "linear", "psnr": 29.91}])],
        [Picture.of_file(saved), Picture.of_figure(figure, "A line.")],
        ["A note."],
        [("Configuration", '{"lr": 1}'), ("Validations", Table.of_rows([{"iteration": 500}]))],
    )
    text = render_page(Page("CT", "Scale demo.", {"Seed": "0"}, [section]))
    found = outline(text)
    assert found.of("title") == found.of("h1") == ["CT"]
    assert found.of("h2") == ["Diffusion"] and found.of("dd") == ["0", "7 min"]
    assert found.of("td") == ["linear", "29.91", "500"]
    assert found.of("figcaption") == ["Five by three.", "A line."]
    assert found.of("summary") == ["Configuration", "Validations"] and found.of("pre") == ['{"lr": 1}']
    assert text.count(DISCLAIMER) == 2
    sources = [attributes["src"] for tag, attributes in found.seen if tag == "img"]
    assert base64.b64decode(sources[0].removeprefix("data:image/png;base64,")) == saved.read_bytes()
    assert Image.open(io.BytesIO(base64.b64decode(sources[1].split(",")[1]))).size == (220, 110)
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)


def test_every_text_is_escaped():
    evil = "<script>alert('x')</script>\"&"
    section = Section(
        evil,
        {evil: evil},
        evil,
        [
            Table.of_rows([{evil: evil}], caption=evil),
            Table.pivot([{evil: evil, "w": evil, "v": 1}], evil, "w", evil)[0],
        ],
        [Picture(b"", evil)],
        [evil],
        [(evil, evil)],
    )
    text = render_page(Page(evil, evil, {evil: evil}, [section] * 3))
    assert "<script" not in text
    assert "script" not in {tag for tag, _ in outline(text).seen}
    assert html.escape(evil).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text


def test_a_pivot_groups_windows_and_marks_the_best():
    (table,) = Table.pivot(rows(), "mode", "window", "Means")
    assert table.groups == [("", 1), ("PSNR in dB", 2), ("SSIM", 2), ("consistency in HU", 1)]
    assert [head.text for head in table.heads] == ["", "wide", "soft tissue", "wide", "soft tissue", ""]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["linear", "30.00", "22.00", "0.8000", "0.7000", "20.00"],
        ["refiner", "34.50", "26.00", "0.9000", "0.6500", "0.50"],
    ]
    assert [[cell.best for cell in row] for row in table.rows] == [
        [False, False, False, False, True, False],
        [False, True, True, True, False, True],
    ]


def test_a_wide_pivot_becomes_several_tables():
    first, second = Table.pivot(rows(), "mode", "window", "Means", widest=3)
    assert [group for group, _ in first.groups] == ["", "PSNR in dB"]
    assert [group for group, _ in second.groups] == ["", "SSIM", "consistency in HU"]
    assert (first.caption, second.caption) == ("Means", "")


def test_a_missing_cell_is_a_dash():
    table = Table.of_rows([{"a": 1, "b": 2.5}, {"a": 3}])
    assert [[cell.text for cell in row] for row in table.rows] == [["1", "2.500"], ["3", "-"]]
    assert table.rows[1][1].number


def test_cards_show_a_picture_where_there_is_one_and_escape_their_text():
    cards = [Card("Edema <1>", ["Case 000123", "Note: a & b"], figure_picture()), Card("Fracture", [])]
    page = render_page(Page("Errors", "", {}, [Section("Worst", cards=cards)]))
    found = outline(page)
    assert found.of("h3") == ["Edema <1>", "Fracture"] and {"Case 000123", "Note: a & b"} <= set(found.of("p"))
    assert [attributes["alt"] for tag, attributes in found.seen if tag == "img"] == ["a line"]
    assert "a & b" not in page


def figure_picture() -> Picture:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return Picture.of_figure(figure, "a line")
