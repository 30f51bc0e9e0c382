"""Cards as Markdown, for notes, issues and pull requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from saefeat.cards.style import auroc, causal_sentence, decimal, number, percent, ranged, rate, visible, word

STRONG = 0.5
"""A token is bold from this share of its feature's strongest activation in the card on."""


def render_markdown(card: Mapping[str, Any], links: Mapping[str, str] | None = None) -> str:
    """A feature's or an emotion's card; tokens that fire strongly are bold."""
    lines = _feature(card, links or {}) if card["kind"] == "feature" else _emotion(card, links or {})
    return "\n\n".join([*lines, "## Provenance", _facts(card["provenance"]), f"*{text(card['claim'])}*"]) + "\n"


def _feature(card: Mapping[str, Any], links: Mapping[str, str]) -> list[str]:
    labels = card["labels"]
    title = f"# {text(card['name'])}" + (f": {text(labels[0]['emotion'])}" if labels else "")
    facts = (
        f"Active on {percent(card['density'])} of tokens, at most {number(card['max_activation'])}; "
        f"threshold {number(card['threshold'])}, decoder norm {number(card['decoder_norm'])}."
    )
    lines = [title, text(card["evidence"]), facts]
    if labels:
        lines += ["## Evidence", evidence_table(labels, "emotion", links)]
    lines += ["## Strongest snippets", _snippets(card["snippets"], links)]
    for key, name in (("words_up", "Words it promotes"), ("words_down", "Words it suppresses")):
        words = [f"{code(word(row['token']))} {decimal(row['logit'])}" for row in card[key]]
        lines += [f"## {name}", ", ".join(words) or "None."]
    lines += _causal(card["causal"], links) if card.get("causal") else []
    near = [[_link(n["feature"], links), text(n.get("emotion") or "–"), decimal(n["cosine"])] for n in card["nearest"]]
    return [*lines, "## Nearest features", table(["feature", "emotion", "cosine"], near)]


def _emotion(card: Mapping[str, Any], links: Mapping[str, str]) -> list[str]:
    lines = [f"# {text(card['name'])}", text(card["evidence"])]
    if card["family"]:
        members = ", ".join(_link(name, links) for name in card["family_members"])
        lines.append(f"Family: {text(card['family'])}." + (f" With it: {members}." if members else ""))
    lines += ["## Features that carry it", evidence_table(card["features"], "feature", links)]
    lines += ["## Where they fire", _snippets(card["snippets"], links)]
    lines += _causal(card["causal"], links) if card.get("causal") else []
    near = [[_link(n["emotion"], links), text(n.get("family") or "–"), decimal(n["cosine"])] for n in card["nearest"]]
    return lines + (["## Nearest emotions", table(["emotion", "family", "cosine"], near)] if near else [])


def _causal(evidence: Mapping[str, Any], links: Mapping[str, str]) -> list[str]:
    """What turning it does to text: a sentence, by reader the trend and its curve, what rises most, words promoted."""
    lines = ["## What turning it does", text(causal_sentence(evidence))]
    rows = [
        [text(r["reader"]) + ("" if r["independent"] else " (not independent)"), ranged(r["slope"]), rate(r["p"]),
         ranged(r["random_slope"]), r["verdict"]]
        for r in evidence["responses"]
    ]  # fmt: skip
    lines.append(table(["read by", "slope", "p", "random slope", ""], rows))
    for r in evidence["responses"]:
        curve = [
            [decimal(point["strength"]), point["regime"], ranged(point), ranged(point["random"])]
            for point in r["curve"]
        ]
        lines += [f"By strength, read by {text(r['reader'])} ({text(r['unit'])}):",
                  table(["strength", "regime", "above unsteered", "random directions"], curve)]  # fmt: skip
    if evidence["effect"] is not None:
        most = [f"{_link(m['emotion'], links)} {decimal(m['rise'])}" for m in evidence["effect"]["most"]]
        lines.append("Rises most in the text: " + ", ".join(most) + ".")
    for key, name in (("words_up", "Words it promotes"), ("words_down", "Words it suppresses")):
        if key in evidence:  # a feature's card shows its words already
            words = (f"{code(word(row['token']))} {decimal(row['logit'])}" for row in evidence[key])
            lines.append(f"{name}: " + ", ".join(words))
    return lines


# ---------------------------------------------------------------- parts
def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are Markdown already."""
    if not rows:
        return "None."
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def evidence_table(rows: Sequence[Mapping[str, Any]], subject: str, links: Mapping[str, str]) -> str:
    """Labels with their evidence; `subject` is the column that differs: 'emotion' or 'feature'."""
    head = [subject, "readout", "held-out AUROC", "AUROC", "q", "mean difference"]
    return table(
        head,
        [
            [
                _link(row[subject], links), text(str(row.get("readout") or "–")), auroc(row.get("heldout_auroc")),
                auroc(row.get("auroc")), rate(row.get("q_value")), number(row.get("mean_difference")),
            ]
            for row in rows
        ],
    )  # fmt: skip


def text(value: str) -> str:
    """Plain text with whatever Markdown or HTML would read as markup escaped, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&$])", r"\\\1", visible(value))


def code(value: str) -> str:
    """Inline code, also of text that holds backticks or pipes."""
    value = visible(value).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", value)), default=0))
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{value}{pad}{fence}"


def _snippets(rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> str:
    peaks: dict[Any, float] = {}
    for row in rows:
        peaks[row.get("feature")] = max([peaks.get(row.get("feature"), 0.0), *(v or 0.0 for v in row["values"])])
    lines = []
    for row in rows:
        limit = STRONG * peaks[row.get("feature")]
        words = [
            _bold(token) if value and value >= limit else text(token)
            for token, value in zip(row["tokens"], row["values"], strict=True)
        ]
        of = [_link(row["feature"], links)] if row.get("feature") else []
        of += [text(str(row[key])) for key in ("emotion", "topic") if row.get(key)]
        of.append(f"peak {number(max((v or 0.0 for v in row['values']), default=0.0))}")
        lines.append(f"- {''.join(words).strip()} ({', '.join(of)})")
    return "\n".join(lines) or "None."


def _bold(token: str) -> str:
    body = token.strip(" ")
    if not body:
        return token
    start = token[: len(token) - len(token.lstrip(" "))]
    return f"{start}**{text(body)}**{token[len(start) + len(body) :]}"


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {text(k.replace('_', ' '))}: {text(_fact(v))}" for k, v in facts.items() if v is not None)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items())
    return number(value) if isinstance(value, float) else str(value)


def _link(name: str, links: Mapping[str, str]) -> str:
    return f"[{text(name)}]({links[name]})" if name in links else text(name)
