"""Scenarios: hits, constant answers and shuffles by hand, and the study on a made-up atlas."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saefeat.atlas import Atlas
from saefeat.causal import Dialogue, Message, read_dialogues, read_messages, study_scenarios
from saefeat.causal.scenario_items import HELD, MESSAGE_HELD, MESSAGE_REPLY, PLACES, REPLY, START, USER, read_scenarios
from saefeat.causal.scenario_states import excess
from saefeat.causal.scenarios import CONSTANT, OWN, SHUFFLED, best_constant, hits, shuffled_hits
from saefeat.errors import InputError
from saefeat.trace import trace

MESSAGES = [
    Message(id=f"s{i}", text=text, expected=(i % 4,), reply_expected=((i + 1) % 4,))
    for i, text in enumerate(("The rent was due.", "We danced.", "The dog slept.", "He slammed the door."), 1)
]
DIALOGUES = [
    Dialogue(
        id=f"d{i}",
        messages=[{"role": ("user", "assistant")[t % 2], "content": f"{text} {t}"} for t in range(4)],
        arc=((0,), (1,), (), (2, 3)),
    )
    for i, text in enumerate(("The rent was due", "They sang"), 1)
]


def test_hits_by_hand() -> None:
    scores_NE = np.array([[3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    assert hits(scores_NE, [(1,), (0, 1)], first=1).tolist() == [False, False]
    assert hits(scores_NE, [(1,), (0, 1)], first=2).tolist() == [True, True]


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple), min_size=1, max_size=12))
def test_the_best_constant_is_nearly_the_best_of_all(expected: list[tuple[int, ...]]) -> None:
    def hit(chosen: Sequence[int]) -> int:
        return sum(bool({*own} & {*chosen}) for own in expected)

    best = max(hit(chosen) for chosen in itertools.combinations(range(7), 2))
    mine = best_constant(expected, first=2)
    assert len(mine) == min(2, len({e for own in expected for e in own}))
    assert hit(mine) >= 0.75 * best  # greedy cover is at least 1 - (1 - 1/2)²


def test_the_best_constant_beats_the_commonest() -> None:
    expected = [(0, 1)] * 3 + [(2,)] * 2  # the two commonest are 0 and 1, which hit the same three
    assert set(best_constant(expected, first=2)) in ({0, 2}, {1, 2})


def test_shuffles_average_over_all_pairings() -> None:
    scores_NE = np.eye(3)
    expected = [(0,), (1,), (2,)]
    # each of three expectations meets each reading equally often, and hits one of them
    assert shuffled_hits(scores_NE, [(e,) for (e,) in expected], 0, 3000).mean() > 0.9  # five of three take in all
    far_NE = np.eye(20)
    share = shuffled_hits(far_NE - 1e-6 * np.arange(20), [(i,) for i in range(20)], 0, 2000).mean()
    # reading i names i and the first four others: those hit whoever expects them
    want = np.mean([[j in [i, *[k for k in range(20) if k != i][:4]] for j in range(20)] for i in range(20)])
    assert abs(share - want) < 0.01


def test_excess_leaves_the_message_itself_out() -> None:
    scores_NE = np.array([[4.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(excess(scores_NE, [(0,), (1,), (0, 1)]), [3.0, 0.0, ((1 - 2.5) + (2 - 0.5)) / 2])


# ---------------------------------------------------------------- readings
def test_places_are_those_of_the_trace(tiny_atlas: Atlas) -> None:
    read = read_scenarios(tiny_atlas, MESSAGES[:1], DIALOGUES[:1], generate=lambda asked: ["Count the coins."])
    assert tuple(read) == PLACES
    found = trace(tiny_atlas, DIALOGUES[0].messages)
    assert [r.expected for r in read[USER]] == [(0,)]  # the flat turn is left out
    assert [r.expected for r in read[REPLY]] == [r.expected for r in read[START]] == [(1,), (2, 3)]
    np.testing.assert_array_equal(read[REPLY][1].scores_E, found.turns[3].profile)
    np.testing.assert_array_equal(read[START][1].scores_E, found.turns[2].reply_start)
    np.testing.assert_array_equal(read[HELD][0].scores_E, found.turns[0].reply_start)
    assert [r.expected for r in read[HELD]] == [r.expected for r in read[USER]]
    assert [r.expected for r in read[MESSAGE_HELD]] == [MESSAGES[0].expected]
    assert read[START][1].text == DIALOGUES[0].messages[2]["content"]
    talk = [{"role": "user", "content": MESSAGES[0].text}, {"role": "assistant", "content": "Count the coins."}]
    np.testing.assert_array_equal(read[MESSAGE_REPLY][0].scores_E, trace(tiny_atlas, talk).turns[1].profile)
    assert MESSAGE_REPLY not in read_scenarios(tiny_atlas, MESSAGES[:1], [], generate=lambda asked: [" "])


def test_the_study_on_a_tiny_atlas(tiny_atlas: Atlas) -> None:
    seen: list[tuple[int, int]] = []
    study = study_scenarios(
        tiny_atlas,
        MESSAGES,
        DIALOGUES,
        generate=lambda asked: [f"Reply {i}." for i in range(len(asked))],
        scorer=lambda texts: np.zeros((len(texts), 4)),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (6, 6)
    sections = {s["id"]: s for s in study.results["sections"]}
    assert len(sections) == 8 + 3
    assert "'story'" in study.results["sections"][0]["notes"][-1]
    rows = {row["name"]: row["values"] for row in sections["dialogue-user"]["rows"]}
    assert rows[OWN][0] == 1.0  # four emotions: the first five take in all; one even dialogue: no interval
    assert rows[CONSTANT][1] is None
    assert {CONSTANT, SHUFFLED, "sentence embeddings"} <= set(rows)
    assert len(sections["message-by-message"]["rows"]) == 4
    assert [row["values"] for row in sections["replies"]["rows"]] == [[f"Reply {i}."] for i in range(4)]
    assert len(study.figure.axes[0].get_yticklabels()) == 8
    for table in sections.values():
        assert all(len(row["values"]) == len(table["columns"]) == len(table["units"]) for row in table["rows"])
    odd = study_scenarios(tiny_atlas, MESSAGES, DIALOGUES, ids="odd")
    assert all("even" not in column for s in odd.results["sections"] for column in s["columns"])
    assert {r.item for own in odd.read.values() for r in own} == {"s1", "s3", "d1"}
    with pytest.raises(InputError, match="odd"):
        study_scenarios(tiny_atlas, MESSAGES[1:2], [], ids="odd")


def test_scenarios_are_read_and_checked(tmp_path: Path) -> None:
    path, emotions = tmp_path / "x.jsonl", ("sad", "calm")
    good = {"id": "d1", "messages": [{"role": "user", "content": "So."}], "arc": [["sad", "unknown"]]}
    path.write_text(json.dumps(good), encoding="utf-8")
    assert read_dialogues(emotions, path)[0].arc == ((0,),)
    for bad in ({**good, "arc": []}, {**good, "id": "d"}, {"id": "d1"}, []):
        path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}", encoding="utf-8")
        with pytest.raises(InputError, match="line 2"):
            read_dialogues(emotions, path)
    path.write_text(
        json.dumps({"id": "s1", "text": "So.", "expected": ["calm"], "reply_expected": []}), encoding="utf-8"
    )
    assert read_messages(emotions, path) == [Message(id="s1", text="So.", expected=(1,), reply_expected=())]
    with pytest.raises(InputError, match="cannot be read"):
        read_messages(emotions, tmp_path / "none")


def test_what_ships_is_whole() -> None:
    emotions = tuple(Atlas.open().emotion_names)
    assert len(read_messages(emotions)) == 48
    assert all(one.expected and one.reply_expected for one in read_messages(emotions))
    talks = read_dialogues(emotions)
    assert len(talks) == 30
    assert all(any(own) for own in zip(*(talk.arc[:2] for talk in talks), strict=True))
