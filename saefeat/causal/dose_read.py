"""Readings of the texts of a dose–response study, by the atlas that steered, by another, and by independent judges.

A reading is a number for each text; a grid of them is prompts × samples × strengths. The atlas that steered is no
independent witness: its prototypes chose the directions.

Shapes: N texts of a cell, E emotions of the reader, C classes of a judge, D width of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas import Atlas, choose_readout
from saefeat.causal.dose import key_of
from saefeat.causal.effects import read_scores
from saefeat.causal.judge import Embed, Judge, judged, masked
from saefeat.causal.records import Records
from saefeat.files import directory_lock, fingerprint
from saefeat.label import unit_rows

Key = tuple[str, str, float]
JUDGE = "judge"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """scores: of each cell (N, E), NaN for a text that cannot be read. independent: neither steered nor fitted to the
    stories. unit: of its readings. of: emotion → column, of those that it can be asked about."""

    name: str
    unit: str
    independent: bool
    emotions: tuple[str, ...]
    scores: Mapping[Key, np.ndarray]

    def covers(self, emotion: str) -> bool:
        return emotion in self.emotions

    def of(self, cell: Key, emotion: str) -> np.ndarray:
        """(N,) readings of an emotion in the texts of a cell."""
        own_N: np.ndarray = self.scores[cell][:, self.emotions.index(emotion)]
        return own_N


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What independent judges say. reader: all of them together; classes: of each judge the readings of all its
    classes by cell, (N, C)."""

    reader: Reader
    judges: tuple[Judge, ...]
    classes: tuple[Mapping[Key, np.ndarray], ...]


@dataclass(frozen=True, kw_only=True)
class Topic:
    """by_cell: cosine of each text with the unsteered one of its prompt and sample (N,); elsewhere: mean cosine of
    unsteered texts of different prompts, which is how far another topic is."""

    by_cell: Mapping[Key, np.ndarray] = field(default_factory=dict)
    elsewhere: float = float("nan")


def read_by_atlas(
    atlas: Atlas,
    records: Sequence[Mapping[str, Any]],
    out: Path | str,
    *,
    tokens: int,
    label: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reader:
    """The scores of all emotions of an atlas, by its readout for texts of so many tokens, kept in `out`.

    What is there already is not read again unless its texts have changed. Raises InputError: kept readings are of
    another atlas or readout.
    """
    readout = choose_readout(atlas.readouts, tokens)
    weights = atlas.manifest["subject"]["weights"]
    how = {"atlas": atlas.name, "weights": weights, "readout": readout, "emotions": list(atlas.emotion_names)}
    path = Path(out) / f"readings-{re.sub(r'[^A-Za-z0-9_.-]+', '-', atlas.name)}-{weights[:8]}.jsonl.gz"
    with directory_lock(out):
        kept = Records(path, "dose-readings", how)
        known = {(*key_of(row), row["texts"]): row["scores"] for row in kept.rows}
        scores: dict[Key, np.ndarray] = {}
        for done, row in enumerate(records, 1):
            cell, texts = key_of(row), fingerprint(list(row["texts"]))
            if (*cell, texts) not in known:
                read_NE = read_scores(atlas, row["texts"], readout)
                told = [None if np.isnan(own_E).any() else [round(float(v), 2) for v in own_E] for own_E in read_NE]
                kept.append({"kind": cell[0], "name": cell[1], "strength": cell[2], "texts": texts, "scores": told})
                known[(*cell, texts)] = told
            E = len(atlas.emotion_names)
            scores[cell] = np.array([[np.nan] * E if own is None else own for own in known[(*cell, texts)]], float)
            if on_progress:
                on_progress(done, len(records))
    return Reader(
        name=label, unit="score, sd of stories", independent=False, emotions=atlas.emotion_names, scores=scores
    )


def read_by_judges(
    judges: Sequence[Judge],
    records: Sequence[Mapping[str, Any]],
    embed: Embed,
    mask: re.Pattern[str],
    emotions: Sequence[str],
) -> Judged:
    """What judges say of the texts with words for emotions masked; together: of those of `emotions` that one covers."""
    by_cell = _embedded([masked(row["texts"], mask) for row in records], embed)
    keys = [key_of(row) for row in records]
    empty = [np.array([not text.strip() for text in row["texts"]]) for row in records]
    classes = []
    for judge in judges:
        own = {}
        for cell, X_ND, empty_N in zip(keys, by_cell, empty, strict=True):
            own[cell] = judge(X_ND)
            own[cell][empty_N] = np.nan
        classes.append(own)
    covered = tuple(emotion for emotion in dict.fromkeys(emotions) if any(judge.own(emotion) for judge in judges))
    scores = {}
    for cell in keys:
        columns = [judged(judges, [own[cell] for own in classes], emotion) for emotion in covered]
        scores[cell] = np.stack([c for c in columns if c is not None], 1) if columns else np.zeros((0, 0))
    reader = Reader(
        name=JUDGE, unit="log-odds, sd of labelled texts", independent=True, emotions=covered, scores=scores
    )
    return Judged(reader=reader, judges=tuple(judges), classes=tuple(classes))


def read_topics(records: Sequence[Mapping[str, Any]], embed: Embed, samples: int) -> Topic:
    """How near texts stay to what is written without steering, by sentence embeddings of the unmasked texts."""
    keys = [key_of(row) for row in records]
    by_cell = [unit_rows(X_ND) for X_ND in _embedded([row["texts"] for row in records], embed)]
    plain_ND = next(X_ND for cell, X_ND in zip(keys, by_cell, strict=True) if cell[0] == "unsteered")
    cosines = {cell: (X_ND * plain_ND).sum(1) for cell, X_ND in zip(keys, by_cell, strict=True)}
    prompt_N = np.arange(len(plain_ND)) // samples
    apart_NN = prompt_N[:, None] != prompt_N[None]
    elsewhere = float((plain_ND @ plain_ND.T)[apart_NN].mean()) if apart_NN.any() else float("nan")
    return Topic(by_cell=cosines, elsewhere=elsewhere)


def _embedded(texts: Sequence[Sequence[str]], embed: Embed) -> list[np.ndarray]:
    """Embeddings cell by cell; every text is embedded once, all in one call."""
    distinct = list(dict.fromkeys(text for own in texts for text in own))
    place = {text: n for n, text in enumerate(distinct)}
    X_ND = np.asarray(embed(distinct), np.float64)
    return [X_ND[[place[text] for text in own]] for own in texts]
