"""Alerts, conversations from files, and the picture of one."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from saefeat.errors import InputError, UnknownName
from saefeat.trace import LINES, Alert, Trace, Turn, conversation_figure, fired, parse_alert, read_conversations

EMOTIONS = ("desperate", "at ease", "calm")


def made(roles: str, profiles: list[list[float] | None], replies: list[list[float] | None]) -> Trace:
    names = {"u": "user", "a": "assistant", "t": "tool"}
    turns = [
        Turn(
            role=names[role], index=i, start=0, end=1, text="x", stands_out=None, other=None,
            profile=None if profile is None else np.array(profile),
            reply_start=None if reply is None else np.array(reply),
        )
        for i, (role, profile, reply) in enumerate(zip(roles, profiles, replies, strict=True))
    ]  # fmt: skip
    told = {"readout": "turn", "reply_readout": "turn", "n_tokens": 9, "windows": 1, "room": 9}
    return Trace(turns=tuple(turns), emotions=EMOTIONS, **told)  # type: ignore[arg-type]


# ---------------------------------------------------------------- alerts
def test_alerts_are_read() -> None:
    assert parse_alert("desperate>3", EMOTIONS) == Alert(emotion="desperate", level=3.0)
    assert parse_alert(" At-Ease < -1.5 ", EMOTIONS) == Alert(emotion="at ease", level=-1.5, below=True)
    assert str(parse_alert("calm<.5", EMOTIONS)) == "calm<0.5"


@pytest.mark.parametrize("text", ["", "desperate", "desperate>", ">3", "desperate=3", "desperate>=3", "desperate>x",
                                  "desperate>3>4", "desperate>nan", "desperate>1e"])  # fmt: skip
def test_what_is_no_alert_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no alert"):
        parse_alert(text, EMOTIONS)


def test_unknown_emotions_in_alerts() -> None:
    with pytest.raises(UnknownName, match="did you mean 'desperate'"):
        parse_alert("desperat>3", EMOTIONS)


def test_alerts_fire_at_turns_and_reply_starts_of_the_role() -> None:
    found = made("uat", [[4, 0, 0], [1, 0, 0], None], [[3.5, 0, -5], None, [9, 0, 0]])
    alerts = [Alert(emotion="desperate", level=3.0)]
    places = [(hit.turn, hit.place, hit.score) for hit in fired(found, alerts)]
    assert places == [(0, "turn", 4.0), (0, "reply start", 3.5), (2, "reply start", 9.0)]
    assert [hit.place for hit in fired(found, alerts, "user")] == ["turn"]
    assert [hit.place for hit in fired(found, alerts, "assistant")] == ["reply start", "reply start"]
    assert str(fired(found, alerts)[1]) == "desperate>3 at start of the reply after turn 1 (user): 3.50"
    assert fired(found, [Alert(emotion="desperate", level=4.0)], "user") == []  # 4 is not above 4


def test_below_is_asked_of_reply_starts_only_if_they_are_comparable() -> None:
    found = made("u", [[0, 0, 0]], [[0, 0, -5]])
    low = [Alert(emotion="calm", level=-1.0, below=True)]
    assert fired(found, low) == []
    own = Trace(**{**vars(found), "reply_readout": "reply"})
    assert [hit.place for hit in fired(own, low)] == ["reply start"]


# ---------------------------------------------------------------- files
def test_conversations_come_one_a_line_or_one_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = {"id": "a", "messages": [{"role": "user", "content": "So?"}]}
    for name, content in (("one.json", json.dumps(talk, indent=2)), ("line", json.dumps(talk)),
                          ("more.jsonl", f"\n{json.dumps(talk)}\n\n{json.dumps({**talk, 'id': None})}\n")):  # fmt: skip
        path = tmp_path / name
        path.write_text("\N{BYTE ORDER MARK}" + content, encoding="utf-8")
        items = list(read_conversations(path))
        assert items[0].id == "a"
        assert items[0].messages == talk["messages"]
        assert [item.id for item in items[1:]] == (["4"] if name == "more.jsonl" else [])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        assert list(read_conversations("-")) == items


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{bad", "not JSON"),
        ('{"text": "a text"}', "no conversation"),
        ("[1]", "no conversation"),
        ('{"messages": []}', "no list of messages"),
        ('{"messages": [{"role": "user"}]}', "message 1 needs"),
        ('{"messages": [{"role": "user", "content": null}]}', "message 1 needs"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
        ('{"messages": [{"role": "user", "content": " "}]}', "without a word"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, words: str) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "So?"}]})
    path = tmp_path / "talks.jsonl"
    for lines, number in (([good, bad, good], 2), ([bad, good], 1)):
        path.write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(InputError, match=f"line {number}: .*{words}"):
            list(read_conversations(path))
        items = list(read_conversations(path, keep_going=True))
        assert [item.error is not None for item in items] == [line == bad for line in lines]
        assert f"line {number}" in str(items[number - 1].error)


def test_no_file_and_no_conversation(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_conversations(tmp_path / "none.json"))
    for nothing in (b"", b"\n \n"):
        (tmp_path / "empty").write_bytes(nothing)
        with pytest.raises(InputError, match="no conversation"):
            list(read_conversations(tmp_path / "empty"))


# ---------------------------------------------------------------- figures
def test_a_figure_has_a_panel_a_speaker_and_a_line_an_emotion(tmp_path: Path) -> None:
    found = made("uaua", [[0, 1, 2], [1, 0, 0], [3, 0, 0], None], [[0, 0, 0], None, [1, 1, 1], None])
    figure = conversation_figure(found, ["desperate", "calm"], title="A $talk")
    user, assistant = figure.axes
    lines = {line.get_label(): line for line in user.get_lines()}
    assert list(lines["desperate"].get_xdata()) == [1, 3]
    assert list(lines["desperate"].get_ydata()) == [0, 3]
    starts = [line for line in assistant.get_lines() if list(line.get_xdata()) == [1.5, 3.5]]
    assert [list(line.get_ydata()) for line in starts] == [[0, 1], [0, 1]]
    assert user.get_ylabel()
    assert assistant.get_xlabel()
    assert user.get_title("left") == "user"
    assert assistant.get_title("left").startswith("assistant")
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=str(LINES)):
        conversation_figure(found, [])


def test_every_line_has_a_look_of_its_own() -> None:
    many = tuple(f"e{i}" for i in range(LINES))
    found = Trace(**{**vars(made("u", [[0.0] * LINES], [None])), "emotions": many})
    lines = [line for line in conversation_figure(found, many).axes[0].get_lines() if line.get_label() in many]
    assert len({(line.get_color(), line.get_linestyle(), str(line._unscaled_dash_pattern)) for line in lines}) == LINES
