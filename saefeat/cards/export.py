"""Cards to files: one a card, and an index.html that links them all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saefeat.atlas import Atlas
from saefeat.cards.causal import read_causal, with_causal
from saefeat.cards.emotion import emotion_card
from saefeat.cards.feature import best_emotions, feature_cards
from saefeat.cards.html import page, render_html
from saefeat.cards.markdown import render_markdown
from saefeat.cards.style import CLAIM, auroc, file_names
from saefeat.corpus import emotion_name
from saefeat.errors import InputError
from saefeat.files import atomic_path

FORMATS = ("html", "md", "json")
FEATURES_OF_EMOTION = 10
"""Feature cards that go with an emotion's card."""


def export_cards(
    atlas: Atlas,
    *,
    emotions: Sequence[str] = (),
    features: Sequence[str] = (),
    everything: bool = False,
    format: str = "html",
    out: Path | str,
    top: int = FEATURES_OF_EMOTION,
    causal: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write cards into the folder `out` and return {card's name: its file}; `out`/index.html links them.

    Every emotion's card comes with those of the `top` features that carry it best. everything: all emotions and all
    labelled features. causal: the causal.json of a dose–response study of this atlas; cards of what it turned say what
    that did. Cards link each other. A file is written whole or not at all; names are checked before any.
    Raises UnknownName (emotion, feature), InputError: nothing chosen or too much, no such format, `out` not writable,
    a study of another atlas or model; FormatError: causal is no such file.
    """
    if format not in FORMATS:
        raise InputError(f"no such card format: {format!r}", do="use one of " + ", ".join(FORMATS))
    check_choice(emotions=emotions, features=features, everything=everything)
    if top < 1:
        raise InputError(f"top is {top}, at least 1 was expected")
    evidence = None if causal is None else read_causal(causal, atlas)
    cards = list(atlas.emotion_names) if everything else [emotion_name(e, atlas.emotion_names) for e in emotions]
    cards = list(dict.fromkeys(cards))
    names = _features(atlas, cards, features, everything, top)
    out = Path(out)
    with atomic_path(out / "index.html") as index:  # opened first: a folder that cannot be written fails at once
        files = {name: f"{stem}.{format}" for name, stem in file_names([*cards, *names]).items()}
        links = {name: quote(file) for name, file in files.items()}
        rows = []
        for done, card in enumerate(_cards(atlas, cards, names, top)):
            card = card if evidence is None else with_causal(card, evidence)
            with atomic_path(out / files[card["name"]]) as temporary:
                temporary.write_text(rendered(card, format, links), encoding="utf-8")
            rows.append(_index_row(card))
            if on_progress:
                on_progress(done + 1, len(files))
        index.write_text(_index_page(atlas.name, rows, links), encoding="utf-8")
    return {name: out / file for name, file in files.items()}


def check_choice(*, emotions: Sequence[str], features: Sequence[str], everything: bool) -> None:
    """Raise InputError unless some cards were chosen, and not both all and some."""
    if everything and (emotions or features):
        raise InputError("--all already means every card", do="leave out --all, or --emotion and --features")
    if not (everything or emotions or features):
        raise InputError("no card was chosen", do="pass --emotion E, --features L18.1,L18.2 or --all")


def rendered(card: Mapping[str, Any], format: str, links: Mapping[str, str] | None = None) -> str:
    """A card as the text of a file: html, md or json."""
    if format == "html":
        return render_html(card, links)
    if format == "md":
        return render_markdown(card, links)
    return json.dumps(card, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _features(atlas: Atlas, emotions: Sequence[str], features: Sequence[str], everything: bool, top: int) -> list[str]:
    """The features to write: those asked for, then those of the emotions; or all that have a label."""
    if everything:
        return [f"{sae}.{feature}" for sae, feature in sorted(best_emotions(atlas))]
    asked = [".".join(map(str, atlas.parse_feature(name))) for name in features]
    carried = [row["feature"] for emotion in emotions for row in atlas.features(emotion, top=top)]
    return list(dict.fromkeys([*asked, *carried]))


def _cards(atlas: Atlas, emotions: Sequence[str], features: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    for name in emotions:
        yield emotion_card(atlas, name, top=top)
    yield from feature_cards(atlas, features)


def _index_row(card: Mapping[str, Any]) -> dict[str, Any]:
    first = (card["labels"] or [{}])[0] if card["kind"] == "feature" else {}
    return {"kind": card["kind"], "name": card["name"], "about": first, "family": card.get("family")}


def _index_page(atlas: str, rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> str:
    parts = [f'<h1>Cards <small>{escape(atlas)}</small></h1>\n<p class="soft">{len(rows):,} cards</p>']
    emotions = [row for row in rows if row["kind"] == "emotion"]
    if emotions:
        items = " · ".join(f'<a href="{escape(links[row["name"]])}">{escape(row["name"])}</a>' for row in emotions)
        parts.append(f"<h2>Emotions</h2>\n<p>{items}</p>")
    features = [row for row in rows if row["kind"] == "feature"]
    if features:
        lines = "\n".join(
            f'<tr><td><a href="{escape(links[row["name"]])}">{escape(row["name"])}</a></td>'
            f"<td>{escape(row['about'].get('emotion') or '–')}</td>"
            f'<td class="n">{auroc(row["about"].get("heldout_auroc"))}</td></tr>'
            for row in features
        )
        head = '<tr><th>feature</th><th>emotion</th><th class="n">held-out AUROC</th></tr>'
        body = f"<table><thead>{head}</thead><tbody>{lines}</tbody></table>"
        parts.append(f'<h2>Features</h2>\n<div class="scroll">{body}</div>')
    return page(f"Cards · {atlas} · saefeat", "\n".join(parts), claim=CLAIM)
