"""Families: clusters of emotions that the prototypes confuse, each named by its medoid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def families(heldout_NE: np.ndarray, emotion_N: np.ndarray, emotions: Sequence[str]) -> dict[str, str]:
    """Emotion → family. Two emotions are alike if the stories of each score high on the other (scores by prototypes
    that never saw the story's topic), as a share of how high they score on their own. Average linkage; as many
    families as the mean silhouette likes best between an eighth and a third of the number of emotions."""
    E = len(emotions)
    if E < 4:
        return {emotion: emotion for emotion in emotions}
    scores_NE = np.nan_to_num(heldout_NE)
    mean_EE = np.stack([scores_NE[emotion_N == e].mean(0) for e in range(E)])
    distance_EE = 1 - mutual(mean_EE)
    best, best_silhouette = np.arange(E), -np.inf
    for cluster_E in average_linkage(distance_EE):
        count = len(np.unique(cluster_E))
        if max(2, E // 8) <= count <= max(2, E // 3):
            value = silhouette(distance_EE, cluster_E)
            if value > best_silhouette:
                best, best_silhouette = cluster_E, value
    medoids = {}
    for cluster in np.unique(best):
        own = np.flatnonzero(best == cluster)
        medoids[cluster] = emotions[own[distance_EE[np.ix_(own, own)].sum(1).argmin()]]
    return {emotion: medoids[best[e]] for e, emotion in enumerate(emotions)}


def mutual(mean_EE: np.ndarray) -> np.ndarray:
    """Mean scores of each emotion's stories (rows) for each emotion, made symmetric with 1 on the diagonal.

    Whole profiles are not compared: they mostly tell bodily from reflective emotions, not near-synonyms.
    """
    both_EE = (mean_EE + mean_EE.T) / 2
    own_E = np.sqrt(np.maximum(np.diag(both_EE), 1.0))  # an emotion that is not found at all resembles none
    mutual_EE = both_EE / np.outer(own_E, own_E)
    np.fill_diagonal(mutual_EE, 1.0)
    return mutual_EE


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


def silhouette(distance_EE: np.ndarray, cluster_E: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987); an item alone in its cluster counts 0."""
    clusters, slot_E = np.unique(cluster_E, return_inverse=True)
    one_EC = (slot_E[:, None] == np.arange(len(clusters))).astype(np.float64)
    size_C = one_EC.sum(0)
    sums_EC, rows = distance_EE @ one_EC, np.arange(len(cluster_E))
    own_size = size_C[slot_E]
    inside = sums_EC[rows, slot_E] / np.maximum(own_size - 1, 1)
    others_EC = sums_EC / size_C
    others_EC[rows, slot_E] = np.inf
    outside = others_EC.min(1)
    value_E = (outside - inside) / np.maximum(np.maximum(inside, outside), 1e-12)
    return float(np.where(own_size > 1, value_E, 0.0).mean())
