"""Cards as single HTML files: no script, nothing loaded from anywhere, light and dark, from a phone's width up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from saefeat.cards.plots import dose_curve, histogram
from saefeat.cards.style import auroc, causal_sentence, decimal, number, percent, ranged, rate, visible, word

CSS = """
:root { color-scheme: light dark; --ink: #1d2025; --soft: #5c636e; --paper: #fff; --raised: #f5f6f8; --line: #dcdfe4;
  --link: #1a5fb4; --up: 230 126 20; --down: 52 120 220; --bar: #d9771a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a2a9b4; --paper: #15171b; --raised: #1f2228;
  --line: #363b44; --link: #86b7f5; --bar: #e08c3a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.1rem 3rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h1 small { font-weight: 400; color: var(--soft); }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } h3 { font-size: .95rem; margin: 0 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; } a { color: var(--link); } .soft, figcaption { color: var(--soft); }
.note { font-size: .88rem; } .lead { margin-top: .7rem; }
.cols { display: grid; gap: 1rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); white-space: nowrap; }
th, td { padding: .18rem 1.1rem .18rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } td.n, td:first-child { white-space: nowrap; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
code, .text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .88rem; }
code { white-space: pre-wrap; }
.text { white-space: pre-wrap; line-height: 1.75; margin: .15rem 0; max-width: none; }
.text span { border-radius: .2em; padding: .1em 0; unicode-bidi: isolate; }
.card { background: var(--raised); border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .8rem;
  margin: .5rem 0; } .card .note { margin: 0; }
@media (max-width: 34rem) { th { white-space: normal; } th, td { padding-right: .6rem; } }
figure { margin: 0; } svg { width: 100%; max-width: 30rem; height: auto; display: block; }
svg text { fill: var(--soft); font: 10.5px system-ui, sans-serif; } svg rect { fill: var(--bar); }
svg line { stroke: var(--line); } footer { margin-top: 2.5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
OPAQUE = 0.62
"""Background of the strongest token; more would make its text hard to read in one of the two schemes."""
LABELS = 12
"""Labels that a card shows; its JSON has all."""

Links = Mapping[str, str]
"""Where the cards of features and emotions lie: {name: href}; what is not in it is not linked."""


# ---------------------------------------------------------------- the page
def page(title: str, body: str, *, claim: str) -> str:
    """A whole HTML document around `body` (HTML), which ends with the sentence `claim`."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n"
        f'<footer class="note soft">{escape(claim)}</footer>\n</body>\n</html>\n'
    )


def render_html(card: Mapping[str, Any], links: Links | None = None) -> str:
    """A feature's or an emotion's card as one HTML document."""
    links = links or {}
    body = _feature(card, links) if card["kind"] == "feature" else _emotion(card, links)
    title = f"{card['name']} · {card['provenance']['atlas']} · saefeat"
    return page(title, body, claim=card["claim"])


def _feature(card: Mapping[str, Any], links: Links) -> str:
    labels = card["labels"]
    about = f" <small>{escape(labels[0]['emotion'])}</small>" if labels else ""
    facts = {
        "active on": f"{percent(card['density'])} of tokens",
        "strongest activation": number(card["max_activation"]),
        "threshold": number(card["threshold"]),
        "decoder norm": number(card["decoder_norm"]),
    }
    activity = f'<div class="cols">{histogram(card["histogram"])}<div>{facts_table(facts)}</div></div>'
    lens = f'<div class="cols">{_words("Up", card["words_up"])}{_words("Down", card["words_down"])}</div>'
    near = [[link(n["feature"], links), escape(n.get("emotion") or "–"), decimal(n["cosine"])] for n in card["nearest"]]
    return "\n".join(
        [
            f'<h1>{escape(card["name"])}{about}</h1>\n<p class="soft">Feature of a sparse autoencoder at '
            f"{escape(card['provenance']['hook_point'])} of {escape(card['provenance']['model'])}</p>",
            f'<p class="lead">{escape(card["evidence"])}</p>',
            section("Evidence", evidence_table(labels[:LABELS], "emotion", links), _evidence_note(labels)),
            section("Activations", activity),
            section("Strongest snippets", snippets(card["snippets"], links) or _none("No snippets were kept.")),
            section("Words it promotes and suppresses", lens, "Logit lens: the decoder direction through the final "
                     "norm's gain and the unembedding; right up to one positive factor."),
            causal(card["causal"], links) if card.get("causal") else "",
            section("Nearest features", table(["feature", "emotion", "n:cosine"], near), "By decoder direction."),
            section("Provenance", facts_table(card["provenance"])),
        ]
    )  # fmt: skip


def _emotion(card: Mapping[str, Any], links: Links) -> str:
    near = [[link(n["emotion"], links), escape(n.get("family") or "–"), decimal(n["cosine"])] for n in card["nearest"]]
    family = f"Family: {escape(card['family'])}. " if card["family"] else ""
    members = ", ".join(link(name, links) for name in card["family_members"])
    return "\n".join(
        [
            f'<h1>{escape(card["name"])} <small>emotion</small></h1>\n<p class="soft">As read in '
            f"{escape(card['provenance']['model'])}</p>",
            f'<p class="lead">{escape(card["evidence"])}</p>',
            f"<p>{family}{'With it: ' + members + '.' if members else ''}</p>" if family or members else "",
            section("Features that carry it", evidence_table(card["features"], "feature", links), _evidence_note([])),
            section("Where they fire", snippets(card["snippets"], links) or _none("No snippets were kept.")),
            causal(card["causal"], links) if card.get("causal") else "",
            section("Nearest emotions", table(["emotion", "family", "n:cosine"], near), card["nearest_note"])
            if near else "",
            section("Provenance", facts_table(card["provenance"])),
        ]
    )  # fmt: skip


# ---------------------------------------------------------------- parts, also used by the report
def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a heading that starts with 'n:' is a column of numbers."""
    kinds = [' class="n"' if name.startswith("n:") else "" for name in head]
    if not rows:
        return _none("None.")
    line = "".join(f"<th{k}>{escape(h.removeprefix('n:'))}</th>" for k, h in zip(kinds, head, strict=True))
    cells = ("".join(f"<td{k}>{c}</td>" for k, c in zip(kinds, row, strict=True)) for row in rows)
    lines = "\n".join(f"<tr>{c}</tr>" for c in cells)
    return f'<div class="scroll"><table><thead><tr>{line}</tr></thead>\n<tbody>{lines}</tbody></table></div>'


def evidence_table(rows: Sequence[Mapping[str, Any]], subject: str, links: Links) -> str:
    """Labels with their evidence; `subject` is the column that differs: 'emotion' or 'feature'."""
    head = [subject, "readout", "n:held-out AUROC", "n:AUROC", "n:q", "n:mean difference"]
    return table(
        head,
        [
            [
                link(row[subject], links), escape(str(row.get("readout") or "–")), auroc(row.get("heldout_auroc")),
                auroc(row.get("auroc")), rate(row.get("q_value")), number(row.get("mean_difference")),
            ]
            for row in rows
        ],
    )  # fmt: skip


def highlighted(tokens: Sequence[str], values: Sequence[float | None], scale: float | None = None) -> str:
    """Tokens on a background as opaque as |value| / scale (default: their largest), the value as tooltip.

    Positive values are orange, negative ones blue; zero and None are plain text.
    """
    top = scale or max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    parts = []
    for token, value in zip(tokens, values, strict=True):
        text = escape(visible(token))
        shade = round(OPAQUE * min(1.0, abs(value) / top), 2) if top and value and math.isfinite(value) else 0
        if not value or not shade:
            parts.append(text)
            continue
        colour = "up" if value > 0 else "down"
        body = text.lstrip(" ") or text  # a shaded space at the end of a line looks like a word of its own
        style = f"background:rgb(var(--{colour})/{shade})"
        parts.append(f'{text[: len(text) - len(body)]}<span style="{style}" title="{number(value)}">{body}</span>')
    return f'<p class="text">{"".join(parts)}</p>'


def snippets(rows: Sequence[Mapping[str, Any]], links: Links) -> str:
    """Token-highlighted snippets, one scale for all those of the same feature."""
    scales: dict[Any, float] = {}
    for row in rows:
        peak = max((v for v in row["values"] if v is not None), default=0.0)
        scales[row.get("feature")] = max(peak, scales.get(row.get("feature"), 0.0))
    out = []
    for row in rows:
        peak = max((v for v in row["values"] if v is not None), default=0.0)
        of = [link(row["feature"], links)] if row.get("feature") else []
        of += [escape(str(row[key])) for key in ("emotion", "topic") if row.get(key)] + [f"peak {number(peak)}"]
        first, *rest = row["tokens"] or [""]
        text = highlighted([first.lstrip(" "), *rest], row["values"], scales[row.get("feature")])
        out.append(f'<div class="card">{text}<p class="note soft">{" · ".join(of)}</p></div>')
    return "\n".join(out)


def causal(evidence: Mapping[str, Any], links: Links) -> str:
    """What turning it does to text: a sentence, by reader the trend and its curve, what rises most, words promoted."""
    head = ["read by", "n:slope", "n:p", "n:random slope", ""]
    rows = [
        [escape(r["reader"]) + ("" if r["independent"] else " (not independent)"), ranged(r["slope"]), rate(r["p"]),
         ranged(r["random_slope"]), escape(r["verdict"])]
        for r in evidence["responses"]
    ]  # fmt: skip
    curves = "".join(
        f"<div><h3>{escape(r['reader'])}</h3>{dose_curve(r['curve'], escape(r['unit']))}</div>"
        for r in evidence["responses"]
    )
    most = [[link(m["emotion"], links), decimal(m["rise"])] for m in (evidence["effect"] or {"most": []})["most"]]
    parts = [f"<p>{escape(causal_sentence(evidence))}</p>", table(head, rows), f'<div class="cols">{curves}</div>']
    tables = f"<div><h3>Rises most in the text</h3>{table(['emotion', 'n:sd'], most)}</div>" if most else ""
    if "words_up" in evidence:  # a feature's card shows its words already
        tables += _words("Words it promotes", evidence["words_up"]) + _words(
            "Words it suppresses", evidence["words_down"]
        )
    note = "Neutral openings continued with its direction added; dashed: random directions; hollow: not surgical."
    return section("What turning it does", "\n".join([*parts, f'<div class="cols">{tables}</div>']), note)


def _words(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [[f"<code>{escape(word(row['token']))}</code>", decimal(row["logit"])] for row in rows]
    return f"<div><h3>{title}</h3>{table(['token', 'n:logit'], cells)}</div>"


def section(title: str, body: str, note: str = "") -> str:
    about = f'<p class="note soft">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>{about}\n{body}"


def _evidence_note(labels: Sequence[Any]) -> str:
    more = f" The first {LABELS} of {len(labels)} labels." if len(labels) > LABELS else ""
    return (
        "AUROC within topics of the reading along the feature's direction; held-out: on topics left out when the "
        f"feature was chosen; q: false discovery rate over all features and emotions.{more}"
    )


def facts_table(facts: Mapping[str, Any]) -> str:
    lines = "".join(f"<tr><th>{escape(k.replace('_', ' '))}</th><td>{escape(_fact(v))}</td></tr>"
                    for k, v in facts.items() if v is not None)  # fmt: skip
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items())
    return number(value) if isinstance(value, float) else str(value)


def link(name: str, links: Links) -> str:
    return f'<a href="{escape(links[name])}">{escape(name)}</a>' if name in links else escape(name)


def _none(text: str) -> str:
    return f'<p class="note soft">{escape(text)}</p>'
