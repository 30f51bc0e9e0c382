"""How a continuation holds up as text: perplexity under the unsteered model, distinct 3-grams, and the regime.

The regimes are fixed beforehand, so that no result can choose its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saefeat.subject import Subject

LARGEST_RATIO = 1.5
"""Surgical: perplexity at most so many times that of the unsteered continuations, …"""
LEAST_DISTINCT = 0.8
"""… and the share of distinct 3-grams at least this much of theirs."""


@dataclass(frozen=True, kw_only=True)
class Fluency:
    """Of a set of continuations: perplexity (per token, all tokens together), distinct (share of distinct 3-grams),
    tie (nats per token by which the prompt makes them likelier: how much they are still about it)."""

    perplexity: float
    distinct: float
    tie: float


def fluency(
    subject: Subject, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]], *, tie: bool = True
) -> Fluency:
    """The fluency of continuations `ids` of `prompts` (token ids, row by row) under the model as it is.

    tie False: it is not measured (NaN), which saves half of the passes.

    Must not be called inside a `steering` block. Continuations without a token do not count; if none has any,
    perplexity and tie are NaN.
    """
    given = mean_loss(subject, prompts, ids)
    if not tie:
        return Fluency(perplexity=math.exp(given), distinct=distinct_share(ids), tie=math.nan)
    alone = mean_loss(subject, [list(subject.prefix_ids) or list(prompt[:1]) for prompt in prompts], ids)
    return Fluency(perplexity=math.exp(given), distinct=distinct_share(ids), tie=alone - given)


def mean_loss(
    subject: Subject, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]], *, batch: int = 16
) -> float:
    """The mean next-token cross-entropy (nats) of the tokens `ids`, each row after its prompt; NaN for no tokens."""
    total, count = 0.0, 0
    rows = [(list(prompt), list(own)) for prompt, own in zip(prompts, ids, strict=True) if own]
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        longest = max(len(prompt) + len(own) for prompt, own in part)
        ids_BT = torch.tensor([prompt + own + [0] * (longest - len(prompt) - len(own)) for prompt, own in part])
        losses_BT = subject.losses(ids_BT)
        for b, (prompt, own) in enumerate(part):
            own_T = losses_BT[b, max(len(prompt) - 1, 0) : len(prompt) + len(own) - 1]
            total, count = total + float(own_T.double().sum()), count + len(own_T)
    return total / count if count else math.nan


def distinct_share(ids: Sequence[Sequence[int]], n: int = 3) -> float:
    """Distinct n-grams of tokens within each text, over all there are; 1 if every text is shorter than n."""
    grams = [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in ids]
    total = sum(map(len, grams))
    return sum(len(set(row)) for row in grams) / total if total else 1.0


def regime(steered: Fluency, unsteered: Fluency) -> str:
    """'surgical': perplexity ratio <= 1.5 and distinct 3-grams >= .8 of the unsteered ones; else 'repetitive' if the
    3-grams fail, 'broken' if only the perplexity does (or is NaN: nothing was written)."""
    if steered.distinct < LEAST_DISTINCT * unsteered.distinct:
        return "repetitive"
    return "surgical" if steered.perplexity <= LARGEST_RATIO * unsteered.perplexity else "broken"
