"""The report says the numbers that were measured, in every format; nothing in a name breaks it; files come whole."""

import base64
import copy
import html.parser
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from saefeat.atlas import STATEMENT
from saefeat.errors import InputError
from saefeat.evaluate.report import as_html, as_markdown, as_text, write_report
from saefeat.evaluate.shown import cell, quantity

ODD = "A <script>alert(1)</script> | b_*c*"
RESULTS = {
    "format": "evaluation", "format_version": 2, "atlas": "smollm2", "subject": {"name": "smollm2", "weights": "ab12"},
    "saefeat": "0.1.0", "seed": 0, "seconds": 812.0, "machine": "2 cores", "train_topics": ["t01", "t02"],
    "test_topics": ["t09"], "command": "saefeat evaluate --out `here`",
    "data": [
        {"name": "xed_dev.jsonl", "sha256": "c0ffee" * 10 + "abcd", "rows": 2400, "given": True,
         "source": "https://example.org/xed"},
        {"name": "other.jsonl", "sha256": None, "rows": None, "given": False, "source": "elsewhere"},
    ],
    "sections": [
        {"id": "retrieval", "title": "Retrieval", "about": "Of 171 emotions.", "columns": ["top-1", "top-5"],
         "unit": "percent", "figure": "a b.png", "notes": ["Chance: 0.6 %."],
         "rows": [
             {"name": "SAE features", "own": True, "null": False,
              "values": [{"value": 0.9123, "low": 0.8912, "high": 0.9334}, 0.97]},
             {"name": "shuffled labels", "own": False, "null": True, "values": [0.0061, None]},
             {"name": "embeddings", "values": ["data not given", 0.5]},
         ]},
        {"id": "sets", "title": ODD, "columns": ["AUROC", "Δ"], "units": ["auroc", "number"], "figure": None,
         "rows": [{"name": ODD, "values": [0.81234, {"value": -0.0312, "low": -0.05, "high": 0.01}], "own": True}]},
    ],
}  # fmt: skip
SHOWN = ["91.2 %", "89.1–93.3", "97.0 %", "0.6 %", "data not given", "50.0 %", "0.812", "−0.0312", "−0.0500 to 0.0100"]


class Page(html.parser.HTMLParser):
    """Cells by row, tags in order, attributes that load or link something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


def rendered(results: dict) -> dict[str, str]:
    return {"text": as_text(results), "md": as_markdown(results), "html": as_html(results, {})}


def figure() -> Figure:
    made = Figure(figsize=(1, 1))
    made.add_subplot().plot([0, 1])
    return made


# ---------------------------------------------------------------- numbers in, numbers out
@pytest.mark.parametrize("form", ["text", "md", "html"])
def test_every_figure_and_fact_is_in_every_format(form: str) -> None:
    shown = rendered(RESULTS)[form]
    facts = ["smollm2", "ab12", "0.1.0", "13 min 32 s", "2 cores", "t01, t02", "Of 171 emotions.", "Chance: 0.6 %.",
             "2,400", "c0ffeec0ffee", "example.org/xed"]  # fmt: skip
    for wanted in SHOWN + facts:
        assert wanted in shown, wanted
    assert " ".join(STATEMENT.split()) in " ".join(shown.split())


def test_rows_keep_their_values_in_order() -> None:
    text = next(line for line in as_text(RESULTS).splitlines() if "SAE features" in line)
    assert text.split("  ")[0].startswith("* SAE features")
    assert re.findall(r"[\d.]+ %", text) == ["91.2 %", "97.0 %"]
    assert "| **SAE features** | **91.2 % (89.1–93.3)** | **97.0 %** |" in as_markdown(RESULTS)
    assert "| *shuffled labels* | *0.6 %* | *–* |" in as_markdown(RESULTS)
    assert "| embeddings | data not given | 50.0 % |" in as_markdown(RESULTS)
    rows = {row[0]: row[1:] for row in Page(as_html(RESULTS, {})).rows}
    assert rows["SAE features"] == ["91.2 %", "(89.1–93.3)", "97.0 %"]
    assert rows["embeddings"] == ["data not given", "50.0 %"]
    assert rows["xed_dev.jsonl"] == ["yes", "2,400", "c0ffee" * 10 + "abcd", "https://example.org/xed"]
    assert rows["other.jsonl"] == ["no", "–", "–", "elsewhere"]


def test_numbers_of_a_column_end_below_each_other_on_the_terminal() -> None:
    lines = as_text(RESULTS).splitlines()
    first, null = (next(line for line in lines if name in line) for name in ("SAE features", "shuffled labels"))
    assert first.index("91.2 %") + len("91.2 %") == null.index("0.6 %") + len("0.6 %")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.5, "percent", "50.0 %"), (0.99999, "percent", "99.9 %"), (1.0, "percent", "100.0 %"),
        (0, "percent", "0.0 %"), (0.0001, "percent", "0.01 %"), (-0.021, "percent", "−2.1 %"),
        (0.99996, "auroc", "0.999"), (1, "auroc", "1.000"), (0.5, "auroc", "0.500"),
        (2400, "number", "2,400"), (2400.4, "number", "2,400"), (0.0456, "number", "0.0456"),
        (9.999, "number", "10.0"), (1e-7, "number", "1.00e-07"), (-1e-7, "number", "−1.00e-07"),
        (-0.0, "number", "0"), (3.14159, "furlongs", "3.14"), (None, "percent", "–"),
        (float("nan"), "auroc", "–"), (True, "number", "yes"),
    ],
)  # fmt: skip
def test_quantities(value: object, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


@given(st.floats(-1e5, 1e5).filter(lambda v: v == 0 or abs(v) >= 1e-4))
def test_a_number_is_shown_to_three_digits(value: float) -> None:
    back = float(quantity(value).replace("−", "-").replace(",", ""))
    assert back == pytest.approx(value, rel=0.00501)


@given(st.floats(0, 1))
def test_no_share_is_rounded_up_to_all_or_down_to_none(share: float) -> None:
    for unit, scale in (("percent", 100), ("auroc", 1)):
        back = float(quantity(share, unit).removesuffix(" %"))
        assert back == pytest.approx(scale * share, abs=0.0011 * scale)
        assert (back == scale) == (share == 1)
    assert (float(quantity(share, "percent").removesuffix(" %")) == 0) == (share == 0)


def test_an_interval_that_is_not_whole_is_left_out() -> None:
    assert str(cell({"value": 0.5, "low": 0.4, "high": 0.6}, "percent")) == "50.0 % (40.0–60.0)"
    assert str(cell({"value": 0.5, "low": None, "high": 0.6}, "percent")) == "50.0 %"
    assert str(cell({"value": None, "low": 0.4, "high": 0.6}, "percent")) == "–"
    assert str(cell({"value": "not measured"})) == "not measured"
    assert str(cell({})) == "–"


# ---------------------------------------------------------------- odd results
def test_nothing_in_a_name_is_read_as_markup() -> None:
    page = as_html(RESULTS, {})
    assert "script" not in Page(page).tags
    assert [ODD, "0.812", "−0.0312", "(−0.0500 to 0.0100)"] in Page(page).rows
    row = next(line for line in as_markdown(RESULTS).splitlines() if line.startswith("| **A"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4  # three cells
    assert "<script>" not in re.sub(r"\\<", "", as_markdown(RESULTS))
    assert "````" not in as_markdown(RESULTS)
    assert f"* {ODD}" in as_text(RESULTS)


def test_control_characters_reach_no_terminal() -> None:
    results = copy.deepcopy(RESULTS)
    results["sections"][0]["rows"][0]["name"] = "red\x1b[31m\nline"
    assert "\x1b" not in as_text(results)
    assert "* red[31m line" in as_text(results)


@pytest.mark.parametrize("form", ["text", "md", "html"])
def test_rows_of_another_saefeat_are_shown_as_far_as_they_go(form: str) -> None:
    results = {
        "format_version": 3, "atlas": "x", "weather": "fine", "seconds": 5,
        "sections": [
            {"id": "a b", "columns": ["one"], "rows": [{"name": "more", "values": [1, 22]}, {"name": "none"}, {}]},
            {"id": "a-b", "title": "Empty", "rows": [], "unit": "parsec"},
            {"id": "data", "columns": ["two", "three"], "units": ["percent"], "rows": [{"values": [0.25, 7.5]}]},
        ],
    }  # fmt: skip
    shown = rendered(results)[form]
    for wanted in ("22", "none", "Nothing was measured.", "25.0 %", "7.50", "weather", "fine", "5 s"):
        assert wanted in shown, wanted


def test_results_without_anything_are_still_a_report() -> None:
    for form, shown in rendered({}).items():
        assert STATEMENT.split(".")[0] in " ".join(shown.split()), form
        assert "95 %" not in shown


def test_anchors_are_unique_and_the_index_links_them_all() -> None:
    results = {"sections": [{"id": "data"}, {"id": "a b"}, {"id": "a-b"}, {}], "data": [{"name": "d"}]}
    page = Page(as_html(results, {}))
    assert len(set(page.ids)) == len(page.ids) == 6
    assert {link.removeprefix("#") for link in page.loads} == set(page.ids) - {"data"}


# ---------------------------------------------------------------- files
def test_the_page_loads_nothing() -> None:
    page = as_html(RESULTS, {"a b.png": b"\x89PNG picture"})
    picture = "data:image/png;base64," + base64.b64encode(b"\x89PNG picture").decode()
    loads = Page(page).loads
    assert picture in loads
    assert all(load.startswith("#") for load in loads if load != picture)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_a_figure_that_is_not_given_is_left_out_of_the_page() -> None:
    assert "<img" not in as_html(RESULTS, {})
    assert "![Retrieval](a%20b.png)" in as_markdown(RESULTS)


def test_report_is_written_with_its_figures_and_the_same_bytes_twice(tmp_path: Path) -> None:
    page = write_report(RESULTS, {"a b.png": figure()}, tmp_path / "one")
    write_report(RESULTS, {"a b.png": figure()}, tmp_path / "two")
    assert page == tmp_path / "one" / "report.html"
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == ["a b.png", "report.html", "report.md", "results.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    png = (page.parent / "a b.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert b"matplotlib" not in png.lower()
    assert base64.b64encode(png).decode() in page.read_text(encoding="utf-8")
    assert json.loads((page.parent / "results.json").read_text(encoding="utf-8")) == RESULTS
    assert (page.parent / "report.md").read_text(encoding="utf-8") == as_markdown(RESULTS)


def test_numpy_and_nan_become_json(tmp_path: Path) -> None:
    rows = [{"name": "a", "values": np.array([0.5, np.nan])}, {"name": "b", "values": (np.float32(0.25), np.int64(3))}]
    write_report({"sections": [{"id": "s", "columns": ["x", "y"], "rows": rows}]}, {}, tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert [row["values"] for row in json.loads(text)["sections"][0]["rows"]] == [[0.5, None], [0.25, 3]]
    assert "NaN" not in text


def test_what_fails_while_drawing_or_writing_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(RESULTS, {"a b.png": figure()}, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = {**RESULTS, "atlas": "another"}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", refuse)
        with pytest.raises(OSError):
            write_report(changed, {"a b.png": figure()}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with monkeypatch.context() as patch:
        patch.setattr("saefeat.evaluate.report.write_json", refuse)  # the last file to be written
        with pytest.raises(InputError, match="No space left"):
            write_report(changed, {"a b.png": figure()}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_page_is_put_in_place_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[str] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        if Path(target).name == "report.md":
            raise OSError(5, "Input/output error")
        replace(source, target)
        placed.append(Path(target).name)

    with monkeypatch.context() as patch:
        patch.setattr("saefeat.files.os.replace", noted)
        with pytest.raises(InputError):
            write_report(RESULTS, {"a b.png": figure()}, tmp_path)
    assert "results.json" in placed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.png", "results.json"]  # whole files, no page
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == RESULTS


def test_figures_and_sections_must_fit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"a b\.png"):
        write_report(RESULTS, {}, out)
    with pytest.raises(ValueError, match="not names of PNG files"):
        write_report({}, {"../up.png": figure()}, out)
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_the_users_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write here"):
        write_report({}, {}, tmp_path / "file")
