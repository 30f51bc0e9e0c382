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
    """By turn its scores and those of its tokens; by turn the scores of its reply start; passes over the whole."""
    reply_at = dict(layout.reply_at)
    tail = atlas.subject().tokenize(replies.config.continuation) if replies.config.continuation else []
    alone = [*layout.apart, *(reply_at if tail else [])]
    found: dict[int, np.ndarray] = {}
    for turn in alone:
        reply_at.pop(turn, None)
        ids = layout.own_pass(turn, [*layout.generation, *tail], room)
        x_TD = atlas.subject().residuals(torch.tensor([ids]), [replies.sae.layer])[replies.sae.layer][0]
        found[turn] = replies.scores(replies.encode(x_TD[-1:])[0])
    turn_at = {position: turn for turn, position in reply_at.items()}
    planned = layout.windows(room)

    def chunks() -> Iterator[Chunk]:
        """(position, acts_TF, usable_T) over all tokens in order; scores reply starts on the way."""
        for window in planned:
            ids_BT = torch.tensor([window.ids(layout.ids)])
            x = atlas.subject().residuals(ids_BT, sorted({reader.sae.layer, replies.sae.layer}))
            for position in range(window.first, window.stop):
                if position in turn_at:
                    place = window.place(position)
                    acts_1F = replies.encode(x[replies.sae.layer][0, place : place + 1])
                    found[turn_at[position]] = replies.scores(acts_1F[0])
            step = max(1, ENCODED_ELEMENTS // reader.sae.n_features)
            for first in range(window.first, window.stop, step):
                stop = min(first + step, window.stop)
                x_TD = x[reader.sae.layer][0, window.place(first) : window.place(stop - 1) + 1]
                usable_T = reader.usable(x_TD)
                usable_T[: max(0, 1 - first)] = False  # the conversation's first token
                yield first, reader.encode(x_TD), usable_T

    return list(_pool(layout, chunks(), reader, smoother)), found, len(planned)


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
