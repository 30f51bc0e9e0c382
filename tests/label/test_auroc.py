"""AUROC with ties against counting pairs; nested selection against a slow twin; labels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label import label_features, within_topic_auroc
from saefeat.label.auroc import nested_auroc


def pairs_auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The definition: the share of (positive, negative) pairs in order, ties counting a half."""
    return float(np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative]))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999), E=st.integers(2, 4), P=st.integers(1, 3), repeats=st.integers(1, 2),
    values=st.integers(1, 6),
)  # fmt: skip
def test_auroc_equals_counting_pairs_with_ties(seed: int, E: int, P: int, repeats: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    emotion_N, topic_N = np.tile(np.arange(E), P * repeats), np.repeat(np.arange(P), E * repeats)
    X_NF = rng.integers(0, values, size=(len(emotion_N), 5)).astype(np.float32)
    found = np.concatenate([a for _, a in within_topic_auroc(X_NF, emotion_N, topic_N, E, block=2)])
    for f, e, p in np.ndindex(5, E, P):
        own = topic_N == p
        expected = pairs_auroc(X_NF[own & (emotion_N == e), f], X_NF[own & (emotion_N != e), f])
        assert abs(found[f, e, p] - expected) < 1e-6


def test_a_topic_without_the_emotion_is_unknown_not_a_half() -> None:
    ((_, auroc),) = within_topic_auroc(np.ones((3, 1)), np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    assert auroc[0, 0, 0] == 0.5
    assert np.isnan(auroc[0, 0, 1])
    assert np.isnan(auroc[0, 1, 1])


def nested_by_emotion(auroc_FEP: np.ndarray, chosen: int) -> tuple[np.ndarray, np.ndarray]:
    found = [nested_auroc(auroc_FEP[:, e].T, chosen) for e in range(auroc_FEP.shape[1])]
    return np.stack([heldout for heldout, _ in found], 1), np.stack([folds for _, folds in found], 1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), chosen=st.integers(1, 4))
def test_nested_selection_never_sees_the_topic_it_scores(seed: int, chosen: int) -> None:
    auroc_FEP = np.random.default_rng(seed).random((6, 3, 4)).astype(np.float32)
    heldout_FE, folds_FE = nested_by_emotion(auroc_FEP, chosen)
    taken: dict[tuple[int, int], list[float]] = {}
    for e in range(3):
        for p in range(4):
            others = [q for q in range(4) if q != p]
            for f in sorted(range(6), key=lambda f: -auroc_FEP[f, e, others].mean())[:chosen]:
                taken.setdefault((f, e), []).append(float(auroc_FEP[f, e, p]))
    for f, e in np.ndindex(6, 3):
        assert folds_FE[f, e] == len(taken.get((f, e), []))
        if (f, e) in taken:
            assert abs(heldout_FE[f, e] - np.mean(taken[f, e])) < 1e-5
        else:
            assert np.isnan(heldout_FE[f, e])


def test_the_best_of_many_random_features_are_at_a_half_when_held_out() -> None:
    rng = np.random.default_rng(0)
    E, P = 6, 8
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    X_NF = rng.random((E * P, 500))
    columns = label_features(X_NF, emotion_N, topic_N, np.ones(500), E).table
    assert columns["auroc"][columns["rank_for_emotion"] == 1].mean() > 0.75
    auroc_FEP = np.concatenate([a for _, a in within_topic_auroc(X_NF, emotion_N, topic_N, E)])
    heldout_FE, folds_FE = nested_by_emotion(auroc_FEP, 25)
    assert folds_FE.sum() == 25 * E * P
    assert abs(np.nansum(heldout_FE * folds_FE) / folds_FE.sum() - 0.5) < 0.05


def test_planted_features_top_the_label_table() -> None:
    rng = np.random.default_rng(1)
    E, P, F = 5, 6, 40
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    X_NF = rng.random((E * P, F))
    X_NF[np.arange(E * P), 7 + emotion_N] += 5  # feature 7 + e carries emotion e
    X_NF[:, 3] = 0  # a dead feature
    columns = label_features(X_NF, emotion_N, topic_N, np.full(F, 0.1), E, top_features=4, top_emotions=2).table
    first = columns["rank_for_emotion"] == 1
    assert dict(zip(columns["emotion"][first], columns["feature"][first], strict=True)) == {e: 7 + e for e in range(E)}
    assert (columns["heldout_auroc"][first] == 1).all()
    assert (columns["folds"][first] == P).all()
    assert (columns["rank_for_feature"][first] == 1).all()
    assert (columns["mean_difference"][first] > 4).all()
    assert 3 not in columns["feature"]
    ok = (columns["rank_for_emotion"] <= 4) | (columns["rank_for_feature"] <= 2)
    assert ok.all()
    assert len(ok) >= (F - 1) * 2
