"""From many tests to claims: false discovery rate, the best that chance finds, intervals over topics.

Shapes: F features (f: a block of them), E emotions, P topics, B permutations or resamples, R reported pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from saefeat.label.ranks import Crossing, auroc_of_sums, mean_auroc, over_blocks, rank_sums

PERMUTATIONS = 500
RESAMPLES = 2000
SAME = 1e-6
"""AUROCs this close are equal: they are sums in another order."""


def q_values(p: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
    """The false discovery rate at which each p-value (or each of `at`, values found among p) is a discovery.

    Benjamini & Hochberg (1995): q_(i) = min over j >= i of m p_(j) / j. Three arrays of the size and dtype of p are
    held: 65,536 features x 171 emotions in float32 take 3 x 45 MB.
    """
    at = p if at is None else at
    if not p.size:
        return np.ones(at.shape, p.dtype)
    sorted_M = np.sort(p, axis=None)
    q_M = np.arange(1, p.size + 1, dtype=p.dtype)
    np.divide(p.size, q_M, out=q_M)
    q_M *= sorted_M
    np.minimum.accumulate(q_M[::-1], out=q_M[::-1])
    return np.minimum(q_M[np.searchsorted(sorted_M, at)], 1)


# ---------------------------------------------------------------- the best of all features by chance
@dataclass(frozen=True)
class MaxT:
    """What chance finds. best_BE: the highest mean AUROC of any feature, of each emotion of each permuted labelling.

    Adjusted p-values and thresholds control the chance of even one false claim (Westfall & Young 1993, single step),
    however features hang together. patterns: emotions with exchangeable labels, whose draws are pooled.
    """

    best_BE: np.ndarray
    patterns: tuple[np.ndarray, ...]

    def overall_p(self, auroc: np.ndarray) -> np.ndarray:
        """P(some feature reaches this mean AUROC for some emotion, by chance); at least 1 / (B + 1)."""
        return _share_above(self.best_BE.max(1), auroc)

    def emotion_p(self, auroc: np.ndarray, emotion: np.ndarray) -> np.ndarray:
        """P(some feature reaches this mean AUROC for this emotion, by chance); one emotion for each AUROC."""
        p = np.ones(np.shape(auroc))
        for own in self.patterns:
            here = np.isin(emotion, own)
            p[here] = _share_above(self.best_BE[:, own].ravel(), np.asarray(auroc)[here])
        return p

    def threshold(self, alpha: float = 0.05) -> float:
        """The mean AUROC that a pair must exceed for overall_p <= alpha; infinite if there are too few draws."""
        return _threshold(self.best_BE.max(1), alpha)

    def emotion_threshold(self, alpha: float = 0.05) -> np.ndarray:
        """(E,) the mean AUROC that a feature must exceed for emotion_p <= alpha."""
        threshold_E = np.empty(self.best_BE.shape[1])
        for own in self.patterns:
            threshold_E[own] = _threshold(self.best_BE[:, own].ravel(), alpha)
        return threshold_E


def max_t(
    ranks_NF: np.ndarray,
    design: Crossing,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    threads: int | None = None,
) -> MaxT:
    """Permute emotions within topics and take the best feature of each emotion, again and again.

    A permutation is an addition a story and feature on the table of ranks: 134 million of int16 for 65,536 features
    and 2,052 stories. Nothing is held but a block of ranks and the maxima.
    """
    rng = np.random.default_rng(seed)
    rows_BN = np.stack([design.shuffled(rng) for _ in range(permutations)])
    F = ranks_NF.shape[1]
    parts: list[np.ndarray] = []

    def run(part: slice) -> None:
        ranks_Nf = np.ascontiguousarray(ranks_NF[:, part])
        if design.single:
            best_BE = auroc_of_sums(
                np.stack([rank_sums(ranks_Nf, design, rows_N).max(1) for rows_N in rows_BN]), design
            )
        else:
            best_BE = np.stack([mean_auroc(ranks_Nf, design, rows_N).max(1) for rows_N in rows_BN])
        parts.append(best_BE)

    over_blocks(run, F, threads=threads)
    best_BE = np.maximum.reduce(parts) if parts else np.zeros((permutations, len(design.count_EP)))
    return MaxT(best_BE, tuple(design.patterns()))


def _share_above(null: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(1 + draws at or above each value) / (1 + draws)."""
    below = np.searchsorted(np.sort(null), np.asarray(values, np.float64) - SAME)
    return (1 + len(null) - below) / (1 + len(null))


def _threshold(null: np.ndarray, alpha: float) -> float:
    allowed = int(np.floor(alpha * (len(null) + 1) + 1e-9))  # draws at or above the threshold
    return float(np.sort(null)[-allowed]) + SAME if allowed else float("inf")


# ---------------------------------------------------------------- intervals
def topic_bootstrap(
    auroc_RP: np.ndarray, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0, block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """low_R and high_R: a percentile interval of each pair's mean AUROC over topics drawn with replacement.

    The same draws serve all pairs. NaN topics (none such for the emotion) do not count; a pair without any is NaN.
    With few topics plain percentiles are too narrow (12 topics: 91 % for 95 %), so they are moved out to where
    Student's t puts them: the expanded percentile interval of Hesterberg (2015), The American Statistician 69(4).
    """
    R, P = auroc_RP.shape
    tails = expanded(level, P)
    rng = np.random.default_rng(seed)
    times_PB = rng.multinomial(P, np.full(P, 1 / P), size=resamples).T.astype(np.float32)
    low_R, high_R = np.full(R, np.nan), np.full(R, np.nan)
    for start in range(0, R, block):
        part_rP = auroc_RP[start : start + block]
        known_rP = ~np.isnan(part_rP)
        some = np.flatnonzero(known_rP.any(1))
        total_rB = np.where(known_rP, part_rP, 0)[some].astype(np.float32) @ times_PB
        count_rB = known_rP[some].astype(np.float32) @ times_PB
        with np.errstate(invalid="ignore"):
            mean_rB = total_rB / count_rB
        quantiles = np.nanquantile if (count_rB == 0).any() else np.quantile
        if len(some):
            low_R[start + some], high_R[start + some] = quantiles(mean_rB, tails, axis=1)
    return low_R, high_R


def expanded(level: float, count: int) -> tuple[float, float]:
    """The percentiles of the means of `count` resampled values that cover their mean with probability `level`."""
    normal = NormalDist()
    z, free = normal.inv_cdf((1 + level) / 2), max(count - 1, 1)
    # Student's quantile by its expansion in 1 / degrees of freedom (Abramowitz & Stegun 26.7.5)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    tail = normal.cdf(-t * (count / free) ** 0.5)
    return tail, 1 - tail
