"""The subject reads the streams the model computes, stops early, and does not care about padding or batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.errors import InputError, ModelMismatch
from saefeat.subject import Fingerprint, Subject, reading
from tests.tiny import LAYOUTS, tiny_subject, tiny_tokenizer

TEXT = "The rent was due, and nobody in the garden laughed."
PATHS = {
    "llama": "model.layers", "qwen2": "model.layers", "mistral": "model.layers", "gemma3": "model.layers",
    "gpt2": "transformer.h", "neox": "gpt_neox.layers", "opt": "model.decoder.layers", "phi": "model.layers",
}  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param)


def ids_of(subject: Subject, *texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (B, T) ids and mask."""
    rows = [subject.tokenize(text) for text in texts]
    longest = max(map(len, rows))
    ids_BT = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
    mask_BT = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return ids_BT, mask_BT


def test_the_blocks_are_found_by_structure(subject: Subject) -> None:
    layout = subject.name.removeprefix("tiny-")
    assert subject.hook_point(2) == f"{PATHS[layout]}.2"
    assert subject.model.get_submodule(subject.hook_point(2)) is subject.blocks[2]
    assert (subject.n_layers, subject.d_model, subject.n_vocab, subject.context) == (3, 32, 512, 512)


def test_residuals_are_what_the_model_itself_reports(subject: Subject) -> None:
    ids_BT, _ = ids_of(subject, TEXT)
    x = subject.residuals(ids_BT, [0, 1])
    hidden = subject.model(ids_BT, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        torch.testing.assert_close(x[layer], hidden[layer + 1], rtol=1e-5, atol=1e-5)
    assert list(x) == [0, 1]


def test_the_last_layer_is_read_before_the_final_norm(subject: Subject) -> None:
    ids_BT, _ = ids_of(subject, TEXT)
    x_BTD = subject.residuals(ids_BT, [2])[2]
    normed_BTD = subject.model.base_model(ids_BT).last_hidden_state
    assert subject.parts.final_norm is not None
    torch.testing.assert_close(subject.parts.final_norm(x_BTD), normed_BTD, rtol=1e-4, atol=1e-4)


def test_nothing_runs_after_the_last_layer_asked_for(subject: Subject) -> None:
    ran: list[str] = []
    watched = {
        "block 1": subject.blocks[1],
        "block 2": subject.blocks[2],
        "norm": subject.parts.final_norm,
        "head": subject.parts.unembedding,
    }
    before = [len(block._forward_hooks) for block in subject.blocks]
    hooks = [m.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, m in watched.items() if m is not None]
    try:
        subject.residuals(ids_of(subject, TEXT)[0], [1, 0])
        assert ran == ["block 1"]
        ran.clear()
        subject.residuals(ids_of(subject, TEXT)[0], [2])
        assert ran == ["block 1", "block 2"]  # neither the norm nor the head
    finally:
        for hook in hooks:
            hook.remove()
    assert [len(block._forward_hooks) for block in subject.blocks] == before


def test_padding_and_neighbours_change_nothing(subject: Subject) -> None:
    texts = ["She sang.", TEXT, "In short, I feel so"]
    ids_BT, mask_BT = ids_of(subject, *texts)
    together = subject.residuals(ids_BT, [2], mask_BT)[2]
    losses_BT = subject.losses(ids_BT, mask_BT)
    for row, text in enumerate(texts):
        alone_BT, _ = ids_of(subject, text)
        n = alone_BT.shape[1]
        x_TD = subject.residuals(alone_BT, [2])[2][0]
        torch.testing.assert_close(together[row, :n], x_TD, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(losses_BT[row, : n - 1], subject.losses(alone_BT)[0], rtol=1e-4, atol=1e-4)
        assert losses_BT[row, n - 1 :].isnan().all()


def test_losses_are_the_cross_entropy_of_the_models_logits(subject: Subject) -> None:
    ids_BT, _ = ids_of(subject, TEXT)
    logits_TV = subject.model(ids_BT).logits[0, :-1].float()
    slow = -logits_TV.log_softmax(-1)[torch.arange(len(logits_TV)), ids_BT[0, 1:]]
    torch.testing.assert_close(subject.losses(ids_BT)[0], slow, rtol=1e-4, atol=1e-4)


def test_an_edit_replaces_what_the_next_block_sees(subject: Subject) -> None:
    ids_BT, _ = ids_of(subject, TEXT)
    clean = subject.losses(ids_BT)
    torch.testing.assert_close(subject.losses(ids_BT, edits={1: lambda x: x.double()}), clean)
    x_BTD = subject.residuals(ids_BT, [1])[1]
    seen: list[torch.Tensor] = []
    edited = subject.losses(ids_BT, edits={0: torch.zeros_like, 1: lambda x: (seen.append(x), x_BTD)[1]})
    assert not torch.allclose(seen[0], x_BTD)
    torch.testing.assert_close(edited, clean)  # block 1's output put back: the edit of block 0 has no other way
    assert not torch.allclose(subject.losses(ids_BT, edits={1: torch.zeros_like}), clean)


def test_unembed_ranks_words_as_the_model_does_for_its_own_stream(subject: Subject) -> None:
    ids_BT, _ = ids_of(subject, TEXT)
    x_ND = subject.residuals(ids_BT, [2])[2][0]
    norm, head = subject.parts.final_norm, subject.parts.unembedding
    assert norm is not None
    zero_D = torch.zeros(1, 32)
    offset_V = head(norm(zero_D))  # what norm and head add by themselves: a direction does not carry it
    slow_NV = head(norm(x_ND)) - offset_V
    fast_NV = subject.unembed(x_ND)
    scale_N1 = (slow_NV * fast_NV).sum(1, keepdim=True) / (fast_NV * fast_NV).sum(1, keepdim=True)
    assert (scale_N1 > 0).all()
    torch.testing.assert_close(slow_NV, fast_NV * scale_N1, rtol=1e-3, atol=1e-3)


def test_the_head_in_pieces_is_the_head(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    ids_BT, _ = ids_of(tiny, TEXT, TEXT[4:])
    x_ND = tiny.residuals(ids_BT, [2])[2][0]
    whole = tiny.losses(ids_BT), tiny.unembed(x_ND)
    monkeypatch.setattr("saefeat.subject.model.HEAD_ELEMENTS", 3 * 512)
    torch.testing.assert_close(tiny.losses(ids_BT), whole[0])
    torch.testing.assert_close(tiny.unembed(x_ND), whole[1])


def test_hooks_go_away_after_an_error() -> None:
    tiny = tiny_subject()
    with pytest.raises(RuntimeError, match="boom"), reading(tiny.blocks, [0]):
        raise RuntimeError("boom")

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        tiny.losses(ids_of(tiny, TEXT)[0], edits={1: fail})
    assert not any(block._forward_hooks for block in tiny.blocks)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_out_of_range_is_refused(tiny: Subject, layer: int) -> None:
    ids_BT, _ = ids_of(tiny, TEXT)
    for ask in (
        lambda: tiny.check_layer(layer),
        lambda: tiny.hook_point(layer),
        lambda: tiny.residuals(ids_BT, [layer]),
        lambda: tiny.losses(ids_BT, edits={layer: torch.zeros_like}),
    ):
        with pytest.raises(InputError, match=f"no layer {layer}; use 0 to 2"):
            ask()


def test_bad_batches_are_refused(tiny: Subject) -> None:
    with pytest.raises(InputError, match="more than the 512"):
        tiny.residuals(torch.zeros(1, 513, dtype=torch.long), [0])
    with pytest.raises(InputError, match="pad on the right"):
        tiny.residuals(torch.zeros(1, 3, dtype=torch.long), [0], torch.tensor([[False, True, True]]))
    with pytest.raises(InputError, match="was expected"):
        tiny.residuals(torch.zeros(4, dtype=torch.long), [0])


# ---------------------------------------------------------------- tokens
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_token_strings_join_to_the_text(tiny: Subject, text: str) -> None:
    ids = tiny.tokenize(text)
    strings = tiny.token_strings(ids)
    assert len(strings) == len(ids)
    if not any(special in text for special in ("<|endoftext|>", "<|im_", "<pad>")):
        assert "".join(strings) == text


def test_token_strings_keep_spaces_and_whole_characters(tiny: Subject) -> None:
    strings = tiny.token_strings(tiny.tokenize("the rent 🙂 е"))
    assert " rent" in strings
    assert "🙂" in strings
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in strings)
    assert tiny.token_strings([]) == []


def test_a_token_that_is_no_whole_character_is_shown_as_such(tiny: Subject) -> None:
    ids = tiny.tokenize("🙂")
    assert len(ids) > 1
    assert tiny.token_strings(ids[:1]) == ["\N{REPLACEMENT CHARACTER}"]


def test_prefix_ids_are_what_the_tokenizer_puts_first(tiny: Subject) -> None:
    with_bos = tiny_subject(bos=True)
    assert (tiny.prefix_ids, with_bos.prefix_ids) == ((), (0,))
    assert with_bos.tokenize(TEXT) == tiny.tokenize(TEXT)


# ---------------------------------------------------------------- identity
def test_a_fingerprint_tells_models_apart() -> None:
    base, same, other = tiny_subject(), tiny_subject(), tiny_subject(seed=1)
    wider, bos = tiny_subject(d_model=64), tiny_subject(bos=True)
    assert base.fingerprint == same.fingerprint
    assert base.fingerprint.architecture == other.fingerprint.architecture
    assert base.fingerprint.weights != other.fingerprint.weights
    assert base.fingerprint.architecture != wider.fingerprint.architecture
    assert base.fingerprint.tokenizer != bos.fingerprint.tokenizer
    assert Fingerprint.from_dict(base.fingerprint.to_dict()) == base.fingerprint


def test_a_mismatch_names_the_part_and_only_weights_may_be_allowed() -> None:
    made = Fingerprint("a" * 16, "b" * 16, "c" * 16)
    made.check(made)
    for part in ("architecture", "tokenizer"):
        with pytest.raises(ModelMismatch, match=f"its {part} is"):
            made.check(dataclasses.replace(made, **{part: "d" * 16}), allow_other_weights=True)
    tuned = dataclasses.replace(made, weights="d" * 16)
    with pytest.raises(ModelMismatch, match=r"my-atlas: .*its weights is cccc.*--allow-other-weights"):
        made.check(tuned, where="my-atlas")
    made.check(tuned, allow_other_weights=True)


def test_a_model_without_one_list_of_blocks_is_refused() -> None:
    import transformers as hf

    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    with pytest.raises(InputError, match="cannot find the blocks of a T5"):
        Subject("t5", hf.T5ForConditionalGeneration(config), tiny_tokenizer())
