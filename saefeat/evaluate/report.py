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

import base64
import contextlib
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from saefeat.atlas import STATEMENT
from saefeat.files import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
WIDTH = 100
"""Columns of running text on the terminal."""
DATA_HEAD = ("data", "given", "rows", "SHA-256", "source")
CSS = """
:root { color-scheme: light dark; --ink: #1d2025; --soft: #5c636e; --paper: #fff; --raised: #f5f6f8; --line: #dcdfe4;
  --link: #1a5fb4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a2a9b4; --paper: #15171b; --raised: #1f2228;
  --line: #363b44; --link: #86b7f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.1rem 3rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h1 small { font-weight: 400; color: var(--soft); }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; scroll-margin-top: 3.5rem; }
p, li { margin: .4rem 0; max-width: 46rem; } a { color: var(--link); } .soft { color: var(--soft); }
.note, li { font-size: .88rem; } ul { padding-left: 1.1rem; margin: .4rem 0; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper); border-bottom: 1px solid var(--line);
  padding: .5rem 0; margin-top: .8rem; overflow-x: auto; white-space: nowrap; font-size: .88rem; }
nav a { text-decoration: none; margin-right: 1.1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th, td { padding: .2rem 1.3rem .2rem 0; border-bottom: 1px solid var(--line); } td { vertical-align: top; }
th.n, td.n { text-align: right; } td.n, td.i { white-space: nowrap; } td.v { padding-right: .35rem; }
td.i { color: var(--soft); font-size: .82rem; vertical-align: baseline; }
tr.own td, tr.own th { font-weight: 700; color: var(--ink); } tr.null td, tr.null th { color: var(--soft); }
tbody th { font-weight: 400; color: var(--ink); } .facts th { color: var(--soft); white-space: nowrap; }
.facts td, td code { overflow-wrap: anywhere; } tr.own td.i { font-weight: 400; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .82rem; }
pre { background: var(--raised); padding: .6rem .8rem; border-radius: .4rem; white-space: pre-wrap; }
figure { margin: .8rem 0; } img { max-width: 100%; height: auto; display: block; background: #fff;
  border: 1px solid var(--line); border-radius: .4rem; }
footer { margin-top: 2.5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
@media print { nav { display: none; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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


# ---------------------------------------------------------------- values
class Cell(NamedTuple):
    """A value as shown; interval: without its brackets, '' if there is none; words: why there is no value."""

    value: str
    interval: str = ""
    words: bool = False

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


def cell(value: Any, unit: str = "number") -> Cell:
    """What a value of a row looks like; an unknown unit is a plain number."""
    if isinstance(value, Mapping):
        low: Any = value.get("low")
        high: Any = value.get("high")
        if not (_known(value.get("value")) and _known(low) and _known(high)):
            return cell(value.get("value"), unit)
        ends = (quantity(end, unit).removesuffix(" %") for end in (low, high))
        return Cell(quantity(value["value"], unit), (" to " if min(low, high) < 0 else "–").join(ends))
    if isinstance(value, str):
        return Cell(_line(value), words=True)
    return Cell(quantity(value, unit))


def quantity(value: Any, unit: str = "number") -> str:
    """A number as people write it: shares with a decimal of a per cent, AUROCs with three decimals, neither rounded up
    to perfection; other numbers with three significant digits, integers whole."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _known(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    if unit == "percent":
        per_cent = min(100 * value, 99.94) if value < 1 else 100 * value
        text = f"{per_cent:.1f} %" if not 0 < abs(per_cent) < 0.05 else f"{per_cent:.1g} %"
    elif unit == "auroc":
        text = f"{min(value, 0.9994) if value < 1 else value:.3f}"
    elif isinstance(value, int):
        text = f"{value:,}"
    elif value != 0 and not 1e-4 <= abs(value) < 1e6:
        text = f"{value:.2e}"
    else:
        decimals = 2 - int(f"{value:.2e}".split("e")[1]) if value else 0
        text = f"{value:,.{max(0, decimals)}f}"
    return re.sub(r"^-(?=.*[1-9])", "−", text).removeprefix("-")


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sections(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Sections with an anchor each, no two the same."""
    anchors: dict[str, Mapping[str, Any]] = {}
    for i, section in enumerate(results.get("sections", ())):
        name = re.sub(r"[^\w-]+", "-", str(section.get("id") or "")).strip("-") or "section"
        anchors[name if name not in {*anchors, "data", "provenance"} else f"{name}-{i + 1}"] = section
    return list(anchors.items())


def _heading(results: Mapping[str, Any]) -> str:
    return _line(results.get("title") or "Evaluation")


def _title(section: Mapping[str, Any]) -> str:
    return _line(section.get("title") or section.get("id") or "Untitled")


def _line(text: Any) -> str:
    """Text on one line, without characters that steer a terminal."""
    return " ".join("".join(c for c in str(text) if c.isprintable() or c.isspace()).split())


def _table(section: Mapping[str, Any]) -> tuple[list[str], list[tuple[Mapping[str, Any], list[Cell]]]]:
    """Headings and rows of cells, all as wide as the widest row: what a row lacks is a dash, no value is hidden."""
    rows = section.get("rows") or []
    columns = [_line(name) for name in section.get("columns") or []]
    columns += [""] * (max((len(row.get("values") or ()) for row in rows), default=0) - len(columns))
    units = section.get("units") or section.get("unit") or "number"
    units = [units] * len(columns) if isinstance(units, str) else [*units, *["number"] * len(columns)]
    shown = []
    for row in rows:
        values = [*(row.get("values") or ()), *[None] * len(columns)]
        shown.append((row, [cell(values[i], str(units[i])) for i in range(len(columns))]))
    return columns, shown


def _brackets(results: Mapping[str, Any]) -> str:
    """What stands in brackets, if anything does."""
    cells = (c for _, section in _sections(results) for _, cells in _table(section)[1] for c in cells)
    return " In brackets: 95 % intervals." if any(c.interval for c in cells) else ""


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    """What ran, on what, for how long; whatever else stands beside it as well."""
    apart = ("format", "format_version", "title", "data", "sections", "command")
    facts = {key.replace("_", " "): _fact(v) for key, v in results.items() if key not in apart and v is not None}
    if _known(results.get("seconds")):
        minutes, seconds = divmod(round(results["seconds"]), 60)
        facts["seconds"] = f"{seconds} s" if not minutes else f"{minutes} min {seconds} s"
    return {"time" if key == "seconds" else key: text for key, text in facts.items()}


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value)) or "none"
    return quantity(value) if isinstance(value, bool | float) else str(value)


def _data(results: Mapping[str, Any]) -> list[list[str]]:
    return [
        [str(d.get("name") or "–"), quantity(d.get("given")), quantity(d.get("rows")), str(d.get("sha256") or "–"),
         str(d.get("source") or "–")]
        for d in results.get("data") or ()
    ]  # fmt: skip


# ---------------------------------------------------------------- text
def as_text(results: Mapping[str, Any]) -> str:
    """Plain tables for the terminal; saefeat's own rows are marked with an asterisk."""
    blocks = [f"{_heading(results)} of {results.get('atlas') or 'an SAE'}"]
    for _, section in _sections(results):
        lines = [_title(section), *_wrapped(section.get("about"))]
        columns, rows = _table(section)
        own = any(row.get("own") for row, _ in rows)
        marks = ["* " if row.get("own") else "  " for row, _ in rows] if own else [""] * len(rows)
        names = ["", *(mark + _line(row.get("name") or "–") for mark, (row, _) in zip(marks, rows, strict=True))]
        cells = [_column(name, [row[1][i] for row in rows]) for i, name in enumerate(columns)]
        lines += _lines([_padded(names), *cells]) if rows else ["Nothing was measured."]
        blocks.append("\n".join([*lines, *(line for n in section.get("notes") or () for line in _wrapped(n, "- "))]))
    if data := _data(results):
        columns_of = list(zip(DATA_HEAD, *([*d[:3], d[3][:12], d[4]] for d in data), strict=True))
        blocks.append("\n".join(_lines([_padded(c, right=c[0] == "rows") for c in columns_of])))
    legend = f"* saefeat's own.{_brackets(results)}"
    facts = [line for key, fact in _facts(results).items() for line in _wrapped(f"{key}: {fact}")]
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
    return textwrap.wrap(_line(text or ""), WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


# ---------------------------------------------------------------- Markdown
def as_markdown(results: Mapping[str, Any]) -> str:
    """GitHub's Markdown, figures as links to files beside it; own rows bold, nulls and baselines in italics."""
    parts = [f"# {_md(_heading(results))} of {_md(results.get('atlas') or 'an SAE')}"]
    for _, section in _sections(results):
        parts += [f"## {_md(_title(section))}", _md(section.get("about") or "")]
        columns, rows = _table(section)
        lines = [[_weighted(row, t) for t in (row.get("name") or "–", *map(str, cells))] for row, cells in rows]
        parts.append(_md_table(["", *map(_md, columns)], "l" + "r" * len(columns), lines) or "Nothing was measured.")
        if section.get("figure"):
            parts.append(f"![{_md(_title(section))}]({quote(section['figure'])})")
        parts.append("\n".join(f"- {_md(note)}" for note in section.get("notes") or ()))
    parts.append(f"**Bold**: saefeat's own. *Italics*: nulls and baselines.{_brackets(results)}")
    if data := [[f"`{v}`" if re.fullmatch("[0-9a-f]{16,}", v) else _md(v) for v in row] for row in _data(results)]:
        parts += ["## Data", _md_table(DATA_HEAD, "llrll", data)]
    parts += ["## Provenance", "\n".join(f"- {_md(key)}: {_md(fact)}" for key, fact in _facts(results).items())]
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
    return re.sub(r"([\\`*_{}\[\]<>#|!~&$])", r"\\\1", _line(text))


# ---------------------------------------------------------------- HTML
def as_html(results: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """One HTML file that loads nothing: figures ({file's name: PNG}) stand in it; one that is not given is left out."""
    name, heading = escape(str(results.get("atlas") or "an SAE")), escape(_heading(results))
    sections = _sections(results)
    links = [(anchor, _title(section)) for anchor, section in sections] + [("provenance", "Provenance")]
    index = "".join(f'<a href="#{escape(anchor)}">{escape(title)}</a>' for anchor, title in links)
    legend = f'<p class="note soft">Bold: saefeat\'s own. Grey: nulls and baselines.{_brackets(results)}</p>'
    body = [_html_section(anchor, section, figures) for anchor, section in sections]
    if data := [[escape(value) for value in row] for row in _data(results)]:
        kinds = ("", "", ' class="n"', "", "")
        head = "".join(f"<th{kind}>{title}</th>" for kind, title in zip(kinds, DATA_HEAD, strict=True))
        lines = [
            f'<tr><td>{file}</td><td>{given}</td><td class="n">{rows}</td>'
            f"<td><code>{sha}</code></td><td>{source}</td></tr>"
            for file, given, rows, sha, source in data
        ]
        body.append(f'<h2 id="data">Data</h2>\n{_html_table(head, lines)}')
    facts = "\n".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in _facts(results).items())
    body.append(f'<h2 id="provenance">Provenance</h2>\n<table class="facts"><tbody>{facts}</tbody></table>')
    if results.get("command"):
        body.append(f"<pre>{escape(str(results['command']))}</pre>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading} · {name} · saefeat</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{heading} <small>{name}</small></h1>\n{legend}\n"
        f"<nav>{index}</nav>\n" + "\n".join(body) + f'\n<footer class="note soft">{escape(STATEMENT)}</footer>\n'
        "</body>\n</html>\n"
    )


def _html_section(anchor: str, section: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    title, figure = escape(_title(section)), str(section.get("figure"))
    columns, rows = _table(section)
    wide = [any(cells[i].interval for _, cells in rows) for i in range(len(columns))]  # with a column of intervals
    parts = [f'<h2 id="{escape(anchor)}">{title}</h2>']
    if section.get("about"):
        parts.append(f"<p>{escape(str(section['about']))}</p>")
    spans = [' colspan="2"' if w else "" for w in wide]
    head = "<th></th>" + "".join(f'<th class="n"{s}>{escape(c)}</th>' for s, c in zip(spans, columns, strict=True))
    parts.append(_html_table(head, [_html_row(row, cells, wide) for row, cells in rows]))
    if figure in figures:
        data = base64.b64encode(figures[figure]).decode()
        parts.append(f'<figure><img alt="{title}" src="data:image/png;base64,{data}"></figure>')
    if notes := "".join(f"<li>{escape(str(note))}</li>" for note in section.get("notes") or ()):
        parts.append(f'<ul class="soft">{notes}</ul>')
    return "\n".join(parts)


def _html_row(row: Mapping[str, Any], cells: Sequence[Cell], wide: Sequence[bool]) -> str:
    kind = ' class="own"' if row.get("own") else ' class="null"' if row.get("null") else ""
    parts = [f'<tr{kind}><th scope="row">{escape(_line(row.get("name") or "–"))}</th>']
    for shown, two in zip(cells, wide, strict=True):
        if two and not shown.words:
            interval = f"({escape(shown.interval)})" if shown.interval else ""
            parts.append(f'<td class="n v">{escape(shown.value)}</td><td class="i">{interval}</td>')
        else:
            parts.append(f'<td class="n"{" colspan=2" if two else ""}>{escape(shown.value)}</td>')
    return "".join([*parts, "</tr>"])


def _html_table(head: str, rows: Sequence[str]) -> str:
    if not rows:
        return '<p class="note soft">Nothing was measured.</p>'
    lines = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>'
