"""How often chance alone gives an emotion so high a rank sum: exact p-values, right down to their far tail.

If a feature knows nothing of an emotion, the emotion's story is on each topic any of that topic's stories, so its
midrank is a uniform draw from that topic's midranks of that feature, ties included, and topics are independent. The
null distribution of the sum over topics is then a convolution (one-sided: high sums count). It is done on the
cumulative distribution of the deficit d = how far the doubled rank sum lies below its maximum,

    H_p(d) = P(deficit over the first p topics <= d) = mean over the topic's midranks r of H_{p-1}(d - (2n - r)).

Ranks without ties form runs of equal steps, whose part of that mean is a difference of two running sums; each set of
tied values adds one shifted copy. A topic thus costs a pass over H for each set of ties and each run between them:
one for a feature without ties, two for one that is silent on many stories and else distinct.

All terms are positive and running sums start at the rare end (d = 0), so no accuracy is lost in the tail: with
C the running sum, C(d - a) <= n d H_p(d) / 2, hence the relative error is below (length of H) x P x 2^-53 ~ 1e-11
at any p. An FFT would stop at 1e-16 absolute; the smallest p of 12 topics with 171 stories is 171^-12 = 1.6e-27.

Several stories in a cell: the rank sum of draws without replacement is simulated (seeded, draws shared by all
features). Below 1 / draws the p-value is taken from draws with replacement, which spread more (Hoeffding 1963,
theorem 4) and can be convolved as above: conservative. Where topics differ in size, the rank sum gives large topics
more weight than the mean AUROC does.

Shapes: N stories, f features of a block, E emotions, P topics, L deficits of one parity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from saefeat.label.ranks import Crossing, rank_sums

DRAWS = 2000
Ties = tuple[tuple[int, int], ...]
"""(doubled midrank, stories that share it) of each set of tied stories, by rank."""


def p_values(ranks_Nf: np.ndarray, design: Crossing, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(E, f) float64: P(rank sum >= the observed one), one-sided. An emotion without a usable topic has p = 1.

    ranks_Nf: a table of ranks (rank_table). draws, seed: for emotions with several stories on a topic. Each feature
    costs one null distribution for every set of topics (and story counts) that emotions differ by: one in a crossed
    corpus, many in a ragged one.
    """
    F = ranks_Nf.shape[1]
    sums_Ef = rank_sums(ranks_Nf, design).astype(np.int64)
    p_Ef = np.ones((len(sums_Ef), F))
    ties_Pf = [topic_ties(ranks_Nf[a:b]) for a, b in design.topic_bounds()]
    rng = np.random.default_rng(seed)
    for own in design.patterns():
        topics = np.flatnonzero(design.usable_EP[own[0]])
        count_P = design.count_EP[own[0], topics]
        if not len(topics):
            continue
        tails = _Tails(design.size_P[topics].tolist(), count_P.tolist(), [ties_Pf[p] for p in topics])
        if (count_P == 1).all():
            for i in range(F):
                p_Ef[own, i] = tails.at(i, sums_Ef[own, i])
            continue
        null_Bf = _simulated(ranks_Nf, design, topics, count_P, draws, rng)
        for i in range(F):
            above = draws - np.searchsorted(null_Bf[:, i], sums_Ef[own, i])
            p_Ef[own, i] = (1 + above) / (1 + draws)
            far = own[above == 0]
            if len(far):
                p_Ef[far, i] = np.minimum(tails.at(i, sums_Ef[far, i]), 1 / (1 + draws))
    return p_Ef


def _simulated(
    ranks_Nf: np.ndarray,
    design: Crossing,
    topics: np.ndarray,
    count_P: np.ndarray,
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(draws, f): rank sums of count_P stories drawn from each of `topics` without replacement, sorted."""
    null_Bf = np.zeros((draws, ranks_Nf.shape[1]), np.int64)
    for p, count in zip(topics, count_P, strict=True):
        a, b = design.start_P[p : p + 2]
        for drawn_B in rng.random((draws, b - a)).argsort(1)[:, :count].T:
            null_Bf += ranks_Nf[a + drawn_B]
    null_Bf.sort(axis=0)
    return null_Bf


def topic_ties(ranks_nf: np.ndarray) -> list[Ties]:
    """The tied sets of each feature (column) of a topic's doubled midranks."""
    n, f = ranks_nf.shape
    width = 2 * n + 1
    seen_fR = np.bincount((ranks_nf + np.arange(f) * width).ravel(), minlength=f * width)
    at = np.flatnonzero(seen_fR > 1)
    which, doubled, count = (at // width), (at % width).tolist(), seen_fR[at].tolist()
    bound = np.searchsorted(which, np.arange(f + 1)).tolist()
    return [tuple(zip(doubled[a:b], count[a:b], strict=True)) for a, b in pairwise(bound)]


def null_cdf(topics: Sequence[tuple[int, Ties]]) -> np.ndarray:
    """H_2L: H_2L[d % 2, d // 2] = P(deficit <= d) of a sum of one midrank drawn from each of `topics` (n, ties)."""
    H_2L, most = np.ones((2, 1)), 0
    for n, ties in topics:
        most += 2 * n - _lowest(ties)
        grown_2L = np.ones((2, most // 2 + 1))
        grown_2L[:, : H_2L.shape[1]] = H_2L
        H_2L = _add_topic(grown_2L, n, ties)
    return H_2L


def _lowest(ties: Ties) -> int:
    """The lowest doubled midrank: 2, unless the lowest stories are tied."""
    doubled, count = ties[0] if ties else (2, 1)
    return doubled if doubled == count + 1 else 2


def _add_topic(H_2L: np.ndarray, n: int, ties: Ties) -> np.ndarray:
    """H after one more topic, of n stories."""
    L = H_2L.shape[1]
    C_2L = np.zeros((2, L + 1))  # C[i]: the sum of H before i
    np.cumsum(H_2L, axis=1, out=C_2L[:, 1:])
    out_2L = np.zeros((2, L))
    below = 0  # ranks 1..below are dealt with
    for doubled, count in (*ties, (2 * n + 2, 1)):  # the last is no tie: it closes the run up to rank n
        first = (doubled - count + 1) // 2  # the lowest of the ranks that are tied
        if first > below + 1:  # untied ranks below+1 .. first-1 have deficits 2 low .. 2 high
            low, high = n - first + 1, n - below - 1
            run_2L = C_2L[:, 1 : max(L - low + 1, 1)].copy()
            run_2L[:, high - low :] -= C_2L[:, : max(L - high, 0)]
            out_2L[:, low:] += run_2L
        below = first + count - 1
        if doubled <= 2 * n:
            shift, odd = divmod(2 * n - doubled, 2)
            for parity in (0, 1):  # an odd deficit takes even places from odd ones, and the other way round
                step = shift + (odd and parity == 0)
                out_2L[parity, step:] += count * H_2L[parity ^ odd, : max(L - step, 0)]
    return out_2L / n


class _Tails:
    """Tail probabilities of rank sums of the features of one block; a feature without ties needs no new null."""

    def __init__(self, size_P: list[int], count_P: list[int], ties_Pf: list[list[Ties]]) -> None:
        self.size_P, self.count_P, self.ties_Pf = size_P, count_P, ties_Pf
        self.most = sum(2 * n * count for n, count in zip(size_P, count_P, strict=True))
        self.untied: np.ndarray | None = None

    def at(self, i: int, sums: np.ndarray) -> np.ndarray:
        """P(sum >= sums) for feature i."""
        ties_P = [ties_f[i] for ties_f in self.ties_Pf]
        if any(ties_P) or self.untied is None:
            parts = zip(self.size_P, self.count_P, ties_P, strict=True)
            null_2L = null_cdf([(n, ties) for n, count, ties in parts for _ in range(count)])
            if not any(ties_P):
                self.untied = null_2L
        else:
            null_2L = self.untied
        deficit = self.most - sums
        half = np.minimum(deficit // 2, null_2L.shape[1] - 1)
        return np.minimum(null_2L[deficit % 2, half], 1)
