"""Readings while a model generates are those of the finished text, and nothing stays behind."""

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch

from saefeat.atlas import Atlas
from saefeat.errors import InputError, UnknownName
from saefeat.subject import render_chat
from saefeat.trace import Monitor, Reading, RunningMean, trace, turn_reader

ASK = [{"role": "user", "content": "The rent was due and nobody would answer."}]


def generated(atlas: Atlas, prompts: list[list[int]], tokens: int = 12, **options: Any) -> torch.Tensor:
    """Greedy tokens after prompts, padded on the left."""
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[3] * (longest - len(p)) + p for p in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    settings = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 3, **options}
    return atlas.subject().model.generate(ids_BT, attention_mask=mask_BT, **settings)


def by_hand(atlas: Atlas, ids: list[int], prompt: int, smooth: int | None) -> np.ndarray:
    """(T, E): scores of the tokens after the prompt, from one pass over everything without a cache."""
    reader, smoother = turn_reader(atlas), RunningMean(smooth)
    x_TD = atlas.subject().residuals(torch.tensor([ids]), [reader.sae.layer])[reader.sae.layer][0]
    rows = []
    for acts_F in reader.encode(x_TD)[prompt:]:
        rows.append(reader.scores(smoother.add(acts_F)))
    return np.array(rows)


def scores_of(readings: list[Reading]) -> np.ndarray:
    return np.array([list(reading.scores.values()) for reading in readings])


def hooks(atlas: Atlas) -> int:
    modules = atlas.subject().model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("cache", [True, False])
def test_readings_are_those_of_an_uncached_pass(tiny_atlas: Atlas, cache: bool) -> None:
    prompt, _ = render_chat(tiny_atlas.subject(), ASK, add_generation_prompt=True)
    heard: list[Reading] = []
    with Monitor(tiny_atlas, smooth=4, on_reading=heard.append) as monitor:
        ids = generated(tiny_atlas, [prompt], use_cache=cache)[0].tolist()
    assert heard == monitor.readings
    start, *tokens = monitor.readings
    assert (start.place, start.index) == ("reply start", -1)
    np.testing.assert_allclose(list(start.scores.values()), trace(tiny_atlas, ASK).turns[0].reply_start, atol=1e-4)
    assert [reading.token_id for reading in tokens] == ids[len(prompt) : -1]  # the last one was not fed back
    assert [reading.index for reading in tokens] == list(range(11))
    np.testing.assert_allclose(scores_of(tokens), by_hand(tiny_atlas, ids, len(prompt), 4)[:-1], atol=1e-4)
    assert hooks(tiny_atlas) == 0


def test_rows_of_a_batch_are_read_apart_until_they_end(tiny_atlas: Atlas) -> None:
    subject = tiny_atlas.subject()
    prompts = [render_chat(subject, ASK, add_generation_prompt=True)[0], subject.tokenize("We laughed")]
    free = generated(tiny_atlas, prompts)
    longest = max(map(len, prompts))
    end = int(free[1, longest + 3])  # let the second row end at its fourth token
    first_end = free[1, longest:].tolist().index(end)
    configuration = subject.model.generation_config
    before = configuration.eos_token_id
    configuration.eos_token_id = end
    try:
        with Monitor(tiny_atlas, emotions=["joyful"], smooth=None) as monitor:
            ids_BT = generated(tiny_atlas, prompts)
    finally:
        configuration.eos_token_id = before
    for row, prompt in enumerate(prompts):
        own = [r for r in monitor.readings if r.row == row and r.place == "token"]
        ids = ids_BT[row, longest - len(prompt) :].tolist()
        want = by_hand(tiny_atlas, ids, len(prompt), None)[:, [tiny_atlas.emotion_names.index("joyful")]]
        np.testing.assert_allclose(scores_of(own).reshape(-1, 1), want[: len(own)], atol=1e-4)
    assert len([r for r in monitor.readings if r.row == 1 and r.place == "token"]) == first_end


def test_each_call_of_generate_is_a_run(tiny_atlas: Atlas) -> None:
    prompt, _ = render_chat(tiny_atlas.subject(), ASK, add_generation_prompt=True)
    with Monitor(tiny_atlas, emotions=["desperate"]) as monitor:
        generated(tiny_atlas, [prompt], 5)
        generated(tiny_atlas, [prompt], 5)
    first, second = ([r for r in monitor.readings if r.run == run] for run in (0, 1))
    assert len(first) == len(second) == 5
    assert [r.scores for r in first] == [r.scores for r in second]


def test_threads_hear_only_themselves(tiny_atlas: Atlas) -> None:
    tiny_atlas.prototypes, tiny_atlas.sae()
    prompts = [tiny_atlas.subject().tokenize(text) for text in ("The old dog slept", "He slammed the door, a lie")]
    alone, together = [], [[], []]  # type: ignore[var-annotated]
    for prompt in prompts:
        with Monitor(tiny_atlas) as monitor:
            generated(tiny_atlas, [prompt], 8)
        alone.append(monitor.readings)

    def run(i: int) -> None:
        for _ in range(5):
            with Monitor(tiny_atlas) as monitor:
                generated(tiny_atlas, [prompts[i]], 8)
            together[i].append(monitor.readings)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(together[i]) == 5
        for readings in together[i]:
            assert [r.token_id for r in readings] == [r.token_id for r in alone[i]]
            np.testing.assert_allclose(scores_of(readings), scores_of(alone[i]), atol=1e-5)
    assert hooks(tiny_atlas) == 0


def test_an_error_in_the_callback_ends_generation_and_leaves_no_hook(tiny_atlas: Atlas) -> None:
    def refuse(reading: Reading) -> None:
        if reading.index == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), Monitor(tiny_atlas, on_reading=refuse) as monitor:
        generated(tiny_atlas, [[5, 6, 7]])
    assert len(monitor.readings) == 4
    assert hooks(tiny_atlas) == 0
    with monitor, pytest.raises(InputError, match="in use"):
        monitor.__enter__()
    assert hooks(tiny_atlas) == 0


def test_what_makes_no_sense_is_refused(tiny_atlas: Atlas) -> None:
    with pytest.raises(UnknownName, match="joyful"):
        Monitor(tiny_atlas, emotions=["joyfull"])
    with pytest.raises(InputError, match="smooth"):
        Monitor(tiny_atlas, smooth=0)


def test_a_readout_of_replies_with_a_continuation_has_no_reading_here(tiny_atlas: Atlas) -> None:
    with Monitor(copy.copy(tiny_atlas), reply_readout="felt") as monitor:
        generated(tiny_atlas, [[5, 6, 7]], 3)
    assert [reading.place for reading in monitor.readings] == ["token", "token"]


@pytest.mark.model
def test_on_the_default_model_readings_are_those_of_the_trace() -> None:
    atlas = Atlas.open(dtype="float32")
    subject = atlas.subject()
    ids, _ = render_chat(subject, ASK, add_generation_prompt=True)
    with Monitor(atlas, emotions=["desperate", "calm"], smooth=8) as monitor:
        out = subject.model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
    reply = subject.tokenizer.decode(out, skip_special_tokens=True)
    talk = [*ASK, {"role": "assistant", "content": reply}]
    tokens = trace(atlas, talk, emotions=["desperate", "calm"], tokens=True, smooth=8).turns[1].tokens
    assert tokens is not None
    heard = scores_of([r for r in monitor.readings if r.place == "token"])
    assert len(heard) >= 20
    np.testing.assert_allclose(heard, tokens.scores_TE[: len(heard)], atol=0.05)
