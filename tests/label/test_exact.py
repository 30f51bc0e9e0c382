"""Exact p-values against enumeration, integer arithmetic of any size, and simulation."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label import p_values, rank_table
from saefeat.label.exact import null_cdf, topic_ties
from saefeat.label.ranks import crossing, rank_sums

BITS = 128


def crossed(E: int, P: int, repeats: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.repeat(np.arange(E), repeats), P), np.repeat(np.arange(P), E * repeats)


def integer_tail(ranks_P: list[list[int]]) -> list[float]:
    """P(sum >= s) for every s: a product of polynomials in whole numbers, packed into one (no rounding until the
    last division)."""
    product, total = 1, 1
    for ranks in ranks_P:
        product *= sum(1 << (BITS * r) for r in ranks)
        total *= len(ranks)
    most = sum(map(max, ranks_P))
    counts = [(product >> (BITS * s)) & ((1 << BITS) - 1) for s in range(most + 1)]
    return [c / total for c in itertools.accumulate(reversed(counts))][::-1]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 9999), E=st.integers(2, 6), P=st.integers(1, 3), values=st.integers(1, 8))
def test_p_equals_the_share_of_all_labellings(seed: int, E: int, P: int, values: int) -> None:
    emotion_N, topic_N = crossed(E, P)
    X_NF = np.random.default_rng(seed).integers(0, values, (E * P, 3)).astype(np.float32)
    design = crossing(emotion_N, topic_N, E)
    ranks_NF = rank_table(X_NF, design)
    p_EF, sums_EF = p_values(ranks_NF, design), rank_sums(ranks_NF, design)
    for f in range(3):
        picks = itertools.product(*[ranks_NF[a:b, f].tolist() for a, b in design.topic_bounds()])
        all_sums = np.array([sum(pick) for pick in picks])
        for e in range(E):
            np.testing.assert_allclose(p_EF[e, f], (all_sums >= sums_EF[e, f]).mean(), rtol=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 9999), active=st.sampled_from([0.0, 0.02, 0.2, 0.9, 1.0]), rounded=st.booleans())
def test_the_tail_is_right_however_small(seed: int, active: float, rounded: bool) -> None:
    rng = np.random.default_rng(seed)
    n, P = 171, 12
    X_PN = rng.random((P, n)) * (rng.random((P, n)) < active)
    if rounded:  # ties among the active stories too
        X_PN = X_PN.round(2)
    topics, ranks_P = [], []
    for x_N in X_PN:
        order = np.sort(x_N)
        doubled = np.searchsorted(order, x_N, "left") + np.searchsorted(order, x_N, "right") + 1
        topics.append((n, topic_ties(doubled[:, None])[0]))
        ranks_P.append(doubled.tolist())
    cdf_2L, expected = null_cdf(topics), integer_tail(ranks_P)
    most = 2 * n * P
    reached = range(sum(map(min, ranks_P)), len(expected))  # sums that can occur
    found = np.array([cdf_2L[(most - s) % 2, (most - s) // 2] for s in reached])
    np.testing.assert_allclose(found, expected[reached.start :], rtol=1e-10)


def test_the_rarest_sum_of_twelve_topics() -> None:
    emotion_N, topic_N = crossed(171, 12)
    X_N1 = np.where(emotion_N == 3, 2.0, np.random.default_rng(0).random(len(emotion_N)))[:, None]
    design = crossing(emotion_N, topic_N, 171)
    np.testing.assert_allclose(p_values(rank_table(X_N1, design), design)[3, 0], 171.0**-12, rtol=1e-10)


def test_an_emotion_missing_from_a_topic_is_tested_on_the_others() -> None:
    emotion_N, topic_N = crossed(5, 3)
    kept = ~((emotion_N == 2) & (topic_N == 1))
    X_NF = np.random.default_rng(0).integers(0, 4, (kept.sum(), 6)).astype(np.float32)
    design = crossing(emotion_N[kept], topic_N[kept], 6)  # emotion 5 has no story at all
    ranks_NF = rank_table(X_NF, design)
    p_EF, sums_EF = p_values(ranks_NF, design), rank_sums(ranks_NF, design)
    bounds = design.topic_bounds()
    for e, f in np.ndindex(5, 6):
        own = [bounds[p] for p in ((0, 2) if e == 2 else (0, 1, 2))]
        all_sums = np.array([sum(pick) for pick in itertools.product(*[ranks_NF[a:b, f].tolist() for a, b in own])])
        np.testing.assert_allclose(p_EF[e, f], (all_sums >= sums_EF[e, f]).mean(), rtol=1e-12)
    assert (p_EF[5] == 1).all()


def test_several_stories_in_a_cell_are_simulated_and_the_far_tail_is_conservative() -> None:
    rng = np.random.default_rng(0)
    E, P, repeats = 4, 4, 3
    emotion_N, topic_N = crossed(E, P, repeats)
    X_NF = rng.integers(0, 9, (len(emotion_N), 8)) + 4.0 * (emotion_N == 1)[:, None] * (np.arange(8) < 4)
    X_NF[:, 7] = rng.random(len(emotion_N)) + (emotion_N == 1) * 2  # the emotion's stories are all on top
    design = crossing(emotion_N, topic_N, E)
    ranks_NF = rank_table(X_NF, design)
    draws = 4000
    p_EF, sums_EF = p_values(ranks_NF, design, draws=draws, seed=1), rank_sums(ranks_NF, design)
    exact_EF = np.empty((E, 8))
    for f in range(8):
        sets_P = [
            [sum(c) for c in itertools.combinations(ranks_NF[a:b, f].tolist(), 3)] for a, b in design.topic_bounds()
        ]
        tail = integer_tail(sets_P)
        exact_EF[:, f] = [tail[s] for s in sums_EF[:, f]]
    assert exact_EF[1, 7] < 1e-8
    assert exact_EF[1, 7] <= p_EF[1, 7] < 1e-4
    common = exact_EF > 0.002
    error_EF = np.sqrt(exact_EF * (1 - exact_EF) / draws)
    assert (np.abs(p_EF - exact_EF)[common] < 5 * error_EF[common] + 1 / draws).all()
    assert (p_EF[~common] > exact_EF[~common] * 0.3).all()


def test_without_an_effect_p_is_uniform_and_with_ties_never_too_small() -> None:
    rng = np.random.default_rng(3)
    E, P, F = 12, 6, 800
    emotion_N, topic_N = crossed(E, P)
    X_NF = rng.random((E * P, F)) * (rng.random((E * P, F)) < np.repeat([1.0, 0.15], F // 2))
    X_NF += topic_N[:, None] * 0.3 * (X_NF > 0)  # topics differ: no matter
    design = crossing(emotion_N, topic_N, E)
    p_EF = p_values(rank_table(X_NF, design), design)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        slack = 4 * np.sqrt(alpha * (1 - alpha) / p_EF[:, : F // 2].size)
        assert abs((p_EF[:, : F // 2] <= alpha).mean() - alpha) < slack + 0.1 * alpha  # a sum moves in steps
        assert (p_EF[:, F // 2 :] <= alpha).mean() < alpha + slack
