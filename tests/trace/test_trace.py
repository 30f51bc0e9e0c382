"""Traces of conversations against slow twins: one turn at a time through `nearest`, one token at a time by hand."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from saefeat.atlas import Atlas
from saefeat.errors import InputError, UnknownName
from saefeat.subject import Subject, render_chat
from saefeat.trace import RunningMean, lay_out, trace
from tests.tiny import tiny_subject

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "The rent was due and nobody would answer the phone."},
    {"role": "assistant", "content": "Count the coins again, slowly."},
    {"role": "tool", "content": "coins: 3"},
    {"role": "assistant", "content": "There are three."},
    {"role": "user", "content": "We danced in the garden and laughed."},
]


@pytest.fixture(scope="module")
def chat_atlas(tiny_atlas: Atlas) -> Atlas:
    """The tiny atlas with its readout `story` in the frame of the chat template."""
    atlas = copy.copy(tiny_atlas)
    atlas.readouts = copy.deepcopy(tiny_atlas.readouts)
    atlas.readouts["story"]["frame"] = "chat"
    return atlas


def long_talk(turns: int) -> list[dict[str, str]]:
    words = "the rent was due and we laughed at the old dog beside the stove in the rain".split()
    chance = np.random.default_rng(0)
    contents = [" ".join(chance.choice(words, 12)) for _ in range(turns)]
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


# ---------------------------------------------------------------- against slow twins
def test_a_users_turn_scores_as_nearest_scores_it(chat_atlas: Atlas) -> None:
    text = TALK[1]["content"]
    (turn,) = trace(chat_atlas, [{"role": "user", "content": text}]).turns
    near = next(chat_atlas.nearest([text], readout="story", top=None))
    scores = {row["emotion"]: row["score"] for row in near["emotions"]}
    assert turn.profile is not None
    np.testing.assert_allclose(turn.profile, [scores[e] for e in chat_atlas.emotion_names], atol=1e-4)
    assert turn.stands_out == near["stands_out"]


def test_turns_and_reply_starts_are_what_one_pass_by_hand_gives(tiny_atlas: Atlas) -> None:
    found = trace(tiny_atlas, TALK)
    subject, sae = tiny_atlas.subject(), tiny_atlas.sae()
    ids, spans = render_chat(subject, TALK, add_generation_prompt=True)
    acts_TF = sae.encode(subject.residuals(torch.tensor([ids]), [sae.layer])[sae.layer][0]).numpy()
    map_ = tiny_atlas.prototypes["story"]
    for turn, span in zip(found.turns, spans, strict=True):
        x_F = np.sqrt(acts_TF[span.content_start : span.content_stop].mean(0))
        assert turn.profile is not None
        np.testing.assert_allclose(turn.profile, x_F @ map_.W_FE + map_.bias_E, atol=1e-4)
        assert subject.tokenizer.decode(ids[turn.start : turn.end]) == turn.text
    asked = {1: spans[2].content_start - 1, 3: spans[4].content_start - 1, 5: len(ids) - 1}
    for turn in found.turns:
        if turn.index not in asked:
            assert turn.reply_start is None
            continue
        want_E = np.sqrt(acts_TF[asked[turn.index]]) @ map_.W_FE + map_.bias_E
        assert turn.reply_start is not None
        np.testing.assert_allclose(turn.reply_start, want_E, atol=1e-4)
    assert (found.windows, found.n_tokens) == (1, len(ids))


def test_a_reply_start_after_a_prefix_is_the_same(tiny_atlas: Atlas) -> None:
    whole, part = trace(tiny_atlas, TALK), trace(tiny_atlas, TALK[:2])
    assert whole.turns[1].reply_start is not None
    np.testing.assert_allclose(whole.turns[1].reply_start, part.turns[1].reply_start, atol=1e-5)


def test_tokens_are_running_means_of_their_turn(tiny_atlas: Atlas) -> None:
    subject, sae, map_ = tiny_atlas.subject(), tiny_atlas.sae(), tiny_atlas.prototypes["story"]
    ids, spans = render_chat(subject, TALK, add_generation_prompt=True)
    acts_TF = sae.encode(subject.residuals(torch.tensor([ids]), [sae.layer])[sae.layer][0]).numpy()
    for smooth in (1, 3, None):
        for turn, span in zip(trace(tiny_atlas, TALK, tokens=True, smooth=smooth).turns, spans, strict=True):
            assert turn.tokens is not None
            assert turn.profile is not None
            own_TF = acts_TF[span.content_start : span.content_stop].astype(np.float64)
            mean_F = np.zeros(own_TF.shape[1])
            for t, acts_F in enumerate(own_TF):
                share = 1 / (t + 1 if smooth is None else min(t + 1, smooth))
                mean_F = share * acts_F + (1 - share) * mean_F
                want_E = np.sqrt(mean_F) @ map_.W_FE + map_.bias_E
                np.testing.assert_allclose(turn.tokens.scores_TE[t], want_E, atol=2e-4)
            assert "".join(turn.tokens.strings) == turn.text
            if smooth is None:
                np.testing.assert_allclose(turn.tokens.scores_TE[-1], turn.profile, atol=1e-4)


def test_running_mean_is_plain_then_exponential() -> None:
    smoother, rows = RunningMean(4), np.random.default_rng(0).random((9, 3))
    for t in range(4):
        np.testing.assert_allclose(smoother.add(rows[t]), rows[: t + 1].mean(0))
    before = rows[:4].mean(0)
    np.testing.assert_allclose(smoother.add(rows[4]), 0.75 * before + 0.25 * rows[4])
    with pytest.raises(InputError, match="smooth"):
        RunningMean(0)


def test_sinks_are_left_out(tiny_atlas: Atlas) -> None:
    subject, sae = tiny_atlas.subject(), tiny_atlas.sae()
    ids, spans = render_chat(subject, TALK[:2], add_generation_prompt=True)
    norm_T = subject.residuals(torch.tensor([ids]), [sae.layer])[sae.layer][0].norm(dim=1).numpy()
    own_T = norm_T[spans[1].content_start : spans[1].content_stop]
    cut = float(np.sort(own_T)[-3:-1].mean())
    atlas = copy.copy(tiny_atlas)
    strict = dataclasses.replace(sae, cfg=copy.deepcopy(sae.cfg))
    strict.cfg["metadata"]["saefeat"]["sink_norm"] = cut
    atlas._saes = {atlas.primary: strict}
    turn = trace(atlas, TALK[:2], tokens=True, smooth=None).turns[1]
    assert turn.tokens is not None
    assert turn.tokens.used_T.tolist() == (own_T <= cut).tolist()
    assert 0 < turn.tokens.used_T.sum() < len(own_T)
    np.testing.assert_allclose(turn.tokens.scores_TE[-1], turn.profile, atol=1e-4)


# ---------------------------------------------------------------- speakers
def test_the_other_is_the_latest_turn_of_who_is_spoken_with(tiny_atlas: Atlas) -> None:
    found = trace(tiny_atlas, TALK)
    assert [turn.other for turn in found.turns] == [None, None, 1, None, 1, 4]
    assert [turn.speaker for turn in found.turns] == [message["role"] for message in TALK]
    assert found.other_profile(found.turns[5]) is found.turns[4].profile
    assert found.other_profile(found.turns[0]) is None


def test_a_turn_without_content_has_no_profile(tiny_atlas: Atlas) -> None:
    found = trace(tiny_atlas, [{"role": "user", "content": ""}, {"role": "assistant", "content": "Yes?"}], tokens=True)
    assert found.turns[0].profile is None
    assert found.turns[0].stands_out is None
    assert found.turns[0].reply_start is not None
    told = found.to_dict()["turns"][0]
    assert (told["emotions"], told["tokens"]) == (None, [])


def test_templates_that_write_a_turn_otherwise_than_they_ask_for_one(tiny_atlas: Atlas) -> None:
    """As templates of thinking models do: the generation prompt opens a thought that finished turns don't hold."""
    atlas = copy.copy(tiny_atlas)
    subject = tiny_subject()
    template = subject.tokenizer.chat_template
    subject.tokenizer.chat_template = template.replace("assistant\n{% endif %}", "assistant\nSo {% endif %}")
    atlas._subject = subject
    layout = lay_out(subject, TALK)
    assert (layout.apart, list(layout.reply_at)) == ([1, 3], [5])
    whole, part = trace(atlas, TALK), trace(atlas, TALK[:2])
    assert whole.turns[1].reply_start is not None
    np.testing.assert_allclose(whole.turns[1].reply_start, part.turns[1].reply_start, atol=1e-5)


def test_a_reply_readout_with_a_continuation_gets_passes_of_its_own(tiny_atlas: Atlas) -> None:
    found = trace(tiny_atlas, TALK, reply_readout="felt")
    subject, sae, map_ = tiny_atlas.subject(), tiny_atlas.sae(), tiny_atlas.prototypes["felt"]
    ids, _ = render_chat(subject, TALK[:2], add_generation_prompt=True)
    ids = [*ids, *subject.tokenize(" In short, I feel so")]
    acts_F = sae.encode(subject.residuals(torch.tensor([ids]), [sae.layer])[sae.layer][0, -1:])[0].numpy()
    assert found.turns[1].reply_start is not None
    np.testing.assert_allclose(found.turns[1].reply_start, np.sqrt(acts_F) @ map_.W_FE + map_.bias_E, atol=1e-4)
    assert found.reply_readout == "felt"


# ---------------------------------------------------------------- long conversations
def test_long_conversations_are_read_in_windows(tiny_atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = long_talk(40)
    whole_context = trace(tiny_atlas, talk, window=512)
    longest: list[int] = []
    forward = Subject.residuals

    def watched(self: Subject, ids_BT: torch.Tensor, *rest: object) -> object:
        longest.append(ids_BT.numel())
        return forward(self, ids_BT, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "residuals", watched)
    found = trace(tiny_atlas, talk, window=96, tokens=True)
    assert max(longest) <= 96
    assert found.windows > 5
    assert len(found.turns) == 40
    assert found.n_tokens == whole_context.n_tokens > 512
    assert all(turn.profile is not None for turn in found.turns)
    assert sum(turn.reply_start is not None for turn in found.turns) == 20
    # borders: what is read in the first window is the same whatever the size of windows
    np.testing.assert_allclose(found.turns[0].profile, whole_context.turns[0].profile, atol=1e-5)
    # and nothing after a turn moves it
    part = trace(tiny_atlas, talk[:21], window=96)
    for turn, again in zip(found.turns, part.turns, strict=False):
        np.testing.assert_allclose(turn.profile, again.profile, atol=1e-4)
    with pytest.raises(InputError, match="window"):
        trace(tiny_atlas, talk, window=8)


def test_chunks_of_activations_make_no_difference(tiny_atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trace(tiny_atlas, TALK, tokens=True, smooth=3)
    monkeypatch.setattr("saefeat.trace.passes.ENCODED_ELEMENTS", 7 * 64)  # seven tokens at a time
    after = trace(tiny_atlas, TALK, tokens=True, smooth=3)
    for a, b in zip(before.turns, after.turns, strict=True):
        np.testing.assert_allclose(a.profile, b.profile, atol=1e-5)
        assert a.tokens is not None
        assert b.tokens is not None
        np.testing.assert_allclose(a.tokens.scores_TE, b.tokens.scores_TE, atol=1e-4)


# ---------------------------------------------------------------- the result
def test_emotions_are_chosen_and_ordered(tiny_atlas: Atlas) -> None:
    whole, part = trace(tiny_atlas, TALK), trace(tiny_atlas, TALK, emotions=["Joyful", "at-ease"])
    assert part.emotions == ("joyful", "at ease")
    assert part.scores("at ease") == whole.scores("at ease")
    assert part.turns[1].stands_out == whole.turns[1].stands_out
    assert whole.of(["joyful", "at ease"]).to_dict() == part.to_dict()
    with pytest.raises(UnknownName, match="joyful"):
        trace(tiny_atlas, TALK, emotions=["joyfull"])
    with pytest.raises(UnknownName, match="readout"):
        trace(tiny_atlas, TALK, readout="nope")
    with pytest.raises(InputError, match="one token"):
        trace(tiny_atlas, TALK, readout="felt")
    with pytest.raises(InputError, match="no messages"):
        trace(tiny_atlas, [])


def test_to_dict_is_json_and_ranked(tiny_atlas: Atlas) -> None:
    told = json.loads(json.dumps(trace(tiny_atlas, TALK, tokens=True).with_tokens_of(["joyful"]).to_dict(2)))
    assert [turn["role"] for turn in told["turns"]] == [message["role"] for message in TALK]
    for turn in told["turns"]:
        first, second = turn["emotions"]
        assert first["score"] >= second["score"]
        assert all(set(row["scores"]) == {"joyful"} for row in turn["tokens"])
    assert told["turns"][2]["other"]["role"] == "user"
    assert told["turns"][2]["other"]["emotions"] == told["turns"][1]["emotions"]


@pytest.mark.model
def test_the_default_model_hears_despair_rise() -> None:
    """Made-up turns, of which only the last is desperate, and two hundred turns in windows."""
    atlas = Atlas.open()
    talk = [
        {"role": "user", "content": "Could you tell me how to boil an egg so that the yolk stays soft?"},
        {"role": "assistant", "content": "Six minutes in boiling water, then cold water."},
        {"role": "user", "content": "Please, please help me. If I can't pay by tonight we lose the house and all that "
         "we have, I've tried everyone, there's nothing left, I don't know what else to do, I'll do anything."},
    ]  # fmt: skip
    first, _, last = trace(atlas, talk, emotions=["desperate"]).turns
    assert first.profile is not None
    assert last.profile is not None
    assert last.profile[0] > first.profile[0] + 1.5
    long = trace(atlas, [talk[i % 2] for i in range(200)], window=1024)
    assert (len(long.turns), long.room) == (200, 1024)
    assert long.windows > 4
