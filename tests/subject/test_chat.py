"""Turns are whose the template says they are, to the token."""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.errors import InputError
from saefeat.subject import Subject, render_chat
from tests.tiny import CHATML, tiny_tokenizer

GEMMA = (  # BOS, trimmed contents, assistant renamed, no system
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ '<start>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<end>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
FOLDED = (  # the Llama-2 way: the system text inside the first user turn's markup, an end mark after the assistant
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}<<{{ m['content'] }}>>"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA, "plain": PLAIN, "folded": FOLDED}
TALK = [
    {"role": "user", "content": "Is the rent due?"},
    {"role": "assistant", "content": "Yes, today."},
    {"role": "user", "content": "Oh no 🙂"},
]


def with_template(tiny: Subject, template: str | None) -> Subject:
    subject = copy.copy(tiny)
    subject.tokenizer = tiny_tokenizer(chat_template=template)
    return subject


def read(subject: Subject, ids: list[int]) -> str:
    return subject.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("generation", [False, True])
def test_spans_hold_the_contents_and_ids_are_the_templates(tiny: Subject, name: str, generation: bool) -> None:
    subject = with_template(tiny, TEMPLATES[name])
    ids, turns = render_chat(subject, TALK, add_generation_prompt=generation)
    expected = subject.tokenizer.apply_chat_template(TALK, add_generation_prompt=generation)["input_ids"]
    assert ids == expected
    assert [t.role for t in turns] == ["user", "assistant", "user"]
    for turn, message in zip(turns, TALK, strict=True):
        assert read(subject, ids[turn.content_start : turn.content_stop]).strip() == message["content"]
    for turn, after in itertools.pairwise(turns):
        assert turn.stop == after.start


def test_chatml_turns_start_and_stop_at_their_markup(tiny: Subject) -> None:
    ids, turns = render_chat(tiny, TALK, add_generation_prompt=True)
    assert read(tiny, ids[: turns[0].start]) == "<|im_start|>system\nYou are a tiny model.<|im_end|>\n"
    assert read(tiny, ids[turns[0].start : turns[0].stop]) == "<|im_start|>user\nIs the rent due?<|im_end|>\n"
    assert read(tiny, ids[turns[1].start : turns[1].stop]) == "<|im_start|>assistant\nYes, today.<|im_end|>\n"
    assert read(tiny, ids[turns[2].stop :]) == "<|im_start|>assistant\n"


def test_bos_and_renamed_roles(tiny: Subject) -> None:
    subject = with_template(tiny, GEMMA)
    ids, turns = render_chat(subject, TALK)
    assert ids[: turns[0].start] == [0]
    assert read(subject, ids[turns[1].start : turns[1].stop]) == "<start>model\nYes, today.<end>\n"
    assert turns[2].stop == len(ids)


def test_a_system_turn_of_ones_own(tiny: Subject) -> None:
    ids, turns = render_chat(tiny, [{"role": "system", "content": "Be kind."}, *TALK])
    assert turns[0].start == 0
    assert read(tiny, ids[turns[0].start : turns[0].stop]) == "<|im_start|>system\nBe kind.<|im_end|>\n"


CONTENT = st.text(alphabet=st.sampled_from("ab \n.<>|@0🙂é"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(CONTENT, min_size=1, max_size=5), st.sampled_from(sorted(TEMPLATES)))
def test_turns_tile_any_conversation(tiny: Subject, contents: list[str], name: str) -> None:
    subject = with_template(tiny, TEMPLATES[name])
    messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    ids, turns = render_chat(subject, messages)
    assert ids == subject.tokenizer.apply_chat_template(messages)["input_ids"]
    edges = [edge for t in turns for edge in (t.start, t.content_start, t.content_stop, t.stop)]
    assert edges == sorted(edges)
    assert turns[-1].stop == len(ids)
    for turn, message in zip(turns, messages, strict=True):
        inside = read(subject, ids[turn.content_start : turn.content_stop])
        assert message["content"].strip() in inside
        assert (turn.content_start == turn.content_stop) == (not message["content"].strip() and not inside)


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (None, TALK, "has no chat template"),
        (CHATML, [], "no messages"),
        (CHATML, [{"role": "user"}], "message 1: needs a role and a content"),
        (GEMMA, [{"role": "system", "content": "x"}], "refuses this conversation .no system turns"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", TALK, "leaves out a message|rewrites"),
        ("{{ messages[-1]['content'] }}", TALK, "leaves out a message"),
    ],
)
def test_what_cannot_be_rendered_is_refused(
    tiny: Subject, template: str | None, messages: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        render_chat(with_template(tiny, template), messages)
