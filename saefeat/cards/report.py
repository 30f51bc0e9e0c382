"""One page that shows what an atlas does: a few texts, what they call up, how good the SAE is, and the cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saefeat.atlas import Atlas
from saefeat.cards.feature import provenance
from saefeat.cards.html import Links, facts_table, highlighted, link, section, table
from saefeat.cards.html import page as html_page
from saefeat.cards.style import CLAIM, decimal, number, percent
from saefeat.files import atomic_path

SHOWN_FEATURES = 5


def demo_report(
    atlas: Atlas,
    results: Sequence[Mapping[str, Any]],
    out: Path | str,
    *,
    texts: Sequence[str] = (),
    quality: Mapping[str, Any] | None = None,
    cards: Mapping[str, Path] | None = None,
) -> Path:
    """Write the report to the file `out` (HTML, self-contained but for links to the cards) and return its path.

    results: objects of `Atlas.nearest`, with tokens if texts are to be highlighted. texts: the queries, in order.
    quality: the SAE's figures. cards: what `export_cards` returned. Raises InputError if `out` cannot be written.
    """
    out = Path(out)
    start = out.absolute().parent
    links = {name: quote(os.path.relpath(Path(path).absolute(), start)) for name, path in (cards or {}).items()}
    body = [
        f'<h1>saefeat <small>{escape(atlas.name)}</small></h1>\n<p class="lead">What these texts call up in the '
        "model's activations, and which features say so.</p>"
    ]
    for i, result in enumerate(results):
        body.append(_query(atlas, result, texts[i] if i < len(texts) else None, links))
    if quality:
        body.append(section("The sparse autoencoder", _quality(quality), "Measured on held-out, non-sink tokens."))
    if links:
        items = " · ".join(link(name, links) for name in sorted(links, key=str.casefold))
        body.append(section("Cards", f"<p>{items}</p>"))
    body.append(section("Provenance", facts_table(provenance(atlas))))
    with atomic_path(out) as temporary:
        temporary.write_text(html_page(f"saefeat · {atlas.name}", "\n".join(body), claim=CLAIM), encoding="utf-8")
    return out


def _query(atlas: Atlas, result: Mapping[str, Any], text: str | None, links: Links) -> str:
    emotions = result["emotions"]
    title = emotions[0]["emotion"] if emotions else "nothing"
    rows = [[link(e["emotion"], links), escape(e.get("family") or "–"), decimal(e["score"])] for e in emotions]
    features = [
        [link(f["feature"], links), number(f["activation"]), decimal(f["contribution"])]
        for f in result["features"][:SHOWN_FEATURES]
    ]
    tokens = result.get("tokens")
    if tokens:
        shown, note = _tokens(atlas, tokens, title, text)
    else:
        shown, note = f'<p class="text">{escape(text or "")}</p>', ""
    doubt = "" if result.get("stands_out") in (True, None) else " No emotion stands out more than in texts without any."
    return section(
        title,
        f'<div class="card">{shown}</div><div class="cols"><div>{table(["emotion", "family", "n:score"], rows)}</div>'
        f"<div>{table(['feature', 'n:activation', 'n:contribution'], features)}</div></div>",
        f"Readout: {result['readout']}. {note}{doubt}",
    )


def _tokens(atlas: Atlas, tokens: Sequence[Mapping[str, Any]], emotion: str, text: str | None) -> tuple[str, str]:
    """The text with what each token adds to the score; if it is read at one token only, as the mean readout sees it."""
    where = ""
    if sum(token["used"] for token in tokens) < 2:
        where = "It is read at the last token after a continuation"
        means = [name for name, told in atlas.readouts.items() if told["pool"] == "mean"]
        if not means or text is None:
            return highlighted([token["token"] for token in tokens], [None] * len(tokens)), f"{where}."
        other = next(atlas.nearest([text], top=1, readout=means[0], tokens=True))
        tokens, emotion = other["tokens"], other["emotions"][0]["emotion"]
        where += f"; highlighted is the readout {means[0]}, nearest to {emotion}. "
    note = f"{where}Orange speaks for {emotion}, blue against it; the figure is the tooltip."
    return highlighted([token["token"] for token in tokens], [token["score"] for token in tokens]), note


def _quality(figures: Mapping[str, Any]) -> str:
    names: dict[str, tuple[str, Callable[[Any], str]]] = {
        "explained_variance": ("explained variance", percent),
        "l0": ("features active per token (L0)", number),
        "dead_share": ("dead features", percent),
        "ce_recovered": ("cross-entropy recovered", percent),
    }
    return facts_table({text: show(figures[key]) for key, (text, show) in names.items() if key in figures})
