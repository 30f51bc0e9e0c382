"""Scores are linear, explain themselves, and depend on one text alone."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.atlas import Atlas, Prototype, choose_readout
from saefeat.atlas.index import emotion_query, emotion_rows, half_scale, read_index, search, write_index
from saefeat.atlas.nearest import explain, profile
from saefeat.corpus import TextItem
from saefeat.errors import InputError, UnknownName
from saefeat.label import pool_texts
from tests.tiny_atlas import EMOTIONS, TOPICS

TEXTS = [
    "The rent was due and nobody would answer.",
    "He kicked the chair and shouted. " * 8,
    "The old dog slept. " * 120,  # more tokens than a window
    "Rain.",
]


# ---------------------------------------------------------------- the maths
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), listed=st.one_of(st.none(), st.integers(0, 12)))
def test_bias_contributions_and_rest_add_up_to_the_score(seed: int, listed: int | None) -> None:
    chance = np.random.default_rng(seed)
    W_FE, bias_E = chance.normal(size=(30, 4)).astype(np.float32), chance.normal(size=4).astype(np.float32)
    x_F = np.where(chance.random(30) < 0.3, chance.exponential(size=30), 0).astype(np.float32)
    prototype = Prototype(W_FE, bias_E)
    score = float(prototype.scores(x_F)[2])
    slow = float(bias_E[2]) + sum(float(W_FE[f, 2]) * float(x_F[f]) for f in range(30))
    assert score == pytest.approx(slow, abs=1e-9)
    told = explain(prototype, x_F, 2, score, sae="L1", features=listed)
    parts = [row["contribution"] for row in told["features"]]
    assert told["bias"] + sum(parts) + told["rest"] == pytest.approx(score, abs=1e-6)
    assert parts == sorted(parts, reverse=True)
    assert len(parts) == min(np.count_nonzero(x_F), 99 if listed is None else listed)
    if listed is None:
        assert told["rest"] == pytest.approx(0, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-7, 1e-3, 1.0, 1e4]))
def test_the_index_ranks_as_the_scores_do_whatever_the_units(seed: int, unit: float) -> None:
    import tempfile
    from pathlib import Path

    chance = np.random.default_rng(seed)
    readouts = [((chance.normal(size=(20, 5)) * unit).astype(np.float32), chance.normal(size=5)) for _ in range(2)]
    triples = [(W_FE, bias_E.astype(np.float32), half_scale(W_FE)) for W_FE, bias_E in readouts]
    x_F = (chance.exponential(size=20) / unit).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_index(emotion_rows(triples, 24), Path(folder) / "rows.faiss")
        index = read_index(Path(folder) / "rows.faiss", rows=10, width=25)
        for r, (W_FE, bias_E, scale) in enumerate(triples):
            numbers, products = search(index, emotion_query(x_F, scale, 24), first=5 * r, count=5, top=9)
            exact_E = x_F @ W_FE + bias_E
            assert sorted(numbers) == list(range(5))
            np.testing.assert_allclose(products, exact_E[numbers], atol=0.02 * (1 + np.abs(exact_E).max()))


def test_a_profile_is_of_length_one_and_knows_no_level() -> None:
    scores_NE = np.array([[1.0, 2.0, 5.0], [4.0, 4.0, 4.0]])
    np.testing.assert_allclose(np.linalg.norm(profile(scores_NE), axis=1), [1, 0], atol=1e-6)
    np.testing.assert_allclose(profile(scores_NE), profile(scores_NE + 7), atol=1e-6)


def test_auto_goes_by_the_length_of_the_text() -> None:
    told = {"story": {"below": None}, "turn": {"below": 200}, "felt": {"below": 60}, "other": {}}
    assert [choose_readout(told, n) for n in (5, 59, 60, 199, 200, 9999)] == ["felt"] * 2 + ["turn"] * 2 + ["story"] * 2
    assert choose_readout({"felt": {"heldout": {"top1": 0.5}}}, 5) == "felt"  # as an atlas of format 1 tells it


# ---------------------------------------------------------------- on an atlas
@pytest.mark.parametrize("readout", ["story", "felt"])
def test_nearest_equals_a_slow_twin(tiny_atlas: Atlas, readout: str) -> None:
    results = list(tiny_atlas.nearest(TEXTS, top=None, readout=readout, features=None))
    for text, result in zip(TEXTS, results, strict=True):
        config, sae = tiny_atlas.readout_config(readout), tiny_atlas.sae()
        x_F = pool_texts(tiny_atlas.subject(), [text], [config], {readout: sae}).features[readout][0].astype(float)
        prototype = tiny_atlas.prototypes[readout]
        slow = {e: float(prototype.bias_E[i]) for i, e in enumerate(tiny_atlas.emotion_names)}
        for i, e in enumerate(tiny_atlas.emotion_names):
            for f in range(len(x_F)):
                slow[e] += x_F[f] * float(prototype.W_FE[f, i])
        assert {e["emotion"]: e["score"] for e in result["emotions"]} == pytest.approx(slow, abs=2e-5)
        assert [e["emotion"] for e in result["emotions"]] == sorted(slow, key=lambda e: -slow[e])
        total = result["bias"] + sum(f["contribution"] for f in result["features"]) + result["rest"]
        assert total == pytest.approx(result["emotions"][0]["score"], abs=1e-6)
        assert result["rest"] == pytest.approx(0, abs=1e-4)


def test_a_score_depends_on_its_own_text_alone(tiny_atlas: Atlas) -> None:
    together = list(tiny_atlas.nearest(TEXTS * 12, top=4))  # more than a chunk
    for i, text in enumerate(TEXTS):
        alone = next(tiny_atlas.nearest([text], top=4))
        for j in range(i, len(together), len(TEXTS)):
            assert [e["emotion"] for e in together[j]["emotions"]] == [e["emotion"] for e in alone["emotions"]]
            assert together[j]["emotions"][0]["score"] == pytest.approx(alone["emotions"][0]["score"], abs=1e-4)
    assert [r["id"] for r in together] == [str(n) for n in range(1, len(together) + 1)]


def test_stories_find_their_own_emotion(tiny_atlas: Atlas) -> None:
    stories = [f"It was late. {what}. So it was {place}." for what in EMOTIONS.values() for place in TOPICS.values()]
    results = tiny_atlas.nearest(stories, top=1, readout="story")
    found = [result["emotions"][0]["emotion"] for result in results]
    hits = sum(a == b for a, b in zip(found, [e for e in EMOTIONS for _ in TOPICS], strict=True))
    assert hits >= 9  # of 12; chance is 3


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("readout", ["story", "felt"])
def test_what_the_tokens_add_is_the_score(tiny_atlas: Atlas, text: str, readout: str) -> None:
    result = next(tiny_atlas.nearest([text], tokens=True, readout=readout))
    total = result["bias"] + sum(token["score"] for token in result["tokens"])
    assert total == pytest.approx(result["emotions"][0]["score"], abs=2e-3 if len(text) > 500 else 2e-4)
    assert not any(token["score"] for token in result["tokens"] if not token["used"])
    whole = "".join(token["token"] for token in result["tokens"])
    assert whole == text if readout == "story" else whole.endswith(" In short, I feel so")


def test_the_object_is_as_documented_and_is_json(tiny_atlas: Atlas) -> None:
    result = next(tiny_atlas.nearest(["The rent was due."], top=2, features=3))
    assert list(result) == "id readout windows stands_out emotions features rest bias".split()
    assert [list(row) for row in result["emotions"]] == [["emotion", "score", "family"]] * 2
    assert [list(row) for row in result["features"]] == [["feature", "activation", "contribution"]] * 3
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_long_texts_are_read_in_windows(tiny_atlas: Atlas) -> None:
    long = TEXTS[2]
    assert len(tiny_atlas.subject().tokenize(long)) > 512
    assert next(tiny_atlas.nearest([long]))["windows"] == 2
    assert next(tiny_atlas.nearest([long], readout="felt"))["windows"] == 1


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize("bad", ["", " \n\t", "half \ud800"])
def test_a_text_that_cannot_be_read_is_an_error_or_an_item(tiny_atlas: Atlas, bad: str) -> None:
    with pytest.raises(InputError, match=r"text 2: (the text is empty|is not UTF-8)"):
        list(tiny_atlas.nearest(["fine", bad]))
    good, item = tiny_atlas.nearest(["fine", bad], keep_going=True)
    assert good["emotions"]
    assert list(item) == ["id", "error"]


def test_conversations_and_earlier_errors_are_said(tiny_atlas: Atlas) -> None:
    items = [TextItem("a", messages=[{"role": "user", "content": "hi"}]), TextItem("b", error="line 3: is not JSON")]
    results = list(tiny_atlas.nearest(items, keep_going=True))
    assert results == [
        {"id": "a", "error": "is a conversation, not a text"},
        {"id": "b", "error": "line 3: is not JSON"},
    ]
    with pytest.raises(InputError, match="conversation"):
        list(tiny_atlas.nearest(items))


def test_counts_and_readouts_are_checked(tiny_atlas: Atlas) -> None:
    with pytest.raises(InputError, match="top must be at least 1"):
        list(tiny_atlas.nearest(["x y"], top=0))
    with pytest.raises(UnknownName, match=r"unknown readout 'turn'.*story, felt"):
        list(tiny_atlas.nearest(["x y"], readout="turn"))
    with pytest.raises(UnknownName, match="did you mean 'story'"):
        list(tiny_atlas.encode(["x y"], readout="stori"))
