"""Readings along decoder directions, against the reconstruction they stand for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label import aligned
from saefeat.label.aligned import OWN


@settings(deadline=None, max_examples=30)
@given(N=st.integers(1, 6), F=st.integers(1, 9), D=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_reading_is_the_reconstruction_along_the_direction_and_the_own_activation(
    N: int, F: int, D: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    X_NF, W_dec_FD = np.maximum(rng.normal(size=(N, F)), 0) + 0.01, rng.normal(size=(F, D))
    reading_NF = aligned(X_NF, W_dec_FD)
    for n in range(N):
        xhat_D = sum(X_NF[n, g] * W_dec_FD[g] for g in range(F))
        for f in range(F):
            norm = np.linalg.norm(W_dec_FD[f])
            expected = xhat_D @ W_dec_FD[f] / norm + OWN * X_NF[n, f] * norm
            np.testing.assert_allclose(reading_NF[n, f], expected, rtol=1e-3, atol=1e-4)


def test_features_that_never_fire_read_nothing() -> None:
    X_NF = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert aligned(X_NF, np.ones((2, 3))).tolist()[1][1] == 0


def test_a_split_feature_is_read_where_its_twin_fires() -> None:
    """Two features share a direction; each fires on half of the texts; either reading tells all of them."""
    X_NF = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    W_dec_FD = np.array([[1, 0, 0], [0.99, 0.14, 0], [0, 0, 1.0]])
    reading_NF = aligned(X_NF, W_dec_FD)
    assert (reading_NF[:2, :2] > 0.9).all()
    assert abs(reading_NF[2, :2]).max() < 0.01
