"""The present speaker's emotion and the other's, compared on development data: what docs/method.md tables.

    python docs/method/dialogues.py [--atlas NAME] [--keep DIR]

The dialogues that ship, each setting left out in turn (the short texts by topic likewise), the same ridge everywhere.
Own: how often the emotion asked for comes first / among the first five of 171; the wrong one: the other speaker's.
Figures are for choosing, not for reporting.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from readouts import DEVELOPMENT, RIDGE

from saefeat.atlas import Atlas
from saefeat.config import OF_DIALOGUES, STORY, ReadoutConfig
from saefeat.corpus import load_corpus, load_dialogues
from saefeat.evaluate.pooled import Pools, kept, reading
from saefeat.label import (
    NEUTRAL,
    emotions_and_topics,
    fit_prototypes,
    places,
    pool_dialogues,
    pool_texts,
    spoken_by,
    texts_of,
)

SPEAKER, OTHER = (replace(one, power=1.0) for one in OF_DIALOGUES)


class Signed:
    """Stands in for an SAE: the stream itself, its two signs apart, as pooling asks of activations."""

    def __init__(self, layer: int, d_model: int, sink_norm: float | None) -> None:
        self.layer, self.n_features, self.sink_norm = layer, 2 * d_model, sink_norm

    def encode(self, x_ND: torch.Tensor) -> torch.Tensor:
        return torch.cat([x_ND.relu(), (-x_ND).relu()], dim=-1)


class Read:
    """Pooled turns and texts of every kind, by '{sae or dense} {turn or opening}'."""

    def __init__(self, atlas: Atlas, keep: Path | None) -> None:
        self.subject, self.sae, self.keep = atlas.subject(), atlas.sae(), keep
        stories = load_corpus("stories").on_topics(DEVELOPMENT)
        remarks, self.dialogues = load_corpus("remarks"), load_dialogues("dialogues", stories.emotions)
        self.speaker_N, self.other_N, self.setting_N = spoken_by(self.dialogues)
        turns = self.dialogues.turns
        self.answered_N = np.array([turn.answered for turn in turns])
        lengths = [len(one.messages) for one in (*self.dialogues.dialogues, *self.dialogues.neutral)]
        self.number_N = np.concatenate([np.arange(n) for n in lengths])
        dense = Signed(self.sae.layer, self.subject.d_model, self.sae.sink_norm)
        self.encoders = {"sae": self.sae, "dense": dense}
        self.of_dialogues = self._pooled((SPEAKER, OTHER), None)
        self.of_remarks = self._pooled((SPEAKER, OTHER), texts_of(remarks))
        self.of_stories = self._pooled((SPEAKER,), texts_of(stories))
        self.remarks, self.stories = emotions_and_topics([remarks]), emotions_and_topics([stories])

    def _pooled(self, readouts: Sequence[ReadoutConfig], texts: Sequence[str] | None) -> Pools:
        """texts None: the dialogues."""
        own = [replace(r, name=f"{e} {r.name}") for e in self.encoders for r in readouts]
        encoders = {one.name: self.encoders[one.name.split()[0]] for one in own}

        def pool() -> Pools:
            if texts is not None:
                plain = [replace(one, dialogues=()) for one in own]
                return signs(pool_texts(self.subject, texts, plain, encoders).features)
            pools = pool_dialogues(self.subject, self.dialogues, own, encoders)
            return signs({name: X_NF for name, (X_NF, _) in pools.items()})

        given = [turn.text for turn in self.dialogues.turns] if texts is None else list(texts)
        how = [*reading(self.subject, self.sae, STORY), *[one.name for one in own], texts is None]
        return kept(self.keep, how, given, pool)

    def row(
        self, what: str, name: str, rows_N: np.ndarray, *, power: float = 0.5, other: bool = False,
        also: Sequence[str] = (), by_role: bool = False, shown_N: np.ndarray | None = None, fitted: bool = True,
    ) -> None:  # fmt: skip
        """Print a row: prototypes of the turns rows_N (the speaker's emotion, or the other's) and of further corpora.

        by_role: each setting's user and assistant turns centred apart. shown_N: of which turns the figures are (they
        are among rows_N). fitted False: by the further corpora alone.
        """
        exponent = np.float32(1.0 if name.startswith("dense") else power)
        wanted_N, wrong_N = (self.other_N, self.speaker_N) if other else (self.speaker_N, self.other_N)
        wanted_N, wrong_N, setting_N = wanted_N[rows_N], wrong_N[rows_N], self.setting_N[rows_N]
        X_NF = raised(self.of_dialogues[name][rows_N], exponent)
        if by_role:
            X_NF = centred(X_NF, np.char.add(setting_N, (self.number_N[rows_N] % 2).astype(str)))
        parts = [(X_NF, wanted_N, setting_N)] if fitted else []
        if "remarks" in also:
            parts.append((raised(self.of_remarks[name], exponent), *self.remarks))
        if "stories" in also:
            parts.append((raised(self.of_stories[name], exponent), *self.stories))
        stacked_NF, emotion_N, topic_N = (np.concatenate(part) for part in zip(*parts, strict=True))
        fit = fit_prototypes(stacked_NF, emotion_N, topic_N, ridge=RIDGE, n_emotions=len(self.dialogues.emotions))
        scores_NE = fit.heldout_NE[: len(X_NF)] if fitted else X_NF @ fit.W_FE + fit.bias_E
        shown_N = (np.ones(len(X_NF), bool) if shown_N is None else shown_N[rows_N]) & (wanted_N != NEUTRAL)
        figures = [_first(scores_NE[shown_N], told_N[shown_N]) for told_N in (wanted_N, wrong_N)]
        print(f"| {what} | {' | '.join(figures)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    read = Read(Atlas.open(given.atlas), given.keep)
    every_N = np.ones(len(read.number_N), bool)
    heard_N, opens_N = read.number_N > 0, read.answered_N
    first_N = opens_N & (read.number_N % 2 == 0)
    print("| what is read, fitted on | own | the wrong one |\n|---|---|---|")
    turn, opening = "sae speaker", "sae other"
    read.row("a turn's tokens: short texts (`turn`)", turn, every_N, also=["remarks"], fitted=False)
    read.row("… dialogues", turn, every_N)
    read.row("… dialogues, centred within setting and role", turn, every_N, by_role=True)
    read.row("… dialogues and short texts (**`speaker`**)", turn, every_N, also=["remarks"])
    read.row("… dialogues, short texts and stories", turn, every_N, also=["remarks", "stories"])
    read.row("… dialogues, dense stream", "dense speaker", every_N)
    read.row("the other's emotion from a turn's tokens: dialogues", turn, every_N, other=True)
    read.row("… from turns after which one has heard the other", turn, heard_N, other=True)
    read.row("… the same, dense stream", "dense speaker", heard_N, other=True)
    read.row("what opens the reply, the user's emotion: short texts", opening, first_N, also=["remarks"], fitted=False)
    read.row("… dialogues, power ½", opening, first_N)
    read.row("… dialogues, power 1", opening, first_N, power=1.0)
    read.row("… dialogues and short texts, power 1", opening, first_N, power=1.0, also=["remarks"])
    read.row("… dialogues, dense stream", "dense other", first_N)
    read.row("any opening, who has just spoken: dialogues, power 1", opening, opens_N, power=1.0)
    read.row("… dialogues and short texts (**`other`**)", opening, opens_N, power=1.0, also=["remarks"])
    for number, name in enumerate(("the first reply", "the second user's turn", "the second reply")):
        where_N = read.number_N == number
        read.row(f"… where {name} opens", opening, opens_N, power=1.0, also=["remarks"], shown_N=where_N)
    replies_N = opens_N & (read.number_N == 2)
    read.row("what opens the second reply, the assistant's emotion", opening, replies_N, power=1.0, other=True)


def _first(scores_NE: np.ndarray, emotion_N: np.ndarray) -> str:
    place_N = places(scores_NE, emotion_N)
    return " / ".join(f"{100 * (place_N < k).mean():.1f}" for k in (1, 5))


def signs(pools: Pools) -> Pools:
    """The mean stream from the means of its two signs; activations as they are."""
    halves = {name: np.split(X_NF, 2, axis=1) for name, X_NF in pools.items() if name.startswith("dense")}
    return {name: halves[name][0] - halves[name][1] if name in halves else X_NF for name, X_NF in pools.items()}


def raised(X_NF: np.ndarray, exponent: np.float32) -> np.ndarray:
    """Activations to a power; a stream, which has signs, comes with power 1 and stays as it is."""
    return X_NF if exponent == 1 else X_NF**exponent


def centred(X_NF: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    out_NF = X_NF.copy()
    for group in np.unique(group_N):
        out_NF[group_N == group] -= X_NF[group_N == group].mean(0)
    return out_NF


if __name__ == "__main__":
    main()
