"""Prototypes: one direction per emotion, such that `score_e = bias_e + Σ_f W_fe x_f` for any pooled text x.

The corpus is crossed (every emotion on every topic), so a topic's mean is what its stories share apart from
emotion: it is taken away first. An emotion's prototype is the mean c_e of its centred stories, turned by the
inverse of the within-emotion covariance S, shrunk towards a multiple of the identity (linear discriminant analysis
with a ridge: Hastie, Tibshirani & Friedman, Elements of Statistical Learning, 4.3.1):

    W_e = (S + λI)⁻¹ c_e / sqrt(c_eᵀ (S + λI)⁻¹ c_e),      λ = ridge × trace(S) / F

Flat texts (emotion NEUTRAL) on the same topics count as one more class in S. Their mean difference δ from the stories
of their topics gives a last direction W_E in the same way, which tells emotional from flat texts. Every emotion's
score holds the same share of it, so flat texts score low on all, and the order of emotions within a text is not
touched.

Everything is linear in the rows of X, so W = Xᵀ alpha, and alpha follows from the Gram matrix K = X Xᵀ alone
(Woodbury): solves are N×N whatever the width F, and leaving a topic out only takes a part of K.

Shapes: N texts, F features, E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saefeat.errors import InputError

GRAM_BLOCK = 4096
NEUTRAL = -1
"""The number that stands for 'no emotion' among a text's emotions."""
RIDGES = (3.0, 10.0, 1.0, 30.0)
"""What is tried when no ridge is given, in mean eigenvalues; of equally good ones the first is taken."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""What is tried as the share of the emotional direction in every score, in sd of an emotion's own part."""
SHARE_SLACK = 0.02
"""The smallest share is taken whose separation of emotional from flat texts (AUROC) is this near to the best."""
FOLDS = 8
"""At most so many groups of topics are left out in turn."""


@dataclass(frozen=True)
class Prototypes:
    """W_FE and bias_E, calibrated: for stories of other emotions on unseen topics a score has mean 0 and sd 1.

    heldout_NE: the calibrated scores of the training texts, each by prototypes that never saw its topic.
    ridge: the shrinkage used; share: of the emotional direction in every score (0 without flat texts).
    """

    W_FE: np.ndarray
    bias_E: np.ndarray
    heldout_NE: np.ndarray
    ridge: float
    share: float = 0.0


def scores(X_NF: np.ndarray, prototypes: Prototypes) -> np.ndarray:
    """(N, E) scores of pooled texts, each from its own row alone."""
    return X_NF @ prototypes.W_FE + prototypes.bias_E


def fit_prototypes(
    X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, *, ridge: float | None, n_emotions: int | None = None
) -> Prototypes:
    """Prototypes of texts X_NF with emotions 0..E-1 (or NEUTRAL) and topics (any labels).

    ridge: in mean eigenvalues; None: the one of RIDGES that does best when topics are left out in turn.
    Raises InputError: fewer than two topics (nothing to calibrate on), an emotion without a story.
    """
    E = int(emotion_N.max()) + 1 if n_emotions is None else n_emotions
    _check(emotion_N, topic_N, E)
    K_NN, F = gram(X_NF), X_NF.shape[1]
    tried = RIDGES if ridge is None else (ridge,)
    raw = heldout_scores(K_NN, emotion_N, topic_N, E, F, tried)
    best = max(range(len(tried)), key=lambda i: _own_first(raw[i][:, :E], emotion_N))  # of equals the first
    ridge, raw_NE = tried[best], raw[best]
    mean_E, sd_E = calibration(raw_NE, emotion_N)
    heldout_NE, share, spread = with_share((raw_NE - mean_E) / sd_E, emotion_N)
    alpha_NE = dual_prototypes(K_NN, emotion_N, topic_N, E, F, ridge)
    W_FE = (X_NF.T @ alpha_NE.astype(X_NF.dtype)).astype(np.float64) / sd_E
    bias_E = -X_NF.mean(0, dtype=np.float64) @ W_FE - mean_E / sd_E
    W_FE = (W_FE[:, :E] + share * W_FE[:, E:]) / spread
    bias_E = (bias_E[:E] + share * bias_E[E]) / spread
    return Prototypes(
        W_FE.astype(np.float32), bias_E.astype(np.float32), heldout_NE.astype(np.float32), float(ridge), share
    )


def with_share(
    z_NE: np.ndarray, emotion_N: np.ndarray, shares: Sequence[float] = SHARES
) -> tuple[np.ndarray, float, float]:
    """(N, E) scores with their share of the emotional direction, that share, and the spread that is divided out.

    z_NE: (N, E + 1) calibrated scores, the last column of the emotional direction. The share is the smallest that
    separates emotional from flat texts, by the highest score of each, nearly as well as any.
    """
    own_NE, common_N1, flat_N = z_NE[:, :-1], z_NE[:, -1:], emotion_N == NEUTRAL
    if not flat_N.any() or flat_N.all():
        return own_NE, 0.0, 1.0
    top_N = np.nanmax(own_NE, 1)
    parts = [top_N + share * common_N1[:, 0] for share in shares]
    separation = np.array([separated(part[~flat_N], part[flat_N]) for part in parts])
    share = shares[int(np.argmax(separation >= separation.max() - SHARE_SLACK))]
    scores_NE = own_NE + share * common_N1
    spread = float(calibration(scores_NE, emotion_N)[1].mean())
    return scores_NE / spread, share, spread


def separated(positive_M: np.ndarray, negative_N: np.ndarray) -> float:
    """AUROC: the chance that a value of the first kind exceeds one of the second, ties counting half; NaN if there are
    none of either kind."""
    if not len(positive_M) or not len(negative_N):
        return float("nan")
    both = np.concatenate([positive_M, negative_N])
    _, slot, count = np.unique(both, return_inverse=True, return_counts=True)
    midrank = (np.cumsum(count) - (count - 1) / 2)[slot]
    M, N = len(positive_M), len(negative_N)
    return float((midrank[:M].sum() - M * (M + 1) / 2) / (M * N))


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
    """alpha (N, E + 1) such that the prototypes are Xᵀ alpha: whitened, of unit length in the whitened metric.

    The last column is the emotional direction. An emotion without a story, and the last one without flat texts, has
    a column of zeros.
    """
    return Dual(K_NN, emotion_N, topic_N, E, F).alpha(ridge)


class Dual:
    """All of the dual form that the ridge does not touch: `alpha` is then a single factorization."""

    def __init__(self, K_NN: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, F: int) -> None:
        N, cell_N = len(K_NN), _cells(emotion_N, topic_N)
        means_NE = centre_by_topic(_means(emotion_N, E), cell_N)  # c_e = meansᵀ X
        self.means_NE = np.column_stack([means_NE, _emotional(emotion_N, topic_N)])  # δ
        A_K_A = centre_by_topic(centre_by_topic(K_NN, cell_N).T, cell_N)  # X̃ X̃ᵀ
        self.R_NN = _centre_by(_centre_by(A_K_A, emotion_N).T, emotion_N)  # R Rᵀ, R: what is left of X̃ in an emotion
        self.mean_eigenvalue = np.trace(self.R_NN) / (N * F)
        total = np.trace(A_K_A) / (N * F)
        if self.mean_eigenvalue <= 1e-12 * total:  # one story an emotion: no spread to whiten by
            self.mean_eigenvalue = total
        self.K_means_NE = K_NN @ self.means_NE
        self.R_NE = _centre_by(centre_by_topic(self.K_means_NE, cell_N), emotion_N)  # R Cᵀ
        self.emotion_N, self.cell_N = emotion_N, cell_N

    def alpha(self, ridge: float) -> np.ndarray:
        """As `dual_prototypes`; ridge in mean eigenvalues."""
        if self.mean_eigenvalue <= 0:
            return np.zeros_like(self.means_NE)
        N, lam = len(self.R_NN), ridge * self.mean_eigenvalue
        shrunk_NN = self.R_NN.copy()
        shrunk_NN[np.diag_indices(N)] += N * lam
        factor_NN = torch.linalg.cholesky(torch.from_numpy(shrunk_NN))  # symmetric, positive: half the work of a solve
        solved_NE = torch.cholesky_solve(torch.from_numpy(self.R_NE), factor_NN).numpy()
        alpha_NE = (self.means_NE - centre_by_topic(_centre_by(solved_NE, self.emotion_N), self.cell_N)) / lam
        length_E = np.einsum("ne,ne->e", self.K_means_NE, alpha_NE)  # c_e · W_e
        return alpha_NE / np.sqrt(np.where(length_E > 0, length_E, np.inf))


def raw_scores(K_MN: np.ndarray, K_NN: np.ndarray, alpha_NE: np.ndarray) -> np.ndarray:
    """(M, E): (x − the mean of the training rows) · W_e, from the products K_MN of x with the training rows."""
    return (K_MN - K_NN.mean(0)) @ alpha_NE


def heldout_scores(
    K_NN: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, F: int, ridges: Sequence[float]
) -> list[np.ndarray]:
    """For each ridge raw scores (N, E + 1) of every row by prototypes fitted on other topics; NaN where those lack the
    emotion."""
    out = [np.full((len(K_NN), E + 1), np.nan) for _ in ridges]
    fold_N = folds(topic_N)
    for fold in np.unique(fold_N):
        test, train = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        K_train, K_test = K_NN[np.ix_(train, train)], K_NN[np.ix_(test, train)]
        dual = Dual(K_train, emotion_N[train], topic_N[train], E, F)
        known = np.append(np.isin(np.arange(E), emotion_N[train]), True)
        for out_NE, ridge in zip(out, ridges, strict=True):
            out_NE[np.ix_(test, known)] = raw_scores(K_test, K_train, dual.alpha(ridge))[:, known]
    return out


def folds(topic_N: np.ndarray) -> np.ndarray:
    """(N,) the group in which a row's topic is left out: topics one by one, in turn over FOLDS groups if more."""
    _, slot_N = np.unique(topic_N, return_inverse=True)
    return slot_N % FOLDS


def _own_first(raw_NE: np.ndarray, emotion_N: np.ndarray) -> float:
    """How often, calibrated, a text's own emotion comes first."""
    own_N = emotion_N != NEUTRAL
    mean_E, sd_E = calibration(raw_NE, emotion_N)
    return float((places(((raw_NE - mean_E) / sd_E)[own_N], emotion_N[own_N]) < 1).mean())


def places(scores_NE: np.ndarray, emotion_N: np.ndarray) -> np.ndarray:
    """How many emotions come before a text's own; ties and unknown scores count against it by half and wholly."""
    known_NE = np.where(np.isnan(scores_NE), -np.inf, scores_NE)
    own_N1 = known_NE[np.arange(len(emotion_N)), emotion_N][:, None]
    ties_N = (known_NE == own_N1).sum(1) - 1
    return (known_NE > own_N1).sum(1) + ties_N / 2


def calibration(raw_NE: np.ndarray, emotion_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mean_E and sd_E of each column over the stories of other emotions, flat texts apart (sd 1 if all are equal)."""
    story_N = emotion_N != NEUTRAL
    raw_NE, one_NE = raw_NE[story_N], _one_hot(emotion_N[story_N], raw_NE.shape[1])
    others_NE = np.where(one_NE > 0, np.nan, raw_NE)
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
    told = np.flatnonzero(emotion_N != NEUTRAL)
    rows = torch.from_numpy(np.ascontiguousarray(X_NF[told] if len(told) < len(X_NF) else X_NF, np.float64))
    sums_EF = torch.zeros(E, X_NF.shape[1], dtype=torch.float64)
    sums_EF.index_add_(0, torch.from_numpy(emotion_N[told].astype(np.int64)), rows)
    return sums_EF.numpy() / np.maximum(np.bincount(emotion_N[told], minlength=E), 1)[:, None]


def _centre_by(X_NF: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    _, slot_N = np.unique(group_N, return_inverse=True)
    X_NF = np.ascontiguousarray(X_NF, np.float64)
    means_GF = torch.from_numpy(class_means(X_NF, slot_N, int(slot_N.max()) + 1))
    return (torch.from_numpy(X_NF) - means_GF[torch.from_numpy(slot_N)]).numpy()  # torch: on all threads


def _one_hot(emotion_N: np.ndarray, E: int) -> np.ndarray:
    return (emotion_N[:, None] == np.arange(E)).astype(np.float64)


def _means(emotion_N: np.ndarray, E: int) -> np.ndarray:
    """(N, E) weights that make the mean of each emotion's rows."""
    one_NE = _one_hot(emotion_N, E)
    return one_NE / np.maximum(one_NE.sum(0), 1)


def _emotional(emotion_N: np.ndarray, topic_N: np.ndarray) -> np.ndarray:
    """(N,) weights that make δ: the stories' mean minus the flat texts', averaged over the topics that have both."""
    weight_N, flat_N = np.zeros(len(emotion_N)), emotion_N == NEUTRAL
    both = np.intersect1d(topic_N[flat_N], topic_N[~flat_N])
    for topic in both:
        for sign, own_N in ((1, ~flat_N & (topic_N == topic)), (-1, flat_N & (topic_N == topic))):
            weight_N[own_N] = sign / (own_N.sum() * len(both))
    return weight_N


def _cells(emotion_N: np.ndarray, topic_N: np.ndarray) -> np.ndarray:
    """(N,) what is centred together: a topic's stories, a topic's flat texts."""
    _, slot_N = np.unique(topic_N, return_inverse=True)
    return 2 * slot_N + (emotion_N == NEUTRAL)


def _check(emotion_N: np.ndarray, topic_N: np.ndarray, E: int) -> None:
    told_N = emotion_N[emotion_N != NEUTRAL]
    if len(np.unique(topic_N[emotion_N != NEUTRAL])) < 2:
        raise InputError("prototypes need stories on at least two topics", do="add topics")
    missing = np.flatnonzero(np.bincount(told_N, minlength=E) == 0)
    if len(missing):
        raise InputError(f"{len(missing)} emotions have no story", do="see `saefeat corpus check`")
