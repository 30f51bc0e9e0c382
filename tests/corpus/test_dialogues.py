"""Dialogue corpora: whose turn is whose, what is refused, what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from saefeat.cli import cli
from saefeat.corpus import check_dialogues, is_dialogue_corpus, load_corpus, load_dialogues
from saefeat.errors import FormatError, InputError
from tests.tiny_atlas import EMOTIONS, TOPICS, write_dialogues


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dialogues(tmp_path / "mine")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]


def write(folder: Path, rows: list[Any]) -> None:
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_turns_belong_to_their_speakers(folder: Path) -> None:
    corpus = load_dialogues(folder, list(EMOTIONS))
    assert (corpus.emotions, corpus.topics) == (tuple(EMOTIONS), tuple(f"d{topic}" for topic in TOPICS))
    first, second, third, fourth = corpus.turns[:4]
    assert (first.speaker, first.other) == (third.speaker, third.other) == ("desperate", "joyful")
    assert (second.speaker, second.other) == (fourth.speaker, fourth.other) == ("joyful", "desperate")
    assert [turn.answered for turn in corpus.turns[:4]] == [True, True, True, False]
    assert {turn.speaker for turn in corpus.turns[-4:]} == {None}
    assert len(corpus.turns) == 4 * (12 + 3)
    write(folder, rows_of(folder)[:-1])
    assert load_dialogues(folder).fingerprint != corpus.fingerprint


def test_a_user_who_speaks_last_is_to_be_answered(folder: Path) -> None:
    write(folder, [{**row, "messages": row["messages"][:3]} for row in rows_of(folder)])
    assert all(turn.answered for turn in load_dialogues(folder).turns[:9])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"user": " "}, "has no 'user'"),
        ({"topic": 3}, "has no 'topic'"),
        ({"messages": []}, "no list of messages"),
        ({"messages": [{"role": "user", "content": "So."}]}, "in turn"),
        ({"messages": [{"role": "assistant", "content": "So."}, {"role": "user", "content": "So."}]}, "in turn"),
        ({"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "So."}]}, "without words"),
    ],
)
def test_a_malformed_dialogue_is_refused_with_its_line(folder: Path, change: dict[str, Any], what: str) -> None:
    rows = rows_of(folder)
    write(folder, [rows[0], {**rows[1], **change}])
    with pytest.raises(FormatError, match=f"line 2.*{what}"):
        load_dialogues(folder)


def test_other_emotions_and_missing_corpora_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other emotions"):
        load_dialogues(folder, ["joyful", "furious"])
    with pytest.raises(InputError, match="no such dialogue corpus"):
        load_dialogues("nowhere")
    (folder / "dialogues.jsonl").write_text("not json\n", encoding="utf-8")
    with pytest.raises(FormatError, match="line 1"):
        load_dialogues(folder)
    assert not is_dialogue_corpus("stories")
    assert not is_dialogue_corpus(tmp_path)


def test_what_is_wrong_is_found(folder: Path) -> None:
    assert check_dialogues(load_dialogues(folder)) == []
    rows = rows_of(folder)
    rows[0]["messages"][1]["content"] = "You sound desperate, you know."  # the other's emotion counts as well
    rows[1]["messages"][0] = rows[2]["messages"][0]
    rows[-1]["assistant"] = rows[-1]["user"]
    write(folder, rows)
    (folder / "neutral.jsonl").write_text(
        json.dumps({"topic": "dt01", "messages": rows[0]["messages"][:2]}), encoding="utf-8"
    )
    problems = check_dialogues(load_dialogues(folder))
    assert [p.severity for p in problems] == sorted((p.severity for p in problems), key=lambda s: s != "error")
    found = {(p.severity, p.kind) for p in problems}
    assert found == {
        ("error", "leak"), ("error", "duplicate"), ("error", "crossing"), ("warning", "balance"), ("warning", "pair"),
        ("warning", "neutral"),
    }  # fmt: skip


def test_the_dialogues_that_ship_are_crossed_and_name_nothing() -> None:
    told = CliRunner().invoke(cli, ["corpus", "check", "dialogues", "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["errors"] == 0
    corpus = load_dialogues("dialogues", load_corpus("stories").emotions)
    assert (len(corpus.dialogues), len(corpus.neutral), len(corpus.topics)) == (684, 60, 4)
