"""Sparse detectors on simulated crossed corpora: planted columns are found, luck is not, and nothing leaks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.errors import InputError
from saefeat.evaluate import ceiling, detectors, fit_detectors, shuffled_within_topics
from saefeat.evaluate.detectors import own_auroc
from saefeat.evaluate.sparse import discriminant, forward_selection, mean_auroc, shrinkage
from saefeat.label import calibration, centre_by_topic, class_means

E, P = 16, 7


def planted(per_emotion: int, effect: float, F: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Emotion e raises columns e, e + E, ... (`per_emotion` of them) by `effect` sd; topics move every column."""
    rng = np.random.default_rng(seed)
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    X_NF = rng.normal(size=(E * P, F)) + rng.normal(size=(P, F))[topic_N]
    for i in range(per_emotion):
        X_NF[np.arange(E * P), emotion_N + i * E] += effect
    return X_NF, emotion_N, topic_N


def test_planted_combinations_are_found_and_more_columns_tell_more() -> None:
    X_NF, emotion_N, topic_N = planted(4, effect=2.0)
    fitted = fit_detectors(X_NF, emotion_N, topic_N, E, (1, 4))
    found = [len(set(fitted.feature_EK[e]) & {e, e + E, e + 2 * E, e + 3 * E}) for e in range(E)]
    assert np.mean(found) > 3.5
    assert all(first % E == e and first < 4 * E for e, first in enumerate(fitted.feature_EK[:, 0]))
    result = detectors(X_NF, emotion_N, topic_N, topic_N >= 5, ks=(1, 4))
    one, four = result.rows
    assert four.auroc > 0.97 > one.auroc > 0.85
    assert four.top5 > one.top5 + 0.1
    for row in result.rows:
        assert row.auroc_interval[0] <= row.auroc <= row.auroc_interval[1]
        assert row.top5_interval[0] <= row.top5 <= row.top5_interval[1]
        assert row.good == (row.auroc_E >= 0.9).sum()
    assert (result.ks, result.texts, result.emotions, result.width) == ((1, 4), 2 * E, E, 150)
    assert result.auroc_kE.shape == (2, E)


def test_a_column_active_in_one_lucky_story_is_not_chosen() -> None:
    X_NF, emotion_N, topic_N = planted(1, effect=2.0)
    X_NF[:, E:] = 0
    X_NF[np.arange(E), E + np.arange(E)] = 50.0  # one story of each emotion sets a column alight
    fitted = fit_detectors(X_NF, emotion_N, topic_N, E, (1,))
    assert (fitted.feature_EK[:, 0] == np.arange(E)).all()


def test_columns_that_fall_with_an_emotion_are_not_taken_unless_their_negatives_are_offered() -> None:
    X_NF, emotion_N, topic_N = planted(1, effect=-3.0, F=40)
    assert (fit_detectors(X_NF, emotion_N, topic_N, E, (1,)).feature_EK[:, 0] != np.arange(E)).all()
    signed = fit_detectors(np.hstack([X_NF, -X_NF]), emotion_N, topic_N, E, (1,))
    assert (signed.feature_EK[:, 0] == 40 + np.arange(E)).all()


def test_shuffled_labels_leave_chance_and_the_ceiling_beats_one_column() -> None:
    X_NF, emotion_N, topic_N = planted(4, effect=2.0)
    aurocs, hits = [], []
    for seed in range(6):
        labels_N = shuffled_within_topics(emotion_N, topic_N, seed)
        for row in detectors(X_NF, emotion_N, topic_N, ks=(1, 4), labels_N=labels_N).rows:
            aurocs.append(row.auroc)
            hits.append(row.top5)
    assert abs(np.mean(aurocs) - 0.5) < 0.04
    assert abs(np.mean(hits) - 5 / E) < 0.05
    best = ceiling(X_NF, emotion_N, topic_N, ridge=1.0)
    assert best.k is None
    assert best.auroc > detectors(X_NF, emotion_N, topic_N, ks=(1,)).rows[0].auroc + 0.03


def test_nothing_of_the_test_topics_reaches_the_choice_the_weights_or_another_texts_score() -> None:
    X_NF, emotion_N, topic_N = planted(2, effect=1.5)
    test_N = topic_N >= 5
    rng = np.random.default_rng(1)
    whole = detectors(X_NF, emotion_N, topic_N, test_N, ks=(1, 3))
    permuted = emotion_N.copy()
    permuted[test_N] = rng.permutation(emotion_N[test_N])
    other_NF = np.where(test_N[:, None], 100 * rng.normal(size=X_NF.shape), X_NF)
    for again in (
        detectors(X_NF, permuted, topic_N, test_N, ks=(1, 3)),
        detectors(other_NF, emotion_N, topic_N, test_N, ks=(1, 3)),
    ):
        assert (again.fitted[0].feature_EK == whole.fitted[0].feature_EK).all()
        assert (again.fitted[0].weight_kEK == whole.fitted[0].weight_kEK).all()
        assert (again.fitted[0].bias_kE == whole.fitted[0].bias_kE).all()
        assert again.rows[0].auroc < whole.rows[0].auroc


def test_leaving_topics_out_is_the_given_split_topic_by_topic() -> None:
    X_NF, emotion_N, topic_N = planted(2, effect=1.5, F=60)
    whole = detectors(X_NF, emotion_N, topic_N, ks=(1, 2))
    assert len(whole.fitted) == P
    parts = [detectors(X_NF, emotion_N, topic_N, topic_N == topic, ks=(1, 2)).rows for topic in range(P)]
    for i, row in enumerate(whole.rows):
        assert np.isclose(row.top5, np.mean([part[i].top5 for part in parts]))
        assert np.allclose(row.auroc_E, np.mean([part[i].auroc_E for part in parts], axis=0), atol=1e-6)


# ---------------------------------------------------------------- slow twins
def test_forward_selection_is_the_obvious_search() -> None:
    rng = np.random.default_rng(0)
    Z_NF = (rng.normal(size=(40, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)
    c_EF = rng.normal(size=(35, 12)).astype(np.float32)  # more emotions than a block holds
    first_E = rng.integers(0, 12, 35)
    ridge, K = 0.5, 4
    S_FF = Z_NF.T.astype(np.float64) @ Z_NF / 40 + ridge * np.eye(12)
    expected = []
    for c_F, first in zip(c_EF.astype(np.float64), first_E, strict=True):
        A = [int(first)]
        while len(A) < K:
            worth = {}
            for j in set(range(12)) - set(A):
                B = [*A, j]
                w = np.linalg.solve(S_FF[np.ix_(B, B)], c_F[B])
                before = c_F[A] @ np.linalg.solve(S_FF[np.ix_(A, A)], c_F[A])
                worth[j] = np.sign(w[-1]) * np.sqrt(c_F[B] @ w - before)  # rising columns before falling ones
            A.append(max(worth, key=worth.__getitem__))
        expected.append(A)
    chosen_EK = forward_selection(c_EF, Z_NF, first_E, K, ridge)
    assert chosen_EK.tolist() == expected
    weight_EK = discriminant(c_EF, Z_NF, chosen_EK, 3, ridge)
    for e, A in enumerate(chosen_EK[:, :3]):
        assert np.allclose(weight_EK[e, :3], np.linalg.solve(S_FF[np.ix_(A, A)], c_EF[e, A]), rtol=1e-4)
    assert (weight_EK[:, 3:] == 0).all()


def test_shrinkage_is_its_formula_with_the_covariance_written_out() -> None:
    X_NF, emotion_N, topic_N = planted(2, effect=1.5, F=40)
    centred_NF = centre_by_topic(X_NF, topic_N)
    C_EF = class_means(centred_NF, emotion_N, E)
    R_NF = centred_NF - C_EF[emotion_N]
    S_FF = R_NF.T @ R_NF / len(R_NF)
    inverse_FF = np.linalg.inv(S_FF + np.trace(S_FF) / 40 * np.eye(40))
    noise = np.mean([np.trace(r @ inverse_FF @ r.T) / (P * (P - 1)) for r in (R_NF[emotion_N == e] for e in range(E))])
    d_E, U_EE = np.linalg.eigh(C_EF @ inverse_FF @ C_EF.T)
    expected_EE = U_EE @ np.diag([max(0.0, 1 - noise / d) if d > 1e-9 else 0.0 for d in d_E]) @ U_EE.T
    assert np.allclose(shrinkage(C_EF, R_NF, emotion_N), expected_EE, atol=1e-8)


def test_shrinkage_keeps_what_is_sure_and_drops_noise() -> None:
    X_NF, emotion_N, topic_N = planted(2, effect=0.0, F=400)
    truth_EF = np.random.default_rng(5).normal(size=(E, 2)) @ np.random.default_rng(6).normal(size=(2, 400))

    def error(signal: float) -> tuple[float, float]:
        centred_NF = centre_by_topic(X_NF + signal * truth_EF[emotion_N], topic_N)
        C_EF = class_means(centred_NF, emotion_N, E)
        G_EE = shrinkage(C_EF, centred_NF - C_EF[emotion_N], emotion_N)
        wanted_EF = signal * (truth_EF - truth_EF.mean(0))
        return float(((G_EE @ C_EF - wanted_EF) ** 2).mean()), float(((C_EF - wanted_EF) ** 2).mean())

    for signal in (0.0, 0.3, 1.0):
        shrunk, plain = error(signal)
        assert shrunk < 0.7 * plain
    assert np.allclose(shrinkage(truth_EF, np.zeros_like(X_NF), emotion_N), np.eye(E))


def test_aurocs_are_counts_of_pairs() -> None:
    rng = np.random.default_rng(2)
    emotion_N, topic_N = np.tile(np.arange(4), 3), np.repeat(np.arange(3), 4)
    scores_NE = rng.integers(0, 4, (12, 4)).astype(float)  # with ties

    def pairs(values_N: np.ndarray, e: int) -> float:
        return float(
            np.mean(
                [
                    np.mean(
                        [(values_N[i] > v) + (values_N[i] == v) / 2 for v in values_N[topic_N == topic_N[i]][others]]
                    )
                    for i in np.flatnonzero(emotion_N == e)
                    for others in [emotion_N[topic_N == topic_N[i]] != e]
                ]
            )
        )

    assert np.allclose(own_auroc(scores_NE, emotion_N, topic_N), [pairs(scores_NE[:, e], e) for e in range(4)])
    auroc_EF = mean_auroc(scores_NE, emotion_N, topic_N, 4)
    assert np.allclose(auroc_EF, [[pairs(column, e) for column in scores_NE.T] for e in range(4)])
    untested_E = own_auroc(scores_NE[:3], emotion_N[:3], topic_N[:3])
    assert np.isnan(untested_E).tolist() == [False, False, False, True]


# ---------------------------------------------------------------- what a recipe is
def test_a_recipe_is_linear_calibrated_and_its_shorter_versions_are_prefixes() -> None:
    X_NF, emotion_N, topic_N = planted(2, effect=1.5, F=60)
    fitted = fit_detectors(X_NF, emotion_N, topic_N, E, (4, 1, 2, 2))
    assert fitted.ks == (1, 2, 4)
    scores_kNE = fitted.scores(X_NF)
    for i, k in enumerate(fitted.ks):
        assert (fitted.weight_kEK[i, :, k:] == 0).all()
        for e in (0, 7):
            by_hand_N = [
                fitted.bias_kE[i, e] + sum(fitted.weight_kEK[i, e, j] * x[fitted.feature_EK[e, j]] for j in range(k))
                for x in X_NF
            ]
            assert np.allclose(scores_kNE[i, :, e], by_hand_N)
        mean_E, sd_E = calibration(scores_kNE[i], emotion_N)
        assert np.allclose(mean_E, 0, atol=1e-4)
        assert np.allclose(sd_E, 1, atol=1e-4)
    assert all(len(set(feature_K)) == 4 for feature_K in fitted.feature_EK)
    assert (fit_detectors(X_NF, emotion_N, topic_N, E, (2,)).feature_EK == fitted.feature_EK[:, :2]).all()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 10_000))
def test_units_and_topic_offsets_do_not_matter_to_the_choice(unit: float, seed: int) -> None:
    X_NF, emotion_N, topic_N = planted(2, effect=1.5, F=40, seed=seed)
    offset_NF = np.random.default_rng(seed).normal(size=(P, 40))[topic_N]
    plain = fit_detectors(X_NF, emotion_N, topic_N, E, (1, 2))
    moved = fit_detectors(unit * (X_NF + offset_NF), emotion_N, topic_N, E, (1, 2))
    assert (plain.feature_EK == moved.feature_EK).mean() > 0.98  # rounding may decide a tie
    same_E = (plain.feature_EK == moved.feature_EK).all(1)
    # the spread of scores over topics is not the same, so weights agree up to one factor an emotion
    ratio_EK = plain.weight_kEK[1, same_E] / moved.weight_kEK[1, same_E]
    assert np.allclose(ratio_EK[:, 0], ratio_EK[:, 1], rtol=0.02)


def test_dead_columns_and_silence_are_borne() -> None:
    X_NF, emotion_N, topic_N = planted(1, effect=3.0, F=40)
    X_NF[:, E:] = 0
    rows = detectors(X_NF, emotion_N, topic_N, topic_N >= 5, ks=(1, 20)).rows
    assert min(row.auroc for row in rows) > 0.9
    silent = detectors(np.zeros_like(X_NF), emotion_N, topic_N, topic_N >= 5, ks=(1, 4)).rows
    assert all(row.auroc == 0.5 and np.isfinite(row.top5) for row in silent)


def test_a_result_is_plain_data() -> None:
    X_NF, emotion_N, topic_N = planted(1, effect=2.0, F=30)
    kept = (emotion_N != 3) | (topic_N < 5)  # emotion 3 is never tested
    result = detectors(X_NF[kept], emotion_N[kept], topic_N[kept], topic_N[kept] >= 5, ks=(1, 2))
    read = json.loads(json.dumps(result.to_dict()))
    assert [row["k"] for row in read["rows"]] == [1, 2]
    assert read["rows"][0]["auroc_E"][3] is None
    assert np.shape(read["features"]) == (1, E, 2)
    assert read["texts"] == 2 * E - 2


def test_what_cannot_be_fitted_is_refused() -> None:
    X_NF, emotion_N, topic_N = planted(1, effect=1.0, F=16)
    with pytest.raises(InputError, match="two topics"):
        detectors(X_NF, emotion_N, topic_N, topic_N >= 1)
    with pytest.raises(InputError, match="one to test"):
        detectors(X_NF, emotion_N, topic_N, topic_N >= 99)
    with pytest.raises(InputError, match="of 16 columns"):
        fit_detectors(X_NF, emotion_N, topic_N, E, (1, 17))
    with pytest.raises(InputError, match="of 16 columns"):
        fit_detectors(X_NF, emotion_N, topic_N, E, ())
    few = (emotion_N != 3) | (topic_N == 0)
    with pytest.raises(InputError, match="1 emotions have stories on fewer than two"):
        fit_detectors(X_NF[few], emotion_N[few], topic_N[few], E, (1,))
    alone = (emotion_N == 0) | (topic_N < 5)
    with pytest.raises(InputError, match="one emotion only"):
        fit_detectors(X_NF[alone], emotion_N[alone], topic_N[alone], E, (1,))
