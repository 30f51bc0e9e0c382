"""Kinds: planted features of every kind through the real statistics, no effect, the rules one by one, sentences."""

import importlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.label.exact import p_values
from saefeat.label.kinds import KINDS, Kinds, correlation_p, kinds, sentence
from saefeat.label.lexical import Lexical
from saefeat.label.ranks import crossing, mean_auroc, rank_table
from saefeat.label.statistics import q_values
from saefeat.label.variance import variance_split

E, P = 40, 12
FAMILY_E = np.array([f"e{4 * (e // 4)}" for e in range(E)])
VALENCE_E = np.random.default_rng(5).random(E)
AROUSAL_E = np.random.default_rng(6).random(E)
EMOTION_N, TOPIC_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
NAMES = [f"e{e}" for e in range(E)]


def words(F: int, **at: dict[int, int]) -> Lexical:
    fires_F, promotes_F = np.full(F, -1), np.full(F, -1)
    for f, e in at.get("fires", {}).items():
        fires_F[f] = e
    for f, e in at.get("promotes", {}).items():
        promotes_F[f] = e
    return Lexical(promotes_F, np.where(promotes_F >= 0, 4, 0), fires_F, np.zeros(F))


def judge(X_NF: np.ndarray, lexical: Lexical | None = None) -> Kinds:
    design = crossing(EMOTION_N, TOPIC_N, E)
    ranks = rank_table(X_NF, design)
    split = variance_split(X_NF, EMOTION_N, TOPIC_N, E)
    mean_FE = np.stack([X_NF[e == EMOTION_N].mean(0) for e in range(E)], 1)
    return kinds(
        mean_auroc(ranks, design).T, q_values(p_values(ranks, design).T), mean_FE, FAMILY_E,
        split.omega2_emotion_F, split.omega2_topic_F, valence_E=VALENCE_E, arousal_E=AROUSAL_E, lexical=lexical,
    )  # fmt: skip


def planted() -> np.ndarray:
    """Features 0 emotion 5, 1 family of 8..11, 2 and 3 valence up and down, 4 arousal, 5 topic, 6 and 7 noise."""
    X_NF = np.random.default_rng(0).normal(size=(E * P, 8))
    X_NF[:, 0] += 4 * (EMOTION_N == 5)
    X_NF[:, 1] += 3 * np.isin(EMOTION_N, (8, 9, 10, 11))
    X_NF[:, 2] += 4 * VALENCE_E[EMOTION_N]
    X_NF[:, 3] -= 4 * VALENCE_E[EMOTION_N]
    X_NF[:, 4] += 4 * AROUSAL_E[EMOTION_N]
    X_NF[:, 5] += 2 * (TOPIC_N % 3)
    return X_NF


def test_planted_features_get_their_kinds_and_what_decided() -> None:
    found = judge(planted(), words(8, fires={6: 30}, promotes={1: 0}))
    assert found.kind_F.tolist() == [
        "emotion", "family", "dimension", "dimension", "dimension", "topic", "lexical", "none",
    ]  # fmt: skip
    assert found.emotion_F[0] == 5
    assert found.family_F[1] == "e8"
    assert found.significant_F[1] == found.members_F[1] == 4
    assert found.dimension_F[2:5].tolist() == [0, 0, 1]
    assert np.sign(found.dimension_r_F[2:5]).tolist() == [1, -1, 1]
    assert found.outside_F[0] != 5
    assert set(found.kind_F) <= set(KINDS)


def test_noise_has_no_kind_and_random_words_do_not_make_it_one_of_the_stories() -> None:
    X_NF = np.maximum(np.random.default_rng(1).normal(size=(E * P, 400)), 0)
    X_NF[:, :5] = 0  # dead features
    found = judge(X_NF)
    assert Counter(found.kind_F.tolist())["none"] >= 397
    assert (found.kind_F[:5] == "none").all()


def test_shuffling_emotions_within_topics_takes_every_kind_but_topic_away() -> None:
    rng = np.random.default_rng(2)
    X_NF = planted()
    for topic in range(P):
        own = np.flatnonzero(topic == TOPIC_N)
        X_NF[own] = X_NF[rng.permutation(own)]
    assert judge(X_NF).kind_F.tolist() == ["none"] * 5 + ["topic", "none", "none"]


# ---------------------------------------------------------------- the rules, one by one
def evidence(**changes: Any) -> dict[str, Any]:
    """One feature, four families of two emotions, emotion 0 ahead; changed as the test says."""
    base: dict[str, Any] = {
        "auroc_FE": np.array([[0.9, 0.7, 0.8, 0.5, 0.5, 0.5, 0.5, 0.5]]), "q_FE": np.full((1, 8), 1.0),
        "mean_FE": np.array([[3.0, 2.0, 1.0, 1, 1, 0, 1, 0]]), "family_E": list("aabbccdd"),
        "omega2_emotion_F": np.array([0.1]), "omega2_topic_F": np.array([0.0]),
    }  # fmt: skip
    base["q_FE"][0, 0] = 0.001
    return base | changes


def kind(**changes: Any) -> str:
    return str(kinds(**evidence(**changes)).kind_F[0])


def test_an_emotion_must_be_significant_and_ahead_of_other_families() -> None:
    assert kind() == "emotion"
    assert kind(auroc_FE=np.array([[0.9, 0.89, 0.85, 0.5, 0.5, 0.5, 0.5, 0.5]])) == "emotion"  # its own may be as high
    assert kind(auroc_FE=np.array([[0.9, 0.7, 0.86, 0.5, 0.5, 0.5, 0.5, 0.5]])) == "none"
    assert kind(q_FE=np.full((1, 8), 0.02)) == "none"
    assert kind(family_E=["a"] * 8) == "emotion"  # no other family: ahead of chance


def test_a_family_needs_two_and_half_of_its_members_and_no_leader() -> None:
    level, led = [0.9, 0.88, 0.7, 0.5, 0.5, 0.5, 0.5, 0.5], [0.9, 0.84, 0.7, 0.5, 0.5, 0.5, 0.5, 0.5]
    both = np.ones((1, 8))
    both[0, :2] = 0.001
    assert kind(auroc_FE=np.array([level]), q_FE=both) == "family"
    assert kind(auroc_FE=np.array([led]), q_FE=both) == "emotion"
    assert kind(auroc_FE=np.array([level])) == "emotion"  # its sister is not significant
    assert kind(auroc_FE=np.array([level]), q_FE=both, family_E=list("aaaaabcd")) == "emotion"
    level[2] = 0.88
    assert kind(auroc_FE=np.array([level]), q_FE=both) == "family"  # another family may be as high
    assert kind(auroc_FE=np.array([level])) == "none"


def test_a_dimension_must_explain_most() -> None:
    rating, steep = np.arange(40) / 40, {"family_E": [str(e // 4) for e in range(40)]}
    flat = np.full((1, 40), 0.5)
    flat[0, 39] = 0.9
    steep |= {"auroc_FE": flat, "q_FE": np.full((1, 40), 0.001), "mean_FE": rating[None]}
    assert kind(**steep, valence_E=rating) == "dimension"
    assert kind(**steep, arousal_E=-rating) == "dimension"
    assert kind(**steep) == "emotion"
    assert kind(**steep, valence_E=rating, omega2_topic_F=np.array([0.2])) == "emotion"
    spiked = rating + 9 * (np.arange(40) == 39)
    assert kind(**steep | {"mean_FE": spiked[None]}, valence_E=rating) == "emotion"
    some = np.where(np.arange(40) < 37, np.nan, rating)
    assert kind(**steep, valence_E=some) == "emotion"  # three ratings tell nothing


def test_topic_must_be_large_and_larger_than_emotion() -> None:
    flat = np.full((1, 8), 0.5)
    assert kind(q_FE=flat * 2, omega2_topic_F=np.array([0.3])) == "topic"
    assert kind(q_FE=flat * 2, omega2_topic_F=np.array([0.09])) == "none"
    assert kind(q_FE=flat * 2, omega2_emotion_F=np.zeros(1), omega2_topic_F=np.array([0.09])) == "none"
    assert kind(omega2_topic_F=np.array([0.9])) == "emotion"
    assert kind(q_FE=flat * 2, omega2_emotion_F=np.full(1, np.nan), omega2_topic_F=np.full(1, np.nan)) == "none"


def test_a_word_outranks_stories_of_its_own_family_only() -> None:
    assert kind(lexical=words(1, fires={0: 1})) == "lexical"
    assert kind(lexical=words(1, promotes={0: 0})) == "lexical"
    assert kind(lexical=words(1, fires={0: 5})) == "emotion"
    assert kind(q_FE=np.ones((1, 8)), lexical=words(1, fires={0: 5})) == "lexical"
    assert kind(lexical=words(1)) == "emotion"


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), F=st.integers(0, 6))
def test_every_feature_gets_one_kind_whatever_the_block(seed: int, F: int) -> None:
    rng = np.random.default_rng(seed)
    X_NF = np.maximum(rng.normal(size=(E * P, F)) + 2 * rng.normal(size=(E, F))[EMOTION_N], 0)
    found = judge(X_NF)
    assert found.kind_F.shape == (F,)
    assert set(found.kind_F) <= set(KINDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("saefeat.label.kinds"), "BLOCK", 2)
        assert judge(X_NF).kind_F.tolist() == found.kind_F.tolist()


def test_the_p_value_of_a_correlation_is_uniform_without_one() -> None:
    rng = np.random.default_rng(0)
    r = np.array([np.corrcoef(rng.normal(size=171), rng.normal(size=171))[0, 1] for _ in range(400)])
    p = correlation_p(r, 171)
    assert abs(p.mean() - 0.5) < 0.06
    assert abs((p < 0.1).mean() - 0.1) < 0.05
    assert correlation_p(np.array([0.0, 1.0]), 10).tolist()[0] == 1
    assert correlation_p(np.array([1.0]), 10)[0] < 1e-10


# ---------------------------------------------------------------- sentences
def test_a_sentence_tells_what_decided() -> None:
    row = {
        "kind": "emotion", "emotion": "desperate", "auroc": 0.93, "q": 3e-6, "p": 2e-11, "tests": "4,608 x 171",
        "heldout_auroc": 0.91, "outside": "trapped", "outside_auroc": 0.84, "family": "desperate", "significant": 3,
        "members": 4, "dimension": "arousal", "dimension_r": -0.41, "dimension_q": 2e-5, "omega2_emotion": 0.021,
        "omega2_topic": 0.34, "fires_on": "hurt", "promotes": None, "promoted": 0,
    }  # fmt: skip
    assert sentence(row) == (
        "Reads higher on stories of 'desperate' than on 93 % of the others on the same topic (exact p 2e-11, q 3e-06 "
        "over 4,608 x 171 pairs); on topics it was not chosen on .91; next outside its family: 'trapped' .84."
    )
    assert "3 of its 4 emotions stand out (q < .01), most of all 'desperate'" in sentence(row | {"kind": "family"})
    dimension = sentence(row | {"kind": "dimension"})
    assert "the calmer a story's emotion is" in dimension
    assert "arousal by −.41" in dimension
    lexical = sentence(row | {"kind": "lexical", "promotes": "sad", "promoted": 5})
    assert lexical.startswith("Fires on the word 'hurt' itself")
    assert "promotes the words of 'sad' (5 of its top tokens)" in lexical
    assert "topic explains 34 % of its variance over stories, emotion 2 %" in sentence(row | {"kind": "topic"})
    assert sentence(row | {"kind": "none", "q": 0.3}).startswith("Tells no emotion")
    assert sentence(row | {"kind": "none"}).startswith("Tells emotions of several families")


def test_rows_of_every_kind_make_one_sentence_without_more_evidence() -> None:
    found = judge(planted(), words(8, promotes={6: 30}))
    for f in range(8):
        row = found.row(f, NAMES)
        text = sentence(row)
        assert row["kind"] == found.kind_F[f]
        assert text.endswith(".")
        assert "nan" not in text
        assert "None" not in text
    assert kinds(**evidence(family_E=["a"] * 8)).row(0, NAMES)["outside"] is None
