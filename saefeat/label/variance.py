"""How much of a feature's variance over the stories goes with emotion, how much with topic.

Two crossed factors without interaction, x = emotion + topic + rest. Each factor's sum of squares is what it explains
beyond the other (type II). In a balanced corpus that is the usual split, and emotion, topic and rest add up to the
total; in an unbalanced one they need not. The rest holds whatever an emotion does on some topics only (with one
story in a cell that cannot be told from noise) and, with several, the spread within cells.

    eta2 = SS / SS_total                                the share in these stories; chance adds to it by df
    omega2 = (SS - df MS_rest) / (SS_total + MS_rest)   without what chance adds; can be below 0 (Hays 1963)

Shapes: N stories, F features (f: a block of them), E emotions, P topics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saefeat.label.ranks import Crossing, crossing, over_blocks


@dataclass(frozen=True)
class VarianceSplit:
    """Per feature (F,), float64. eta2 is 0 for a constant feature; omega2 is NaN if nothing is left for the rest."""

    eta2_emotion_F: np.ndarray
    omega2_emotion_F: np.ndarray
    eta2_topic_F: np.ndarray
    omega2_topic_F: np.ndarray


def variance_split(
    X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, n_emotions: int, *, threads: int | None = None
) -> VarianceSplit:
    """The split of each feature of X_NF; emotions 0..E-1, topics any labels. Float64 by blocks of features."""
    design = crossing(emotion_N, topic_N, n_emotions)
    count_EP = design.count_EP
    size_E, size_P = count_EP.sum(1), count_EP.sum(0)
    by_topic = _Groups(size_P, np.arange(len(emotion_N)))
    by_emotion = _Groups(size_E, np.argsort(emotion_N[design.order_N], kind="stable"))
    # Z'(I - P_other)Z of each factor's indicators Z, as A with A A' its pseudo-inverse
    emotion_ER, df_emotion = _half_inverse(np.diag(size_E) - count_EP / np.maximum(size_P, 1) @ count_EP.T)
    topic_PR, df_topic = _half_inverse(np.diag(size_P) - count_EP.T / np.maximum(size_E, 1) @ count_EP)
    df_rest = len(emotion_N) - len(size_P) - df_emotion
    out_4F = np.zeros((4, X_NF.shape[1]))

    def run(part: slice) -> None:
        x_Nf = X_NF[design.order_N, part].astype(np.float64)
        x_Nf -= x_Nf.mean(0)
        total_f = np.einsum("nf,nf->f", x_Nf, x_Nf)
        topic_Pf, emotion_Ef = by_topic.sums(x_Nf), by_emotion.sums(x_Nf)
        topic_mean_Pf = topic_Pf / np.maximum(size_P, 1)[:, None]
        emotion_mean_Ef = emotion_Ef / np.maximum(size_E, 1)[:, None]
        emotion_f = ((emotion_ER.T @ (emotion_Ef - count_EP @ topic_mean_Pf)) ** 2).sum(0)
        topic_f = ((topic_PR.T @ (topic_Pf - count_EP.T @ emotion_mean_Ef)) ** 2).sum(0)
        rest_f = np.maximum(total_f - (topic_Pf * topic_mean_Pf).sum(0) - emotion_f, 0)
        varies_f = total_f > 1e-12 * len(x_Nf) * np.abs(X_NF[:, part]).max(0).astype(np.float64) ** 2
        mean_f = rest_f / df_rest if df_rest > 0 else np.full(len(rest_f), np.nan)
        for i, (ss_f, df) in enumerate([(emotion_f, df_emotion), (topic_f, df_topic)]):
            out_4F[2 * i, part] = np.divide(ss_f, total_f, out=np.zeros_like(ss_f), where=varies_f)
            omega_f = (ss_f - df * mean_f) / np.where(varies_f, total_f + mean_f, 1)
            out_4F[2 * i + 1, part] = np.where(varies_f, omega_f, 0)

    over_blocks(run, X_NF.shape[1], threads=threads)
    return VarianceSplit(*out_4F)


def mean_differences(X_Nf: np.ndarray, design: Crossing) -> np.ndarray:
    """(E, f) float64: mean of an emotion's rows minus mean of all other rows, after centring by topic."""
    x_Nf = X_Nf[design.order_N].astype(np.float64)
    for a, b in design.topic_bounds():
        x_Nf[a:b] -= x_Nf[a:b].mean(0)
    size_E = design.count_EP.sum(1)
    emotion_N = np.concatenate([np.repeat(np.arange(len(size_E)), count_E) for count_E in design.count_EP.T])
    inside_Ef = _Groups(size_E, np.argsort(emotion_N, kind="stable")).sums(x_Nf)
    # centred rows sum to 0, so the others' sum is the emotion's with the other sign
    return inside_Ef * (1 / np.maximum(size_E, 1) + 1 / np.maximum(len(x_Nf) - size_E, 1))[:, None]


@dataclass(frozen=True)
class _Groups:
    """Group sizes, and rows in the order of their groups."""

    size_G: np.ndarray
    order_N: np.ndarray

    def sums(self, x_Nf: np.ndarray) -> np.ndarray:
        """(G, f): sums of rows by group; 0 for an empty group."""
        sums_Gf = np.zeros((len(self.size_G), x_Nf.shape[1]))
        some = np.flatnonzero(self.size_G)
        starts = np.cumsum(self.size_G[some]) - self.size_G[some]
        sums_Gf[some] = np.add.reduceat(x_Nf[self.order_N], starts, axis=0)
        return sums_Gf


def _half_inverse(matrix_GG: np.ndarray) -> tuple[np.ndarray, int]:
    """A (G, rank) with A A' the pseudo-inverse of a positive semi-definite matrix, and the rank."""
    value_G, vector_GG = np.linalg.eigh(matrix_GG)
    kept = value_G > 1e-9 * max(float(value_G.max(initial=0)), 1)
    return vector_GG[:, kept] / np.sqrt(value_G[kept]), int(kept.sum())
