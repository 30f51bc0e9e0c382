"""Steering edits exactly the positions it names: under the cache, padding, batches, sampling and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from saefeat.causal import Decoder, Direction, Intervention, ablate, add, clamp, generate, selftest, steering
from saefeat.causal import steer as steer_module
from saefeat.causal.generate import left_padded
from saefeat.errors import InputError
from saefeat.subject import Subject, editing, render_chat
from tests.tiny import LAYOUTS, tiny_subject

PROMPTS = ["The rent was due, and nobody", "She sang.", "My sister made bread and the children were"]
LAYER, STEPS = 1, 5


@pytest.fixture(scope="module", params=LAYOUTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param, bos=request.param == "llama")


def direction(subject: Subject, *, seed: int = 0, layer: int = LAYER, sink_norm: float = 1e9) -> Direction:
    unit_D = torch.randn(subject.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(name=f"d{seed}", layer=layer, unit_D=unit_D / unit_D.norm(), norm=10.0, sink_norm=sink_norm)


def slowly(subject: Subject, prompt: str, intervention: Intervention) -> list[int]:
    """Greedy continuation of one prompt: no batch, no padding, no cache; every position edited by hand."""
    ids = [*subject.prefix_ids, *subject.tokenize(prompt)]
    P, unit_D = len(ids), intervention.direction.unit_D

    def by_hand(x_BTD: Tensor) -> Tensor:
        out_BTD = x_BTD.clone()
        for t in range(1, x_BTD.shape[1]):
            if intervention.positions == "all" or (t < P) == (intervention.positions == "prompt"):
                x_D = x_BTD[0, t]
                change = {"add": intervention.strength * 10.0, "ablate": -float(x_D @ unit_D)}
                out_BTD[0, t] = x_D + change[intervention.action] * unit_D
        return out_BTD

    with torch.inference_mode(), editing(subject.blocks, {LAYER: by_hand}):
        for _ in range(STEPS):
            ids.append(int(subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[P:]


@contextmanager
def no_hooks_left(subject: Subject) -> Iterator[None]:
    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules()]

    before = hooks()
    yield
    assert hooks() == before


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_a_padded_cached_batch_writes_what_the_slow_twin_writes(subject: Subject, positions: str) -> None:
    own = direction(subject)
    for intervention in (add(own, 1.5, positions), ablate(own, positions)):  # type: ignore[arg-type]
        with no_hooks_left(subject):
            made = generate(
                subject, PROMPTS, interventions=[intervention], tokens=STEPS, temperature=0, stop=False
            )  # fmt: skip
        for prompt, ids in zip(PROMPTS, made.ids, strict=True):
            assert list(ids) == slowly(subject, prompt, intervention)


def test_steering_changes_what_is_written(subject: Subject) -> None:
    plain = generate(subject, PROMPTS, tokens=STEPS, temperature=0, stop=False)
    steered = [
        generate(subject, PROMPTS, interventions=[add(direction(subject), 3.0, p)], tokens=STEPS, temperature=0).ids
        for p in ("prompt", "generated")
    ]
    assert plain.ids != steered[0]
    assert plain.ids != steered[1]


def test_the_models_own_generate_is_steered_alike(subject: Subject) -> None:
    """No mask_BT: the prompt is what the first cached pass holds, padding is what the attention mask says."""
    rows = [[*subject.prefix_ids, *subject.tokenize(prompt)] for prompt in PROMPTS]
    ids_BT, mask_BT = left_padded(rows, pad=3)
    for positions in ("all", "prompt", "generated"):
        interventions = [add(direction(subject), 2.0, positions)]  # type: ignore[arg-type]
        own = generate(subject, PROMPTS, interventions=interventions, tokens=STEPS, temperature=0, stop=False)
        with steering(subject, interventions):
            out_BT = subject.model.generate(
                ids_BT, attention_mask=mask_BT.long(), max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False,
                pad_token_id=3, eos_token_id=None,
            )  # fmt: skip
        assert out_BT[:, ids_BT.shape[1] :].tolist() == [list(ids) for ids in own.ids]


def test_the_selftest_passes_on_every_layout(subject: Subject) -> None:
    with no_hooks_left(subject):
        done = selftest(subject, tokens=4)
    assert done.passed, done.problems
    assert done.difference < done.tolerance


# ---------------------------------------------------------------- faults the self-test must find
def test_the_selftest_finds_a_hook_that_stops_under_the_cache(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    right = steer_module.Steering._usable

    def by_length_of_the_pass(self: steer_module.Steering, now: steer_module.Pass, x_BTD: Tensor) -> Tensor:
        return right(self, now, x_BTD) & (x_BTD.shape[1] > 1)

    monkeypatch.setattr(steer_module.Steering, "_usable", by_length_of_the_pass)
    done = selftest(tiny, tokens=4)
    assert not done.passed
    assert "'generated', 12 of" in " ".join(done.problems)
    assert "cached and uncached logits differ" in done.problems[-1]


def test_the_selftest_finds_edited_padding_and_hooks_left(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer_module.Steering, "_usable", lambda _s, _n, x_BTD: x_BTD[..., 0] == x_BTD[..., 0])
    assert "edited wrongly" in selftest(tiny, tokens=2).problems[0]
    monkeypatch.undo()
    left = []

    @contextmanager
    def forgetful(blocks: torch.nn.ModuleList, edits: dict) -> Iterator[None]:
        left.append(blocks[0].register_forward_hook(lambda *_: None))
        with editing(blocks, edits):
            yield

    monkeypatch.setattr(steer_module, "editing", forgetful)
    try:
        assert selftest(tiny, tokens=2).problems == ("something is left behind",)
    finally:
        for handle in left:
            handle.remove()


# ---------------------------------------------------------------- positions that are never edited, and turns
def edited_positions(subject: Subject, interventions: list[Intervention], ids_BT: Tensor, **settings: object) -> Tensor:
    """(B, T) which positions of one uncached pass differ from the unsteered stream after LAYER."""
    plain_BTD = subject.residuals(ids_BT, [LAYER])[LAYER]
    with steering(subject, interventions, **settings):  # type: ignore[arg-type]
        steered_BTD = subject.residuals(ids_BT, [LAYER])[LAYER]
    return (plain_BTD != steered_BTD).any(-1)


def test_first_tokens_and_sinks_stay_as_they_are_to_the_bit(tiny: Subject) -> None:
    ids_BT = torch.tensor([tiny.tokenize(PROMPTS[2])])
    norm_T = tiny.residuals(ids_BT, [LAYER])[LAYER][0].norm(dim=-1)
    sink_norm = float(norm_T[1:].median())
    got_BT = edited_positions(tiny, [add(direction(tiny, sink_norm=sink_norm), 0.5)], ids_BT)
    expected_T = norm_T <= sink_norm
    expected_T[0] = False
    assert got_BT[0].tolist() == expected_T.tolist()
    assert 0 < expected_T.sum() < len(expected_T) - 1


def test_a_mask_says_where_the_prompt_ends_without_a_cache(tiny: Subject) -> None:
    ids_BT = torch.tensor([tiny.tokenize(PROMPTS[2])])
    mask_BT = torch.ones(1, 3, dtype=torch.bool)
    T = ids_BT.shape[1]
    expected = {"prompt": [0, 1, 1] + [0] * (T - 3), "generated": [0, 0, 0] + [1] * (T - 3), "all": [0] + [1] * (T - 1)}
    for positions, row in expected.items():
        intervention = add(direction(tiny), 1.0, positions)  # type: ignore[arg-type]
        assert edited_positions(tiny, [intervention], ids_BT, mask_BT=mask_BT)[0].int().tolist() == row
        if positions != "all":
            with pytest.raises(InputError, match="cannot be told apart in a pass without a KV cache"):
                edited_positions(tiny, [intervention], ids_BT)
    assert tiny.residuals(ids_BT, [LAYER])[LAYER].isfinite().all()
    assert not tiny.blocks[LAYER]._forward_hooks


TALK = [
    {"role": "system", "content": "You sing."},
    {"role": "user", "content": "Is the rent due?"},
    {"role": "assistant", "content": "Yes, today."},
    {"role": "user", "content": "Oh no"},
]


def test_turns_are_edited_by_role_and_number_in_padded_rows(tiny: Subject) -> None:
    chats = [render_chat(tiny, talk, add_generation_prompt=True) for talk in (TALK, TALK[1:2])]
    ids_BT, mask_BT = left_padded([ids for ids, _ in chats])
    turns = [turns for _, turns in chats]
    seen: list[Tensor] = []
    wanted = {
        ("user",): [[1, 3], [0]], (1,): [[1], [1]], (-1,): [[3], [0]], ("assistant",): [[2, 4], [1]],
        ("system", 0): [[0], [0]],
    }  # fmt: skip
    for names, numbers in wanted.items():
        seen.clear()
        intervention = add(direction(tiny), 1.0, turns=names)
        with steering(
            tiny, [intervention], mask_BT=mask_BT, turns=turns, on_edit=lambda _, past, where_BT: seen.append(where_BT)
        ):
            Decoder(tiny, mask_BT).step(ids_BT)
        for row in range(2):
            offset = int((~mask_BT[row]).sum())
            expected = set()
            for number in numbers[row]:
                if number == len(turns[row]):  # the reply: from the markup that opens it
                    expected |= set(range(offset + turns[row][-1].stop, ids_BT.shape[1]))
                else:
                    turn = turns[row][number]
                    expected |= set(range(offset + turn.content_start, offset + turn.content_stop))
            assert set(seen[0][row].nonzero()[:, 0].tolist()) == expected, (names, row)
    with pytest.raises(InputError, match="no conversation"), steering(tiny, [add(direction(tiny), 1, turns=["user"])]):
        pass


def test_a_chat_is_continued_under_the_models_template(tiny: Subject) -> None:
    made = generate(tiny, TALK, tokens=4, interventions=[add(direction(tiny), 1.0, turns=["assistant"])])
    assert len(made.texts) == 1
    assert list(made.prompts[0]) == render_chat(tiny, TALK, add_generation_prompt=True)[0]
    assert len(generate(tiny, [TALK, TALK[:2], "plain"], tokens=2).texts) == 3


# ---------------------------------------------------------------- sampling, batches, threads
def test_a_text_depends_on_seed_prompt_and_sample_not_on_its_batch(tiny: Subject) -> None:
    interventions = [add(direction(tiny), 0.5)]
    settings = {"tokens": 6, "samples": 3, "temperature": 1.0, "stop": False, "interventions": interventions}
    together = generate(tiny, PROMPTS, seed=7, **settings)  # type: ignore[arg-type]
    assert generate(tiny, PROMPTS, seed=7, batch=2, **settings).ids == together.ids  # type: ignore[arg-type]
    assert generate(tiny, PROMPTS[:1], seed=7, **settings).ids == together.ids[:3]  # type: ignore[arg-type]
    assert generate(tiny, PROMPTS, seed=8, **settings).ids != together.ids  # type: ignore[arg-type]
    assert len(set(together.ids)) == 9


def test_no_strength_draws_what_the_unsteered_model_draws(tiny: Subject) -> None:
    plain = generate(tiny, PROMPTS, tokens=6, samples=2, seed=3)
    assert generate(tiny, PROMPTS, tokens=6, samples=2, seed=3, interventions=[add(direction(tiny), 0)]) == plain


def test_draws_follow_the_models_probabilities(tiny: Subject) -> None:
    ids = tiny.tokenize(PROMPTS[0])
    p_V = torch.softmax(tiny.model(torch.tensor([ids])).logits[0, -1].float() / 0.5, dim=0)
    drawn = generate(tiny, PROMPTS[0], tokens=1, samples=600, temperature=0.5, stop=False, batch=600).ids
    likeliest = int(p_V.argmax())
    share = sum(row[0] == likeliest for row in drawn) / 600
    assert abs(share - float(p_V.max())) < 4 * (0.25 / 600) ** 0.5
    only = generate(tiny, PROMPTS[0], tokens=1, samples=20, temperature=0.5, top_p=1e-6, stop=False).ids
    assert {row[0] for row in only} == {likeliest}


def test_the_models_end_ends_a_text(tiny: Subject) -> None:
    towards = tiny.parts.unembedding.weight[2].detach().float()  # the token <|im_end|>
    end = Direction(name="end", layer=2, unit_D=towards / towards.norm(), norm=100.0, sink_norm=1e9)
    made = generate(tiny, PROMPTS, tokens=4, temperature=0, interventions=[add(end, 10.0)])
    assert made.ended == (True,) * 3
    assert made.ids == ((),) * 3
    assert made.texts == ("",) * 3
    going_on = generate(tiny, PROMPTS, tokens=4, temperature=0, interventions=[add(end, 10.0)], stop=False)
    assert going_on.ids == ((2,) * 4,) * 3


def test_threads_do_not_see_each_others_interventions(tiny: Subject) -> None:
    jobs: dict[str, list[Intervention]] = {
        "plain": [], "up": [add(direction(tiny), 2.0)], "down": [add(direction(tiny), -2.0)],
        "other": [clamp(direction(tiny, seed=1, layer=0), 1.0, "generated")],
    }  # fmt: skip
    settings = {"tokens": 8, "temperature": 0.0, "stop": False}
    alone = {n: generate(tiny, PROMPTS, interventions=i, **settings).ids for n, i in jobs.items()}  # type: ignore[arg-type]
    assert len(set(alone.values())) == 4
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(4):
            if generate(tiny, PROMPTS, interventions=jobs[name], **settings).ids != alone[name]:  # type: ignore[arg-type]
                wrong.append(name)

    with no_hooks_left(tiny):
        threads = [threading.Thread(target=work, args=(name,)) for name in jobs for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_nothing_is_left_after_an_error_and_blocks_nest(tiny: Subject) -> None:
    ids_BT = torch.tensor([tiny.tokenize(PROMPTS[0])])
    plain = tiny.losses(ids_BT)
    a, b = add(direction(tiny), 1.0), add(direction(tiny, seed=1), 1.0)
    with no_hooks_left(tiny):
        with pytest.raises(RuntimeError, match="halt"), steering(tiny, [a]):
            raise RuntimeError("halt")
        assert torch.equal(tiny.losses(ids_BT), plain)
        with steering(tiny, [a, b]):
            both = tiny.losses(ids_BT)
        with steering(tiny, [a]), steering(tiny, [b]):
            torch.testing.assert_close(tiny.losses(ids_BT), both)
    assert torch.equal(tiny.losses(ids_BT), plain)
    assert not torch.equal(both, plain)


def test_a_generator_closed_elsewhere_leaves_nothing(tiny: Subject) -> None:
    def readings() -> Iterator[Tensor]:
        with steering(tiny, [add(direction(tiny), 1.0)]):
            while True:
                yield tiny.losses(torch.tensor([tiny.tokenize(PROMPTS[0])]))

    with no_hooks_left(tiny):
        running = readings()
        next(running)
        thread = threading.Thread(target=running.close)
        thread.start()
        thread.join()


def test_gradients_pass_through_an_edit(tiny: Subject) -> None:
    x_BTD = torch.randn(1, 4, tiny.d_model, requires_grad=True)
    state = steer_module.Steering([add(direction(tiny), 1.0)], torch.ones(1, 4), None, None)
    state.here.now = steer_module.Pass(0, 4, state.mask_BP)
    token = steer_module._active.set((state,))
    try:
        state.edit(LAYER)(x_BTD).sum().backward()
    finally:
        steer_module._active.reset(token)
    assert x_BTD.grad is not None
    torch.testing.assert_close(x_BTD.grad, torch.ones_like(x_BTD))


def test_what_cannot_be_done_is_said(tiny: Subject) -> None:
    with pytest.raises(InputError, match="has no layer 9"), steering(tiny, [add(direction(tiny, layer=9), 1)]):
        pass
    wide = Direction(name="wide", layer=0, unit_D=torch.ones(7), norm=1.0, sink_norm=1.0)
    with pytest.raises(InputError, match="32 wide"), steering(tiny, [add(wide, 1)]):
        pass
    with pytest.raises(InputError, match="mask of 2 rows for a pass of 3"):
        edited_positions(
            tiny, [add(direction(tiny), 1)], torch.ones(3, 4, dtype=torch.long), mask_BT=torch.ones(2, 4)
        )  # fmt: skip
    with pytest.raises(InputError, match="strength of d0 is nan"):
        add(direction(tiny), float("nan"))
    with pytest.raises(InputError, match="unknown positions"):
        add(direction(tiny), 1, "some")  # type: ignore[arg-type]
    for settings, message in (
        ({"tokens": 0}, "tokens must"), ({"samples": 0}, "samples must"), ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"), ({"tokens": 600}, "exceed the 512"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            generate(tiny, "The rent", **settings)  # type: ignore[arg-type]
    for prompt in ("", " ", []):
        with pytest.raises(InputError, match="prompt"):
            generate(tiny, prompt)


@pytest.mark.model
def test_the_selftest_passes_on_the_default_model(default_subject: Subject) -> None:
    done = selftest(default_subject)
    assert done.passed, done.problems
