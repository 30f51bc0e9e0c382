"""Prototypes: the dual form against a direct solve, exact linearity and calibration, planted signal, chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.errors import InputError
from saefeat.label import (
    NEUTRAL,
    calibration,
    centre_by_topic,
    class_means,
    dual_prototypes,
    fit_prototypes,
    gram,
    heldout_scores,
    scores,
    separated,
    top_k,
    with_share,
)


def crossed(E: int, P: int, F: int, *, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One story per emotion and topic: topic means, planted emotion means (first E features), noise."""
    rng = np.random.default_rng(seed)
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    X_NF = rng.normal(size=(E * P, F)) + rng.normal(size=(P, F))[topic_N]
    X_NF[np.arange(E * P), emotion_N % F] += signal
    return X_NF, emotion_N, topic_N


def direct_prototypes(X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, ridge: float) -> np.ndarray:
    """The slow, obvious twin: the F×F covariance, inverted."""
    centred = X_NF.copy()
    for topic in set(topic_N):
        centred[topic_N == topic] -= X_NF[topic_N == topic].mean(0)
    C_EF = np.stack([centred[emotion_N == e].mean(0) for e in range(E)])
    R_NF = centred - C_EF[emotion_N]
    S_FF = R_NF.T @ R_NF / len(R_NF)
    lam = ridge * np.trace(S_FF) / len(S_FF)
    W_FE = np.linalg.inv(S_FF + lam * np.eye(len(S_FF))) @ C_EF.T
    return W_FE / np.sqrt(np.einsum("ef,fe->e", C_EF, W_FE))


@settings(deadline=None, max_examples=25)
@given(
    E=st.integers(2, 5), P=st.integers(2, 4), F=st.integers(1, 40), ridge=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_dual_form_equals_a_direct_solve_at_any_width(E: int, P: int, F: int, ridge: float, seed: int) -> None:
    X_NF, emotion_N, topic_N = crossed(E, P, F, signal=1.0, seed=seed)
    alpha_NE = dual_prototypes(gram(X_NF), emotion_N, topic_N, E, F, ridge)
    expected = direct_prototypes(X_NF, emotion_N, topic_N, E, ridge)
    np.testing.assert_allclose(X_NF.T @ alpha_NE[:, :E], expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())
    assert not alpha_NE[:, E].any()  # no flat texts, no emotional direction


@settings(deadline=None, max_examples=25)
@given(E=st.integers(2, 4), P=st.integers(2, 4), F=st.integers(2, 30), flat=st.integers(1, 3), seed=st.integers(0, 99))
def test_flat_texts_are_a_class_of_their_own_and_give_the_emotional_direction(
    E: int, P: int, F: int, flat: int, seed: int
) -> None:
    X_NF, emotion_N, topic_N = crossed(E, P, F, signal=1.0, seed=seed)
    flat_NF = np.random.default_rng(seed + 1).normal(size=(flat * P, F)) - 1
    X_NF, topic_N = np.concatenate([X_NF, flat_NF]), np.append(topic_N, np.repeat(np.arange(P), flat))
    emotion_N = np.append(emotion_N, np.full(flat * P, NEUTRAL))
    alpha_NE = dual_prototypes(gram(X_NF), emotion_N, topic_N, E, F, 0.7)

    own, delta_F = X_NF.copy(), np.zeros(F)
    for topic in range(P):
        told_N, flat_N = ((topic_N == topic) & ((emotion_N == NEUTRAL) == neutral) for neutral in (False, True))
        delta_F += (X_NF[told_N].mean(0) - X_NF[flat_N].mean(0)) / P
        own[told_N] -= X_NF[told_N].mean(0)
        own[flat_N] -= X_NF[flat_N].mean(0)
    C_EF = np.stack([own[emotion_N == e].mean(0) for e in range(E)])
    R_NF = own - np.concatenate([C_EF, np.zeros((1, F))])[emotion_N]  # NEUTRAL is the last row
    S_FF = R_NF.T @ R_NF / len(R_NF)
    C_EF = np.concatenate([C_EF, delta_F[None]])
    W_FE = np.linalg.inv(S_FF + 0.7 * np.trace(S_FF) / F * np.eye(F)) @ C_EF.T
    expected = W_FE / np.sqrt(np.einsum("ef,fe->e", C_EF, W_FE))
    np.testing.assert_allclose(X_NF.T @ alpha_NE, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), F=st.integers(3, 60))
def test_scores_of_other_emotions_on_unseen_topics_have_mean_0_and_sd_1(seed: int, F: int) -> None:
    X_NF, emotion_N, topic_N = crossed(4, 3, F, signal=2.0, seed=seed)
    heldout_NE = fit_prototypes(X_NF, emotion_N, topic_N, ridge=1.0).heldout_NE
    for e in range(4):
        others = heldout_NE[emotion_N != e, e]
        assert abs(others.mean()) < 1e-4
        assert abs(others.std() - 1) < 1e-4


def test_heldout_scores_are_those_of_a_fit_without_the_topic() -> None:
    X_NF, emotion_N, topic_N = crossed(4, 3, 30, signal=2.0)
    (raw_NE,) = heldout_scores(gram(X_NF), emotion_N, topic_N, 4, 30, [0.5])
    test, train = topic_N == 1, topic_N != 1
    W_FE = direct_prototypes(X_NF[train], emotion_N[train], topic_N[train], 4, 0.5)
    np.testing.assert_allclose(raw_NE[test][:, :4], (X_NF[test] - X_NF[train].mean(0)) @ W_FE, rtol=1e-6, atol=1e-8)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99))
def test_a_score_is_the_bias_and_the_contributions_of_the_one_text(seed: int) -> None:
    X_NF, emotion_N, topic_N = crossed(3, 3, 20, signal=1.0, seed=seed)
    fit = fit_prototypes(X_NF, emotion_N, topic_N, ridge=1.0)
    text_NF = np.random.default_rng(seed + 1).normal(size=(4, 20)).astype(np.float32)
    whole = scores(text_NF, fit)
    for n in range(4):
        explained_E = fit.bias_E + sum(text_NF[n, f] * fit.W_FE[f] for f in range(20))
        np.testing.assert_allclose(whole[n], explained_E, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores(text_NF[n : n + 1], fit)[0], whole[n], rtol=1e-4, atol=1e-4)


def test_planted_emotions_are_found_and_shuffled_labels_are_at_chance() -> None:
    E, P = 12, 8
    X_NF, emotion_N, topic_N = crossed(E, P, 60, signal=7.0)
    fit = fit_prototypes(X_NF, emotion_N, topic_N, ridge=1.0)
    assert top_k(fit.heldout_NE, emotion_N)["top1"] > 0.9
    assert (np.abs(fit.W_FE).argmax(0) == np.arange(E)).all()
    rng = np.random.default_rng(0)
    shuffled_N = np.concatenate([rng.permutation(E) for _ in range(P)])
    chance = top_k(fit_prototypes(X_NF, shuffled_N, topic_N, ridge=1.0).heldout_NE, shuffled_N)["top1"]
    assert chance < 0.25


def test_topic_means_do_not_matter_to_the_prototypes() -> None:
    X_NF, emotion_N, topic_N = crossed(4, 3, 10, signal=1.0)
    moved_NF = X_NF + 100 * np.arange(3)[topic_N][:, None]
    a, b = (dual_prototypes(gram(X), emotion_N, topic_N, 4, 10, 1.0) for X in (X_NF, moved_NF))
    np.testing.assert_allclose(X_NF.T @ a, moved_NF.T @ b, rtol=1e-5, atol=1e-7)


def test_centring_and_class_means() -> None:
    X_NF, emotion_N, topic_N = crossed(3, 2, 5, signal=1.0)
    centred = centre_by_topic(X_NF, topic_N)
    for topic in (0, 1):
        np.testing.assert_allclose(centred[topic_N == topic].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(class_means(X_NF, emotion_N, 3)[1], X_NF[emotion_N == 1].mean(0))


def test_holes_in_the_crossing_give_unknown_scores_and_leave_the_calibration_whole() -> None:
    X_NF, emotion_N, topic_N = crossed(4, 2, 10, signal=3.0)
    kept = ~((emotion_N == 2) & (topic_N == 0))  # emotion 2 is only on topic 1
    fit = fit_prototypes(X_NF[kept], emotion_N[kept], topic_N[kept], ridge=1.0)
    assert np.isnan(fit.heldout_NE[topic_N[kept] == 1, 2]).all()
    assert np.isfinite(fit.W_FE).all()
    assert np.isfinite(fit.bias_E).all()


def test_calibration_without_spread_divides_by_one() -> None:
    mean_E, sd_E = calibration(np.zeros((4, 2)), np.array([0, 1, 0, 1]))
    assert mean_E.tolist() == [0, 0]
    assert sd_E.tolist() == [1, 1]


def test_one_topic_or_a_missing_emotion_is_the_users_fault() -> None:
    X_NF, emotion_N, topic_N = crossed(3, 2, 4, signal=1.0)
    with pytest.raises(InputError, match="two topics"):
        fit_prototypes(X_NF, emotion_N, np.zeros_like(topic_N), ridge=1.0)
    with pytest.raises(InputError, match="1 emotions have no story"):
        fit_prototypes(X_NF, emotion_N, topic_N, ridge=1.0, n_emotions=4)


def test_flat_texts_score_low_and_the_order_of_emotions_is_untouched() -> None:
    E, P = 10, 6
    X_NF, emotion_N, topic_N = crossed(E, P, 40, signal=3.0)
    rng = np.random.default_rng(3)
    X_NF[:, -1] += 6  # all stories have what flat texts lack
    flat_NF, flat_topic_N = rng.normal(size=(8 * P, 40)), np.repeat(np.arange(P), 8)
    both_NF, both_topic_N = np.concatenate([X_NF, flat_NF]), np.append(topic_N, flat_topic_N)
    fit = fit_prototypes(both_NF, np.append(emotion_N, np.full(8 * P, NEUTRAL)), both_topic_N, ridge=1.0)
    assert fit.share > 0
    top_N = fit.heldout_NE.max(1)
    assert separated(top_N[: E * P], top_N[E * P :]) > 0.97
    others = fit.heldout_NE[: E * P][emotion_N[:, None] != np.arange(E)]
    assert abs(others.mean()) < 1e-3
    assert abs(others.std() - 1) < 0.05
    z_NE = rng.normal(size=(len(both_NF), E + 1))
    mixed_NE, _, spread = with_share(z_NE, np.append(emotion_N, np.full(8 * P, NEUTRAL)), shares=(0.8,))
    np.testing.assert_allclose(mixed_NE * spread, z_NE[:, :E] + 0.8 * z_NE[:, E:])


def test_the_share_is_the_smallest_that_separates_well() -> None:
    rng = np.random.default_rng(0)
    emotion_N = np.append(rng.integers(0, 4, 200), np.full(100, NEUTRAL))
    own_NE = rng.normal(size=(300, 4))
    told_N1 = np.where(emotion_N == NEUTRAL, -1.0, 0.0)[:, None]
    assert with_share(np.hstack([own_NE, 100 * told_N1]), emotion_N)[1] == 0.25  # any share will do
    assert with_share(np.hstack([own_NE, 0 * told_N1]), emotion_N)[1] == 0.0  # none helps
    assert with_share(np.hstack([own_NE[:200], told_N1[:200]]), emotion_N[:200])[1] == 0.0  # no flat texts


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_separation_counts_pairs(positive: list[int], negative: list[int]) -> None:
    expected = np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])
    assert separated(np.array(positive), np.array(negative)) == pytest.approx(expected)
