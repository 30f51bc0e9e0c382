"""Trends: slopes, the permutation test against exact enumeration and under the null, intervals, the surgical range."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saefeat.causal.dose_trend import over_prompts, slopes, surgical_range, trend_p, whole

X_S = np.array([-0.2, -0.1, 0.0, 0.3])


def exact_p(x_S: np.ndarray, y_BS: np.ndarray, two_sided: bool) -> float:
    """Every order of every block's readings, one after the other."""
    observed = np.mean([np.polyfit(x_S, y_S, 1)[0] for y_S in y_BS])
    reached = []
    for orders in product(permutations(range(len(x_S))), repeat=len(y_BS)):
        mean = np.mean([np.polyfit(x_S, y_S[list(order)], 1)[0] for y_S, order in zip(y_BS, orders, strict=True)])
        reached.append(abs(mean) >= abs(observed) - 1e-9 if two_sided else mean >= observed - 1e-9)
    return float(np.mean(reached))


@pytest.mark.parametrize("two_sided", [False, True])
def test_p_is_that_of_all_orders(two_sided: bool) -> None:
    y_BS = np.random.default_rng(3).normal(size=(2, 4)) + 4 * X_S
    exact = exact_p(X_S, y_BS, two_sided)
    found = trend_p(X_S, y_BS, two_sided=two_sided, draws=20000)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20000))


def test_p_is_as_small_as_it_says_under_the_null() -> None:
    """Blocks differ, are alike within, and have heavy tails; nothing depends on the strength."""
    rng = np.random.default_rng(0)
    p = np.array([
        trend_p(X_S, rng.standard_t(2, size=(6, 4)) + 5 * rng.normal(size=(6, 1)), seed=i, draws=199)
        for i in range(400)
    ])  # fmt: skip
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert 0.42 < p.mean() < 0.58


def test_a_trend_is_found_and_a_fall_is_not_a_rise() -> None:
    y_BS = 3 * X_S + np.random.default_rng(1).normal(size=(12, 4)) * 0.2
    assert trend_p(X_S, y_BS, draws=999) == 1 / 1000
    assert trend_p(X_S, -y_BS, draws=999) == 1
    assert trend_p(X_S, -y_BS, draws=999, two_sided=True) == 1 / 1000
    assert trend_p(X_S, np.ones((3, 4)), draws=99) == 1  # readings that never change show nothing
    assert np.isnan(trend_p(X_S, np.zeros((0, 4))))
    assert trend_p(X_S, y_BS, draws=999, seed=5) == trend_p(X_S, y_BS, draws=999, seed=5)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_slopes_are_those_of_least_squares(rows: list[list[float]]) -> None:
    y_BS = np.array(rows)
    slow = [np.polyfit(X_S, y_S, 1)[0] for y_S in y_BS]
    np.testing.assert_allclose(slopes(X_S, y_BS), slow, rtol=1e-6, atol=1e-6)


def test_strengths_that_do_not_vary_have_no_slope() -> None:
    with pytest.raises(ValueError, match="vary"):
        slopes(np.zeros(3), np.zeros((2, 3)))


def test_intervals_cover_the_mean_of_prompts() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for i in range(200):
        found = over_prompts(rng.normal(1, 1, size=20), seed=i, draws=400)
        inside += found.low <= 1 <= found.high
    assert 0.85 < inside / 200 <= 1
    assert over_prompts(np.array([2.0, np.nan])).value == 2
    assert np.isnan(over_prompts(np.array([2.0, np.nan])).low)
    assert np.isnan(over_prompts(np.array([np.nan])).value)


def test_the_surgical_range_ends_where_text_falls_apart() -> None:
    strengths = np.array([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3])
    regimes = ["surgical", "broken", "surgical", "surgical", "surgical", "repetitive", "surgical"]
    assert surgical_range(strengths, regimes).tolist() == [False, False, True, True, True, False, False]
    assert surgical_range(strengths, ["broken"] * 7).tolist() == [s == 0 for s in strengths]


def test_a_block_counts_if_all_its_texts_could_be_read() -> None:
    assert whole(np.array([[1, 2.0], [np.nan, 1]])).tolist() == [True, False]
