"""Prototypes: one direction per emotion, such that `score_e = bias_e + Σ_f W_fe x_f` for any pooled text x.

The corpus is crossed (every emotion on every topic), so a topic's mean is what its stories share apart from
emotion: it is taken away first. An emotion's prototype is the mean c_e of its centred stories, turned by the
inverse of the within-emotion covariance S, shrunk towards a multiple of the identity (linear discriminant analysis
with a ridge: Hastie, Tibshirani & Friedman, Elements of Statistical Learning, 4.3.1):

    W_e = (S + λI)⁻¹ c_e / sqrt(c_eᵀ (S + λI)⁻¹ c_e),      λ = ridge × trace(S) / F

Everything is linear in the rows of X, so W = Xᵀ alpha, and alpha follows from the Gram matrix K = X Xᵀ alone
(Woodbury): solves are N×N whatever the width F, and leaving a topic out only takes a part of K.

Shapes: N stories, F features, E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saefeat.errors import InputError

GRAM_BLOCK = 4096
RIDGES = (1.0, 3.0, 0.3, 10.0, 0.1, 30.0)
"""What is tried when no ridge is given, in mean eigenvalues; of equally good ones the first is taken."""


@dataclass(frozen=True)
class Prototypes:
    """W_FE and bias_E, calibrated: for stories of other emotions on unseen topics a score has mean 0 and sd 1.

    heldout_NE: the calibrated scores of the training stories, each by prototypes that never saw its topic.
    ridge: the shrinkage used.
    """

    W_FE: np.ndarray
    bias_E: np.ndarray
    heldout_NE: np.ndarray
    ridge: float


def scores(X_NF: np.ndarray, prototypes: Prototypes) -> np.ndarray:
    """(N, E) scores of pooled texts, each from its own row alone."""
    return X_NF @ prototypes.W_FE + prototypes.bias_E


def fit_prototypes(
    X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, *, ridge: float | None, n_emotions: int | None = None
) -> Prototypes:
    """Prototypes of stories X_NF with emotions 0..E-1 and topics (any labels).

    ridge: in mean eigenvalues; None: the one of RIDGES that does best when each topic is left out in turn.
    Raises InputError: fewer than two topics (nothing to calibrate on), an emotion without a story.
    """
    E = int(emotion_N.max()) + 1 if n_emotions is None else n_emotions
    _check(emotion_N, topic_N, E)
    K_NN, F = gram(X_NF), X_NF.shape[1]
    if ridge is None:
        ridge = choose_ridge(K_NN, emotion_N, topic_N, E, F)
    raw_NE = heldout_scores(K_NN, emotion_N, topic_N, E, F, ridge)
    mean_E, sd_E = calibration(raw_NE, emotion_N)
    alpha_NE = dual_prototypes(K_NN, emotion_N, topic_N, E, F, ridge)
    W_FE = (X_NF.T @ alpha_NE.astype(X_NF.dtype)).astype(np.float64) / sd_E
    bias_E = -X_NF.mean(0, dtype=np.float64) @ W_FE - mean_E / sd_E
    heldout_NE = (raw_NE - mean_E) / sd_E
    return Prototypes(W_FE.astype(np.float32), bias_E.astype(np.float32), heldout_NE.astype(np.float32), ridge)


def distinctness(scores_NE: np.ndarray) -> np.ndarray:
    """(N,) how far a text's highest score lies above its own scores, in their standard deviations.

    Scores spread more on texts unlike the stories, flat ones too, so the highest score by itself does not tell
    whether any emotion stands out. 0 if there is nothing to compare.
    """
    spread_N = scores_NE.std(1)
    above_N = scores_NE.max(1) - scores_NE.mean(1)
    return np.divide(above_N, spread_N, out=np.zeros_like(above_N), where=spread_N > 0)


# ---------------------------------------------------------------- the method, on the Gram matrix
def gram(X_NF: np.ndarray) -> np.ndarray:
    """X Xᵀ in float64, by blocks of features."""
    K_NN = np.zeros((len(X_NF), len(X_NF)))
    for start in range(0, X_NF.shape[1], GRAM_BLOCK):
        block = X_NF[:, start : start + GRAM_BLOCK].astype(np.float64)
        K_NN += block @ block.T
    return K_NN


def dual_prototypes(
    K_NN: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, F: int, ridge: float
) -> np.ndarray:
    """alpha_NE such that the prototypes are W_FE = Xᵀ alpha: whitened, of unit length in the whitened metric.

    An emotion without a story has a column of zeros.
    """
    N = len(K_NN)
    means_NE = _one_hot(emotion_N, E)
    means_NE = means_NE / np.maximum(means_NE.sum(0), 1)  # C = meansᵀ A X, A: centring by topic
    A_K_A = centre_by_topic(centre_by_topic(K_NN, topic_N).T, topic_N)  # X̃ X̃ᵀ
    C_NE = A_K_A @ means_NE  # X̃ Cᵀ
    R_NE = _centre_by(C_NE, emotion_N)  # R Cᵀ, R: what is left of X̃ within an emotion
    R_NN = _centre_by(_centre_by(A_K_A, emotion_N).T, emotion_N)  # R Rᵀ
    mean_eigenvalue = np.trace(R_NN) / (N * F)
    total = np.trace(A_K_A) / (N * F)
    if mean_eigenvalue <= 1e-12 * total:  # one story an emotion: no spread to whiten by
        mean_eigenvalue = total
    if mean_eigenvalue <= 0:
        return np.zeros((N, E))
    lam = ridge * mean_eigenvalue
    solved_NE = np.linalg.solve(R_NN + N * lam * np.eye(N), R_NE)
    alpha_NE = centre_by_topic(means_NE - _centre_by(solved_NE, emotion_N), topic_N) / lam
    length_E = np.einsum("ne,ne->e", means_NE, A_K_A @ alpha_NE)  # c_e · W_e
    return alpha_NE / np.sqrt(np.where(length_E > 0, length_E, np.inf))


def raw_scores(K_MN: np.ndarray, K_NN: np.ndarray, alpha_NE: np.ndarray) -> np.ndarray:
    """(M, E): (x − the mean of the training rows) · W_e, from the products K_MN of x with the training rows."""
    return (K_MN - K_NN.mean(0)) @ alpha_NE


def heldout_scores(
    K_NN: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, F: int, ridge: float
) -> np.ndarray:
    """Raw scores (N, E) of every row by prototypes fitted on the other topics; NaN where they lack the emotion."""
    out_NE = np.full((len(K_NN), E), np.nan)
    for topic in np.unique(topic_N):
        test, train = np.flatnonzero(topic_N == topic), np.flatnonzero(topic_N != topic)
        K_train = K_NN[np.ix_(train, train)]
        alpha_NE = dual_prototypes(K_train, emotion_N[train], topic_N[train], E, F, ridge)
        fold = raw_scores(K_NN[np.ix_(test, train)], K_train, alpha_NE)
        known = np.bincount(emotion_N[train], minlength=E) > 0
        out_NE[np.ix_(test, known)] = fold[:, known]
    return out_NE


def choose_ridge(
    K_NN: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, F: int, ridges: Sequence[float] = RIDGES
) -> float:
    """The ridge whose calibrated scores put most stories' own emotion first, each topic left out in turn."""

    def share(ridge: float) -> float:
        raw_NE = heldout_scores(K_NN, emotion_N, topic_N, E, F, ridge)
        mean_E, sd_E = calibration(raw_NE, emotion_N)
        return float((places((raw_NE - mean_E) / sd_E, emotion_N) < 1).mean())

    return max(ridges, key=share)  # of equals the first


def places(scores_NE: np.ndarray, emotion_N: np.ndarray) -> np.ndarray:
    """How many emotions come before a text's own; ties and unknown scores count against it by half and wholly."""
    known_NE = np.where(np.isnan(scores_NE), -np.inf, scores_NE)
    own_N1 = known_NE[np.arange(len(emotion_N)), emotion_N][:, None]
    ties_N = (known_NE == own_N1).sum(1) - 1
    return (known_NE > own_N1).sum(1) + ties_N / 2


def calibration(raw_NE: np.ndarray, emotion_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mean_E and sd_E of each emotion's raw scores over the stories of other emotions (sd 1 if they are all equal)."""
    E = raw_NE.shape[1]
    others_NE = np.where(_one_hot(emotion_N, E) > 0, np.nan, raw_NE)
    count_E = np.maximum((~np.isnan(others_NE)).sum(0), 1)
    mean_E = np.nansum(others_NE, 0) / count_E
    sd_E = np.sqrt(np.nansum((others_NE - mean_E) ** 2, 0) / count_E)
    return mean_E, np.where(sd_E > 1e-12, sd_E, 1.0)


# ---------------------------------------------------------------- centring
def centre_by_topic(X_NF: np.ndarray, topic_N: np.ndarray) -> np.ndarray:
    """Rows minus the mean of their topic's rows."""
    return _centre_by(X_NF, topic_N)


def class_means(X_NF: np.ndarray, emotion_N: np.ndarray, E: int) -> np.ndarray:
    """(E, F) mean of each emotion's rows; zeros for an emotion without any."""
    one_NE = _one_hot(emotion_N, E)
    return (one_NE.T @ X_NF) / np.maximum(one_NE.sum(0), 1)[:, None]


def _centre_by(X_NF: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    _, slot_N = np.unique(group_N, return_inverse=True)
    return X_NF - class_means(X_NF, slot_N, int(slot_N.max()) + 1)[slot_N]


def _one_hot(emotion_N: np.ndarray, E: int) -> np.ndarray:
    return (emotion_N[:, None] == np.arange(E)).astype(np.float64)


def _check(emotion_N: np.ndarray, topic_N: np.ndarray, E: int) -> None:
    if len(np.unique(topic_N)) < 2:
        raise InputError("prototypes need stories on at least two topics", do="add topics")
    missing = np.flatnonzero(np.bincount(emotion_N, minlength=E) == 0)
    if len(missing):
        raise InputError(f"{len(missing)} emotions have no story", do="see `saefeat corpus check`")
