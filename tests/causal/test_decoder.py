"""Rows that end leave the batch; a conversation that goes on is not read anew. Both change no text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from saefeat.causal import Direction, Memory, add, generate
from saefeat.errors import InputError
from saefeat.subject import Subject
from tests.tiny import LAYOUTS, TEXT, tiny_subject

LAYER = 1
TALKS = [
    [{"role": "user", "content": "Is the rent due?"}],
    [{"role": "user", "content": "She counted the coins again, slowly."}, {"role": "assistant", "content": "Why?"}],
    [{"role": "system", "content": "You sing."}, {"role": "user", "content": "Home before the storm."}],
]
REPLIES = ["Yes, today.", "The old dog slept.", "Nothing happened for days, and then everything did."]
ON = [[*talk, {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
      for talk, text in zip(TALKS, REPLIES, strict=True)]  # fmt: skip


@pytest.fixture
def tiny() -> Subject:
    return tiny_subject("llama")


@pytest.fixture
def fed(tiny: Subject) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns) of every pass."""
    seen: list[tuple[int, int]] = []

    def note(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        B, T = kwargs["input_ids"].shape
        seen.append((B, T))

    handle = tiny.model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def direction(subject: Subject) -> Direction:
    unit_D = torch.randn(subject.d_model, generator=torch.Generator().manual_seed(3))
    return Direction(name="x", layer=LAYER, unit_D=unit_D / unit_D.norm(), norm=1.0, sink_norm=1e9)


def test_rows_that_have_ended_leave_the_batch(tiny: Subject, fed: list[tuple[int, int]]) -> None:
    plain = generate(tiny, TALKS, tokens=12, samples=4, temperature=1.0, seed=2, stop=False)
    ends = {plain.ids[row][at] for row, at in ((0, 2), (5, 0), (7, 9))}
    tiny.model.generation_config.eos_token_id = sorted(ends)
    fed.clear()
    made = generate(tiny, TALKS, tokens=12, samples=4, temperature=1.0, seed=2)
    expected = [row[: next((i for i, token in enumerate(row) if token in ends), 12)] for row in plain.ids]
    assert [list(row) for row in made.ids] == [list(row) for row in expected]
    assert made.ended == tuple(len(row) < 12 for row in expected)
    assert len({len(row) for row in expected}) > 2
    lengths = [len(row) for row in expected]
    assert [B for B, _ in fed] == [sum(n >= step for n in lengths) for step in range(12)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_made_of_the_last_column_alone_and_of_a_copy(layout: str) -> None:
    subject = tiny_subject(layout)
    seen: list[Tensor] = []
    subject.parts.unembedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    generate(subject, [TEXT[:200], TEXT[200:300]], tokens=2, stop=False)
    assert [x_BTD.shape[:2] for x_BTD in seen] == [(2, 1)] * 2
    assert all(x_BTD.is_contiguous() for x_BTD in seen)


@pytest.mark.parametrize("steered", [False, True])
def test_a_conversation_that_goes_on_is_not_read_anew(tiny: Subject, fed: list[tuple[int, int]], steered: bool) -> None:
    interventions = [add(direction(tiny), 0.8)] if steered else []
    settings = {"tokens": 5, "temperature": 1.0, "interventions": interventions}
    memory = Memory()
    first = generate(tiny, TALKS, memory=memory, seed=1, **settings)  # type: ignore[arg-type]
    assert first == generate(tiny, TALKS, seed=1, **settings)  # type: ignore[arg-type]
    fed.clear()
    second = generate(tiny, ON, memory=memory, seed=2, **settings)  # type: ignore[arg-type]
    remembered = fed[0][1]
    fed.clear()
    assert second == generate(tiny, ON, seed=2, **settings)  # type: ignore[arg-type]
    assert remembered < fed[0][1] / 2
    fed.clear()
    assert generate(tiny, ON[::-1], memory=memory, batch=2, **settings) == generate(tiny, ON[::-1], **settings)  # type: ignore[arg-type]
    assert fed[0][1] == 1  # all but the last token of either was known


def test_a_memory_is_of_one_model_under_the_same_interventions(tiny: Subject, fed: list[tuple[int, int]]) -> None:
    memory = Memory()
    generate(tiny, TALKS, tokens=3, memory=memory)
    fed.clear()
    other = [add(direction(tiny), 5.0)]
    assert generate(tiny, ON, tokens=3, memory=memory, interventions=other) == generate(
        tiny, ON, tokens=3, interventions=other
    )
    assert fed[0] == fed[3]
    with pytest.raises(InputError, match="without a memory"):
        generate(tiny, ON, memory=memory, interventions=[add(direction(tiny), 1.0, "generated")])
    with pytest.raises(InputError, match="without a memory"):
        generate(tiny, ON, memory=memory, interventions=[add(direction(tiny), 1.0, turns=["user"])])


def test_a_window_that_slides_keeps_nothing() -> None:
    subject = tiny_subject("mistral")
    subject.model.config.sliding_window = 8
    memory = Memory()
    generate(subject, TALKS, tokens=3, memory=memory)
    assert not memory.rows
    assert generate(subject, ON, tokens=3, memory=memory) == generate(subject, ON, tokens=3)
