"""Alerts on a conversation: 'desperate>3' fires at every turn, or start of a reply, where it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from saefeat.corpus import emotion_name
from saefeat.errors import InputError
from saefeat.trace.layout import ASSISTANT
from saefeat.trace.trace import DIGITS, Trace

EXPRESSION = re.compile(r"\s*(?P<emotion>[^<>=]*[^<>=\s])\s*(?P<sign>[<>])\s*(?P<level>[-+]?(?:\d+\.?\d*|\.\d+))\s*")
Who = Literal["user", "assistant", "any"]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """`emotion` above (or, with below, below) `level`."""

    emotion: str
    level: float
    below: bool = False

    def fires(self, score: float) -> bool:
        return score < self.level if self.below else score > self.level

    def __str__(self) -> str:
        return f"{self.emotion}{'<' if self.below else '>'}{self.level:g}"


@dataclass(frozen=True, kw_only=True)
class Fired:
    """An alert that fired at a turn, or at the start of the reply after it."""

    alert: Alert
    turn: int
    role: str
    place: Literal["turn", "reply start"]
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values; turn counts from 0."""
        score = round(self.score, DIGITS)
        return {"alert": str(self.alert), "turn": self.turn, "role": self.role, "place": self.place, "score": score}

    def __str__(self) -> str:
        after = "" if self.place == "turn" else "start of the reply after "
        return f"{self.alert} at {after}turn {self.turn + 1} ({self.role}): {self.score:.2f}"


def parse_alert(text: str, emotions: Sequence[str]) -> Alert:
    """'desperate>3', 'at-ease < -1.5'. Raises InputError (not so written), UnknownName (emotion)."""
    match = EXPRESSION.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no alert", do="write it like 'desperate>3' or 'calm<-1'")
    emotion = emotion_name(match["emotion"], emotions)
    return Alert(emotion=emotion, level=float(match["level"]), below=match["sign"] == "<")


def fired(trace: Trace, alerts: Iterable[Alert], who: Who = "any") -> list[Fired]:
    """What fires, in order of turns. who: whose turns; the start of a reply is the assistant's.

    Under a readout made for turns, scores of reply starts lie lower than those of turns (see `readers.py`): there only
    '>' is asked, else every '<' would fire.
    """
    alerts = list(alerts)
    comparable = trace.reply_readout != trace.readout
    found = []
    for turn in trace.turns:
        places: tuple[tuple[Literal["turn", "reply start"], str, np.ndarray | None], ...] = (
            ("turn", turn.role, turn.profile),
            ("reply start", ASSISTANT, turn.reply_start),
        )
        for place, role, profile in places:
            if profile is None or (who != "any" and role != who):
                continue
            for alert in alerts:
                score = float(profile[trace.emotions.index(alert.emotion)])
                if alert.fires(score) and (place == "turn" or comparable or not alert.below):
                    found.append(Fired(alert=alert, turn=turn.index, role=turn.role, place=place, score=score))
    return found
