"""Geometry: ranks against sorting, ridge against a direct solve and refits, planted ratings, chance, figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label.geometry import (
    bootstrap_r,
    cosines,
    left_out_predictions,
    pair_ranks,
    pearson,
    predict_rating,
    principal_components,
    unit_rows,
)


def primal_ridge(V_NF: np.ndarray, y_N: np.ndarray, x_F: np.ndarray, ridge: float) -> float:
    """The slow, obvious twin: weights in feature space, the strength relative to the mean eigenvalue of the kernel."""
    centred = V_NF - V_NF.mean(0)
    lam = ridge * np.trace(centred @ centred.T) / len(V_NF)
    w_F = np.linalg.solve(centred.T @ centred + lam * np.eye(V_NF.shape[1]), centred.T @ (y_N - y_N.mean()))
    return float(y_N.mean() + (x_F - V_NF.mean(0)) @ w_F)


def slow_prediction(V_EF: np.ndarray, y_E: np.ndarray, group_E: np.ndarray, ridges: tuple[float, ...]) -> np.ndarray:
    """Leave out, choose by refitting without each training emotion in turn, predict; all in loops."""
    out_E = np.empty(len(y_E))
    for e in range(len(y_E)):
        train = np.flatnonzero(group_E != group_E[e])
        V, y = V_EF[train], y_E[train]
        lam = np.trace((V - V.mean(0)) @ (V - V.mean(0)).T) / len(V)  # of the fold, kept while one more is left out
        errors = []
        for ridge in ridges:
            total = 0.0
            for i in range(len(train)):
                rest = np.arange(len(train)) != i
                own = V[rest] - V[rest].mean(0)
                scale = np.trace(own @ own.T) / rest.sum()
                total += (y[i] - primal_ridge(V[rest], y[rest], V[i], ridge * lam / scale)) ** 2
            errors.append(total)
        out_E[e] = primal_ridge(V, y, V_EF[e], ridges[int(np.argmin(errors))])
    return out_E


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), E=st.integers(6, 10), F=st.integers(1, 14), families=st.booleans())
def test_the_dual_prediction_equals_refitting_in_loops(seed: int, E: int, F: int, families: bool) -> None:
    rng = np.random.default_rng(seed)
    V_EF, y_E = rng.normal(size=(E, F)) + 3, rng.normal(size=E)
    group_E = np.arange(E) // 2 if families else np.arange(E)
    ridges = (0.1, 1.0, 10.0)
    found = left_out_predictions(V_EF @ V_EF.T, y_E[:, None], group_E, ridges)[:, 0]
    np.testing.assert_allclose(found, slow_prediction(V_EF, y_E, group_E, ridges), rtol=1e-6, atol=1e-8)


def test_a_planted_rating_is_predicted_for_emotions_never_seen() -> None:
    rng = np.random.default_rng(0)
    V_EF = rng.normal(size=(60, 20))
    rating_E = 0.5 + 0.1 * V_EF[:, 3] + 0.02 * rng.normal(size=60)
    found = predict_rating(V_EF, rating_E, permutations=99, resamples=200)
    assert found.r > 0.9
    assert found.low < found.r < found.high
    assert found.p == 0.01
    assert abs(found.predicted_E - rating_E).mean() < 0.08


def test_without_a_relation_the_permutation_p_is_uniform() -> None:
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = predict_rating(rng.normal(size=(20, 30)), rng.random(20), permutations=39, resamples=1, seed=seed)
        p.append(found.p)
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_leaving_out_families_takes_away_what_synonyms_tell() -> None:
    rng = np.random.default_rng(1)
    family_E = np.repeat(np.arange(15), 4)
    V_EF = np.eye(15)[family_E] + 0.1 * rng.normal(size=(60, 15))  # directions tell the family and nothing else
    rating_E = rng.random(15)[family_E]
    assert predict_rating(V_EF, rating_E, permutations=0, resamples=1).r > 0.9
    assert predict_rating(V_EF, rating_E, family_E, permutations=0, resamples=1).r < 0.5


def test_emotions_without_a_rating_are_neither_used_nor_predicted() -> None:
    rng = np.random.default_rng(2)
    V_EF, rating_E = rng.normal(size=(20, 5)), rng.random(20)
    rating_E[3] = np.nan
    found = predict_rating(V_EF, rating_E, permutations=3, resamples=10)
    rest = np.arange(20) != 3
    without = predict_rating(V_EF[rest], rating_E[rest], permutations=3, resamples=10)
    assert np.isnan(found.predicted_E[3])
    np.testing.assert_allclose(found.predicted_E[rest], without.predicted_E)
    assert found.r == without.r


def test_one_group_alone_cannot_be_predicted() -> None:
    assert np.isnan(left_out_predictions(np.eye(3), np.ones((3, 1)), np.zeros(3))).all()


@given(seed=st.integers(0, 999), E=st.integers(3, 9))
def test_ranks_of_pairs(seed: int, E: int) -> None:
    V_EF = np.random.default_rng(seed).normal(size=(E, 4)).round(1)
    similarity_EE = cosines(V_EF)
    pairs = [(a, b) for a in range(E) for b in range(a)]
    ranks = pair_ranks(similarity_EE, pairs)
    for (a, b), rank in zip(pairs, ranks, strict=True):
        assert rank == sum(similarity_EE[i, j] >= similarity_EE[a, b] for i, j in pairs)
    assert (pair_ranks(similarity_EE, [(b, a) for a, b in pairs]) == ranks).all()


def test_cosines_know_neither_length_nor_a_row_of_zeros() -> None:
    V_EF = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosines(V_EF), [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(unit_rows(V_EF + 7, centred=True), unit_rows(V_EF, centred=True))


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    V_EF = np.random.default_rng(0).normal(size=(12, 30))
    place_EC, share_C = principal_components(V_EF, 3)
    U, s, _ = np.linalg.svd(V_EF - V_EF.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(place_EC), np.abs(U[:, :3] * s[:3]), atol=1e-9)
    np.testing.assert_allclose(share_C, s[:3] ** 2 / (s**2).sum())
    assert (place_EC[np.abs(place_EC).argmax(0), [0, 1, 2]] > 0).all()


def test_pearson_of_columns_and_of_what_does_not_vary() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    np.testing.assert_allclose(pearson(a, b), [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)])
    assert pearson(a[:, 0], np.ones(9)) == 0


@pytest.mark.parametrize("group_E", [np.arange(200), np.arange(200) // 20])
def test_the_bootstrap_interval_is_as_wide_as_groups_are_few(group_E: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=200)[group_E]
    low, high = bootstrap_r(shared + rng.normal(size=200), shared + rng.normal(size=200), group_E, 300, rng)
    assert low < high
    assert (high - low < 0.3) == (len(np.unique(group_E)) == 200)
