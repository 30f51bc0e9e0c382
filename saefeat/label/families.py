"""Families: clusters of emotions that the prototypes confuse, cut where other topics would cut too.

Two emotions are alike if the stories of each score high on the other. How many families there are is not read off
the tree itself but off its stability (Ben-Hur, Elisseeff & Guyon 2002): the topics are split into halves again and
again, the stories of either half are clustered by themselves, and the number of clusters on which the halves agree
best is taken, by the adjusted Rand index (Hubert & Arabie 1985), which is 0 for partitions that agree as chance
would. The halves are scored by prototypes that share topics, so the index compares cuts of one corpus; it is not
the agreement to expect of another corpus, which is lower.

Shapes: N stories, E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saefeat.label.prototypes import class_means

SPLITS = 20


def families(
    heldout_NE: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, emotions: Sequence[str], seed: int = 0
) -> dict[str, str]:
    """Emotion → family, named by its medoid. heldout_NE: scores by prototypes that never saw the story's topic, NaN
    where unknown. As many families as are most stable over topics, between an eighth and a third of the number of
    emotions. Fewer than four emotions, or two topics, are not clustered."""
    E = len(emotions)
    if E < 4 or len(np.unique(topic_N)) < 2:
        return {emotion: emotion for emotion in emotions}
    agreement = stability(heldout_NE, emotion_N, topic_N, E, seed=seed)
    count = max(agreement, key=lambda clusters: agreement[clusters])  # of equals the smallest
    distance_EE = 1 - alikeness(heldout_NE, emotion_N, E)
    cluster_E = average_linkage(distance_EE)[E - count]
    medoids = {}
    for cluster in np.unique(cluster_E):
        own = np.flatnonzero(cluster_E == cluster)
        medoids[cluster] = emotions[own[distance_EE[np.ix_(own, own)].sum(1).argmin()]]
    return {emotion: medoids[cluster_E[e]] for e, emotion in enumerate(emotions)}


def alikeness(heldout_NE: np.ndarray, emotion_N: np.ndarray, E: int) -> np.ndarray:
    """(E, E) how high the stories of two emotions score on the other, as a share of how high they score on their own;
    1 on the diagonal.

    The lower of the two directions counts: a story may show a second emotion that its stories do not show in turn.
    Whole profiles are not compared: they mostly tell bodily from reflective emotions, not near-synonyms.
    """
    mean_EE = class_means(np.nan_to_num(heldout_NE.astype(np.float64)), emotion_N, E)
    own_E = np.sqrt(np.maximum(np.diag(mean_EE), 1.0))  # an emotion that is not found at all resembles none
    alike_EE = np.minimum(mean_EE, mean_EE.T) / np.outer(own_E, own_E)
    np.fill_diagonal(alike_EE, 1.0)
    return alike_EE


def stability(
    heldout_NE: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, *, splits: int = SPLITS, seed: int = 0
) -> dict[int, float]:
    """Number of clusters → mean adjusted Rand index between clusterings of disjoint halves of the topics."""
    rng, topics = np.random.default_rng(seed), np.unique(topic_N)
    counts = range(max(2, E // 8), max(2, E // 3) + 1)
    total = dict.fromkeys(counts, 0.0)
    for _ in range(splits):
        shuffled = rng.permutation(topics)
        halves = np.isin(topic_N, shuffled[: len(topics) // 2]), np.isin(topic_N, shuffled[len(topics) // 2 :])
        one, other = (average_linkage(1 - alikeness(heldout_NE[half], emotion_N[half], E)) for half in halves)
        for count in counts:
            total[count] += adjusted_rand(one[E - count], other[E - count]) / splits
    return total


def average_linkage(distance_EE: np.ndarray) -> list[np.ndarray]:
    """Every clustering of agglomerative average linkage, from E clusters down to 1, as cluster numbers by item."""
    E = len(distance_EE)
    between = distance_EE.astype(np.float64).copy()
    np.fill_diagonal(between, np.inf)
    size, cluster_E = np.ones(E), np.arange(E)
    levels = [cluster_E.copy()]
    for _ in range(E - 1):
        a, b = np.unravel_index(between.argmin(), between.shape)
        merged = (size[a] * between[a] + size[b] * between[b]) / (size[a] + size[b])
        between[a, :], between[:, a], between[a, a] = merged, merged, np.inf
        between[b, :], between[:, b] = np.inf, np.inf
        size[a] += size[b]
        cluster_E[cluster_E == b] = a
        levels.append(cluster_E.copy())
    return levels


def adjusted_rand(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Adjusted Rand index of two partitions: pairs kept together by both, beyond chance; 1 for the same partition."""
    a_N, b_N = np.unique(a_N, return_inverse=True)[1], np.unique(b_N, return_inverse=True)[1]
    table = np.zeros((a_N.max() + 1, b_N.max() + 1))
    np.add.at(table, (a_N, b_N), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_a, in_b = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    by_chance, most = in_a * in_b / max(pairs(np.array(len(a_N))), 1.0), (in_a + in_b) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)
