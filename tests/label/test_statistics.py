"""False discoveries, the best by chance and intervals: slow twins, and simulations with and without an effect."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from saefeat.label import label_features, max_t, p_values, q_values, rank_table, topic_bootstrap, within_topic_auroc
from saefeat.label.ranks import Crossing, crossing, mean_auroc
from saefeat.label.statistics import expanded


def crossed(E: int, P: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.arange(E), P), np.repeat(np.arange(P), E)


# ---------------------------------------------------------------- false discovery rate
@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([1e-20, 0.001, 0.01, 0.02, 0.3, 0.9, 1.0])))
def test_q_is_the_lowest_rate_at_which_the_step_up_rule_rejects(p: np.ndarray) -> None:
    q = q_values(p)
    m, ordered = len(p), np.sort(p)
    for value, found in zip(p, q, strict=True):
        expected = min(m * ordered[j] / (j + 1) for j in range(m) if ordered[j] >= value)
        assert abs(found - min(expected, 1)) <= 1e-12
    np.testing.assert_array_equal(q_values(p.reshape(1, -1), p[:2]), q[:2])


def test_q_of_nothing_and_of_float32() -> None:
    assert q_values(np.zeros((0, 3))).shape == (0, 3)
    p = np.array([1e-27, 0.5], np.float32)
    assert q_values(p).dtype == np.float32
    np.testing.assert_allclose(q_values(p), [2e-27, 0.5], rtol=1e-6)


def test_false_discoveries_come_at_the_promised_rate() -> None:
    rng = np.random.default_rng(0)
    E, P, F, planted = 8, 8, 60, 12
    emotion_N, topic_N = crossed(E, P)
    design = crossing(emotion_N, topic_N, E)
    false_share, any_without_effect, power = [], [], []
    for _ in range(60):
        noise_NF = rng.exponential(size=(E * P, F)) * (rng.random((E * P, F)) < rng.choice([0.2, 0.6, 1.0], F))
        any_without_effect.append((_q(noise_NF, design) < 0.05).any())
        signal_EF = np.zeros((E, F), bool)
        signal_EF[np.arange(planted) % E, np.arange(planted)] = True
        found_EF = _q(noise_NF + 3 * signal_EF[emotion_N], design) < 0.05
        false_share.append((found_EF & ~signal_EF).sum() / max(found_EF.sum(), 1))
        power.append(found_EF[signal_EF].mean())
    assert np.mean(false_share) < 0.05
    assert np.mean(any_without_effect) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(power) > 0.9


def _q(X_NF: np.ndarray, design: Crossing) -> np.ndarray:
    return q_values(p_values(rank_table(X_NF, design), design))


# ---------------------------------------------------------------- max-T
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), repeats=st.sampled_from([1, 2]), whole=st.booleans())
def test_max_t_equals_permuting_labels_and_starting_over(seed: int, repeats: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    E, P = 4, 3
    emotion_N, topic_N = np.tile(np.arange(E), P * repeats), np.repeat(np.arange(P), E * repeats)
    if not whole:
        emotion_N, topic_N = emotion_N[1:], topic_N[1:]
    X_NF = rng.integers(0, 5, (len(emotion_N), 7)).astype(float)
    design = crossing(emotion_N, topic_N, E)
    chance = max_t(rank_table(X_NF, design), design, permutations=5, seed=seed)
    draw = np.random.default_rng(seed)
    for b in range(5):
        rows_N = design.shuffled(draw)
        relabelled_N = np.empty_like(emotion_N)
        relabelled_N[design.order_N[rows_N]] = emotion_N[design.order_N]
        auroc_FEP = np.concatenate([a for _, a in within_topic_auroc(X_NF, relabelled_N, topic_N, E)])
        np.testing.assert_allclose(chance.best_BE[b], np.nanmean(auroc_FEP, 2).max(0), atol=1e-6)
    auroc_EF = mean_auroc(rank_table(X_NF, design), design)
    for value in auroc_EF.ravel()[:6]:
        assert chance.overall_p(value) == (1 + (chance.best_BE.max(1) >= value - 1e-9).sum()) / 6


def test_the_threshold_is_where_the_adjusted_p_passes_alpha() -> None:
    emotion_N, topic_N = crossed(6, 5)
    design = crossing(emotion_N, topic_N, 6)
    chance = max_t(rank_table(np.random.default_rng(0).random((30, 50)), design), design, permutations=200)
    values = np.linspace(0, 1, 2001)
    for alpha in (0.01, 0.05, 0.2):
        np.testing.assert_array_equal(chance.overall_p(values) <= alpha, values > chance.threshold(alpha))
        one = chance.emotion_p(values, np.full(len(values), 2))
        np.testing.assert_array_equal(one <= alpha, values > chance.emotion_threshold(alpha)[2])
    assert chance.emotion_threshold()[0] < chance.threshold()
    assert chance.threshold(0.001) == np.inf  # 200 permutations cannot tell


def test_max_t_makes_a_false_claim_as_rarely_as_it_says() -> None:
    rng = np.random.default_rng(1)
    E, P, F, rounds = 5, 5, 40, 300
    emotion_N, topic_N = crossed(E, P)
    design = crossing(emotion_N, topic_N, E)
    overall, one = np.empty(rounds), np.empty(rounds)
    for i in range(rounds):
        shared_N1 = rng.normal(size=(E * P, 1))  # features hang together
        X_NF = (rng.normal(size=(E * P, F)) + shared_N1) * (rng.random((E * P, F)) < np.linspace(0.1, 1, F))
        ranks_NF = rank_table(X_NF, design)
        best_E = mean_auroc(ranks_NF, design).max(1)
        chance = max_t(ranks_NF, design, permutations=99, seed=i, threads=1)
        overall[i] = chance.overall_p(best_E.max())
        one[i] = chance.emotion_p(best_E[:1], np.array([0]))[0]
    for alpha in (0.05, 0.2):
        slack = 3 * np.sqrt(alpha * (1 - alpha) / rounds)
        assert abs((overall <= alpha).mean() - alpha) < slack + 0.02
        assert abs((one <= alpha).mean() - alpha) < slack + 0.02


# ---------------------------------------------------------------- intervals
def test_bootstrap_equals_resampling_one_topic_at_a_time() -> None:
    rng = np.random.default_rng(0)
    auroc_RP = rng.random((5, 6))
    auroc_RP[1, 2] = auroc_RP[3] = np.nan
    low_R, high_R = topic_bootstrap(auroc_RP, resamples=4000, block=2)
    levels = expanded(0.95, 6)
    for r in (0, 1, 2, 4):
        known = auroc_RP[r][~np.isnan(auroc_RP[r])]
        means = [rng.choice(known, len(known)).mean() for _ in range(4000)]
        np.testing.assert_allclose([low_R[r], high_R[r]], np.quantile(means, levels), atol=0.03)
    assert np.isnan(low_R[3])
    assert np.isnan(high_R[3])
    again, _ = topic_bootstrap(auroc_RP, resamples=4000)
    np.testing.assert_allclose(again, low_R, atol=1e-6)  # the same draws whatever the block


def test_the_interval_covers_the_mean_nearly_as_often_as_it_says() -> None:
    auroc_RP = np.random.default_rng(0).beta(6, 2, size=(2000, 12))
    low_R, high_R = topic_bootstrap(auroc_RP)
    assert 0.92 < ((low_R < 0.75) & (high_R > 0.75)).mean() < 0.97


def test_few_values_ask_for_wider_percentiles() -> None:
    for count in (5, 8, 12, 40):
        wider = stats.t.ppf(0.975, count - 1) * (count / (count - 1)) ** 0.5
        low, high = expanded(0.95, count)
        np.testing.assert_allclose(stats.norm.ppf(high), wider, rtol=0.01)
        assert abs(low + high - 1) < 1e-12
    assert abs(expanded(0.95, 10**6)[0] - 0.025) < 1e-5
    low_R, high_R = topic_bootstrap(np.array([[0.7]]))  # a single topic: nothing to draw from
    np.testing.assert_allclose([low_R[0], high_R[0]], 0.7, rtol=1e-6)


# ---------------------------------------------------------------- the label table
def test_planted_pairs_are_found_by_every_measure_and_noise_by_none() -> None:
    rng = np.random.default_rng(2)
    E, P, F = 20, 8, 300
    emotion_N, topic_N = crossed(E, P)
    X_NF = rng.exponential(size=(E * P, F)) * (rng.random((E * P, F)) < 0.2)
    X_NF[np.arange(E * P), emotion_N] += 3  # feature e carries emotion e
    X_NF[:, 100] += topic_N  # and this one the topic
    table = label_features(X_NF, emotion_N, topic_N, np.ones(F), E, permutations=99).table
    planted = table["feature"] == table["emotion"]
    assert planted.sum() == E
    assert (table["q_value"][planted] < 0.01).all()
    assert (table["max_t_p"][planted] == np.float32(0.01)).all()
    assert (table["auroc_low"] <= table["auroc"] + 1e-6).all()
    assert (table["auroc_high"] >= table["auroc"] - 1e-6).all()
    assert (table["auroc_low"][planted] > 0.8).all()
    assert (table["omega2_emotion"][planted] > 0.25).all()
    assert ((table["q_value"] < 0.01) & ~planted).sum() <= 1
    assert (table["max_t_p"][~planted] > 0.01).mean() > 0.99
    assert table["omega2_topic"][table["feature"] == 100].min() > 0.5
    assert table["omega2_emotion"][table["feature"] == 100].max() < 0.1
    assert (table["q_value"] >= table["p_value"]).all()


def test_q_counts_all_living_pairs_not_only_the_reported_ones() -> None:
    rng = np.random.default_rng(0)
    emotion_N, topic_N = crossed(6, 4)
    X_NF = rng.random((24, 50)) * (np.arange(50) < 40)  # ten never fire
    design = crossing(emotion_N, topic_N, 6)
    table = label_features(
        X_NF, emotion_N, topic_N, np.ones(50), 6, top_features=3, top_emotions=1, permutations=9
    ).table
    p_EF = p_values(rank_table(X_NF[:, :40], design), design)
    np.testing.assert_allclose(table["p_value"], p_EF[table["emotion"], table["feature"]], rtol=1e-6)
    np.testing.assert_allclose(table["q_value"], q_values(p_EF)[table["emotion"], table["feature"]], rtol=1e-5)


def test_the_table_is_the_same_whatever_the_threads_and_empty_without_a_living_feature() -> None:
    rng = np.random.default_rng(0)
    emotion_N, topic_N = crossed(4, 3)
    X_NF = rng.random((12, 2100)).astype(np.float32)
    one, two = (
        label_features(X_NF, emotion_N, topic_N, np.ones(2100), 4, permutations=9, threads=t).table for t in (1, 2)
    )
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    none = label_features(np.zeros((12, 5)), emotion_N, topic_N, np.ones(5), 4, permutations=9).table
    assert set(none) == set(one)
    assert {len(column) for column in none.values()} == {0}
