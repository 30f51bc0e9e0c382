"""Retrieval on simulated crossed corpora: planted signal is found, shuffled labels are at chance, ties count."""

import numpy as np
import pytest

from saefeat.errors import InputError
from saefeat.evaluate import retrieval, shuffled_within_topics
from saefeat.evaluate.retrieval import share_with_interval
from saefeat.label import places


def crossed(E: int, P: int, F: int, signal: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    X_NF = rng.normal(size=(E * P, F)) + rng.normal(size=(P, F))[topic_N]
    X_NF += signal * rng.normal(size=(E, F))[emotion_N]
    return X_NF, emotion_N, topic_N


def test_planted_emotions_are_retrieved_and_shuffled_ones_are_not() -> None:
    X_NF, emotion_N, topic_N = crossed(20, 6, 80, signal=1.0)
    test_N = topic_N >= 4
    found = retrieval(X_NF, emotion_N, topic_N, test_N)
    assert found.top1 > 0.9
    assert found.top1_interval[0] <= found.top1 <= found.top1_interval[1] <= found.top5_interval[1]
    assert (found.texts, found.emotions, found.width) == (40, 20, 80)
    labels_N = shuffled_within_topics(emotion_N, topic_N, seed=0)
    for topic in range(6):
        assert sorted(labels_N[topic_N == topic]) == list(range(20))
    assert retrieval(X_NF, emotion_N, topic_N, test_N, labels_N=labels_N).top1 < 0.25


def test_a_test_texts_place_does_not_depend_on_the_other_test_texts() -> None:
    X_NF, emotion_N, topic_N = crossed(10, 5, 30, signal=0.6)
    test_N = topic_N >= 3
    whole = retrieval(X_NF, emotion_N, topic_N, test_N)
    hits = 0.0
    for row in np.flatnonzero(test_N):
        kept = ~test_N | (np.arange(len(test_N)) == row)
        labels = emotion_N[kept]
        hits += retrieval(X_NF[kept], labels, topic_N[kept], test_N[kept]).top1
    assert abs(hits / test_N.sum() - whole.top1) < 1e-9


def test_the_ridge_is_chosen_on_the_training_topics_alone() -> None:
    X_NF, emotion_N, topic_N = crossed(10, 5, 30, signal=0.6)
    test_N = topic_N >= 3
    other = np.where(test_N[:, None], 100 * np.random.default_rng(1).normal(size=X_NF.shape), X_NF)
    assert retrieval(X_NF, emotion_N, topic_N, test_N).ridge == retrieval(other, emotion_N, topic_N, test_N).ridge


def test_ties_share_their_places_and_unknown_scores_come_last() -> None:
    scores_NE = np.array([[1.0, 1.0, 0.0], [np.nan, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert places(scores_NE, np.array([0, 0, 0])).tolist() == [0.5, 2.0, 0.0]


def test_the_interval_covers_the_share_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        _, (low, high) = share_with_interval(rng.random(300) < 0.7, seed)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199


def test_too_few_topics_are_refused() -> None:
    X_NF, emotion_N, topic_N = crossed(4, 3, 5, signal=1.0)
    with pytest.raises(InputError, match="two topics"):
        retrieval(X_NF, emotion_N, topic_N, topic_N >= 1)
    with pytest.raises(InputError, match="one to test"):
        retrieval(X_NF, emotion_N, topic_N, topic_N >= 9)
