"""A conversation as the model reads it: token ids, turns, and where the assistant is about to speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saefeat.subject import Subject, render_chat
from saefeat.subject import Turn as Span
from saefeat.trace.windows import LARGEST_HEAD, Window, windows

ASSISTANT, SYSTEM = "assistant", "system"
Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """ids: the conversation under the model's chat template, with the generation prompt if it ends on another's turn.

    spans: its turns. reply_at: {turn: position of the generation prompt's last token after it}, for every turn after
    which the assistant speaks or is to speak. apart: turns whose reply start is not in `ids`, since the template
    writes an assistant turn otherwise than it asks for one; it needs a pass of its own, over ids[: span.stop] and
    `generation`. head: tokens that every window sees.
    """

    ids: list[int]
    spans: list[Span]
    reply_at: dict[int, int]
    apart: list[int]
    generation: list[int]
    head: int

    def windows(self, room: int) -> list[Window]:
        return windows(len(self.ids), [span.start for span in self.spans], self.head, room)

    def openings(self) -> dict[int, tuple[int, int]]:
        """{turn: the positions [start, stop) of what the template writes between its content and the next}, also where
        the assistant is asked to speak after the last turn; without the turns `apart`."""
        stops = [span.content_start for span in self.spans[1:]]
        if self.reply_at.get(len(self.spans) - 1) is not None:
            stops.append(len(self.ids))
        found = {i: (span.content_stop, stop) for i, (span, stop) in enumerate(zip(self.spans, stops, strict=False))}
        return {i: place for i, place in found.items() if i not in self.apart}

    def own_pass(self, turn: int, after: Sequence[int], room: int) -> list[int]:
        """Token ids of a pass that ends on `after`, put after a turn: the head and as many tokens before as fit."""
        stop = self.spans[turn].stop
        if stop + len(after) <= room:
            return [*self.ids[:stop], *after]
        head = self.head if self.head <= LARGEST_HEAD * room else 1
        return [*self.ids[:head], *self.ids[stop - (room - head - len(after)) : stop], *after]


def lay_out(subject: Subject, messages: Sequence[Message]) -> Layout:
    """Render a conversation and find its reply starts. Raises InputError as `render_chat` does."""
    open_ended = bool(messages) and messages[-1].get("role") != ASSISTANT
    ids, spans = render_chat(subject, messages, add_generation_prompt=open_ended)
    generation = ids[spans[-1].stop :] if open_ended else _generation(subject, messages)
    reply_at, apart = {}, []
    for i, span in enumerate(spans):
        if span.role == ASSISTANT:
            continue
        if i + 1 == len(spans):
            reply_at[i] = len(ids) - 1
        elif spans[i + 1].role == ASSISTANT:
            start = spans[i + 1].content_start
            if generation and ids[span.stop : start] == generation:
                reply_at[i] = start - 1
            elif generation:
                apart.append(i)
    first = 1 if spans[0].role == SYSTEM and len(spans) > 1 else 0
    return Layout(ids=ids, spans=spans, reply_at=reply_at, apart=apart, generation=generation, head=spans[first].start)


def opening_ids(subject: Subject) -> list[int]:
    """What the template writes from the end of a user's content to where the reply starts, as token ids."""
    ids, (span,) = render_chat(subject, [{"role": "user", "content": "so"}], add_generation_prompt=True)
    return ids[span.content_stop :]


def _generation(subject: Subject, messages: Sequence[Message]) -> list[int]:
    """The generation prompt after the last turn of another than the assistant; [] if there is none."""
    others = [i for i, message in enumerate(messages) if message["role"] != ASSISTANT]
    if not others:
        return []
    ids, spans = render_chat(subject, messages[: others[-1] + 1], add_generation_prompt=True)
    return ids[spans[-1].stop :]
