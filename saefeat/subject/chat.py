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

    messages: {"role", "content"} each. A token that straddles a boundary belongs to what comes before it. Raises
    InputError if the model has no chat template, or the template refuses the messages (its reason is given).
    """
    tokenizer = subject.tokenizer
    _check(subject, messages)
    text = _render(subject, messages, add_generation_prompt)
    spans = _spans(subject, messages, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = [start for start, _ in encoded["offset_mapping"]]

    def position(character: int) -> int:
        return bisect.bisect_left(starts, character)

    turns = [Turn(m["role"], *map(position, span)) for m, span in zip(messages, spans, strict=True)]
    return list(encoded["input_ids"]), turns


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
        shared = next((n for n in range(len(closing), 0, -1) if pieces[i + 1].startswith(closing[:n])), 0)
        ends.append(shared)
    return [*ends, len(pieces[-1])]


def _opening(subject: Subject, marked: Sequence[Message], pieces: Sequence[str]) -> str:
    """The markup that opens the first turn, without BOS or a default system prompt before it.

    It is what opens a later turn of the same role. If the template allows none, it is all before the content.
    """
    first = marked[0]
    if first["role"] == "system":
        return pieces[0].removeprefix(subject.tokenizer.bos_token or "")
    other = "assistant" if first["role"] == "user" else "user"
    later = [{"role": first["role"], "content": "@a@"}, {"role": other, "content": "@b@"}, {**first, "content": "@c@"}]
    try:
        between = _split(_render(subject, later), ["@a@", "@b@", "@c@"])[2]
    except InputError:
        return pieces[0]
    return next((between[n:] for n in range(len(between)) if pieces[0].endswith(between[n:])), pieces[0])


def _require(condition: bool, subject: Subject) -> None:
    if not condition:
        raise InputError(
            f"the chat template of {subject.name} rewrites the contents of messages: turns cannot be told apart",
            do="use a model whose template keeps them",
        )
