"""Conversations as the model reads them: its own chat template, and which tokens are whose.

Where a turn starts and ends is found by rendering the conversation with marks in place of the contents: what the
template writes between the marks is then known to the letter, for any template, without a list of formats.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saefeat.errors import InputError
from saefeat.subject.model import Subject

Message = Mapping[str, str]


class Turn(NamedTuple):
    """One message in token positions, half open: [start, stop) with its markup, the content without it.

    Turns tile the rendered conversation but for what the template puts before the first (BOS, a default system
    prompt) and after the last (a generation prompt).
    """

    role: str
    start: int
    stop: int
    content_start: int
    content_stop: int


def render_chat(
    subject: Subject, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> tuple[list[int], list[Turn]]:
    """The token ids of a conversation under the model's own chat template, and its turns.

    messages: {"role", "content"} each. A token with any letter of the content counts as content; one that straddles
    two turns belongs to the first. Markup written inside a content is read as markup, as the model's own pipeline
    does. Raises InputError if the model has no chat template, or the template refuses the messages, with its reason.
    """
    tokenizer = subject.tokenizer
    _check(subject, messages)
    text = _render(subject, messages, add_generation_prompt)
    spans = _spans(subject, messages, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts, stops = zip(*encoded["offset_mapping"], strict=True)
    turns = [_turn(m["role"], span, starts, stops) for m, span in zip(messages, spans, strict=True)]
    return list(encoded["input_ids"]), turns


def _turn(role: str, span: tuple[int, int, int, int], starts: Sequence[int], stops: Sequence[int]) -> Turn:
    """A span in characters as one in tokens, given each token's first character and the one after its last."""
    start, stop, content_start, content_stop = (bisect.bisect_left(starts, character) for character in span)
    if span[2] < span[3]:  # ' Yes' after 'assistant:' is content, though its space is markup
        content_start = max(start, bisect.bisect_right(stops, span[2]))
    return Turn(role, start, stop, content_start, content_stop)


def _check(subject: Subject, messages: Sequence[Message]) -> None:
    if not subject.tokenizer.chat_template:
        raise InputError(f"{subject.name} has no chat template", do="pass plain text, or use a chat model")
    if not messages:
        raise InputError("the conversation has no messages")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise InputError("needs a role and a content, both text", where=f"message {number}")


def _render(subject: Subject, messages: Sequence[Message], generation: bool = False) -> str:
    try:
        plain: list[Any] = [dict(message) for message in messages]
        return subject.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=generation)
    except Exception as error:  # templates are programs of their own: they raise TemplateError, TypeError, …
        raise InputError(f"the chat template of {subject.name} refuses this conversation ({error})") from error


def _spans(subject: Subject, messages: Sequence[Message], text: str) -> list[tuple[int, int, int, int]]:
    """(start, stop, content start, content stop) of every message, in characters of `text`."""
    every = " ".join(message["content"] for message in messages)
    mark = next(m for m in (f"@{i}@" for i in range(10**9)) if m not in every and m not in text)
    marks = [f"{mark}{i}{mark}" for i in range(len(messages))]
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    skeleton = _render(subject, marked)
    pieces = _split(skeleton, marks)  # what the template writes before, between and after the contents
    ends = _ends(subject, marked, marks, pieces)  # how much of the piece after each content still belongs to its turn

    spans: list[tuple[int, int, int, int]] = []
    at = len(pieces[0])
    _require(text.startswith(pieces[0]), subject)
    start = at - len(_opening(subject, marked, pieces))
    for i, message in enumerate(messages):
        after = pieces[i + 1]
        # templates may trim contents; the content is the variant that the next piece of template follows
        variants = {message["content"]: None, message["content"].strip(): None, message["content"].rstrip(): None,
                    message["content"].lstrip(): None}  # fmt: skip
        fits = [c for c in variants if text.startswith(c + after, at)]
        _require(bool(fits), subject)
        content_stop = at + len(fits[0])
        stop = content_stop + ends[i]
        spans.append((start, stop, at, content_stop))
        start, at = stop, content_stop + len(after)
    return spans


def _split(skeleton: str, marks: Sequence[str]) -> list[str]:
    pieces, rest = [], skeleton
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            raise InputError("the chat template leaves out a message", do="use roles that the template knows")
        pieces.append(before)
    return [*pieces, rest]


def _ends(subject: Subject, marked: Sequence[Message], marks: Sequence[str], pieces: Sequence[str]) -> list[int]:
    """How many characters of markup close each turn: what the template writes if the conversation ends there."""
    ends = []
    for i in range(len(marked) - 1):
        closing = _split(_render(subject, marked[: i + 1]), marks[: i + 1])[-1]
        ends.append(_shared(closing, pieces[i + 1]))
    return [*ends, len(pieces[-1])]


def _opening(subject: Subject, marked: Sequence[Message], pieces: Sequence[str]) -> str:
    """The markup that opens the first turn, without BOS or a default system prompt before it.

    It is what opens a later turn of the same role. A system turn is never a later one: there BOS is taken off,
    unless it opens every turn. If the template allows neither probe, it is all before the first content.
    """
    role = marked[0]["role"]
    others = {"user": ["assistant", "user"], "system": ["user"]}.get(role, ["user", role])
    probe = [{"role": r, "content": f"@{i}@"} for i, r in enumerate([role, *others])]
    marks = [message["content"] for message in probe]
    try:
        between = _split(_render(subject, probe), marks)[-2]
        closing = _split(_render(subject, probe[:-1]), marks[:-1])[-1]
    except InputError:
        return pieces[0]
    later = between[_shared(closing, between) :]
    if role == "system":
        bos = subject.tokenizer.bos_token or ""
        return pieces[0] if later.startswith(bos) else pieces[0].removeprefix(bos)
    return later if pieces[0].endswith(later) else pieces[0]


def _shared(a: str, b: str) -> int:
    """How many characters `a` and `b` have in common at their start."""
    return next((n for n in range(min(len(a), len(b)), 0, -1) if a[:n] == b[:n]), 0)


def _require(condition: bool, subject: Subject) -> None:
    if not condition:
        raise InputError(
            f"the chat template of {subject.name} rewrites the contents of messages: turns cannot be told apart",
            do="use a model whose template keeps them",
        )
