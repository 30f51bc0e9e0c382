"""Messages and dialogues with what one should expect of them, and where each is read.

Shapes: E emotions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas import Atlas
from saefeat.causal.ladders import Progress
from saefeat.causal.tables import is_odd
from saefeat.errors import InputError
from saefeat.files import shipped
from saefeat.trace import trace

Messages = list[dict[str, str]]
Generate = Callable[[Sequence[Messages]], Sequence[str]]
"""Conversations to the reply that the model gives to each."""
MESSAGE, MESSAGE_START, MESSAGE_REPLY = "message: writer", "message: start of reply", "message: generated reply"
USER, START, REPLY = "dialogue: user", "dialogue: start of reply", "dialogue: assistant"
MESSAGE_HELD, HELD = "message: writer, where the reply starts", "dialogue: user, where the reply starts"
"""What the writer, or user, should feel, read where the assistant is about to speak."""
PLACES = (MESSAGE, MESSAGE_HELD, MESSAGE_START, MESSAGE_REPLY, USER, HELD, START, REPLY)


@dataclass(frozen=True, kw_only=True)
class Message:
    """A user's message; emotions by number."""

    id: str
    text: str
    expected: tuple[int, ...]
    reply_expected: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A conversation; arc: the expected emotions of each turn, () of flat ones."""

    id: str
    messages: Messages
    arc: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Read:
    """One reading of one place: of which item, what was expected, the text there, the scores (E,)."""

    item: str
    expected: tuple[int, ...]
    text: str
    scores_E: np.ndarray

    @property
    def odd(self) -> bool:
        return is_odd(self.item)


# ---------------------------------------------------------------- what ships
def read_messages(emotions: Sequence[str], path: Path | None = None) -> list[Message]:
    """The single messages of a file (None: those that ship); emotions that the atlas does not know are left out."""

    def item(told: dict[str, Any]) -> Message:
        expected, reply = (_numbers(told[key], emotions) for key in ("expected", "reply_expected"))
        return Message(id=str(told["id"]), text=str(told["text"]), expected=expected, reply_expected=reply)

    return _items(path or shipped("corpora") / "scenarios" / "implicit.jsonl", item)


def read_dialogues(emotions: Sequence[str], path: Path | None = None) -> list[Dialogue]:
    """The dialogues of a file (None: those that ship). Raises InputError: an arc that is not one list a turn."""

    def item(told: dict[str, Any]) -> Dialogue:
        arc = tuple(_numbers(names, emotions) for names in told["arc"])
        if len(arc) != len(told["messages"]):
            raise ValueError(f"{len(told['messages'])} turns, {len(arc)} in the arc")
        return Dialogue(id=str(told["id"]), messages=told["messages"], arc=arc)

    return _items(path or shipped("corpora") / "scenarios" / "dialogues.jsonl", item)


def _numbers(names: Sequence[str], emotions: Sequence[str]) -> tuple[int, ...]:
    return tuple(emotions.index(name) for name in names if name in emotions)


def _items(path: Path, item: Callable[[dict[str, Any]], Any]) -> list[Any]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path) from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(item(json.loads(line)))
            is_odd(found[-1].id)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"is no scenario ({error})", where=f"{path} line {number}") from error
    return found


# ---------------------------------------------------------------- readings
def read_scenarios(
    atlas: Atlas,
    messages: Sequence[Message],
    dialogues: Sequence[Dialogue],
    *,
    generate: Generate | None = None,
    on_progress: Progress = None,
) -> dict[str, list[Read]]:
    """Place → readings, of those for which something is expected. generate: also read the model's own replies."""
    read: dict[str, list[Read]] = {place: [] for place in PLACES}
    done, total = 0, len(messages) + len(dialogues)

    def take(place: str, item: str, expected: tuple[int, ...], text: str, scores_E: np.ndarray | None) -> None:
        if expected and scores_E is not None:
            read[place].append(Read(item=item, expected=expected, text=text, scores_E=scores_E))

    asked = [[{"role": "user", "content": one.text}] for one in messages]
    replies = list(generate(asked)) if generate is not None and asked else [""] * len(asked)
    for one, ask, reply in zip(messages, asked, replies, strict=True):
        answered = [*ask, {"role": "assistant", "content": reply}] if reply.strip() else ask
        turns = trace(atlas, answered).turns
        take(MESSAGE, one.id, one.expected, one.text, turns[0].profile)
        take(MESSAGE_HELD, one.id, one.expected, one.text, turns[0].reply_start)
        take(MESSAGE_START, one.id, one.reply_expected, one.text, turns[0].reply_start)
        if reply.strip():
            take(MESSAGE_REPLY, one.id, one.reply_expected, reply, turns[1].profile)
        done += 1
        if on_progress:
            on_progress(done, total)
    for two in dialogues:
        found = trace(atlas, two.messages)
        for turn, expected in zip(found.turns, two.arc, strict=True):
            place = REPLY if turn.role == "assistant" else USER
            take(place, two.id, expected, turn.text, turn.profile)
            if place == USER:
                take(HELD, two.id, expected, turn.text, turn.reply_start)
            if place == REPLY and turn.index:
                before = found.turns[turn.index - 1]
                take(START, two.id, expected, before.text, before.reply_start)
        done += 1
        if on_progress:
            on_progress(done, total)
    return {place: own for place, own in read.items() if own}
