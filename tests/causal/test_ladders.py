"""Ladders: the rank statistic against scipy, nulls that behave as nulls, and the study on a made-up atlas."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saefeat.atlas import Atlas
from saefeat.causal import Ladder, read_ladders, study_ladders
from saefeat.causal.ladders import REPLY, SCORER, WRITER, at_least, follow, midranks, random_rhos, read_places, spearman
from saefeat.errors import InputError
from saefeat.trace import trace

ROW = {"template": "It is {x} days.", "values": [1, 2, 5], "rises": ["desperate"], "falls": ["at ease"]}
small = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=9)


@given(small)
def test_midranks_are_scipys(values: list[float]) -> None:
    np.testing.assert_allclose(midranks(np.array([values]))[0], stats.rankdata(values))


@given(small, st.randoms())
def test_spearman_is_scipys(values: list[float], chance: object) -> None:
    x_V = np.array(values)
    y_V = np.arange(len(values))
    mine = spearman(x_V[None], y_V)[0]
    if len(set(values)) == 1:
        assert mine == 0
    else:
        np.testing.assert_allclose(mine, stats.spearmanr(x_V, y_V).statistic, atol=1e-12)


def test_random_contrasts_are_of_distinct_emotions_and_seeded() -> None:
    rng = np.random.default_rng(0)
    scores_VE = rng.random((5, 3))
    rhos_R = random_rhos(scores_VE, 1, 1, 200, np.random.default_rng(1))
    pairs = {round(float(spearman((scores_VE[:, a] - scores_VE[:, b])[None], np.arange(5))[0]), 9)
             for a in range(3) for b in range(3) if a != b}  # fmt: skip
    assert {round(float(rho), 9) for rho in rhos_R} == pairs
    again_R = random_rhos(scores_VE, 1, 1, 200, np.random.default_rng(1))
    assert (rhos_R == again_R).all()
    with pytest.raises(InputError, match="too few"):
        random_rhos(scores_VE, 2, 2, 5, rng)


def test_a_reading_that_follows_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    ladders = [Ladder(id=f"l{i}", texts=("",) * 7, rises=(2 * i, 2 * i + 1), falls=(20 + i,)) for i in range(6)]
    scores = [rng.normal(size=(7, 40)) for _ in ladders]
    noise = follow(ladders, scores, seed=0)
    for own_VE, one in zip(scores, ladders, strict=True):
        own_VE[:, list(one.rises)] += 3 * np.arange(7)[:, None]
    found = follow(ladders, scores, seed=0)
    assert (found.rho_L > 0.9).all()
    assert (found.p_L < 0.1).all()  # a twentieth of random contrasts hold an emotion that rises
    assert float(at_least(found.rho_L.mean(), found.null_LR.mean(0))) == 1 / 1001
    assert float(at_least(noise.rho_L.mean(), noise.null_LR.mean(0))) > 0.01
    part = found.of(np.array([1, 3]))
    assert part.shuffled_LM.shape == (2, 2)
    assert part.shuffled_LM[1, 0] == found.shuffled_LM[3, 1]
    np.testing.assert_allclose(found.shuffled_LM.diagonal(), found.rho_L)


def test_p_counts_the_null_that_reaches_the_value() -> None:
    assert at_least(np.array(2.0), np.array([1.0, 2.0, 3.0])) == 3 / 4


# ---------------------------------------------------------------- the study
def test_places_are_those_of_the_trace(tiny_atlas: Atlas) -> None:
    texts = ["The rent was due.", "We danced and sang."]
    read = read_places(tiny_atlas, texts)
    for i, text in enumerate(texts):
        (turn,) = trace(tiny_atlas, [{"role": "user", "content": text}]).turns
        np.testing.assert_array_equal(read[WRITER][i], turn.profile)
        np.testing.assert_array_equal(read[REPLY][i], turn.reply_start)


def test_the_study_reports_even_and_odd_apart(tiny_atlas: Atlas) -> None:
    number = {e: i for i, e in enumerate(tiny_atlas.emotion_names)}
    ladders = [
        Ladder(id=f"l{i}", texts=tuple(f"The rent was {x} due." for x in "12345"), rises=(number["desperate"],),
               falls=(number["at ease"],))
        for i in range(1, 5)
    ]  # fmt: skip

    def scorer(texts: list[str]) -> np.ndarray:
        scores_NE = np.zeros((len(texts), 4))
        scores_NE[:, number["desperate"]] = [int("".join(filter(str.isdigit, text))) for text in texts]
        return scores_NE

    study = study_ladders(tiny_atlas, ladders, scorer=scorer, seed=3)  # type: ignore[arg-type]
    even, odd, each = study.results["sections"]
    assert (even["id"], odd["id"]) == ("ladders-even", "ladders-odd")
    rows = {row["name"]: row["values"] for row in even["rows"]}
    assert rows["sentence embeddings"][0] == "2 of 2"
    assert rows["sentence embeddings"][1] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert len(each["rows"]) == 4
    assert each["figure"] == "ladders.png"
    assert study.followed[SCORER].rho_L.tolist() == [1.0] * 4
    assert len(study.figure.axes[0].get_yticklabels()) == 5
    only = study_ladders(tiny_atlas, ladders, ids="odd", seed=3)
    assert [s["id"] for s in only.results["sections"]] == ["ladders-odd", "ladder-by-ladder"]
    assert [row["name"][:2] for row in only.results["sections"][1]["rows"]] == ["l1", "l3"]
    with pytest.raises(InputError, match="even"):
        study_ladders(tiny_atlas, ladders[:1], ids="even")


def test_ladders_are_read_and_checked(tmp_path: Path, tiny_atlas: Atlas) -> None:
    path = tmp_path / "l.jsonl"
    names = tiny_atlas.emotion_names

    def read(*rows: object) -> list[Ladder]:
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return read_ladders(names, path)

    (one,) = read({"id": "l1", **ROW}, {"id": "l2", **ROW, "rises": ["smug"]})
    assert one.texts == ("It is 1 days.", "It is 2 days.", "It is 5 days.")
    assert one.rises == (names.index("desperate"),)
    for bad in (
        {**ROW},
        {"id": "l1", **ROW, "values": [1, 2]},
        {"id": "x", **ROW},
        {"id": "l1", **ROW, "falls": []},
        3,
    ):
        with pytest.raises(InputError, match="line 1"):
            read(bad)
    with pytest.raises(InputError, match="no ladder"):
        read({"id": "l1", **ROW, "rises": ["smug"]})
    with pytest.raises(InputError, match="cannot be read"):
        read_ladders(names, tmp_path / "none")


def test_what_ships_is_whole() -> None:
    emotions = tuple(Atlas.open().emotion_names)
    assert [one.id for one in read_ladders(emotions)] == [f"l{i:02}" for i in range(1, 17)]
