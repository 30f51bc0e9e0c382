"""Midranks within topics: what every rank statistic here is made of.

A table of ranks is made once. To permute emotions within topics is then to permute its rows, and a sum of ranks
costs one addition a story. Ranks are kept doubled, since a midrank is a multiple of a half: int16 holds them, and
sums are exact. 65,536 features x 2,052 stories take 269 MB.

Shapes: N stories, F features (f: a block of them), E emotions, P topics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

BLOCK = 1024
"""Features at a time: a block of ranks of 2,052 stories then takes 4 MB."""


@dataclass(frozen=True)
class Crossing:
    """Which stories carry which emotion on which topic. Rows of a table are in the order of topic, then emotion.

    order_N: table row → story. count_EP: stories of a cell. start_P (P + 1): where a topic's rows begin.
    usable_EP: whether a topic has both stories of the emotion and others.
    """

    order_N: np.ndarray
    count_EP: np.ndarray
    start_P: np.ndarray

    @property
    def size_P(self) -> np.ndarray:
        return np.diff(self.start_P)

    @property
    def usable_EP(self) -> np.ndarray:
        return (self.count_EP > 0) & (self.count_EP < self.size_P)

    @property
    def single(self) -> bool:
        """Exactly one story in every cell: rows of a topic are then its emotions in order."""
        return len(self.count_EP) > 1 and bool((self.count_EP == 1).all())

    @property
    def dtype(self) -> type[np.integer]:
        """What a table of doubled midranks is kept in."""
        return integers(2 * int(self.size_P.max(initial=0)))

    def patterns(self) -> list[np.ndarray]:
        """Emotions with the same number of stories on each topic: their labels are exchangeable."""
        _, group_E = np.unique(self.count_EP, axis=0, return_inverse=True)
        group_E = group_E.ravel()
        return [np.flatnonzero(group_E == group) for group in range(group_E.max() + 1)]

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Table rows (N,) permuted within topics."""
        return np.concatenate([rng.permutation(np.arange(a, b)) for a, b in self.topic_bounds()])

    def topic_bounds(self) -> list[tuple[int, int]]:
        return list(zip(self.start_P[:-1].tolist(), self.start_P[1:].tolist(), strict=True))


def crossing(emotion_N: np.ndarray, topic_N: np.ndarray, n_emotions: int) -> Crossing:
    """The crossing of stories with emotions 0..E-1 and topics (any labels, taken in sorted order)."""
    topics, topic_N = np.unique(topic_N, return_inverse=True)
    count_EP = np.zeros((n_emotions, len(topics)), np.int64)
    np.add.at(count_EP, (emotion_N, topic_N), 1)
    start_P = np.concatenate([[0], np.cumsum(count_EP.sum(0))])
    return Crossing(np.lexsort((emotion_N, topic_N)), count_EP, start_P)


# ---------------------------------------------------------------- ranks
def integers(largest: int) -> type[np.integer]:
    """The smaller of int16 and int32 that holds `largest`."""
    return np.int16 if largest < 1 << 15 else np.int32


def doubled_midranks(X_fN: np.ndarray) -> np.ndarray:
    """Twice the rank 1..N along each row, ties sharing their mean rank: int16, or int32 beyond 16,383 columns."""
    f, N = X_fN.shape
    ranks_fN = np.empty((f, N), integers(2 * N))
    if not ranks_fN.size:
        return ranks_fN
    order_fN = X_fN.argsort(axis=1)
    sorted_fN = np.take_along_axis(X_fN, order_fN, axis=1)
    new_fN = np.ones((f, N), bool)  # where a run of equal values starts
    np.not_equal(sorted_fN[:, 1:], sorted_fN[:, :-1], out=new_fN[:, 1:])
    start = np.flatnonzero(new_fN)
    length = np.diff(start, append=f * N)
    doubled = (2 * (start % N) + length + 1).astype(ranks_fN.dtype)  # of ranks a+1 .. a+length
    np.put_along_axis(ranks_fN, order_fN, np.repeat(doubled, length).reshape(f, N), axis=1)
    return ranks_fN


def midranks(X_NF: np.ndarray) -> np.ndarray:
    """Ranks 1..N down each column, ties sharing their mean rank."""
    return doubled_midranks(np.ascontiguousarray(X_NF.T)).T / 2


def rank_table(X_Nf: np.ndarray, design: Crossing) -> np.ndarray:
    """ranks_Nf: doubled midranks of each feature within each topic, rows in the order of the crossing."""
    ranks_Nf = np.empty(X_Nf.shape, design.dtype)
    for a, b in design.topic_bounds():
        ranks_Nf[a:b] = doubled_midranks(np.ascontiguousarray(X_Nf[design.order_N[a:b]].T)).T
    return ranks_Nf


# ---------------------------------------------------------------- sums of ranks
def topic_sums(
    ranks_Nf: np.ndarray, design: Crossing, p: int, rows_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The emotions that topic p is usable for, and their doubled rank sums there (integers, a row each).

    rows_N: the table's rows, permuted within topics.
    """
    a, b = design.start_P[p : p + 2]
    own_nf = ranks_Nf[a:b] if rows_N is None else ranks_Nf[rows_N[a:b]]
    count_E = design.count_EP[:, p]
    here = np.flatnonzero(count_E)
    if len(here) < len(own_nf):  # several stories of an emotion
        own_nf = np.add.reduceat(own_nf.astype(np.int64), np.cumsum(count_E[here]) - count_E[here], axis=0)
    usable = design.usable_EP[here, p]
    return here[usable], own_nf if usable.all() else own_nf[usable]


def rank_sums(ranks_Nf: np.ndarray, design: Crossing, rows_N: np.ndarray | None = None) -> np.ndarray:
    """(E, f) integers: doubled rank sums over the usable topics. rows_N: the table's rows, permuted within topics."""
    E, P = design.count_EP.shape
    if not design.single:
        sums_Ef = np.zeros((E, ranks_Nf.shape[1]), np.int64)
        for p in range(P):
            here, own_ef = topic_sums(ranks_Nf, design, p, rows_N)
            sums_Ef[here] += own_ef
        return sums_Ef
    sums_Ef = np.zeros((E, ranks_Nf.shape[1]), integers(2 * E * P))
    part_Ef = np.empty((E, ranks_Nf.shape[1]), ranks_Nf.dtype)
    for a, b in design.topic_bounds():
        if rows_N is None:
            sums_Ef += ranks_Nf[a:b]
        else:  # "clip" (no row is out of bounds) lets numpy fill the buffer directly
            sums_Ef += np.take(ranks_Nf[a:b], rows_N[a:b] - a, axis=0, out=part_Ef, mode="clip")
    return sums_Ef


def topic_auroc(ranks_Nf: np.ndarray, design: Crossing, p: int, rows_N: np.ndarray | None = None) -> np.ndarray:
    """(E, f) float64: AUROC of the emotions on one topic; NaN where the topic lacks the emotion or anything else."""
    auroc_Ef = np.full((len(design.count_EP), ranks_Nf.shape[1]), np.nan)
    here, sums_ef = topic_sums(ranks_Nf, design, p, rows_N)
    auroc_Ef[here] = _auroc(sums_ef, design, here, p)
    return auroc_Ef


def mean_auroc(ranks_Nf: np.ndarray, design: Crossing, rows_N: np.ndarray | None = None) -> np.ndarray:
    """(E, f) float64: AUROC within topics, averaged over the usable topics; 0 for an emotion without any."""
    E, P = design.count_EP.shape
    if design.single:
        return auroc_of_sums(rank_sums(ranks_Nf, design, rows_N), design)
    total_Ef = np.zeros((E, ranks_Nf.shape[1]))
    for p in range(P):
        here, sums_ef = topic_sums(ranks_Nf, design, p, rows_N)
        total_Ef[here] += _auroc(sums_ef, design, here, p)
    return total_Ef / np.maximum(design.usable_EP.sum(1), 1)[:, None]


def _auroc(sums_ef: np.ndarray, design: Crossing, here: np.ndarray, p: int) -> np.ndarray:
    """AUROC of the emotions `here` on topic p from their doubled rank sums (Mann-Whitney)."""
    count_e = design.count_EP[here, p, None]
    return (sums_ef - count_e * (count_e + 1)) / (2 * count_e * (design.size_P[p] - count_e))


def auroc_of_sums(sums: np.ndarray, design: Crossing) -> np.ndarray:
    """Mean AUROC of doubled rank sums, for one story in every cell."""
    E, P = design.count_EP.shape
    return (sums / 2 - P) / (P * (E - 1))


def emotion_auroc(ranks_Nf: np.ndarray, design: Crossing, e: int) -> np.ndarray:
    """(P, f) float64: AUROC of one emotion on every topic; NaN where a topic lacks it or anything else."""
    auroc_Pf = np.full((len(design.size_P), ranks_Nf.shape[1]), np.nan)
    for p in np.flatnonzero(design.usable_EP[e]):
        count = int(design.count_EP[e, p])
        a = design.start_P[p] + design.count_EP[:e, p].sum()
        wins_f = ranks_Nf[a : a + count].sum(0, dtype=np.int64) / 2 - count * (count + 1) / 2
        auroc_Pf[p] = wins_f / (count * (design.size_P[p] - count))
    return auroc_Pf


# ---------------------------------------------------------------- blocks
def blocks(F: int, block: int = BLOCK) -> Iterator[slice]:
    """Slices of features."""
    return (slice(start, min(start + block, F)) for start in range(0, F, block))


def over_blocks(run: Callable[[slice], None], F: int, *, block: int = BLOCK, threads: int | None = None) -> None:
    """Call `run` on every block, on `threads` threads (None: one for each core, at most four)."""
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 4)) as pool:
        for _ in pool.map(run, blocks(F, block)):
            pass
