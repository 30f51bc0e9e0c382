"""Shares of hits with their intervals, and labels shuffled within topics: what every section counts with."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000


def share_with_interval(hit_N: np.ndarray, seed: int) -> tuple[float, tuple[float, float]]:
    """The share of hits and its 95 % interval by bootstrap over texts."""
    rng = np.random.default_rng(seed)
    # resampling a 0/1 sample with replacement is a binomial draw
    shares = rng.binomial(len(hit_N), hit_N.mean(), RESAMPLES) / len(hit_N)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(hit_N.mean()), (float(low), float(high))


def shuffled_within_topics(emotion_N: np.ndarray, topic_N: np.ndarray, seed: int) -> np.ndarray:
    """The labels permuted within each topic: what is left is chance."""
    rng = np.random.default_rng(seed)
    out = emotion_N.copy()
    for topic in np.unique(topic_N):
        own = np.flatnonzero(topic_N == topic)
        out[own] = rng.permutation(emotion_N[own])
    return out
