"""The dose–response study: what is chosen, written, kept and gone on with; what its tables say of planted readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saefeat.atlas import Atlas, choose_readout
from saefeat.causal import (
    DoseDesign,
    add,
    best_feature,
    dose_report,
    emotion_direction,
    fit_judge,
    fluency,
    generate,
    read_by_atlas,
    read_by_judges,
    read_openings,
    read_scores,
    read_topics,
    regime,
    run_dose,
    spread_emotions,
    texts_by_cell,
    told_emotion,
    word_mask,
)
from saefeat.causal.dose import PLAIN, Arm, Cell, key, key_of
from saefeat.causal.dose_read import Judged, Reader, Topic
from saefeat.causal.dose_response import NO_TREND, NOT_FLAT, RISES, TOO_FEW, own_on_top, respond, shuffled_on_top
from saefeat.causal.judge import Judge
from saefeat.errors import InputError, UnknownName

PROMPTS = ("The rent was", "She counted the coins", "They walked to the station")
STRENGTHS = (-0.4, -0.2, 0.2, 0.4)


def design(**changes: Any) -> DoseDesign:
    given: dict[str, Any] = {
        "prompts": PROMPTS, "emotions": ("joyful", "furious"), "strengths": STRENGTHS, "tokens": 6, "randoms": 2,
        "matched": 1,
    }  # fmt: skip
    return DoseDesign(**{**given, **changes})


# ---------------------------------------------------------------- what is chosen
def test_emotions_are_spread_over_families_the_covered_ones_first() -> None:
    families = {"sad": "sad", "blue": "sad", "low": "sad", "glad": "glad", "merry": "glad", "mad": "mad"}
    assert spread_emotions(families, 4) == ["sad", "glad", "mad", "blue"]
    assert spread_emotions(families, 4, among=["merry", "low", "nonsense"]) == ["low", "merry", "sad", "glad"]
    assert set(spread_emotions(families, 99)) == set(families)
    assert spread_emotions(families, 0) == []


def test_the_default_set_is_of_as_many_families() -> None:
    atlas = Atlas.open(None)
    chosen = spread_emotions(atlas.families, 24)
    assert len(set(chosen)) == len({atlas.families[emotion] for emotion in chosen}) == 24


def test_the_openings_that_ship_name_no_emotion(tmp_path: Path) -> None:
    openings = read_openings()
    mask = word_mask(Atlas.open(None).emotion_names, [], {})
    assert len(openings) >= 12
    assert [text for text in openings if mask.search(text)] == []
    own = tmp_path / "mine.txt"
    own.write_text("One day\n\nTwo days\n", encoding="utf-8")
    assert read_openings(own) == ("One day", "Two days")
    own.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no text"):
        read_openings(own)
    chat = tmp_path / "chat.jsonl"
    chat.write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n', encoding="utf-8")
    with pytest.raises(InputError, match="no text to continue"):
        read_openings(chat)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"emotions": ()}, "no emotion"), ({"prompts": ()}, "no prompt"), ({"strengths": (0.1,)}, "two strengths"),
        ({"strengths": (0.1, 0.0)}, "two strengths"), ({"strengths": (0.1, 11.0)}, "a strength is 11"),
        ({"strengths": (0.1, float("nan"))}, "a strength is nan"), ({"samples": 0}, "samples must be"),
        ({"tokens": 0}, "tokens must be"), ({"randoms": 0}, "no control"),
    ],
)  # fmt: skip
def test_a_design_that_shows_nothing_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        design(**changes)


def test_arms_are_emotions_features_and_their_controls(tiny_atlas: Atlas) -> None:
    best = best_feature(tiny_atlas, "joyful")
    assert best == tiny_atlas.features("joyful", top=1)[0]["feature"]
    assert told_emotion(tiny_atlas, best) == (best, told_emotion(tiny_atlas, best.removeprefix("L1."))[1])
    arms = design(features=((best, "joyful"),), matched=2).arms(tiny_atlas)
    assert [(a.kind, a.name, a.own) for a in arms[:5]] == [
        ("emotion", "joyful", "joyful"), ("emotion", "furious", "furious"), ("feature", best, "joyful"),
        ("random", "random 0", None), ("random", "random 1", None),
    ]  # fmt: skip
    matched = [a for a in arms if a.kind == "matched"]
    assert best not in {a.name for a in matched}
    assert len({a.name for a in matched}) == len(matched) >= 1
    with pytest.raises(UnknownName):
        told_emotion(tiny_atlas, "L9.1")
    labelled = {int(f) for f in tiny_atlas.labels["feature"]}
    unlabelled = next((f for f in range(64) if f not in labelled), None)
    if unlabelled is not None:
        with pytest.raises(InputError, match="no emotion"):
            told_emotion(tiny_atlas, str(unlabelled))


# ---------------------------------------------------------------- what is written
def test_texts_are_those_of_steering_kept_and_gone_on_with(
    tiny_atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    plan = design()
    records, left = run_dose(tiny_atlas, plan, tmp_path, only_first=True)
    assert [r["kind"] for r in records] == ["unsteered"]
    assert left > 0

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        run_dose(tiny_atlas, plan, tmp_path, on_progress=kill)
    before = (tmp_path / "records.jsonl.gz").read_bytes()
    (tmp_path / "records.jsonl.gz").write_bytes(before[:-7])  # the kill tore the last record
    records, _ = run_dose(tiny_atlas, plan, tmp_path, on_progress=lambda *n: told.append(n))
    assert told[0] == (4, len(records))
    assert told[-1] == (len(records), len(records))
    assert [key_of(r) for r in records] == [key(cell) for cell in plan.cells(tiny_atlas)]
    assert len(records) == 1 + 4 * len(plan.arms(tiny_atlas))

    row = next(r for r in records if r["name"] == "joyful" and r["strength"] == 0.4)
    made = generate(
        tiny_atlas.subject(), list(PROMPTS), interventions=[add(emotion_direction(tiny_atlas, "joyful"), 0.4)], tokens=6
    )
    measured = fluency(tiny_atlas.subject(), made.prompts, made.ids)
    assert row["texts"] == list(made.texts)
    assert row["perplexity"] == pytest.approx(measured.perplexity, rel=1e-4)
    assert row["distinct"] == pytest.approx(measured.distinct, abs=1e-6)
    texts = texts_by_cell(records, plan.arms(tiny_atlas), plan.samples)
    plain = generate(tiny_atlas.subject(), list(PROMPTS), tokens=6)
    expected = regime(measured, fluency(tiny_atlas.subject(), plain.prompts, plain.ids))
    assert texts.regime(texts.arms[0], 0.4) == expected

    monkeypatch.setattr("saefeat.causal.dose.generate", None)  # nothing is written twice
    again, left = run_dose(tiny_atlas, plan, tmp_path)
    assert (again, left) == (records, 0)
    fewer, _ = run_dose(tiny_atlas, replace(plan, emotions=("furious",), strengths=(-0.2, 0.2), matched=0), tmp_path)
    assert [r for r in records if key_of(r) in {key_of(f) for f in fewer}] == fewer
    with pytest.raises(InputError, match="other settings \\(tokens\\)"):
        run_dose(tiny_atlas, replace(plan, tokens=7), tmp_path)


def test_a_prompt_too_long_for_the_model_is_said(tiny_atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exceed the 512"):
        run_dose(tiny_atlas, design(prompts=("word " * 600,)), tmp_path)


def test_the_atlas_reads_each_text_once(tiny_atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [
        {"kind": "unsteered", "name": "unsteered", "strength": 0.0, "texts": ["The rent was due.", " "]},
        {"kind": "emotion", "name": "joyful", "strength": 0.2, "texts": ["They danced.", "She sang."]},
    ]
    told: list[tuple[int, int]] = []
    reader = read_by_atlas(
        tiny_atlas, rows, tmp_path, tokens=6, label="atlas", on_progress=lambda *n: told.append(n)
    )  # fmt: skip
    assert told == [(1, 2), (2, 2)]
    readout = choose_readout(tiny_atlas.readouts, 6)
    slow_NE = read_scores(tiny_atlas, ["They danced.", "She sang."], readout)
    np.testing.assert_allclose(reader.scores["emotion", "joyful", 0.2], slow_NE, atol=0.0051)
    assert np.isnan(reader.scores["unsteered", "unsteered", 0.0][1]).all()
    assert not reader.independent
    calls: list[list[str]] = []
    monkeypatch.setattr(
        "saefeat.causal.dose_read.read_scores",
        lambda atlas, texts, readout: calls.append(texts) or read_scores(atlas, texts, readout),
    )
    read_by_atlas(tiny_atlas, rows, tmp_path, tokens=6, label="atlas")
    assert calls == []
    rows[1]["texts"] = ["They danced.", "He shouted."]
    read_by_atlas(tiny_atlas, rows, tmp_path, tokens=6, label="atlas")
    assert calls == [["They danced.", "He shouted."]]


# ---------------------------------------------------------------- planted readings
def embed(texts: list[str]) -> np.ndarray:
    """Counts of a few letters."""
    return np.array([[text.count(c) for c in "abcd"] + [1.0] for text in texts])


def planted_judge() -> Judge:
    texts = [letter * n + " x" for letter in "abcd" for n in range(1, 9)]
    class_N = np.repeat([0, 1, -1, -1], 8)
    return fit_judge("planted", embed(texts), class_N, ["fear", "joy"], [["afraid"], ["joyful"]])


def planted_records(
    word: Mapping[str, str], *, samples: int = 2, prompts: int = 6, broken: tuple[str, float] = ("", 0.0)
) -> tuple[list[dict[str, Any]], list[Arm]]:
    """Texts of 20 letters, of which more are the arm's own the stronger it is turned; 'c' and 'd' without steering."""
    rng = np.random.default_rng(0)
    arms = [Arm(kind="emotion", name="joyful", own="joyful"), Arm(kind="emotion", name="afraid", own="afraid"),
            Arm(kind="emotion", name="bored", own="bored")]  # fmt: skip
    arms += [Arm(kind="random", name=f"random {i}", like="joyful", seed=i) for i in range(3)]
    records = []
    for arm, strength in [(PLAIN, 0.0), *((arm, s) for arm in arms for s in STRENGTHS)]:
        texts = []
        for _ in range(samples * prompts):
            share = 0.35 + 0.7 * strength if arm.name in word else 0.3
            own = word.get(arm.name, "a" if rng.random() < 0.5 else "b")
            texts.append("".join(own if rng.random() < share else rng.choice(["c", "d"]) for _ in range(20)))
        fallen = arm.name == broken[0] and strength == broken[1]
        records.append({"kind": arm.kind, "name": arm.name, "own": arm.own, "like": arm.like, "strength": strength,
                        "texts": texts, "perplexity": 99.0 if fallen else 10.0, "distinct": 0.9})  # fmt: skip
    return records, arms


def judge_all(records: list[dict[str, Any]], arms: list[Arm], samples: int = 2) -> tuple[Any, Judged]:
    judged = read_by_judges(
        [planted_judge()], records, embed, word_mask(["nothing"], [], {}), ["joyful", "afraid", "bored"]
    )
    return texts_by_cell(records, arms, samples), judged


def test_a_planted_rise_is_found_and_nothing_else() -> None:
    records, arms = planted_records({"joyful": "b"})
    texts, judged = judge_all(records, arms)
    assert judged.reader.emotions == ("joyful", "afraid")
    joyful, afraid = (respond(texts, judged.reader, arm) for arm in arms[:2])
    assert (joyful.verdict, afraid.verdict) == (RISES, NO_TREND)
    assert joyful.p < 0.001
    assert joyful.slope.low > 0
    assert joyful.ahead.low > 0
    assert joyful.random_p > 0.01
    zero = list(joyful.strengths).index(0.0)
    assert joyful.curve[zero].value == 0
    assert joyful.curve[-1].value > joyful.curve[zero].value > joyful.curve[0].value
    with pytest.raises(ValueError, match="no reading"):
        respond(texts, judged.reader, arms[2])
    with pytest.raises(ValueError, match="no reading"):
        respond(texts, judged.reader, arms[3])


def test_a_rise_that_random_directions_share_is_not_called_one() -> None:
    records, arms = planted_records({name: "b" for name in ("joyful", "random 0", "random 1", "random 2")})
    texts, judged = judge_all(records, arms)
    found = respond(texts, judged.reader, arms[0])
    assert found.p < 0.001
    assert found.verdict == NOT_FLAT


def test_only_surgical_strengths_count() -> None:
    records, arms = planted_records({"joyful": "b"}, broken=("joyful", 0.2))
    texts, judged = judge_all(records, arms)
    found = respond(texts, judged.reader, arms[0])
    assert found.strengths[found.within_S].tolist() == [-0.4, -0.2, 0.0]
    assert texts.strongest(arms[0]) is None
    assert texts.strongest(arms[1]) == 0.4
    for row in records:
        if row["name"] == "joyful" and row["strength"] == -0.2:
            row["perplexity"] = None  # nothing was written
    texts, judged = judge_all(records, arms)
    few = respond(texts, judged.reader, arms[0])
    assert few.verdict == TOO_FEW
    assert np.isnan(few.p)


def test_a_text_that_cannot_be_read_takes_its_block_out() -> None:
    records, arms = planted_records({"joyful": "b"})
    texts, judged = judge_all(records, arms)
    whole = respond(texts, judged.reader, arms[0])
    next(r for r in records if r["name"] == "joyful" and r["strength"] == 0.4)["texts"][0] = "  "
    texts, judged = judge_all(records, arms)
    scores_NC = judged.classes[0]["emotion", "joyful", 0.4]
    assert np.isnan(scores_NC[0]).all()
    assert not np.isnan(scores_NC[1:]).any()
    part = respond(texts, judged.reader, arms[0])
    assert part.verdict == RISES
    assert part.slope.value != whole.slope.value


def test_topics_are_cosines_with_the_unsteered_text_of_the_same_block() -> None:
    records = [
        {"kind": "unsteered", "name": "unsteered", "strength": 0.0, "texts": ["aaaa", "cccc"]},
        {"kind": "emotion", "name": "joyful", "strength": 0.2, "texts": ["aaaa", "dddd"]},
    ]
    topic = read_topics(records, lambda texts: embed(list(texts))[:, :4], samples=1)
    np.testing.assert_allclose(topic.by_cell["emotion", "joyful", 0.2], [1, 0], atol=1e-12)
    assert topic.elsewhere == pytest.approx(0)


def test_whose_reading_is_on_top() -> None:
    shift_AE = np.array([[3.0, 1, 0], [3.0, 1, 0], [np.nan] * 3])
    own_AE = np.array([[True, False, False], [False, True, True], [True, True, True]])
    assert own_on_top(shift_AE, own_AE).tolist() == [True, False, False]
    rng = np.random.default_rng(0)
    noise_AE, same_AE = rng.normal(size=(30, 60)), np.eye(30, 60, dtype=bool)
    assert shuffled_on_top(noise_AE, same_AE).mean() < 0.1
    planted_AE = noise_AE + 9 * same_AE
    assert own_on_top(planted_AE, same_AE).all()
    assert shuffled_on_top(planted_AE, same_AE).mean() == pytest.approx(1 / 30, abs=0.02)


def test_the_report_says_what_was_planted() -> None:
    records, arms = planted_records({"joyful": "b", "afraid": "a"}, broken=("bored", 0.2))
    texts, judged = judge_all(records, arms)
    names = ("joyful", "afraid", "bored", "glad")
    rng = np.random.default_rng(0)
    scores = {}
    for row in records:
        counts_N3 = np.array([[t.count("b"), t.count("a"), t.count("c")] for t in row["texts"]], float)
        scores[key_of(row)] = np.concatenate([counts_N3, counts_N3[:, :1] + rng.normal(size=(12, 1)) - 1], 1)
    atlas = Reader(name="atlas", unit="letters", independent=False, emotions=names, scores=scores)
    families = {"joyful": "joyful", "glad": "joyful", "afraid": "afraid", "bored": "bored"}
    topic = Topic(by_cell={key_of(r): np.full(12, 0.8) for r in records}, elsewhere=0.3)
    found = dose_report(texts, [atlas], families, judged=judged, topic=topic)
    told = {s["id"]: s for s in found.sections}
    assert list(told) == ["dose-response", "by-judge", "by-atlas", "not-covered", "specificity", "effects", "controls",
                          "regimes", "judges"]  # fmt: skip
    summary = {r["name"]: r["values"] for r in told["dose-response"]["rows"]}
    assert summary["the independent judges"][:4] == ["2 of 3", 2, 2, 2]
    assert [r["name"] for r in told["not-covered"]["rows"]] == ["bored"]
    top = {r["name"]: r["values"] for r in told["specificity"]["rows"]}
    assert top["atlas: own family on top"][:2] == [2 / 3, "2 of 3"]  # bored has no surgical strength: not on top
    assert top["judge planted: own class on top"][0] == 1
    effects = {r["name"]: r["values"] for r in told["effects"]["rows"]}
    assert effects["joyful"][0] == "+0.4"
    assert effects["afraid"][2:5] == [1, "afraid", True]
    assert "bored" not in effects
    assert [r["name"] for r in told["controls"]["rows"]] == ["random 0", "random 1", "random 2", "emotions, median"]
    assert told["regimes"]["rows"][2]["values"][2] == "broken 9.90"
    assert set(found.figures) == {"dose-judge.png", "dose-atlas.png", "effects.png"}
    assert {s["figure"] for s in found.sections} - {None} == set(found.figures)


def test_the_report_needs_no_judge() -> None:
    records, arms = planted_records({"joyful": "b"})
    scores = {key_of(r): np.array([[t.count("b"), t.count("a"), t.count("c")] for t in r["texts"]]) for r in records}
    atlas = Reader(
        name="atlas", unit="letters", independent=False, emotions=("joyful", "afraid", "bored"), scores=scores
    )
    found = dose_report(texts_by_cell(records, arms, 2), [atlas], {})
    assert {s["id"] for s in found.sections} == {"dose-response", "by-atlas", "specificity", "effects", "controls",
                                                 "regimes"}  # fmt: skip


def test_cells_begin_with_the_unsteered_and_the_weakest(tiny_atlas: Atlas) -> None:
    cells = design().cells(tiny_atlas)
    assert cells[0] == Cell(PLAIN, 0.0)
    assert [c.strength for c in cells[1:5]] == [-0.2, 0.2, -0.4, 0.4]
