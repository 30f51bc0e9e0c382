"""The forward passes over a conversation: turns, tokens and reply starts scored as the activations come.

What is held at once is one window's residual stream, a chunk of activations and one turn's sums, however long the
conversation. Shapes: T tokens, F features, E emotions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from saefeat.atlas import Atlas
from saefeat.trace.layout import Layout
from saefeat.trace.readers import Reader, RunningMean

ENCODED_ELEMENTS = 1 << 22
"""Activations held at once: 16 MiB in float32."""
Chunk = tuple[int, np.ndarray, np.ndarray]
Pooled = tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]


def read(
    atlas: Atlas, layout: Layout, room: int, reader: Reader, replies: Reader, smoother: RunningMean | None
) -> tuple[list[Pooled], dict[int, np.ndarray], int]:
    """By turn its scores and those of its tokens; by turn the scores where the reply after it starts (of a readout of
    openings: where any turn after it opens); passes over the whole."""
    places = layout.openings() if replies.opens else {turn: (at, at + 1) for turn, at in layout.reply_at.items()}
    tail = atlas.subject().tokenize(replies.config.continuation) if replies.config.continuation else []
    found: dict[int, np.ndarray] = {}
    for turn in [*layout.apart, *(places if tail else [])]:
        after, span = [*layout.generation, *tail], layout.spans[turn]
        ids = layout.own_pass(turn, after, room)
        x_TD = atlas.subject().residuals(torch.tensor([ids]), [replies.sae.layer])[replies.sae.layer][0]
        count = span.stop - span.content_stop + len(after) if replies.opens else 1
        sum_F, used = _sum(replies, x_TD[-count:])
        if used:
            found[turn] = replies.scores(sum_F / used)
    waiting = {} if tail else places
    planned = layout.windows(room)

    def chunks() -> Iterator[Chunk]:
        """(position, acts_TF, usable_T) over all tokens in order; scores reply starts on the way."""
        sums: dict[int, tuple[np.ndarray, int]] = {}
        for window in planned:
            ids_BT = torch.tensor([window.ids(layout.ids)])
            x = atlas.subject().residuals(ids_BT, sorted({reader.sae.layer, replies.sae.layer}))
            for turn, (start, stop) in waiting.items():
                start, last = max(start, window.first), min(stop, window.stop)
                if start >= last:
                    continue
                x_TD = x[replies.sae.layer][0, window.place(start) : window.place(last - 1) + 1]
                sum_F, used = _sum(replies, x_TD)
                before_F, before = sums.pop(turn, (np.zeros_like(sum_F), 0))
                sums[turn] = before_F + sum_F, before + used
                if last == stop:
                    sum_F, used = sums.pop(turn)
                    if used:
                        found[turn] = replies.scores(sum_F / used)
            step = max(1, ENCODED_ELEMENTS // reader.sae.n_features)
            for first in range(window.first, window.stop, step):
                stop = min(first + step, window.stop)
                x_TD = x[reader.sae.layer][0, window.place(first) : window.place(stop - 1) + 1]
                usable_T = reader.usable(x_TD)
                usable_T[: max(0, 1 - first)] = False  # the conversation's first token
                yield first, reader.encode(x_TD), usable_T

    return list(_pool(layout, chunks(), reader, smoother)), found, len(planned)


def _sum(replies: Reader, x_TD: torch.Tensor) -> tuple[np.ndarray, int]:
    """(F,) sum of the activations that count where a reply starts, and how many: of openings those of no sink."""
    acts_TF = replies.encode(x_TD)
    if replies.opens:
        acts_TF = acts_TF[replies.usable(x_TD)]
    return acts_TF.sum(0, dtype=np.float64), len(acts_TF)


def _pool(layout: Layout, chunks: Iterator[Chunk], reader: Reader, smoother: RunningMean | None) -> Iterator[Pooled]:
    """Turn by turn as the chunks come, so that a turn's sums are all that is held."""
    chunk: Chunk | None = None
    for span in layout.spans:
        sum_F: np.ndarray | None = None
        count, at = 0, span.content_start
        scores: list[np.ndarray] = []
        used: list[np.ndarray] = []
        if smoother is not None:
            smoother.clear()
        while at < span.content_stop:
            while chunk is None or chunk[0] + len(chunk[1]) <= at:
                chunk = next(chunks)
            first, acts_TF, usable_T = chunk
            stop = min(span.content_stop, first + len(acts_TF))
            acts_TF, usable_T = acts_TF[at - first : stop - first], usable_T[at - first : stop - first]
            if usable_T.any():
                part_F = acts_TF[usable_T].sum(0, dtype=np.float64)
                sum_F = part_F if sum_F is None else sum_F + part_F
                count += int(usable_T.sum())
            if smoother is not None:
                scores.append(_token_scores(acts_TF, usable_T, reader, smoother))
                used.append(usable_T)
            at = stop
        own = None
        if smoother is not None:
            E = reader.prototype.W_FE.shape[1]
            own = (
                np.concatenate([np.zeros((0, E), np.float32), *scores]),
                np.concatenate([np.zeros(0, bool), *used]),
            )
        yield (None if sum_F is None else reader.scores(sum_F / count)), own
    for _ in chunks:  # what follows the last turn's content: a reply start may be there
        pass


def _token_scores(acts_TF: np.ndarray, usable_T: np.ndarray, reader: Reader, smoother: RunningMean) -> np.ndarray:
    """(T, E) float32 scores of the running mean after each token; a sink leaves it as it was."""
    mean_TF = np.full(acts_TF.shape, np.nan, np.float32)
    for t, usable in enumerate(usable_T):
        if usable:
            smoother.add(acts_TF[t])
        if smoother.mean_F is not None:
            mean_TF[t] = smoother.mean_F
    return reader.scores_of_rows(mean_TF)
