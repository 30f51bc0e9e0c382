"""The best feature judged where it was not chosen: slow twins, planted and absent effects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.errors import InputError
from saefeat.label import nested_best, p_values, rank_table, split_best, within_topic_auroc
from saefeat.label.ranks import crossing


def crossed(E: int, P: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.arange(E), P), np.repeat(np.arange(P), E)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), whole=st.booleans())
def test_every_fold_takes_the_best_of_the_other_topics(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    E, P, F = 4, 4, 9
    emotion_N, topic_N = crossed(E, P)
    if not whole:
        emotion_N, topic_N = rng.integers(0, E, 24), rng.integers(0, P, 24)
    X_NF = rng.random((len(emotion_N), F))
    found = nested_best(X_NF, emotion_N, topic_N, E, permutations=3)
    auroc_FEP = np.concatenate([a for _, a in within_topic_auroc(X_NF, emotion_N, topic_N, E)])
    known_EP = ~np.isnan(auroc_FEP[0])
    for e, p in np.ndindex(E, known_EP.shape[1]):
        others = [q for q in range(known_EP.shape[1]) if q != p and known_EP[e, q]]
        if not known_EP[e, p] or not others:
            assert np.isnan(found.auroc_EP[e, p])
            assert found.feature_EP[e, p] == -1
            continue
        mean_F = auroc_FEP[:, e, others].mean(1)
        chosen = found.feature_EP[e, p]
        assert mean_F[chosen] > mean_F.max() - 1e-6
        assert abs(found.auroc_EP[e, p] - auroc_FEP[chosen, e, p]) < 1e-6
    some = ~np.isnan(found.auroc_EP).all(1)
    np.testing.assert_allclose(found.auroc_E[some], np.nanmean(found.auroc_EP[some], 1), atol=1e-6)
    assert np.isnan(found.auroc_E[~some]).all()


def test_features_in_several_blocks_and_threads_give_the_first_of_equally_good_ones() -> None:
    emotion_N, topic_N = crossed(12, 6)
    X_NF = np.random.default_rng(0).random((72, 3000)).astype(np.float32)
    X_NF[:, 2900] = X_NF[:, 1500] = X_NF[:, 700] = emotion_N == 3
    one, two = (nested_best(X_NF, emotion_N, topic_N, 12, permutations=4, threads=t) for t in (1, 3))
    np.testing.assert_array_equal(one.feature_EP, two.feature_EP)
    np.testing.assert_array_equal(one.p_E, two.p_E)
    assert (one.feature_EP[3] == 700).all()
    assert split_best(X_NF, emotion_N, topic_N, 12, range(5), [5], threads=3).feature_E[3] == 700


def test_planted_emotions_are_counted_and_the_others_not() -> None:
    rng = np.random.default_rng(0)
    E, P, F = 20, 8, 400
    emotion_N, topic_N = crossed(E, P)
    X_NF = rng.random((E * P, F))
    carried = emotion_N < 7
    X_NF[np.flatnonzero(carried), 30 + emotion_N[carried]] += 0.9
    nested = nested_best(X_NF, emotion_N, topic_N, E)
    split = split_best(X_NF, emotion_N, topic_N, E, range(5), range(5, 8))
    assert nested.found() == 7
    assert (nested.feature_EP[:7] == 30 + np.arange(7)[:, None]).all()
    assert (split.feature_E[:7] == 30 + np.arange(7)).all()
    assert (nested.q_E[:7] < 0.01).all()
    assert nested.found(auroc=0.0, q=1.1) == E
    assert (split.auroc_E[:7] > 0.9).all()
    assert split.found(q=0.05) == 7
    assert abs(nested.auroc_E[7:].mean() - 0.5) < 0.12


def test_without_an_effect_nested_p_is_uniform() -> None:
    rng = np.random.default_rng(0)
    E, P = 10, 5
    emotion_N, topic_N = crossed(E, P)
    nested, split = [], []
    for i in range(40):
        X_NF = rng.random((E * P, 60)) * (rng.random((E * P, 60)) < 0.5)
        nested.append(nested_best(X_NF, emotion_N, topic_N, E, permutations=30, seed=i, threads=1).p_E)
        split.append(split_best(X_NF, emotion_N, topic_N, E, [0, 1, 2], [3, 4], threads=1).p_E)
    for p, slack in ((np.concatenate(nested), 0.02), (np.concatenate(split), 0.04)):  # two topics: a sum in big steps
        for alpha in (0.05, 0.2, 0.5):
            error = 4 * np.sqrt(alpha * (1 - alpha) / p.size)
            assert alpha - error - slack - 0.1 * alpha < (p <= alpha).mean() < alpha + error + slack / 2


def test_the_split_scores_on_the_test_topics_alone() -> None:
    rng = np.random.default_rng(0)
    E = 6
    emotion_N, topic_N = crossed(E, 5)
    names_N = np.array(list("abcde"))[topic_N]
    X_NF = rng.random((30, 12))
    found = split_best(X_NF, emotion_N, names_N, E, ["a", "c"], ["b", "e"])
    auroc_FEP = np.concatenate([a for _, a in within_topic_auroc(X_NF, emotion_N, topic_N, E)])
    mean_FE = auroc_FEP[:, :, [0, 2]].mean(2)
    np.testing.assert_allclose(mean_FE[found.feature_E, np.arange(E)], mean_FE.max(0))
    np.testing.assert_allclose(found.auroc_E, auroc_FEP[found.feature_E, np.arange(E)][:, [1, 4]].mean(1), atol=1e-6)
    own = np.isin(topic_N, [1, 4])
    design = crossing(emotion_N[own], topic_N[own], E)
    p_EF = p_values(rank_table(X_NF[own], design), design)
    np.testing.assert_allclose(found.p_E, p_EF[np.arange(E), found.feature_E])


@pytest.mark.parametrize(("train", "test"), [(["a"], ["a", "b"]), (["a"], ["z"]), ([], ["a"])])
def test_a_wrong_split_is_refused(train: list[str], test: list[str]) -> None:
    emotion_N, topic_N = crossed(3, 2)
    with pytest.raises(InputError, match="split"):
        split_best(np.ones((6, 2)), emotion_N, np.array(["a", "b"])[topic_N], 3, train, test)
