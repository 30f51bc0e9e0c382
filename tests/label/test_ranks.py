"""Doubled midranks and their sums against counting; permuting rows is permuting labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label.ranks import (
    crossing,
    doubled_midranks,
    emotion_auroc,
    mean_auroc,
    midranks,
    over_blocks,
    rank_sums,
    rank_table,
    topic_auroc,
)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_midranks(values: list[int]) -> None:
    column = np.array(values, dtype=float)[:, None]
    expected = [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
    np.testing.assert_allclose(midranks(column)[:, 0], expected)


def test_ranks_of_many_columns_do_not_overflow() -> None:
    N = 20_000
    ranks_fN = doubled_midranks(np.stack([np.arange(N), np.zeros(N)]))
    assert ranks_fN.dtype == np.int32
    np.testing.assert_array_equal(ranks_fN[0], 2 * np.arange(1, N + 1))
    assert (ranks_fN[1] == N + 1).all()
    assert doubled_midranks(np.zeros((0, 5))).shape == (0, 5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), full=st.booleans())
def test_sums_and_aurocs_of_permuted_rows_are_those_of_permuted_labels(seed: int, full: bool) -> None:
    rng = np.random.default_rng(seed)
    E, P = 4, 3
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    if not full:  # any corpus: cells empty or with several stories
        emotion_N, topic_N = rng.integers(0, E, 20), rng.integers(0, P, 20)
    X_NF = rng.integers(0, 4, (len(emotion_N), 5)).astype(np.float32)
    design = crossing(emotion_N, topic_N, E)
    assert design.single == full
    rows_N = design.shuffled(rng)
    # table row i now holds the story that rows_N[i] held: give that story the label of row i
    relabelled_N = np.empty_like(emotion_N)
    relabelled_N[design.order_N[rows_N]] = emotion_N[design.order_N]
    ranks_NF = rank_table(X_NF, design)
    moved_NF, moved = rank_table(X_NF, crossing(relabelled_N, topic_N, E)), crossing(relabelled_N, topic_N, E)
    np.testing.assert_array_equal(moved.count_EP, design.count_EP)
    np.testing.assert_array_equal(rank_sums(ranks_NF, design, rows_N), rank_sums(moved_NF, moved))
    np.testing.assert_allclose(mean_auroc(ranks_NF, design, rows_N), mean_auroc(moved_NF, moved))
    by_topic_PEf = np.stack([topic_auroc(moved_NF, moved, p) for p in range(len(moved.size_P))])
    for e in range(E):
        np.testing.assert_allclose(emotion_auroc(moved_NF, moved, e), by_topic_PEf[:, e])
        if moved.usable_EP[e].any():
            np.testing.assert_allclose(mean_auroc(moved_NF, moved)[e], np.nanmean(by_topic_PEf[:, e], 0))


def test_emotions_with_the_same_stories_on_each_topic_are_exchangeable() -> None:
    design = crossing(np.array([0, 1, 2, 0, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 1, 1]), 3)
    assert sorted(own.tolist() for own in design.patterns()) == [[0, 1], [2]]


def test_what_fails_in_a_block_fails_aloud() -> None:
    def fails(part: slice) -> None:
        raise ValueError(part)

    with pytest.raises(ValueError, match="slice"):
        over_blocks(fails, 5, block=2, threads=2)
