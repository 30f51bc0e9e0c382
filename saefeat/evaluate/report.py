"""The report of an evaluation: one dict of results as text for the terminal, as Markdown, as a single HTML file.

results = {"title": what this is a report of ('Evaluation' if it is not said); "atlas", "subject", "saefeat", "seed",
"seconds", "machine", "train_topics", "test_topics", "command": what ran; "data": [{"name", "sha256", "rows", "given",
"source"}]: what it ran on; "sections": [{"id", "title", "about", "columns", "unit" (or "units", one a column):
"percent" of a share, "auroc" or "number", "rows": [{"name", "values", "own", "null"}], "figure": a file's name or
None, "notes"}]}. A value is a number, {"value", "low", "high"}, None for what is not known, or a string that says why
there is none. What is missing is shown as a dash, and what an older or newer saefeat wrote beside this is shown as it
stands.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from saefeat.atlas import STATEMENT
from saefeat.evaluate.page import as_html
from saefeat.evaluate.shown import (
    DATA_HEAD,
    Cell,
    brackets,
    data_of,
    facts_of,
    heading_of,
    one_line,
    sections_of,
    table,
    title_of,
)
from saefeat.files import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
WIDTH = 100
"""Columns of running text on the terminal."""


def write_report(results: Mapping[str, Any], figures: Mapping[str, Figure], out: Path | str) -> Path:
    """Write results.json, report.md, report.html and the figures (PNG, {file's name: figure}) into the folder `out`;
    return the path of report.html, which appears last.

    Everything is made before anything is put in place: what fails leaves `out` as it was. Raises InputError if `out`
    cannot be written, ValueError if a section names a figure that is not given or a figure's name is not a file's.
    """
    out = Path(out)
    missing = {s["figure"] for s in results.get("sections", ()) if s.get("figure")} - figures.keys()
    if missing:
        raise ValueError(f"sections name figures that are not given: {', '.join(sorted(missing))}")
    if odd := [name for name in figures if not re.fullmatch(r"[^/\\\0]+\.png", name)]:
        raise ValueError(f"not names of PNG files: {', '.join(odd)}")
    results = _plain(results)
    pictures = {name: _png(figure) for name, figure in figures.items()}
    files = {"report.html": as_html(results, pictures).encode(), "report.md": as_markdown(results).encode()}
    with contextlib.ExitStack() as last_comes_first:  # the page is entered first, so it is put in place last
        for name, content in {**files, **pictures}.items():
            last_comes_first.enter_context(atomic_path(out / name)).write_bytes(content)
        write_json(last_comes_first.enter_context(atomic_path(out / "results.json")), results)
    return out / "report.html"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # the same bytes from every version
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """`value` as JSON holds it: numpy's numbers and arrays unwrapped, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- text
def as_text(results: Mapping[str, Any]) -> str:
    """Plain tables for the terminal; saefeat's own rows are marked with an asterisk."""
    blocks = [f"{heading_of(results)} of {results.get('atlas') or 'an SAE'}"]
    for _, section in sections_of(results):
        lines = [title_of(section), *_wrapped(section.get("about"))]
        columns, rows = table(section)
        own = any(row.get("own") for row, _ in rows)
        marks = ["* " if row.get("own") else "  " for row, _ in rows] if own else [""] * len(rows)
        names = ["", *(mark + one_line(row.get("name") or "–") for mark, (row, _) in zip(marks, rows, strict=True))]
        cells = [_column(name, [row[1][i] for row in rows]) for i, name in enumerate(columns)]
        lines += _lines([_padded(names), *cells]) if rows else ["Nothing was measured."]
        blocks.append("\n".join([*lines, *(line for n in section.get("notes") or () for line in _wrapped(n, "- "))]))
    if data := data_of(results):
        columns_of = list(zip(DATA_HEAD, *([*d[:3], d[3][:12], d[4]] for d in data), strict=True))
        blocks.append("\n".join(_lines([_padded(c, right=c[0] == "rows") for c in columns_of])))
    legend = f"* saefeat's own.{brackets(results)}"
    facts = [line for key, fact in facts_of(results).items() for line in _wrapped(f"{key}: {fact}")]
    command = [f"command: {results['command']}"] if results.get("command") else []
    return "\n\n".join([*blocks, "\n".join([*facts, *command]), "\n".join([legend, *_wrapped(STATEMENT)])])


def _column(name: str, cells: Sequence[Cell]) -> list[str]:
    """Numbers end below each other, their intervals start below each other; words take the room of both."""
    values = _padded([c.value for c in cells if not c.words], right=True)
    intervals = iter(_padded([f" ({c.interval})" if c.interval else "" for c in cells if not c.words]))
    numbers = iter([v + i for v, i in zip(values, intervals, strict=True)])
    return _padded([name, *(c.value if c.words else next(numbers) for c in cells)], right=True)


def _padded(texts: Sequence[str], *, right: bool = False) -> list[str]:
    width = max(map(len, texts), default=0)
    return [t.rjust(width) if right else t.ljust(width) for t in texts]


def _lines(columns: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = zip(*columns, strict=True)
    return ["  ".join(row).rstrip() for row in (head, tuple("─" * len(c) for c in head), *rows)]


def _wrapped(text: Any, bullet: str = "") -> list[str]:
    return textwrap.wrap(one_line(text or ""), WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


# ---------------------------------------------------------------- Markdown
def as_markdown(results: Mapping[str, Any]) -> str:
    """GitHub's Markdown, figures as links to files beside it; own rows bold, nulls and baselines in italics."""
    parts = [f"# {_md(heading_of(results))} of {_md(results.get('atlas') or 'an SAE')}"]
    for _, section in sections_of(results):
        parts += [f"## {_md(title_of(section))}", _md(section.get("about") or "")]
        columns, rows = table(section)
        lines = [[_weighted(row, t) for t in (row.get("name") or "–", *map(str, cells))] for row, cells in rows]
        parts.append(_md_table(["", *map(_md, columns)], "l" + "r" * len(columns), lines) or "Nothing was measured.")
        if section.get("figure"):
            parts.append(f"![{_md(title_of(section))}]({quote(section['figure'])})")
        parts.append("\n".join(f"- {_md(note)}" for note in section.get("notes") or ()))
    parts.append(f"**Bold**: saefeat's own. *Italics*: nulls and baselines.{brackets(results)}")
    if data := [[f"`{v}`" if re.fullmatch("[0-9a-f]{16,}", v) else _md(v) for v in row] for row in data_of(results)]:
        parts += ["## Data", _md_table(DATA_HEAD, "llrll", data)]
    parts += ["## Provenance", "\n".join(f"- {_md(key)}: {_md(fact)}" for key, fact in facts_of(results).items())]
    if command := str(results.get("command") or ""):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
        parts.append(f"{fence}\n{command}\n{fence}")
    return "\n\n".join([part for part in parts if part] + [f"*{_md(STATEMENT)}*"]) + "\n"


def _md_table(head: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> str:
    rules = ["---:" if side == "r" else "---" for side in sides]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rules, *rows]) if rows else ""


def _weighted(row: Mapping[str, Any], text: Any) -> str:
    mark = "**" if row.get("own") else "*" if row.get("null") else ""
    return f"{mark}{_md(text)}{mark}"


def _md(text: Any) -> str:
    """Plain text, on one line, with whatever Markdown or HTML would read as markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&$])", r"\\\1", one_line(text))
