"""The best feature of each emotion, judged where it was not chosen.

The best of many features looks good by chance. Here one is chosen for each emotion on some topics, by mean AUROC
within topics (of equal ones the first), and scored on others: topic by topic (`nested_best`), or on a given split
(`split_best`). Only high values count for a feature: a signed basis (a residual stream) is passed as [X, -X].

Shapes: N stories, F features (f: a block of them), E emotions, P topics, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from saefeat.errors import InputError
from saefeat.label.exact import p_values
from saefeat.label.ranks import Crossing, crossing, integers, mean_auroc, over_blocks, rank_table, topic_auroc
from saefeat.label.statistics import q_values

PERMUTATIONS = 200


@dataclass(frozen=True)
class NestedBest:
    """auroc_E: mean over folds of the held-out AUROC (NaN without a fold). p_E, q_E: see `nested_best`.

    auroc_EP, feature_EP: a topic's fold (NaN, -1: no story of the emotion there, or none elsewhere).
    """

    auroc_E: np.ndarray
    p_E: np.ndarray
    q_E: np.ndarray
    auroc_EP: np.ndarray
    feature_EP: np.ndarray

    def found(self, auroc: float = 0.90, q: float = 0.01) -> int:
        """Emotions that have a feature: held-out AUROC at least `auroc`, and q below `q`."""
        return _found(self.auroc_E, self.q_E, auroc, q)


@dataclass(frozen=True)
class SplitBest:
    """feature_E: chosen on the training topics (-1: no story there); auroc_E, p_E, q_E: on the test topics."""

    auroc_E: np.ndarray
    p_E: np.ndarray
    q_E: np.ndarray
    feature_E: np.ndarray

    def found(self, auroc: float = 0.90, q: float = 0.01) -> int:
        """Emotions that have a feature: AUROC on the test topics at least `auroc`, and q below `q`."""
        return _found(self.auroc_E, self.q_E, auroc, q)


def nested_best(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    n_emotions: int,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    threads: int | None = None,
) -> NestedBest:
    """Leave each topic out in turn, choose each emotion's single best feature on the others, score it there.

    Folds share topics, so their scores are not independent: one feature that stands out by chance is chosen in most
    folds and carries its luck into all of them. With 171 emotions, 8 topics and the 4,608 features of an SAE, shuffled
    labels gave auroc_E a mean of 0.50 but an sd of 0.17 (0.10 if folds were independent), and 1 in 100 exceeded 0.89.
    p_E therefore comes from going through the whole choice again
    with emotions permuted within topics, the draws of emotions with the same number of stories on each topic pooled
    (171 emotions x 200 permutations tell p down to 3e-5). q_E: Benjamini-Hochberg over the emotions.
    Blocks of features; besides X only 3 x (1 + B) x E x P numbers are held.
    """
    design, F = crossing(emotion_N, topic_N, n_emotions), X_NF.shape[1]
    E, P = design.count_EP.shape
    rng = np.random.default_rng(seed)
    rows_BN = np.stack([np.arange(len(emotion_N)), *(design.shuffled(rng) for _ in range(permutations))])
    train_BEP = np.full((1 + permutations, E, P), -np.inf, np.float32)
    test_BEP = np.full((1 + permutations, E, P), np.nan, np.float32)
    feature_BEP = np.full((1 + permutations, E, P), F, np.int32)
    lock = Lock()

    def run(part: slice) -> None:
        ranks_Nf = rank_table(X_NF[:, part], design)
        for b, rows_N in enumerate(rows_BN):
            train_EP, test_EP, place_EP = _block_best(ranks_Nf, design, rows_N)
            place_EP += part.start
            with lock:
                equal_EP = (train_EP == train_BEP[b]) & (place_EP < feature_BEP[b])  # blocks end in any order
                better_EP = (train_EP > train_BEP[b]) | equal_EP
                for known_EP, new_EP in ((train_BEP[b], train_EP), (test_BEP[b], test_EP), (feature_BEP[b], place_EP)):
                    known_EP[better_EP] = new_EP[better_EP]

    over_blocks(run, F, threads=threads)
    usable_EP = design.usable_EP & (design.usable_EP.sum(1, keepdims=True) > 1)
    test_BEP[:, ~usable_EP] = np.nan
    folds_E = usable_EP.sum(1)
    auroc_BE = np.where(folds_E > 0, np.nansum(test_BEP, 2, dtype=np.float64) / np.maximum(folds_E, 1), np.nan)
    p_E = np.full(E, np.nan)
    for own in design.patterns():
        if folds_E[own[0]]:
            null = np.sort(auroc_BE[1:, own], axis=None)
            p_E[own] = (1 + len(null) - np.searchsorted(null, auroc_BE[0, own] - 1e-6)) / (1 + len(null))
    return NestedBest(auroc_BE[0], p_E, _q(p_E), test_BEP[0], np.where(usable_EP, feature_BEP[0], -1))


def split_best(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    n_emotions: int,
    train: Sequence[Any],
    test: Sequence[Any],
    *,
    threads: int | None = None,
) -> SplitBest:
    """Choose each emotion's single best feature on the topics `train`, score it on the topics `test`.

    p_E is exact (`p_values`): the choice knows nothing of the test topics. q_E: Benjamini-Hochberg over the emotions.
    Raises InputError: a topic that is in both, or has no story.
    """
    topics = set(np.unique(topic_N).tolist())
    both, unknown = set(train) & set(test), (set(train) | set(test)) - topics
    if both or unknown or not train or not test:
        wrong = f"topics are in both parts: {sorted(map(str, both))}" if both else "a part is empty or has no story"
        raise InputError(f"the split is wrong: {wrong}", do="name some of the corpus's topics for each part")
    on_train, on_test = np.isin(topic_N, list(train)), np.isin(topic_N, list(test))
    design = crossing(emotion_N[on_train], topic_N[on_train], n_emotions)
    F = X_NF.shape[1]
    best_E, feature_E, lock = np.full(n_emotions, -np.inf), np.full(n_emotions, F), Lock()

    def run(part: slice) -> None:
        auroc_Ef = mean_auroc(rank_table(X_NF[on_train, part], design), design)
        place_E = auroc_Ef.argmax(1)
        value_E = auroc_Ef[np.arange(n_emotions), place_E]
        place_E += part.start
        with lock:
            better_E = (value_E > best_E) | ((value_E == best_E) & (place_E < feature_E))
            best_E[better_E], feature_E[better_E] = value_E[better_E], place_E[better_E]

    over_blocks(run, F, threads=threads)
    there = crossing(emotion_N[on_test], topic_N[on_test], n_emotions)
    ranks_NE = rank_table(X_NF[np.ix_(on_test, feature_E)], there)
    auroc_E, p_E = np.diag(mean_auroc(ranks_NE, there)).copy(), np.diag(p_values(ranks_NE, there)).copy()
    chosen_E, scored_E = design.usable_EP.any(1), there.usable_EP.any(1)
    auroc_E[~(chosen_E & scored_E)] = p_E[~(chosen_E & scored_E)] = np.nan
    return SplitBest(auroc_E, p_E, _q(p_E), np.where(chosen_E, feature_E, -1))


def _block_best(ranks_Nf: np.ndarray, design: Crossing, rows_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """(E, P) each: of every fold the best sum over the other topics, its feature's AUROC on the topic, its place."""
    parts_PEf = []
    for p, (a, b) in enumerate(design.topic_bounds()):
        # with one story in every cell the midranks themselves serve, as integers
        scores_Ef = ranks_Nf[rows_N[a:b]] if design.single else np.nan_to_num(topic_auroc(ranks_Nf, design, p, rows_N))
        parts_PEf.append(scores_Ef)
    E, P = design.count_EP.shape
    total_Ef = np.sum(parts_PEf, axis=0, dtype=integers(2 * E * P) if design.single else np.float32)
    train_EP, test_EP = np.empty((E, P), np.float32), np.empty((E, P), np.float32)
    place_EP = np.empty((E, P), np.int32)
    every = np.arange(E)
    for p, scores_Ef in enumerate(parts_PEf):
        others_Ef = total_Ef - scores_Ef
        place_E = others_Ef.argmax(1)
        place_EP[:, p], train_EP[:, p], test_EP[:, p] = place_E, others_Ef[every, place_E], scores_Ef[every, place_E]
    if design.single:
        test_EP = (test_EP / 2 - 1) / (E - 1)
    return train_EP, test_EP, place_EP


def _q(p_E: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over the known p-values."""
    q_E, known_E = np.full(len(p_E), np.nan), ~np.isnan(p_E)
    q_E[known_E] = q_values(p_E[known_E])
    return q_E


def _found(auroc_E: np.ndarray, q_E: np.ndarray, auroc: float, q: float) -> int:
    with np.errstate(invalid="ignore"):
        return int(((auroc_E >= auroc) & (q_E < q)).sum())
