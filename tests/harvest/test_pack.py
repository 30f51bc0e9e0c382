"""Documents to contexts, against a slow twin; and the thread that works ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.corpus import Document
from saefeat.harvest import pack
from saefeat.harvest.pack import ahead, document_ids, separator_ids
from saefeat.subject import Subject, render_chat
from tests.tiny import tiny_subject

PLAIN, WITH_BOS = tiny_subject(layers=1, d_model=8), tiny_subject(layers=1, d_model=8, bos=True)
TALK = [{"role": "user", "content": "The rent was due"}, {"role": "assistant", "content": "and the wind"}]


def slow_pack(subject: Subject, texts: list[str], context: int) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token by token."""
    done, ids, starts = [], list(subject.prefix_ids), []
    for number, text in enumerate(texts):
        tokens: list[tuple[int, bool]] = [(token, i == 0) for i, token in enumerate(subject.tokenize(text))]
        if tokens and len(ids) > len(subject.prefix_ids):
            tokens = [(token, False) for token in separator_ids(subject)] + tokens
        for token, begins in tokens:
            if begins:
                starts.append((number, len(ids)))
            ids.append(token)
            if len(ids) == context:
                done.append((ids, starts))
                ids, starts = list(subject.prefix_ids), []
    return done


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=12), context=st.integers(8, 30), bos=st.booleans())
def test_packing_equals_its_slow_twin(texts: list[str], context: int, bos: bool) -> None:
    subject = WITH_BOS if bos else PLAIN
    packed = pack(subject, (Document(text, None, "x") for text in texts), context)
    assert [(c.ids, c.starts) for c in packed] == slow_pack(subject, texts, context)


def test_conversations_take_the_chat_template_and_the_prefix_once() -> None:
    ids = document_ids(PLAIN, Document(None, TALK, "x"))
    assert ids == render_chat(PLAIN, TALK)[0]
    subject = tiny_subject(layers=1, d_model=8, bos=True)
    subject.tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert document_ids(subject, Document(None, TALK, "x")) == subject.tokenize("The rent was dueand the wind")


def test_a_model_without_chat_template_reads_conversations_as_text() -> None:
    subject = tiny_subject(layers=1, d_model=8)
    subject.tokenizer.chat_template = None
    assert document_ids(subject, Document(None, TALK, "x")) == subject.tokenize("The rent was due\n\nand the wind")


def test_working_ahead_keeps_order_bounds_and_errors() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i
        raise ValueError("at the end")

    items = ahead(source(), 3)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 6
    rest = []
    with pytest.raises(ValueError, match="at the end"):
        rest.extend(items)
    assert made == list(range(100))


def test_working_ahead_ends_when_its_reader_does() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    before = threading.active_count()
    items = ahead(endless(), 2)
    next(items)
    assert threading.active_count() == before + 1
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
