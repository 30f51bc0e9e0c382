"""Sparse detectors: for every emotion the k columns that tell it best, and their weights, from any pooled texts.

A detector is a linear discriminant restricted to k columns, `score_e = bias_e + Σ_{f in A_e} w_fe x_f`. With c_e the
mean of an emotion's topic-centred stories, S the covariance within emotions and columns measured in standard
deviations, a set A of columns is worth c_Aᵀ (S_AA + λI)⁻¹ c_A. A detector grows one column at a time, all weights
refitted (orthogonal least squares: Chen, Billings & Luo 1989); only columns that rise with the emotion are taken, so
a signed basis (a residual stream) is passed as [X, -X]. Three things keep the choice from being luck:

- Emotions are shrunk together. An emotion has one story a topic, so its mean is noisy; but emotions lie in few
  directions, and what is no longer than noise in the whitened means is dropped, the rest shortened (Efron & Morris
  1972, empirical Bayes on vector observations). A column then needs the support of the emotion's near-synonyms.
- The first column is the one with the highest AUROC within topics, so shrunk: ranks know no lucky giants.
- For the others, sd is sqrt(sd² + mean sd²): a column that is hardly ever active cannot win by one lucky story (as
  in SAM: Tusher, Tibshirani & Chu 2001).

Shapes: N, M stories, F columns, E emotions, K the largest number of columns a detector has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saefeat.errors import InputError
from saefeat.label import calibration, centre_by_topic, class_means, gram, within_topic_auroc

KS = (1, 2, 4, 8, 16)
RIDGE = 0.5
"""λ, in variances of a typical column."""
EMOTION_BLOCK = 32


@dataclass(frozen=True)
class SparseDetectors:
    """feature_EK: columns in the order they were chosen, so that a detector of k columns has the first k;
    weight_kEK: their weights for each number of `ks`, zero beyond it; bias_kE. Calibrated: on the stories of other
    emotions that it was fitted on, a score has mean 0 and sd 1."""

    ks: tuple[int, ...]
    feature_EK: np.ndarray
    weight_kEK: np.ndarray
    bias_kE: np.ndarray

    def scores(self, X_MF: np.ndarray) -> np.ndarray:
        """(len(ks), M, E) scores of pooled texts, each from its own row alone."""
        scores_kME = np.repeat(self.bias_kE[:, None], len(X_MF), axis=1)
        for e, feature_K in enumerate(self.feature_EK):
            scores_kME[:, :, e] += self.weight_kEK[:, e] @ X_MF[:, feature_K].T.astype(np.float64)
        return scores_kME


def fit_detectors(
    X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, ks: Sequence[int] = KS
) -> SparseDetectors:
    """The detectors of emotions 0..E-1, fitted on all stories given; topics are any labels.

    Columns may be anything: SAE features, directions, embeddings. Raises InputError: an emotion on fewer than two
    topics, a topic with a single emotion only, or more columns asked for than there are.
    """
    ks = _check(X_NF, emotion_N, topic_N, E, ks)
    X_NF = X_NF.astype(np.float32, copy=False)
    centred_NF = centre_by_topic(X_NF, topic_N)
    means_EF = class_means(centred_NF, emotion_N, E)
    R_NF = (centred_NF - means_EF[emotion_N]).astype(np.float32)  # what is left within an emotion: S = Rᵀ R / N
    sd_F = np.sqrt((R_NF**2).mean(0, dtype=np.float64))
    scale_F = np.sqrt(sd_F**2 + _typical(sd_F) ** 2)

    shrink_EE = shrinkage(means_EF, R_NF, emotion_N)
    first_E = (shrink_EE @ (mean_auroc(X_NF, emotion_N, topic_N, E) - 0.5)).argmax(1)
    c_EF = ((shrink_EE @ means_EF) / scale_F).astype(np.float32)
    Z_NF = (R_NF / scale_F).astype(np.float32)
    feature_EK = forward_selection(c_EF, Z_NF, first_E, max(ks), RIDGE)
    weight_kEK = np.stack([discriminant(c_EF, Z_NF, feature_EK, k, RIDGE) for k in ks]) / scale_F[feature_EK]

    raw_kNE = SparseDetectors(ks, feature_EK, weight_kEK, np.zeros((len(ks), E))).scores(X_NF)
    mean_kE, sd_kE = map(np.stack, zip(*(calibration(raw_NE, emotion_N) for raw_NE in raw_kNE), strict=True))
    return SparseDetectors(ks, feature_EK, weight_kEK / sd_kE[:, :, None], -mean_kE / sd_kE)


# ---------------------------------------------------------------- the method
def shrinkage(means_EF: np.ndarray, R_NF: np.ndarray, emotion_N: np.ndarray) -> np.ndarray:
    """G_EE = U max(0, 1 − ν/d) Uᵀ, such that G C are the means C shrunk together.

    C S_m⁻¹ Cᵀ = U d Uᵀ with S_m = S + mI and m the mean eigenvalue of S; ν is what the mean of an emotion's stories
    would have there by their own spread alone. means_EF: of topic-centred stories; R_NF: what is left of those.
    """
    N, F = R_NF.shape
    E = len(means_EF)
    K_NN, CR_EN = gram(R_NF), (means_EF @ R_NF.T).astype(np.float64)
    m = np.trace(K_NN) / (N * F)
    if m <= 0:  # no spread, no noise
        return np.eye(E)
    # Woodbury: v S_m⁻¹ vᵀ = (v vᵀ − v Rᵀ (R Rᵀ + N m I)⁻¹ R vᵀ) / m, for the means and for the rows of R
    solved = np.linalg.solve(K_NN + N * m * np.eye(N), np.concatenate([CR_EN.T, K_NN], axis=1))
    H_EE = (gram(means_EF) - CR_EN @ solved[:, :E]) / m
    length_N = (np.diag(K_NN) - np.einsum("ij,ij->j", K_NN, solved[:, E:])) / m
    count_E = np.bincount(emotion_N, minlength=E)
    noise = (np.bincount(emotion_N, weights=length_N, minlength=E) / (count_E * (count_E - 1))).mean()
    d_E, U_EE = np.linalg.eigh((H_EE + H_EE.T) / 2)
    kept_E = np.where(d_E > noise, 1 - noise / np.where(d_E > noise, d_E, 1), 0.0)
    return (U_EE * kept_E) @ U_EE.T


def mean_auroc(X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int) -> np.ndarray:
    """(E, F) AUROC of each column for each emotion within topics, mean over the topics that have the emotion."""
    auroc_EF = np.empty((E, X_NF.shape[1]))
    for part, auroc_fEP in within_topic_auroc(X_NF, emotion_N, topic_N, E):
        auroc_EF[:, part] = np.nanmean(auroc_fEP, axis=2).T
    return auroc_EF


def forward_selection(c_EF: np.ndarray, Z_NF: np.ndarray, first_E: np.ndarray, K: int, ridge: float) -> np.ndarray:
    """feature_EK: after the first, column by column the rising one that adds most to c_Aᵀ (S_AA + ridge I)⁻¹ c_A,
    where S = Zᵀ Z / N.

    Chosen columns are made orthogonal as in Gram-Schmidt (the rows of V are those of a Cholesky factor of S), so what
    a column j would add is r_j² / d_j: what is left of its c, and of its variance.
    """
    N = len(Z_NF)
    variance_F = np.einsum("nf,nf->f", Z_NF, Z_NF) / N + ridge
    chosen = []
    for start in range(0, len(c_EF), EMOTION_BLOCK):  # what is held is K × EMOTION_BLOCK × F
        r_eF = c_EF[start : start + EMOTION_BLOCK].copy()
        rows = np.arange(len(r_eF))
        d_eF = np.tile(variance_F, (len(r_eF), 1))
        V_KeF = np.zeros((K, *r_eF.shape), Z_NF.dtype)
        feature_eK = np.repeat(first_E[start : start + EMOTION_BLOCK, None], K, axis=1)
        for i in range(K):
            if i:
                gain_eF = r_eF / np.sqrt(np.maximum(d_eF, ridge / 2))
                gain_eF[rows[:, None], feature_eK[:, :i]] = -np.inf
                feature_eK[:, i] = gain_eF.argmax(1)
            new_e = feature_eK[:, i]
            length_e, r_e = np.sqrt(d_eF[rows, new_e]), r_eF[rows, new_e]
            v_eF = (Z_NF[:, new_e].T @ Z_NF) / N
            v_eF[rows, new_e] += ridge
            v_eF -= np.einsum("ie,ieF->eF", V_KeF[:i, rows, new_e], V_KeF[:i])
            V_KeF[i] = v_eF / length_e[:, None]
            r_eF -= V_KeF[i] * (r_e / length_e)[:, None]
            d_eF -= V_KeF[i] ** 2
        chosen.append(feature_eK)
    return np.concatenate(chosen)


def discriminant(c_EF: np.ndarray, Z_NF: np.ndarray, feature_EK: np.ndarray, k: int, ridge: float) -> np.ndarray:
    """(E, K) weights (S_AA + ridge I)⁻¹ c_A of each emotion's first k columns, zero beyond."""
    weight_EK = np.zeros(feature_EK.shape)
    for e, A in enumerate(feature_EK[:, :k]):
        Z_Nk = Z_NF[:, A].astype(np.float64)
        weight_EK[e, :k] = np.linalg.solve(Z_Nk.T @ Z_Nk / len(Z_Nk) + ridge * np.eye(k), c_EF[e, A])
    return weight_EK


def _typical(sd_F: np.ndarray) -> float:
    """Mean sd of the columns that vary (1 if none does)."""
    return float(sd_F[sd_F > 0].mean()) if (sd_F > 0).any() else 1.0


def _check(X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int, ks: Sequence[int]) -> tuple[int, ...]:
    slot_N = np.unique(topic_N, return_inverse=True)[1]
    emotion_of, topic_of = np.unique(np.stack([emotion_N, slot_N]), axis=1)
    few = np.flatnonzero(np.bincount(emotion_of, minlength=E) < 2)
    if len(few):
        raise InputError(f"{len(few)} emotions have stories on fewer than two topics", do="see `saefeat corpus check`")
    if (np.bincount(topic_of) < 2).any():
        raise InputError("a topic has stories of one emotion only", do="see `saefeat corpus check`")
    ks = tuple(sorted(set(ks)))
    if not ks or ks[0] < 1 or ks[-1] > X_NF.shape[1]:
        raise InputError(f"cannot choose {list(ks)} of {X_NF.shape[1]} columns", do="ask for other numbers")
    return ks
