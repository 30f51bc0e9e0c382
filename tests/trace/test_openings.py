"""The present speaker and the other: readouts of dialogues at work on a conversation and while a model generates."""

import copy

import numpy as np
import pytest
import torch

from saefeat.atlas import Atlas
from saefeat.errors import InputError
from saefeat.subject import render_chat
from saefeat.trace import Monitor, reply_readout, trace, turn_readout
from tests.tiny import tiny_subject

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "The rent was due and nobody would answer the phone."},
    {"role": "assistant", "content": "Count the coins again, slowly."},
    {"role": "user", "content": "We danced in the garden and laughed."},
    {"role": "assistant", "content": "How warm the bread was."},
    {"role": "tool", "content": "coins: 3"},
    {"role": "assistant", "content": "There are three."},
    {"role": "user", "content": "The dog slept."},
]


def by_hand(atlas: Atlas, name: str, spans: list[tuple[int, int]], power: float) -> list[np.ndarray]:
    """Scores of means over positions of the rendered conversation, from one pass over everything."""
    subject, sae, map_ = atlas.subject(), atlas.sae(), atlas.prototypes[name]
    ids, _ = render_chat(subject, TALK, add_generation_prompt=True)
    acts_TF = sae.encode(subject.residuals(torch.tensor([ids]), [sae.layer])[sae.layer][0]).numpy()
    return [acts_TF[a:b].mean(0) ** power @ map_.W_FE + map_.bias_E for a, b in spans]


def test_defaults_are_the_readouts_of_dialogues(talking_atlas: Atlas, tiny_atlas: Atlas) -> None:
    assert (turn_readout(talking_atlas), reply_readout(talking_atlas)) == ("speaker", "other")
    assert (turn_readout(talking_atlas, "story"), reply_readout(talking_atlas, "story")) == ("story", "story")
    assert (turn_readout(tiny_atlas), reply_readout(tiny_atlas)) == ("story", "story")
    with pytest.raises(InputError, match="reads what opens a turn"):
        turn_readout(talking_atlas, "other")


def test_turns_and_openings_by_hand(talking_atlas: Atlas) -> None:
    found = trace(talking_atlas, TALK)
    ids, spans = render_chat(talking_atlas.subject(), TALK, add_generation_prompt=True)
    for turn, want_E in zip(
        found.turns, by_hand(talking_atlas, "speaker", [(s.content_start, s.content_stop) for s in spans], 0.5),
        strict=True,
    ):  # fmt: skip
        assert turn.profile is not None
        np.testing.assert_allclose(turn.profile, want_E, atol=1e-4)
    ends = [*(s.content_start for s in spans[1:]), len(ids)]
    openings = by_hand(talking_atlas, "other", [(s.content_stop, e) for s, e in zip(spans, ends, strict=True)], 1.0)
    for turn in found.turns:  # the assistant speaks, or is to speak, after these
        assert (turn.reply_start is not None) == (turn.index in (1, 3, 5, 7))
        if turn.reply_start is not None:
            np.testing.assert_allclose(turn.reply_start, openings[turn.index], atol=1e-4)
    heard = [turn.index for turn in found.turns if turn.heard is not None]
    assert heard == [2, 3, 4, 7]  # where the turn before is the other's
    for i in heard:
        np.testing.assert_allclose(found.turns[i].heard, openings[i - 1], atol=1e-4)
    np.testing.assert_array_equal(found.turns[2].heard, found.turns[1].reply_start)
    assert (found.readout, found.reply_readout) == ("speaker", "other")


def test_the_other_is_told_with_what_is_read_here(talking_atlas: Atlas, tiny_atlas: Atlas) -> None:
    found = trace(talking_atlas, TALK, emotions=["joyful", "furious"])
    told = found.to_dict()["turns"]
    assert [None if t["other"] is None else t["other"]["here"] is not None for t in told] == [
        None, None, True, True, True, None, False, True,
    ]  # fmt: skip
    assert told[3]["other"]["index"] == 2
    assert {row["emotion"] for row in told[3]["other"]["here"]} == {"joyful", "furious"}
    plain = trace(tiny_atlas, TALK)
    assert all(turn.heard is None for turn in plain.turns)
    assert plain.to_dict()["turns"][3]["other"]["here"] is None


def test_openings_across_windows_and_alone(talking_atlas: Atlas) -> None:
    talk = [TALK[1 + i % 2] for i in range(20)]
    whole, cut = trace(talking_atlas, talk, window=2048), trace(talking_atlas, talk, window=128)
    assert whole.windows < cut.windows
    assert [turn.heard is None for turn in whole.turns] == [turn.heard is None for turn in cut.turns]
    np.testing.assert_allclose(cut.turns[1].heard, whole.turns[1].heard, atol=1e-4)
    part = trace(talking_atlas, talk[:11], window=128)  # nothing after an opening moves it
    for turn, again in zip(cut.turns[1:11], part.turns[1:], strict=True):
        np.testing.assert_allclose(turn.heard, again.heard, atol=1e-4)


def test_an_opening_that_the_finished_turn_does_not_hold_gets_a_pass_of_its_own(talking_atlas: Atlas) -> None:
    atlas, subject = copy.copy(talking_atlas), tiny_subject()
    template = subject.tokenizer.chat_template
    subject.tokenizer.chat_template = template.replace("assistant\n{% endif %}", "assistant\nSo {% endif %}")
    atlas._subject = subject
    whole, part = trace(atlas, TALK[:4]), trace(atlas, TALK[:2])
    assert whole.turns[1].reply_start is not None
    np.testing.assert_allclose(whole.turns[1].reply_start, part.turns[1].reply_start, atol=1e-5)
    np.testing.assert_array_equal(whole.turns[2].heard, whole.turns[1].reply_start)


def test_a_monitor_reads_the_opening_where_the_prompt_ends_with_it(talking_atlas: Atlas) -> None:
    subject = talking_atlas.subject()
    prompts = [render_chat(subject, TALK[1:2], add_generation_prompt=True)[0], subject.tokenize("We laughed")]
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[3] * (longest - len(p)) + p for p in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with Monitor(talking_atlas) as monitor:
        subject.model.generate(ids_BT, attention_mask=mask_BT, max_new_tokens=3, do_sample=False, pad_token_id=3)
    first, second = (reading for reading in monitor.readings if reading.place == "reply start")
    want_E = trace(talking_atlas, TALK[1:2]).turns[0].reply_start
    np.testing.assert_allclose(list(first.scores.values()), want_E, atol=1e-4)
    assert second.scores == {}  # no chat: there is no opening
    assert any(reading.place == "token" and reading.row == 1 and reading.scores for reading in monitor.readings)
