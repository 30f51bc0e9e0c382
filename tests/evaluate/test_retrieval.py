"""What every section counts with: shares with intervals that cover, labels shuffled within topics, places with ties."""

import numpy as np
import pytest

from saefeat.evaluate import shuffled_within_topics
from saefeat.evaluate.battery import among_first, share, value
from saefeat.evaluate.retrieval import share_with_interval
from saefeat.label import places


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


def test_shuffled_labels_keep_each_topics_emotions_and_lose_their_texts() -> None:
    emotion_N, topic_N = np.tile(np.arange(20), 6), np.repeat([f"t{p}" for p in range(6)], 20)
    mixed_N = shuffled_within_topics(emotion_N, topic_N, seed=0)
    for topic in np.unique(topic_N):
        assert sorted(mixed_N[topic_N == topic]) == list(range(20))
    assert (mixed_N == emotion_N).mean() < 0.15
    assert (mixed_N == shuffled_within_topics(emotion_N, topic_N, seed=0)).all()
    assert (mixed_N != shuffled_within_topics(emotion_N, topic_N, seed=1)).any()


def test_what_is_not_known_has_no_value() -> None:
    assert value(0.123456) == 0.1235
    assert value(0.5, (0.25, 0.75)) == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert value(float("nan")) is None
    assert value(0.5, (float("nan"), 1.0)) == 0.5
    assert share(np.zeros(0, bool), 0) is None
    place_N = np.array([0, 0, 3, 7])
    first, fifth = among_first(place_N, 0, E=8)
    assert (first["value"], fifth["value"]) == (0.5, 0.75)
    assert first["low"] <= 0.5 <= first["high"]
    assert among_first(place_N, 0, E=5)[1] is None, "all five are among the first five"


@pytest.mark.parametrize("hits", [0, 10])
def test_a_share_of_none_or_all_is_itself(hits: int) -> None:
    assert share(np.arange(10) < hits, 0) == {"value": hits / 10, "low": hits / 10, "high": hits / 10}
