"""Retrieval: how often a text's own emotion comes first, for any matrix of pooled texts. Matrix in, figures out.

Prototypes are fitted on the training topics, the ridge chosen by leaving each training topic out in turn; every
test text is then scored alone. All representations go through this one function.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from saefeat.errors import InputError
from saefeat.label import RIDGES, calibration, choose_ridge, dual_prototypes, gram, heldout_scores, places, raw_scores

RESAMPLES = 2000


@dataclass(frozen=True)
class Retrieval:
    """top1, top5: shares of the test texts, with 95 % intervals by bootstrap over texts; ridge: the one chosen."""

    top1: float
    top5: float
    top1_interval: tuple[float, float]
    top5_interval: tuple[float, float]
    ridge: float
    width: int
    texts: int
    emotions: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def retrieval(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    test_N: np.ndarray,
    *,
    labels_N: np.ndarray | None = None,
    ridges: tuple[float, ...] = RIDGES,
    seed: int = 0,
) -> Retrieval:
    """Fit on rows where test_N is False, score the others. labels_N: what the fit takes the emotions to be (for
    shuffled controls); figures always count the true emotion_N. Raises InputError if a side is empty."""
    fitted_N = emotion_N if labels_N is None else labels_N
    E, F = int(emotion_N.max()) + 1, X_NF.shape[1]
    train, test = np.flatnonzero(~test_N), np.flatnonzero(test_N)
    if not len(test) or len(np.unique(topic_N[train])) < 2:
        raise InputError("needs at least two topics to train on and one to test on", do="name other topics")
    K_NN = gram(X_NF)
    K_train, labels, topics = K_NN[np.ix_(train, train)], fitted_N[train], topic_N[train]
    ridge = choose_ridge(K_train, labels, topics, E, F, ridges)
    mean_E, sd_E = calibration(heldout_scores(K_train, labels, topics, E, F, ridge), labels)
    alpha_NE = dual_prototypes(K_train, labels, topics, E, F, ridge)
    scores_NE = ((raw_scores(K_NN[np.ix_(test, train)], K_train, alpha_NE) - mean_E) / sd_E)[:, :E]
    place_N = places(scores_NE, emotion_N[test])
    (top1, interval1), (top5, interval5) = (share_with_interval(place_N < k, seed) for k in (1, 5))
    return Retrieval(top1, top5, interval1, interval5, ridge, F, len(test), E)


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
