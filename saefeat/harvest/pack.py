"""Documents to full contexts: tokenised, joined, cut, without padding."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from saefeat.corpus import Document
from saefeat.errors import InputError
from saefeat.subject import Subject, render_chat

log = logging.getLogger(__name__)
T = TypeVar("T")


class Context(NamedTuple):
    """ids: a full context, prefix first. starts: (number of a document, position at which it begins), rising."""

    ids: list[int]
    starts: list[tuple[int, int]]


def pack(subject: Subject, stream: Iterable[Document], context: int) -> Iterator[Context]:
    """Contexts of exactly `context` tokens; what is left over at the end of the stream is dropped.

    Each starts with the subject's prefix (BOS, if the tokenizer has one). Between two documents in a
    context stands the end-of-text token, if the tokenizer has one. A document that does not fit goes on in the next.
    """
    prefix, separator = list(subject.prefix_ids), separator_ids(subject)
    ids, starts = list(prefix), list[tuple[int, int]]()
    for number, document in enumerate(stream):
        rest = document_ids(subject, document)
        if not rest:
            continue
        between = separator if len(ids) > len(prefix) else []
        rest = between + rest
        done = 0
        while done < len(rest):
            taken = min(context - len(ids), len(rest) - done)
            if done <= len(between) < done + taken:
                starts.append((number, len(ids) + len(between) - done))
            ids += rest[done : done + taken]
            done += taken
            if len(ids) == context:
                yield Context(ids, starts)
                ids, starts = list(prefix), []


def separator_ids(subject: Subject) -> list[int]:
    """The end-of-text token of the vocabulary, of pretraining if it is known, else of the tokenizer; [] if none."""
    known = subject.tokenizer.get_vocab().get("<|endoftext|>", subject.tokenizer.eos_token_id)
    return [] if known is None else [int(known)]


def document_ids(subject: Subject, document: Document) -> list[int]:
    """Token ids of one document without prefix; a conversation in the subject's chat template.

    Where the model has no template, or its template refuses the conversation (roles out of turn), the contents are
    joined by blank lines.
    """
    if document.messages is None:
        return subject.tokenize(document.text or "")
    try:
        ids, _ = render_chat(subject, document.messages)
    except InputError as error:
        log.debug("a conversation of %s is read as plain text: %s", document.source, error)
        return subject.tokenize("\n\n".join(message["content"] for message in document.messages))
    prefix = list(subject.prefix_ids)
    return ids[len(prefix) :] if prefix and ids[: len(prefix)] == prefix else ids


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, made in a thread up to `depth` ahead; its exception is raised here, and it ends with this."""
    waiting: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(done: bool, value: T | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put((done, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                put(False, item)
                if stop.is_set():
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)
        finally:
            close = getattr(source, "close", None)
            if close:
                close()

    thread = threading.Thread(target=work, name="saefeat-ahead", daemon=True)
    thread.start()
    try:
        while True:
            done, value = waiting.get()
            if not done:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stop.set()
        thread.join()
