"""The judge: words masked, a classifier that equals sklearn's, honest figures on a planted set and on noise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from saefeat.causal.judge import (
    NEUTRAL,
    fit_judge,
    fit_logistic,
    inflected,
    judged,
    log_odds,
    masked,
    word_mask,
)
from saefeat.errors import InputError
from saefeat.label import separated, unit_rows

MEMBERS = (("afraid", "terrified"), ("joyful",), ("sad",))


def planted(n: int = 60, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of three classes, the last of them rare, and of flat texts."""
    rng = np.random.default_rng(seed)
    class_N = np.array([0] * n + [1] * n + [2] * (n // 4) + [-1] * n)
    centre = np.eye(8)[[0, 1, 2, 3]]
    return centre[class_N] + noise * rng.normal(size=(len(class_N), 8)), class_N


# ---------------------------------------------------------------- words
def test_words_for_emotions_are_masked_with_their_inflections() -> None:
    families = {"afraid": "afraid", "sad": r"sad(ly|ness|der)?"}
    mask = word_mask(["afraid", "sad", "grief-stricken", "at ease"], ["fear", "happiness", "surprise"], families)
    text = "Sadly she was AFRAID, fearful, happily surprising; grief-stricken and at ease,\nbut the saddle stayed."
    assert masked([text], mask) == ["… she was …, …, … …; … and …, but the saddle stayed."]
    assert masked(["Nothing here."], mask) == ["Nothing here."]


def test_stems_are_never_so_short_that_they_mean_other_words() -> None:
    assert [inflected(word) for word in ("joy", "sadness", "love", "caring", "annoyed", "C++")] == [
        r"joy\w*", r"sad\w*", r"love\w*", r"caring\w*", r"annoy\w*", r"c\+\+\w*"
    ]  # fmt: skip


# ---------------------------------------------------------------- the classifier
def test_the_classifier_is_that_of_sklearn() -> None:
    X_ND, class_N = planted()
    y_N = np.where(class_N < 0, 3, class_N)
    W_DC, bias_C = fit_logistic(X_ND, y_N, 4, l2=0.5)
    other = LogisticRegression(C=2.0, class_weight="balanced", tol=1e-9, max_iter=5000).fit(X_ND, y_N)
    ours_NC = X_ND @ W_DC + bias_C
    theirs_NC = other.decision_function(X_ND)
    np.testing.assert_allclose(
        ours_NC - ours_NC.mean(1, keepdims=True), theirs_NC - theirs_NC.mean(1, keepdims=True), atol=2e-3
    )


def test_log_odds_are_those_of_the_softmax() -> None:
    logits_NC = np.random.default_rng(0).normal(size=(5, 3)) * 4
    p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    np.testing.assert_allclose(log_odds(logits_NC), np.log(p_NC / (1 - p_NC)), atol=1e-9)


def test_auroc_is_that_of_sklearn_ties_and_all() -> None:
    rng = np.random.default_rng(1)
    score_N, positive_N = rng.integers(0, 5, 80).astype(float), rng.random(80) < 0.4
    assert separated(score_N[positive_N], score_N[~positive_N]) == pytest.approx(roc_auc_score(positive_N, score_N))
    assert np.isnan(separated(score_N[:0], score_N))


# ---------------------------------------------------------------- the judge
def test_a_planted_set_is_told_apart_and_read_by_its_own_class() -> None:
    X_ND, class_N = planted()
    judge = fit_judge("planted", X_ND, class_N, ["fear", "joy", "sadness"], MEMBERS)
    assert judge.classes == ("fear", "joy", "sadness", NEUTRAL)
    assert judge.rows == len(X_ND)
    assert judge.accuracy > 0.6
    assert (judge.auroc_C > 0.8).all()
    new_ND, new_N = planted(seed=9)
    read_NC = judge(new_ND)
    for c in range(3):
        assert read_NC[new_N == c, c].mean() > read_NC[new_N != c, c].mean() + 1
    assert judge.own("terrified") == [0]
    assert judge.own("bored") == []
    assert fit_judge("planted", X_ND, class_N, ["fear", "joy", "sadness"], MEMBERS).accuracy == judge.accuracy


def test_the_figures_of_a_judge_of_noise_are_those_of_chance() -> None:
    rng = np.random.default_rng(0)
    judge = fit_judge("noise", rng.normal(size=(400, 40)), rng.integers(0, 4, 400), list("abcd"), [()] * 4)
    assert abs(judge.accuracy - 0.25) < 0.07
    assert (np.abs(judge.auroc_C - 0.5) < 0.1).all()


def test_classes_without_texts_are_left_out_and_too_few_are_said() -> None:
    X_ND, class_N = planted()
    judge = fit_judge("one", X_ND, np.where(class_N == 2, 0, class_N), ["fear", "joy", "sadness"], MEMBERS)
    assert judge.classes == ("fear", "joy", NEUTRAL)
    with pytest.raises(InputError, match="two classes"):
        fit_judge("few", X_ND, np.zeros(len(X_ND), int), ["fear", "joy", "sadness"], MEMBERS)


def test_judges_of_an_emotion_are_averaged() -> None:
    X_ND, class_N = planted()
    one = fit_judge("one", X_ND, class_N, ["fear", "joy", "sadness"], MEMBERS)
    two = fit_judge("two", X_ND, class_N, ["f", "j", "s"], [("afraid",), ("sad",), ("sad",)])
    scores = [one(X_ND), two(X_ND)]
    afraid_N = judged([one, two], scores, "afraid")
    assert afraid_N is not None
    np.testing.assert_allclose(afraid_N, (scores[0][:, 0] + scores[1][:, 0]) / 2)
    sad_N = judged([one, two], scores, "sad")
    assert sad_N is not None
    np.testing.assert_allclose(sad_N, (scores[0][:, 2] + scores[1][:, 1:3].mean(1)) / 2)
    assert judged([one, two], scores, "bored") is None


def test_an_embedding_of_any_length_is_read_alike() -> None:
    X_ND, class_N = planted()
    judge = fit_judge("planted", X_ND, class_N, ["fear", "joy", "sadness"], MEMBERS)
    np.testing.assert_allclose(judge(3 * X_ND), judge(X_ND))
    assert np.isfinite(judge(np.zeros((1, 8)))).all()
    assert (unit_rows(np.zeros((1, 8))) == 0).all()
