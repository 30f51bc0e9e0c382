"""A conversation turn by turn: what each turn calls up in the model, and what is there as the assistant replies.

One pass over the whole conversation under the model's own chat template (windows for long ones, see `windows.py`).
Nothing but the conversation and the atlas enters a score, and nothing after a turn enters that turn's.
Shapes: T tokens, F features, E emotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from saefeat.atlas import Atlas
from saefeat.errors import InputError
from saefeat.trace.layout import Message, lay_out
from saefeat.trace.passes import read
from saefeat.trace.readers import RunningMean, reply_reader, turn_reader
from saefeat.trace.windows import WINDOW

LEAST_WINDOW = 32
DIGITS = 6
OTHER = {"user": "assistant", "assistant": "user"}
"""Whose emotion is the other's while one speaks; a tool or a system prompt has no other."""


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """A turn's tokens. scores_TE: float32 of `emotions`, NaN before the first token that is no sink; used_T: False at
    sinks."""

    emotions: tuple[str, ...]
    strings: tuple[str, ...]
    scores_TE: np.ndarray
    used_T: np.ndarray

    def of(self, emotions: Sequence[str]) -> TokenScores:
        """The same of these emotions only."""
        columns = [self.emotions.index(emotion) for emotion in emotions]
        return replace(self, emotions=tuple(emotions), scores_TE=self.scores_TE[:, columns])


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn: its content is tokens [start, end) of the rendered conversation.

    profile: (E,) scores of the turn's tokens together; None of a turn without a usable token. stands_out: whether the
    highest of all the atlas's emotions exceeds the highest of 95 % of flat texts (None: not known). reply_start: (E,)
    where the assistant is about to speak after this turn; None where it is not. other: index of the latest turn, up to
    here, of the one who is spoken with; None if there was none, or for tools and system prompts. heard: (E,) what is
    read where this turn opens, of the other's turn just before it; None without such a turn or a readout of openings.
    """

    role: str
    index: int
    start: int
    end: int
    text: str
    profile: np.ndarray | None
    stands_out: bool | None
    reply_start: np.ndarray | None
    other: int | None
    heard: np.ndarray | None = None
    tokens: TokenScores | None = None

    @property
    def speaker(self) -> str:
        return self.role


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A conversation's turns. emotions: what the E columns of profiles stand for; readout, reply_readout: what read
    the turns and the reply starts; n_tokens of the conversation; windows: passes it took; room: tokens a pass took."""

    turns: tuple[Turn, ...]
    emotions: tuple[str, ...]
    readout: str
    reply_readout: str
    n_tokens: int
    windows: int
    room: int
    families: Mapping[str, str] = field(default_factory=dict)
    other_weights: bool = False

    def other_profile(self, turn: Turn) -> np.ndarray | None:
        """The latest profile of the one who is spoken with, at a turn."""
        return None if turn.other is None else self.turns[turn.other].profile

    def of(self, emotions: Sequence[str]) -> Trace:
        """The same trace of these emotions only."""
        columns = np.array([self.emotions.index(emotion) for emotion in emotions], np.int64)

        def part(turn: Turn) -> Turn:
            tokens = None if turn.tokens is None else turn.tokens.of(emotions)
            profiles = (None if p is None else p[columns] for p in (turn.profile, turn.reply_start, turn.heard))
            profile, reply_start, heard = profiles
            return replace(turn, tokens=tokens, profile=profile, reply_start=reply_start, heard=heard)

        return replace(self, turns=tuple(map(part, self.turns)), emotions=tuple(emotions))

    def with_tokens_of(self, emotions: Sequence[str]) -> Trace:
        """The same trace, tokens with the scores of these emotions only."""
        turns = (replace(turn, tokens=turn.tokens and turn.tokens.of(emotions)) for turn in self.turns)
        return replace(self, turns=tuple(turns))

    def strongest(self, count: int) -> list[str]:
        """The emotions with the highest score at any turn, of each family the first, at most `count`."""
        profiles = [turn.profile for turn in self.turns if turn.profile is not None]
        if not profiles:
            return list(self.emotions[:count])
        order = np.argsort(-np.max(profiles, axis=0), kind="stable")
        by_family: dict[str, str] = {}
        for name in (self.emotions[i] for i in order):
            by_family.setdefault(self.families.get(name, name), name)
        return list(by_family.values())[:count]

    def scores(self, emotion: str, *, reply_starts: bool = False) -> list[float | None]:
        """One emotion's score by turn (or at the reply start after each); None where there is none."""
        column = self.emotions.index(emotion)
        profiles = (turn.reply_start if reply_starts else turn.profile for turn in self.turns)
        return [None if profile is None else float(profile[column]) for profile in profiles]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Plain values: {"readout", "reply_readout", "tokens", "windows", "turns": [{"index", "role", "start", "end",
        "text", "stands_out", "emotions": [{"emotion", "score", "family"}], "reply_start": the same | None, "other":
        {"index", "role", "emotions", "here"} | None, "tokens"?: [{"token", "used", "scores"}]}]}; the highest score
        first, top: at most so many (of tokens: all). other: who is spoken with; emotions of their latest turn, and
        here, as read where this turn opens (None: not right after theirs, or no readout reads it)."""
        turns = []
        for turn in self.turns:
            other: dict[str, Any] | None = None
            if turn.other is not None:
                spoken = self.turns[turn.other]
                other = {"index": spoken.index, "role": spoken.role, "emotions": self.ranked(spoken.profile, top)}
                other["here"] = self.ranked(turn.heard, top)
            row: dict[str, Any] = {
                **{key: getattr(turn, key) for key in ("index", "role", "start", "end", "text", "stands_out")},
                "emotions": self.ranked(turn.profile, top),
                "reply_start": self.ranked(turn.reply_start, top),
                "other": other,
            }
            if turn.tokens is not None:
                row["tokens"] = _token_rows(turn.tokens)
            turns.append(row)
        told = {"readout": self.readout, "reply_readout": self.reply_readout, "tokens": self.n_tokens}
        marks = {"other_weights": True} if self.other_weights else {}
        return {**told, "windows": self.windows, "turns": turns, **marks}

    def ranked(self, profile: np.ndarray | None, top: int | None = None) -> list[dict[str, Any]] | None:
        """A profile as [{"emotion", "score", "family"}], the highest first."""
        if profile is None:
            return None
        order = np.argsort(-profile, kind="stable")[:top]
        names = [self.emotions[i] for i in order]
        return [
            {"emotion": name, "score": round(float(profile[i]), DIGITS), "family": self.families.get(name)}
            for i, name in zip(order, names, strict=True)
        ]


def trace(
    atlas: Atlas,
    messages: Sequence[Message],
    *,
    emotions: Sequence[str] | None = None,
    tokens: bool = False,
    smooth: int | None = 1,
    readout: str | None = None,
    reply_readout: str | None = None,
    window: int = WINDOW,
) -> Trace:
    """Read a conversation of {"role", "content"} messages.

    emotions: which, in this order; None: all of the atlas. tokens: scores of each token as well, each of a running
    mean over its turn of about `smooth` tokens (`RunningMean`: 1 the token alone, None the turn so far). readout: of
    turns; None: the atlas's 'turn', else its first. reply_readout: of reply starts; None: one made for them, else that
    of turns. window: tokens a pass takes. See `readers.py` for what scores mean.

    Raises UnknownName (emotion, readout), InputError: no messages, no chat template, or one that refuses them.
    """
    if window < LEAST_WINDOW:
        raise InputError(f"window must be at least {LEAST_WINDOW} tokens, not {window}")
    names = tuple(dict.fromkeys(atlas.emotion_name(e) for e in emotions)) if emotions is not None else None
    columns = np.array([atlas.emotion_names.index(e) for e in names or atlas.emotion_names], np.int64)
    reader, replies = turn_reader(atlas, readout), reply_reader(atlas, reply_readout)
    subject = atlas.subject()
    layout, room = lay_out(subject, messages), min(window, subject.context)
    smoother = RunningMean(smooth) if tokens else None
    pooled, reply_EN, n_passes = read(atlas, layout, room, reader, replies, smoother)
    latest: dict[str, int] = {}
    turns = []
    for i, (span, message) in enumerate(zip(layout.spans, messages, strict=True)):
        latest[span.role] = i
        scores_E, token_scores = pooled[i]
        reply_E = reply_EN.get(i) if i in layout.reply_at or i in layout.apart else None
        heard_E = None
        if i and replies.opens and layout.spans[i - 1].role == OTHER.get(span.role):
            heard_E = reply_EN.get(i - 1)
        stands_out = None
        if scores_E is not None and reader.stands_out is not None:
            stands_out = bool(scores_E.max() > reader.stands_out)
        own = None
        if token_scores is not None:
            strings = tuple(subject.token_strings(layout.ids[span.content_start : span.content_stop]))
            own = TokenScores(
                emotions=names or atlas.emotion_names,
                strings=strings,
                scores_TE=token_scores[0][:, columns],
                used_T=token_scores[1],
            )
        turns.append(
            Turn(
                role=span.role,
                index=i,
                start=span.content_start,
                end=span.content_stop,
                text=message["content"],
                profile=None if scores_E is None else scores_E[columns],
                stands_out=stands_out,
                reply_start=None if reply_E is None else reply_E[columns],
                other=latest.get(OTHER.get(span.role, "")),
                heard=None if heard_E is None else heard_E[columns],
                tokens=own,
            )
        )
    return Trace(
        turns=tuple(turns),
        emotions=names or atlas.emotion_names,
        readout=reader.config.name,
        reply_readout=replies.config.name,
        n_tokens=len(layout.ids),
        windows=n_passes,
        room=room,
        families=atlas.families,
        other_weights=atlas.other_weights,
    )


def _token_rows(tokens: TokenScores) -> list[dict[str, Any]]:
    rows = []
    for string, scores_E, used in zip(tokens.strings, tokens.scores_TE, tokens.used_T, strict=True):
        pairs = zip(tokens.emotions, scores_E, strict=True)
        scores = None if np.isnan(scores_E).any() else {e: round(float(score), DIGITS) for e, score in pairs}
        rows.append({"token": string, "used": bool(used), "scores": scores})
    return rows
