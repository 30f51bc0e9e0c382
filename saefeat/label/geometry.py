"""The geometry of emotions: which are alike, and whether valence and arousal can be read off their directions.

A rating of an emotion is predicted from the other emotions alone: kernel ridge regression on their directions, its
strength chosen by leaving out one emotion at a time within those others (Hastie, Tibshirani & Friedman, Elements of
Statistical Learning, 3.4.1 and 7.10). As near-synonyms give each other away, leaving out the whole family is harder.

Shapes: E emotions, F whatever the directions live in, Y ratings, R ridges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Strengths tried, in mean eigenvalues of the kernel."""


# ---------------------------------------------------------------- who is like whom
def unit_rows(V_EF: np.ndarray, *, centred: bool = False) -> np.ndarray:
    """Rows at length 1 (a row of zeros stays), float64; centred: minus their mean first."""
    V_EF = V_EF.astype(np.float64)
    if centred:
        V_EF = V_EF - V_EF.mean(0)
    length_E1 = np.linalg.norm(V_EF, axis=1, keepdims=True)
    return np.divide(V_EF, length_E1, out=np.zeros_like(V_EF), where=length_E1 > 0)


def cosines(V_EF: np.ndarray) -> np.ndarray:
    """(E, E) cosine similarities of emotions' directions."""
    unit_EF = unit_rows(V_EF)
    return unit_EF @ unit_EF.T


def pair_ranks(similarity_EE: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Place of each pair among all E(E-1)/2 pairs of emotions, 1 for the most alike; of equals, the last place."""
    every = np.sort(similarity_EE[np.triu_indices(len(similarity_EE), 1)])
    value = np.array([similarity_EE[max(a, b), min(a, b)] for a, b in pairs])
    return len(every) - np.searchsorted(every, value, side="left")


# ---------------------------------------------------------------- valence and arousal
@dataclass(frozen=True)
class Prediction:
    """A rating predicted for emotions that the regression never saw. predicted_E: NaN for those without a rating.

    r: Pearson correlation with the rating. low, high: 95 % interval by resampling left-out groups (emotions, or
    families). p: share of permuted ratings predicted as well, (1 + such) / (1 + permutations).
    """

    predicted_E: np.ndarray
    r: float
    low: float
    high: float
    p: float


def predict_rating(
    V_EF: np.ndarray,
    rating_E: np.ndarray,
    group_E: Sequence[object] | None = None,
    *,
    permutations: int = 1000,
    resamples: int = 2000,
    seed: int = 0,
    ridges: Sequence[float] = RIDGES,
) -> Prediction:
    """Predict `rating_E` (NaN: unrated) from V_EF, leaving out one emotion at a time, or all emotions of one group
    (`group_E`: their families). The null keeps the directions and permutes the ratings over emotions, with the
    whole procedure, choice of ridge included, done anew."""
    rated = np.flatnonzero(np.isfinite(rating_E))
    group_N = np.unique(np.arange(len(rated)) if group_E is None else np.array(group_E)[rated], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    y_N = rating_E[rated].astype(np.float64)
    null_NY = (
        np.stack([rng.permutation(y_N) for _ in range(permutations)], 1) if permutations else np.zeros((len(y_N), 0))
    )
    K_NN = V_EF[rated].astype(np.float64) @ V_EF[rated].astype(np.float64).T
    out_NY = left_out_predictions(K_NN, np.column_stack([y_N, null_NY]), group_N, ridges)
    r_Y = pearson(out_NY, np.column_stack([y_N, null_NY]))
    low, high = bootstrap_r(out_NY[:, 0], y_N, group_N, resamples, rng)
    predicted_E = np.full(len(rating_E), np.nan)
    predicted_E[rated] = out_NY[:, 0]
    p = (1 + int((r_Y[1:] >= r_Y[0]).sum())) / (1 + permutations)
    return Prediction(predicted_E, float(r_Y[0]), low, high, p)


def left_out_predictions(
    K_EE: np.ndarray, y_EY: np.ndarray, group_E: np.ndarray, ridges: Sequence[float] = RIDGES
) -> np.ndarray:
    """(E, Y): each emotion's ratings, predicted by kernel ridge regression with a free intercept on the emotions of
    other groups. The ridge of each fold and rating is the one that predicts the training emotions best when each of
    them is left out in turn. K_EE: inner products of directions; a fold centres them on its own emotions."""
    out_EY = np.empty(y_EY.shape)
    for group in np.unique(group_E):
        test, train = np.flatnonzero(group_E == group), np.flatnonzero(group_E != group)
        if not len(train):
            out_EY[test] = np.nan
            continue
        K_NN, K_TN = K_EE[np.ix_(train, train)], K_EE[np.ix_(test, train)]
        K_TN = K_TN - K_TN.mean(1, keepdims=True) - K_NN.mean(0) + K_NN.mean()
        K_NN = K_NN - K_NN.mean(0) - K_NN.mean(1, keepdims=True) + K_NN.mean()
        mean_Y = y_EY[train].mean(0)
        value_N, Q_NN = np.linalg.eigh(K_NN)
        value_N = np.maximum(value_N, 0)
        scale = value_N.mean() or 1.0
        c_NY = Q_NN.T @ (y_EY[train] - mean_Y)
        error_RY, fitted_RTY = [], []
        for ridge in ridges:
            shrunk_N = 1 / (value_N + ridge * scale)
            alpha_NY = Q_NN @ (shrunk_N[:, None] * c_NY)
            # y - ŷ = ridge · alpha; leaving one out divides it by 1 - leverage (intercept included)
            leverage_N = 1 / len(train) + (Q_NN**2) @ (value_N * shrunk_N)
            residual_NY = ridge * scale * alpha_NY / np.maximum(1 - leverage_N, 1e-9)[:, None]
            error_RY.append((residual_NY**2).mean(0))
            fitted_RTY.append(K_TN @ alpha_NY)
        best_Y = np.argmin(error_RY, axis=0)
        out_EY[test] = mean_Y + np.take_along_axis(np.stack(fitted_RTY), best_Y[None, None], axis=0)[0]
    return out_EY


def pearson(a_EY: np.ndarray, b_EY: np.ndarray) -> np.ndarray:
    """Correlation of columns; 0 where one of them does not vary."""
    a_EY, b_EY = a_EY - a_EY.mean(0), b_EY - b_EY.mean(0)
    length_Y = np.sqrt((a_EY**2).sum(0) * (b_EY**2).sum(0))
    return np.divide((a_EY * b_EY).sum(0), length_Y, out=np.zeros_like(length_Y), where=length_Y > 1e-12)


def bootstrap_r(
    a_E: np.ndarray, b_E: np.ndarray, group_E: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the correlation of a and b over resampled groups."""
    members = [np.flatnonzero(group_E == group) for group in np.unique(group_E)]
    found = []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        found.append(float(pearson(a_E[rows], b_E[rows])))
    low, high = np.percentile(found, [2.5, 97.5]) if found else (np.nan, np.nan)
    return float(low), float(high)


# ---------------------------------------------------------------- what the largest axes are
def principal_components(V_EF: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (E, count) of emotions on the components of their directions, and each one's share of variance.

    A component's sign is free: it is set so that its largest coordinate is positive.
    """
    centred_EF = V_EF.astype(np.float64) - V_EF.mean(0, dtype=np.float64)
    value_E, Q_EE = np.linalg.eigh(centred_EF @ centred_EF.T)
    value_E, Q_EE = np.maximum(value_E[::-1], 0), Q_EE[:, ::-1]
    place_EC = Q_EE[:, :count] * np.sqrt(value_E[:count])
    sign_C = np.sign(place_EC[np.abs(place_EC).argmax(0), np.arange(place_EC.shape[1])])
    return place_EC * np.where(sign_C == 0, 1, sign_C), value_E[:count] / max(value_E.sum(), 1e-300)
