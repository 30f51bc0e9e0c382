"""Text from the model, seeded and in batches, with or without interventions.

Each row draws from a generator of its own, seeded by (seed, prompt, sample), so a text does not depend on its
neighbours (up to rounding), and a steered and an unsteered run draw alike: what differs between them is what the
intervention did.

A row that has ended leaves its batch. Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from saefeat.causal.decoder import Decoder, Memory, Row, left_padded
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
    memory: Memory | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Generated:
    """Continue each prompt `samples` times, by at most `tokens` tokens.

    prompts: a text, which is continued as it is; a conversation ({"role", "content"} messages), to which the model
    replies under its own chat template; or a sequence of either. temperature 0: the likeliest token always. top_p:
    draw from the likeliest tokens that together have this probability. stop: end where the model does. memory: what was
    continued with it before is not read anew, and what is continued now is kept in it. on_progress counts rows. Raises
    InputError: nothing to continue, too long for the model's context, settings out of range, a memory together with
    interventions at some positions alone.
    """
    _check(tokens, temperature, top_p, samples, batch)
    read = [_read(subject, prompt, tokens) for prompt in _several(prompts)]
    if not read:
        raise InputError("there is no prompt")
    rows = [
        _Row(*one, _generator(seed, number, sample)) for number, one in enumerate(read) for sample in range(samples)
    ]
    if memory is not None:
        _check_memory(interventions)
        memory.belongs_to(subject, *interventions)
    kept: list[Row] = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        kept += _continue(subject, part, interventions, tokens, temperature, top_p, stop, memory)
        if on_progress:
            on_progress(start + len(part), len(rows))
    if memory is not None:
        memory.rows = kept
    decode = subject.tokenizer.decode
    return Generated(
        texts=tuple(decode(row.out, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in rows),
        ids=tuple(tuple(row.out) for row in rows),
        prompts=tuple(tuple(row.prompt) for row in rows),
        ended=tuple(row.ended for row in rows),
    )


# ---------------------------------------------------------------- one batch
@dataclass
class _Row:
    """A text under way."""

    prompt: list[int]
    turns: list[Turn]
    chance: torch.Generator
    out: list[int] = field(default_factory=list)
    ended: bool = False


def _continue(
    subject: Subject,
    rows: Sequence[_Row],
    interventions: Sequence[Intervention],
    tokens: int,
    temperature: float,
    top_p: float,
    stop: bool,
    memory: Memory | None,
) -> list[Row]:
    """Continue a batch of rows where they are; what a memory keeps of them."""
    ends = _end_tokens(subject) if stop else frozenset()
    ids_BT, mask_BT = left_padded([row.prompt for row in rows])
    decoder = Decoder(subject, mask_BT)
    known = 0 if memory is None else decoder.recall([row.prompt for row in rows], memory)
    ids_BT, alive, kept = ids_BT[:, known:], list(range(len(rows))), list[Row]()
    while alive:
        own = [rows[b] for b in alive]
        with steering(subject, interventions, mask_BT=mask_BT[alive], turns=[row.turns for row in own]):
            going = list(range(len(own)))
            while len(going) == len(own):
                logits_BV = decoder.step(ids_BT).cpu()
                pairs = zip(logits_BV, own, strict=True)
                chosen = [_draw(logits_V, temperature, top_p, row.chance) for logits_V, row in pairs]
                for token, row in zip(chosen, own, strict=True):
                    row.ended = token in ends
                    if not row.ended:
                        row.out.append(token)
                ids_BT = torch.tensor(chosen)[:, None]
                going = [i for i, row in enumerate(own) if not row.ended and len(row.out) < tokens]
        if memory is not None:
            left = (decoder.remember(i, [*row.prompt, *row.out]) for i, row in enumerate(own) if i not in going)
            kept += [row for row in left if row is not None]
        if going:
            decoder.keep(going)
        ids_BT, alive = ids_BT[going], [alive[i] for i in going]
    return kept


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


def _check_memory(interventions: Sequence[Intervention]) -> None:
    if any(one.positions != "all" or one.turns is not None for one in interventions):
        what = "what an intervention does to some positions alone is not the same when they are read again"
        raise InputError(what, do="continue without a memory, or intervene at all positions")


def _check(tokens: int, temperature: float, top_p: float, samples: int, batch: int) -> None:
    for name, value in (("tokens", tokens), ("samples", samples), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if not 0 <= temperature <= 10:
        raise InputError(f"temperature is {temperature:g}", do="pass a number from 0 to 10")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p:g}", do="pass a number above 0, at most 1")
