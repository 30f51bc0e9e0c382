"""Fluency, regimes and the effect matrix say what was written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saefeat.atlas import Atlas
from saefeat.causal import (
    Fluency,
    add,
    clamp,
    compare,
    distinct_share,
    effects,
    emotion_direction,
    family_on_top,
    feature_direction,
    fluency,
    generate,
    mean_loss,
    mean_shift,
    promoted_words,
    read_scores,
    regime,
)
from saefeat.errors import InputError
from saefeat.subject import Subject


def test_perplexity_is_that_of_the_continuation_alone(tiny: Subject) -> None:
    prompts = [tiny.tokenize("The rent was due"), tiny.tokenize("She")]
    ids = [tiny.tokenize(" and the account was empty"), tiny.tokenize(" sang")]
    losses = []
    for prompt, own in zip(prompts, ids, strict=True):
        logits_TV = tiny.model(torch.tensor([prompt + own])).logits[0].float().log_softmax(-1)
        losses += [-float(logits_TV[len(prompt) + i - 1, token]) for i, token in enumerate(own)]
    assert mean_loss(tiny, prompts, ids) == pytest.approx(np.mean(losses), rel=1e-4)
    assert mean_loss(tiny, prompts, ids, batch=1) == pytest.approx(np.mean(losses), rel=1e-4)
    measured = fluency(tiny, [*prompts, [1, 2]], [*ids, []])
    assert measured.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    alone = mean_loss(tiny, [prompt[:1] for prompt in prompts], ids)
    assert measured.tie == pytest.approx(alone - np.mean(losses), rel=1e-4)
    assert math.isnan(fluency(tiny, [[1, 2]], [[]]).perplexity)


def test_distinct_3_grams() -> None:
    assert distinct_share([[1, 2, 3, 4]]) == 1
    assert distinct_share([[1, 1, 1, 1, 1]]) == pytest.approx(1 / 3)
    assert distinct_share([[1, 2, 3], [1, 2, 3]]) == 1  # within each text
    assert distinct_share([[1, 2], []]) == 1


def test_the_regimes_are_as_fixed() -> None:
    plain = Fluency(perplexity=10, distinct=0.9, tie=0)
    for perplexity, distinct, expected in (
        (15, 0.73, "surgical"), (15.1, 0.9, "broken"), (3, 0.71, "repetitive"), (99, 0.1, "repetitive"),
        (math.nan, 1, "broken"),
    ):  # fmt: skip
        assert regime(Fluency(perplexity=perplexity, distinct=distinct, tie=0), plain) == expected


def test_shifts_are_of_texts_that_both_could_be_read_in() -> None:
    plain_NE = np.array([[0.0, 1], [np.nan, np.nan], [2, 2]])
    steered_NE = np.array([[1.0, 1], [5, 5], [4, 1]])
    assert mean_shift(steered_NE, plain_NE).tolist() == [1.5, -0.5]
    assert np.isnan(mean_shift(steered_NE[1:2], plain_NE[1:2])).all()


def test_whose_family_is_on_top() -> None:
    families = {"sad": "sad", "blue": "sad", "glad": "glad"}
    shift_SE = np.array([[0.1, 0.5, 0.2], [0.1, 0.0, np.nan], [0.0, 1.0, 0.9]])
    assert family_on_top(shift_SE, ["sad", "blue", "glad"], ["sad", "blue", "glad"], families).tolist() == [
        True, True, False
    ]  # fmt: skip


def test_scores_are_those_of_nearest(tiny_atlas: Atlas) -> None:
    texts = ["The rent was due.", " ", "They danced and sang."]
    scores_NE = read_scores(tiny_atlas, texts, "story")
    assert np.isnan(scores_NE[1]).all()
    for n in (0, 2):
        result = next(tiny_atlas.nearest([texts[n]], top=None, readout="story"))
        for row in result["emotions"]:
            assert scores_NE[n, tiny_atlas.emotion_names.index(row["emotion"])] == row["score"]


def test_the_effect_matrix_is_made_of_the_texts_it_says(tiny_atlas: Atlas) -> None:
    prompts, told = ["The rent was", "She counted the coins"], []
    found = effects(
        tiny_atlas, ["joyful", "at-ease"], prompts, strength=2.0, tokens=8, samples=2, controls=2, seed=5,
        on_progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert (found.steered, found.read) == (("joyful", "at ease"), tiny_atlas.emotion_names)
    assert (found.shift_SE.shape, found.random_RE.shape) == ((2, 4), (2, 4))
    assert len(found.fluency) == len(found.regimes) == 4
    assert told == [(n, 4) for n in range(1, 5)]
    settings = {"tokens": 8, "samples": 2, "seed": 5}
    plain = generate(tiny_atlas.subject(), prompts, **settings)  # type: ignore[arg-type]
    own = add(emotion_direction(tiny_atlas, "joyful"), 2.0)
    steered = generate(tiny_atlas.subject(), prompts, interventions=[own], **settings)  # type: ignore[arg-type]
    by_hand = read_scores(tiny_atlas, steered.texts, found.readout) - read_scores(
        tiny_atlas, plain.texts, found.readout
    )
    np.testing.assert_allclose(found.shift_SE[0], by_hand.mean(0), atol=1e-9)
    with pytest.raises(InputError, match="no emotion"):
        effects(tiny_atlas, [], prompts)


def test_promoted_words_are_those_of_the_logit_lens(tiny_atlas: Atlas) -> None:
    own = feature_direction(tiny_atlas, "L1.5")
    words = promoted_words(tiny_atlas, own, top=4)
    length = float(tiny_atlas.sae().W_dec_FD[5].norm())
    for key in ("up", "down"):
        expected = tiny_atlas.words("L1.5", top=4)[key]
        assert [word for word, _ in words[key]] == [row["token"] for row in expected]
        assert [value * length for _, value in words[key]] == pytest.approx([r["logit"] for r in expected], abs=1e-3)


def test_compare_shows_three_kinds_that_draw_alike(tiny_atlas: Atlas) -> None:
    joyful, feature = emotion_direction(tiny_atlas, "joyful"), feature_direction(tiny_atlas, "L1.5")
    settings = {"tokens": 6, "samples": 2, "seed": 4}
    found = compare(tiny_atlas, "The rent was", [add(joyful, 1.0), clamp(feature, 0.5)], **settings)  # type: ignore[arg-type]
    made = generate(tiny_atlas.subject(), "The rent was", **settings)  # type: ignore[arg-type]
    assert found["unsteered"]["texts"] == list(made.texts)
    assert [one["action"] for one in found["interventions"]] == ["add", "clamp"]
    assert found["control"]["of"][0] == "random 4"
    assert found["control"]["of"][1].startswith("L1.")
    assert found["control"]["of"][1] != "L1.5"
    ratio = found["steered"]["perplexity"] / found["unsteered"]["perplexity"]
    assert found["steered"]["ratio"] == pytest.approx(ratio, rel=1e-2)
    nothing = compare(tiny_atlas, "The rent was", [add(joyful, 0)], control=False, **settings)  # type: ignore[arg-type]
    assert nothing["control"] is None
    assert nothing["steered"]["texts"] == nothing["unsteered"]["texts"]
    assert (nothing["steered"]["ratio"], nothing["steered"]["regime"]) == (1.0, "surgical")


@pytest.mark.model
def test_the_default_model_is_steered_by_the_atlas_that_ships(default_subject: Subject) -> None:
    """Read by words that nobody chose by these texts: terror and joy move what is written, a random direction less."""
    atlas = Atlas.open(None, subject=default_subject, allow_other_weights=True)
    prompts = ["Maria opened the door and", "When the letter came on Monday,"]
    found = effects(atlas, ["terrified", "joyful"], prompts, strength=0.3, tokens=16, samples=2, controls=1)
    own = [found.shift_SE[s, found.read.index(emotion)] for s, emotion in enumerate(found.steered)]
    random = [abs(found.random_RE[0, found.read.index(emotion)]) for emotion in found.steered]
    assert min(own) > 1.0
    assert max(random) < 1.0
