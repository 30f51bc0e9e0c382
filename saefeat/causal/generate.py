"""Text from the model, seeded and in batches, with or without interventions.

Rows of a batch are padded on the left. Each row draws from a generator of its own, seeded by (seed, prompt, sample), so
a text does not depend on its neighbours (up to rounding), and a steered and an unsteered run draw alike: what differs
between them is what the intervention did.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saefeat.causal.interventions import Intervention
from saefeat.causal.steer import steering
from saefeat.errors import InputError
from saefeat.subject import Subject, Turn, render_chat

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Continuations, a row for each sample of each prompt, prompt by prompt.

    texts: as strings, without special tokens. ids: their token ids, without the token that ended them. prompts: the
    token ids of what each row continues, prefix or chat markup included. ended: whether the model ended the text
    itself.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]


def generate(
    subject: Subject,
    prompts: Prompt | Sequence[Prompt],
    *,
    interventions: Sequence[Intervention] = (),
    tokens: int = 60,
    temperature: float = 0.7,
    top_p: float = 1.0,
    samples: int = 1,
    seed: int = 0,
    stop: bool = True,
    batch: int = BATCH,
    on_progress: Callable[[int, int], None] | None = None,
) -> Generated:
    """Continue each prompt `samples` times, by at most `tokens` tokens.

    prompts: a text, which is continued as it is; a conversation ({"role", "content"} messages), to which the model
    replies under its own chat template; or a sequence of either. temperature 0: the likeliest token always. top_p:
    draw from the likeliest tokens that together have this probability. stop: end where the model does. on_progress
    counts rows. Raises InputError: nothing to continue, too long for the model's context, settings out of range.
    """
    _check(tokens, temperature, top_p, samples, batch)
    read = [_read(subject, prompt, tokens) for prompt in _several(prompts)]
    if not read:
        raise InputError("there is no prompt")
    rows = [(*one, _generator(seed, number, sample)) for number, one in enumerate(read) for sample in range(samples)]
    out: list[tuple[list[int], bool]] = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        out += _continue(subject, part, interventions, tokens, temperature, top_p, stop)
        if on_progress:
            on_progress(len(out), len(rows))
    decode = subject.tokenizer.decode
    return Generated(
        texts=tuple(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids, _ in out),
        ids=tuple(tuple(ids) for ids, _ in out),
        prompts=tuple(tuple(ids) for ids, _, _ in rows),
        ended=tuple(ended for _, ended in out),
    )


class Decoder:
    """A batch that is being continued under the KV cache, its rows padded on the left."""

    def __init__(self, subject: Subject, mask_BT: Tensor) -> None:
        from transformers import DynamicCache

        self.model: Any = subject.model
        self.device = subject.device
        self.mask_BT = mask_BT.to(self.device, torch.long)
        self.cache = DynamicCache(config=self.model.config)
        takes = inspect.signature(self.model.forward).parameters
        self.extra = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @torch.inference_mode()
    def step(self, ids_BT: Tensor) -> Tensor:
        """(B, V) float32 logits of what comes after ids_BT: the whole prompt first, later one token a row."""
        T, known = ids_BT.shape[1], self.cache.get_seq_length()
        if known:
            self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(ids_BT), T)], dim=1)
        out = self.model(
            input_ids=ids_BT.to(self.device), attention_mask=self.mask_BT, past_key_values=self.cache, use_cache=True,
            position_ids=positions(self.mask_BT)[:, -T:], **self.extra,
        )  # fmt: skip
        return out.logits[:, -1].float()


def positions(mask_BT: Tensor) -> Tensor:
    """(B, T) each token's position among the real tokens of its row; 0 at padding on the left."""
    return (mask_BT.long().cumsum(1) - 1).clamp(min=0)


def left_padded(rows: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT of rows of token ids, padded on the left."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    return ids_BT, mask_BT


# ---------------------------------------------------------------- one batch
def _continue(
    subject: Subject,
    rows: Sequence[tuple[list[int], list[Turn], torch.Generator]],
    interventions: Sequence[Intervention],
    tokens: int,
    temperature: float,
    top_p: float,
    stop: bool,
) -> list[tuple[list[int], bool]]:
    """Token ids of each row's continuation, and whether the model ended it."""
    ends = _end_tokens(subject) if stop else frozenset()
    ids_BT, mask_BT = left_padded([ids for ids, _, _ in rows])
    decoder = Decoder(subject, mask_BT)
    out: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    with steering(subject, interventions, mask_BT=mask_BT, turns=[turns for _, turns, _ in rows]):
        for _ in range(tokens):
            logits_BV = decoder.step(ids_BT).cpu()
            chosen = [_draw(logits_BV[b], temperature, top_p, rows[b][2]) for b in range(len(rows))]
            for b, token in enumerate(chosen):
                ended[b] = ended[b] or token in ends
                if not ended[b]:
                    out[b].append(token)
            if all(ended):
                break
            ids_BT = torch.tensor(chosen)[:, None]
    return list(zip(out, ended, strict=True))


def _draw(logits_V: Tensor, temperature: float, top_p: float, chance: torch.Generator) -> int:
    """A token. The largest of p_v / Exp(1) is v with probability p_v, and two runs with like p mostly choose alike."""
    if temperature == 0:
        return int(logits_V.argmax())
    p_V = torch.softmax(logits_V.double() / temperature, dim=0)
    if top_p < 1:
        sorted_V, order_V = p_V.sort(descending=True)
        p_V[order_V[sorted_V.cumsum(0) - sorted_V >= top_p]] = 0
    noise_V = torch.empty_like(p_V).exponential_(generator=chance)
    return int((p_V / noise_V).argmax())


def _generator(seed: int, prompt: int, sample: int) -> torch.Generator:
    mixed = np.random.SeedSequence((seed, prompt, sample)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))


# ---------------------------------------------------------------- prompts
def _several(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or (prompts and all(isinstance(one, Mapping) for one in prompts)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _read(subject: Subject, prompt: Prompt, tokens: int) -> tuple[list[int], list[Turn]]:
    """Token ids and turns of one prompt, with room for `tokens` more."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("the prompt is empty", do="pass some words")
        ids = [*subject.prefix_ids, *subject.tokenize(prompt)]
        turns: list[Turn] = []
    else:
        ids, turns = render_chat(subject, prompt, add_generation_prompt=True)
    if len(ids) + tokens > subject.context:
        what = f"a prompt of {len(ids)} tokens and {tokens} more exceed the {subject.context} of {subject.name}"
        raise InputError(what, do="shorten the prompt or ask for fewer tokens")
    return ids, turns


def _end_tokens(subject: Subject) -> frozenset[int]:
    """The tokens with which the model ends a text or a turn."""
    told = getattr(subject.model.generation_config, "eos_token_id", None)
    ends = {*(told if isinstance(told, list) else [told]), subject.tokenizer.eos_token_id}
    return frozenset(token for token in ends if token is not None)


def _check(tokens: int, temperature: float, top_p: float, samples: int, batch: int) -> None:
    for name, value in (("tokens", tokens), ("samples", samples), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if not 0 <= temperature <= 10:
        raise InputError(f"temperature is {temperature:g}", do="pass a number from 0 to 10")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p:g}", do="pass a number above 0, at most 1")
