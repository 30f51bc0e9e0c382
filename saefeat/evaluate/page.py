"""An evaluation as one HTML file that loads nothing. What `results` holds: see `report.py`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from saefeat.atlas import STATEMENT
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


def as_html(results: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """One HTML file that loads nothing: figures ({file's name: PNG}) stand in it; one that is not given is left out."""
    name, heading = escape(str(results.get("atlas") or "an SAE")), escape(heading_of(results))
    sections = sections_of(results)
    links = [(anchor, title_of(section)) for anchor, section in sections] + [("provenance", "Provenance")]
    index = "".join(f'<a href="#{escape(anchor)}">{escape(title)}</a>' for anchor, title in links)
    legend = f'<p class="note soft">Bold: saefeat\'s own. Grey: nulls and baselines.{brackets(results)}</p>'
    body = [_html_section(anchor, section, figures) for anchor, section in sections]
    if data := [[escape(value) for value in row] for row in data_of(results)]:
        kinds = ("", "", ' class="n"', "", "")
        head = "".join(f"<th{kind}>{title}</th>" for kind, title in zip(kinds, DATA_HEAD, strict=True))
        lines = [
            f'<tr><td>{file}</td><td>{given}</td><td class="n">{rows}</td>'
            f"<td><code>{sha}</code></td><td>{source}</td></tr>"
            for file, given, rows, sha, source in data
        ]
        body.append(f'<h2 id="data">Data</h2>\n{_html_table(head, lines)}')
    facts = "\n".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts_of(results).items())
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
    title, figure = escape(title_of(section)), str(section.get("figure"))
    columns, rows = table(section)
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
    parts = [f'<tr{kind}><th scope="row">{escape(one_line(row.get("name") or "–"))}</th>']
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
