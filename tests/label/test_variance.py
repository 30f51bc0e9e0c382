"""The split of variance against least squares with dummy variables, and what it says of noise."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label import variance_split
from saefeat.label.ranks import crossing
from saefeat.label.variance import mean_differences


def residual(x_N: np.ndarray, *factors: np.ndarray) -> tuple[float, int]:
    """Sum of squares left, and the rank, after regressing on a constant and dummy variables."""
    columns = [np.ones((len(x_N), 1))] + [(factor[:, None] == np.unique(factor)).astype(float) for factor in factors]
    design = np.hstack(columns)
    solved, _, rank, _ = np.linalg.lstsq(design, x_N, rcond=None)
    return float(((x_N - design @ solved) ** 2).sum()), int(rank)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), N=st.integers(12, 40), balanced=st.booleans())
def test_split_equals_least_squares(seed: int, N: int, balanced: bool) -> None:
    rng = np.random.default_rng(seed)
    emotion_N, topic_N = rng.integers(0, 4, N), rng.integers(0, 3, N)
    if balanced:
        emotion_N, topic_N = np.tile(np.arange(4), 6), np.repeat(np.arange(3), 8)
    X_NF = rng.normal(size=(len(emotion_N), 3)) + emotion_N[:, None] * [0, 1, 0] + topic_N[:, None] * [0, 0, 1] + 5
    split = variance_split(X_NF, emotion_N, topic_N, 5)  # emotion 4 has no story
    for f, x_N in enumerate(X_NF.T):
        (total, _), (rest, rank) = residual(x_N), residual(x_N, emotion_N, topic_N)
        (without_e, rank_e), (without_t, rank_t) = residual(x_N, topic_N), residual(x_N, emotion_N)
        mean = rest / (len(x_N) - rank)
        expected = [
            (without_e - rest) / total,
            (without_e - rest - (rank - rank_e) * mean) / (total + mean),
            (without_t - rest) / total,
            (without_t - rest - (rank - rank_t) * mean) / (total + mean),
        ]
        found = [split.eta2_emotion_F, split.omega2_emotion_F, split.eta2_topic_F, split.omega2_topic_F]
        np.testing.assert_allclose([values[f] for values in found], expected, atol=1e-9)
        if balanced:
            np.testing.assert_allclose(split.eta2_emotion_F[f] + split.eta2_topic_F[f] + rest / total, 1)


def test_omega_squared_of_noise_is_zero_on_average_and_eta_squared_is_not() -> None:
    rng = np.random.default_rng(0)
    E, P = 20, 6
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    split = variance_split(rng.normal(size=(E * P, 1000)), emotion_N, topic_N, E)
    assert abs(split.omega2_emotion_F.mean()) < 0.01
    assert abs(split.omega2_topic_F.mean()) < 0.005
    assert split.eta2_emotion_F.mean() > 0.1
    planted = rng.normal(size=(E * P, 1000)) + rng.normal(size=(E, 1000))[emotion_N]  # half the variance
    assert abs(np.median(variance_split(planted, emotion_N, topic_N, E).omega2_emotion_F) - 0.5) < 0.05


def test_constant_features_and_single_topics() -> None:
    emotion_N = np.arange(5)
    split = variance_split(np.array([[0.1, 1.0]] * 4 + [[0.1, 2.0]]), emotion_N, np.zeros(5), 5)
    np.testing.assert_allclose(split.eta2_emotion_F, [0, 1])
    assert split.omega2_emotion_F[0] == 0
    assert np.isnan(split.omega2_emotion_F[1])  # nothing is left to judge by
    np.testing.assert_allclose(split.eta2_topic_F, 0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_mean_differences_are_between_rows_centred_by_topic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    emotion_N, topic_N, X_NF = rng.integers(0, 3, 15), rng.integers(0, 3, 15), rng.normal(size=(15, 4))
    found_EF = mean_differences(X_NF, crossing(emotion_N, topic_N, 3))
    centred_NF = X_NF - np.stack([X_NF[topic_N == t].mean(0) for t in topic_N])
    for e in range(3):
        inside = emotion_N == e
        if inside.any() and not inside.all():
            np.testing.assert_allclose(
                found_EF[e], centred_NF[inside].mean(0) - centred_NF[~inside].mean(0), atol=1e-12
            )
