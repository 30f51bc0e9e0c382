"""What a score is worth: emotional texts against flat ones, and scores of texts of any length."""

from __future__ import annotations

from typing import Any

import numpy as np

from saefeat.causal import row, section
from saefeat.evaluate.battery import Bench, value
from saefeat.evaluate.pooled import TITLES
from saefeat.label import NEUTRAL, separated, texts_of

LENGTHS = ((1, 12), (13, 25), (26, 60), (61, 120), (121, None))
"""Bins of text length in tokens."""
FEWEST = 30
"""Texts of a bin that are needed to say how their scores spread."""
STORY_KINDS = ("narrative", "dialogue")
Groups = dict[str, np.ndarray]


def separation(bench: Bench) -> tuple[dict[str, Any], tuple[Groups, Groups]]:
    """The highest score of emotional and of flat texts, topics left out; and both by group for a figure."""
    rows = []
    emotional: Groups = {}
    flat: Groups = {}
    for readout in bench.atlas.text_readouts:
        kinds_N = _kinds(bench, readout)
        for name in bench.representations(readout):
            fitted = bench.fit(readout, name, every_topic=True)
            top_N = np.nanmax(fitted.prototypes.heldout_NE, 1)
            flat_N = fitted.emotion_N == NEUTRAL
            groups = {kind: flat_N & (kinds_N == kind) for kind in STORY_KINDS}
            groups["short"] = flat_N & ~np.isin(kinds_N, STORY_KINDS)
            cells: list[Any] = [_separated(top_N, ~flat_N, flat_N)]
            for kind, own_N in groups.items():
                like_N = ~flat_N & (np.isin(fitted.topic_N, bench.stories.topics) == (kind != "short"))
                cells.append(_separated(top_N, like_N, own_N))
            above = (top_N[~flat_N] > np.quantile(top_N[flat_N], 0.95)).mean() if flat_N.any() else np.nan
            cells.append(value(above))
            rows.append(row(f"{TITLES[name]} ({readout})", cells, own=name == "sae", null=name != "sae"))
            if name == "sae":
                emotional[readout] = top_N[~flat_N]
                flat |= {f"{kind}, {readout}": top_N[own_N] for kind, own_N in groups.items() if own_N.any()}
    about = (
        "AUROC of the highest score, emotional texts against flat ones, topics left out. Flat texts of stories are "
        "narratives and dialogues, compared with stories; short ones with short texts. Last: emotional texts above the "
        "bound that 95 % of flat texts stay under, which is what `stands_out` says."
    )
    columns = {"all": "auroc", "narratives": "auroc", "dialogues": "auroc", "short": "auroc", "stand out": "percent"}
    figure = "reliability.png" if flat else None
    return section("flat", "Emotional against flat", about, columns, rows, figure=figure), (emotional, flat)


def _separated(top_N: np.ndarray, emotional_N: np.ndarray, flat_N: np.ndarray) -> Any:
    both = emotional_N.any() and flat_N.any()
    return value(separated(top_N[emotional_N], top_N[flat_N])) if both else None


def _kinds(bench: Bench, readout: str) -> np.ndarray:
    """(N,) the kind of each flat text, '' for the others, in the order of `Bench.read`."""
    kinds: list[str] = []
    for corpus in bench.corpora(readout):
        kinds += [""] * len(corpus.stories) + [text.kind for text in corpus.neutral]
    return np.array(kinds)


def lengths(bench: Bench) -> tuple[dict[str, Any], dict[str, list[float | None]]]:
    """Whether a score of 2 is as unusual in short texts as in long ones, and for each emotion; and the spread of
    scores by bin of LENGTHS, for each readout, for a figure."""
    subject, rows = bench.atlas.subject(), []
    spread: dict[str, list[float | None]] = {}
    for readout in bench.atlas.text_readouts:
        texts = [text for corpus in bench.corpora(readout) for text in texts_of(corpus)]
        count_N = np.array([len(subject.tokenize(text)) for text in texts])
        fitted = bench.fit(readout, "sae", every_topic=True)
        told_N = fitted.emotion_N != NEUTRAL
        others_NE = told_N[:, None] & (fitted.emotion_N[:, None] != np.arange(len(bench.emotions)))
        scores_NE = np.where(others_NE, fitted.prototypes.heldout_NE, np.nan)
        spread[readout] = []
        for low, high in LENGTHS:
            own_N = told_N & (count_N >= low) & (count_N <= (high or np.inf))
            some = scores_NE[own_N]
            some = some[np.isfinite(some)]
            if own_N.sum() < FEWEST or not len(some):
                spread[readout].append(None)
                continue
            cells = [int(own_N.sum()), value(some.mean()), value(some.std()), value((some > 2).mean())]
            rows.append(row(f"{bin_name(low, high)} tokens, {readout}", cells, own=True))
            spread[readout].append(float(some.std()))
        known_E = np.isfinite(scores_NE).sum(0)
        above_E = (scores_NE > 2).sum(0)[known_E > 0] / known_E[known_E > 0]
        cell = value(above_E.mean(), (above_E.min(), above_E.max())) if len(above_E) else None
        rows.append(row(f"each emotion, {readout} (range)", [None, None, None, cell], own=True))
    about = "Scores of emotions that a text was not written for, topics left out; over all, mean 0 and sd 1."
    columns = {"texts": "number", "mean": "number", "sd": "number", "above 2": "percent"}
    figure = "lengths.png" if any(sd is not None for own in spread.values() for sd in own) else None
    return section("lengths", "Is a score of 2 always as unusual?", about, columns, rows, figure=figure), spread


def bin_name(low: int, high: int | None) -> str:
    return f"over {low - 1}" if high is None else f"{low}–{high}"
