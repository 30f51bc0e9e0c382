"""A proof, on the model at hand, that steering acts where it says and nowhere else, and leaves nothing behind.

The fault it looks for is a known one: a hook that counts tokens by the length of the pass sees a prompt of nine, then
one, one, one, … and never fires on what is generated, while all its effects are the noise of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saefeat.causal.decoder import Decoder, left_padded, positions
from saefeat.causal.directions import residual_scales
from saefeat.causal.interventions import Direction, Intervention, Positions, add
from saefeat.causal.steer import steering
from saefeat.subject import Subject

PROMPTS = (
    "The letter came on a Monday, and",
    "He opened the door to the garden and saw that the rain had",
    "We waited",
)
STRENGTH = 0.5
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.15}
"""Largest difference between cached and uncached logits (root mean square), as a share of what steering changes."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """passed; problems: what is wrong, in words; generated: tokens generated a row; difference: between cached and
    uncached logits, as a share of what steering changes; tolerance: the most it may be."""

    passed: bool
    problems: tuple[str, ...]
    generated: int
    difference: float
    tolerance: float


def selftest(subject: Subject, *, layer: int | None = None, tokens: int = 6) -> SelfTest:
    """Steer `subject` along a random direction at `layer` (the middle one) and look.

    Three prompts of different lengths, padded on the left, are continued greedily for `tokens` tokens under the KV
    cache. Checked: for 'all', 'prompt' and 'generated', exactly these positions are edited, once each, without
    padding and first tokens; the logits of every step are those of one uncached pass over the whole text under the
    same intervention; the intervention changes them; afterwards the model gives what it gave before, and no hook is
    left.
    """
    layer = subject.n_layers // 2 if layer is None else subject.check_layer(layer)
    rows = [[*subject.prefix_ids, *subject.tokenize(prompt)] for prompt in PROMPTS]
    direction = _random(subject, rows, layer)
    ids_BP, mask_BP = left_padded(rows)
    hooks, problems = _hooks(subject), []
    plain_BSV, ids_BT = _cached(subject, ids_BP, mask_BP, [], tokens, [])
    for where in ("all", "prompt", "generated"):
        seen: list[tuple[int, Tensor]] = []
        intervention = add(direction, STRENGTH, where)
        _cached(subject, ids_BP, mask_BP, [intervention], tokens, seen, ids_BT)
        wrong = int((_edits(seen, ids_BT.shape[1]) != _expected(mask_BP, tokens, where)).sum())
        if wrong:
            problems.append(f"with positions {where!r}, {wrong} of {ids_BT.numel()} positions are edited wrongly")
    intervention = add(direction, STRENGTH)
    steered_BSV, ids_BT = _cached(subject, ids_BP, mask_BP, [intervention], tokens, [])
    whole_BSV = _uncached(subject, ids_BT, mask_BP, [intervention])
    unsteered_BSV = _uncached(subject, ids_BT, mask_BP, [])
    effect = _rms(whole_BSV - unsteered_BSV)
    difference, tolerance = _rms(steered_BSV - whole_BSV) / max(effect, 1e-12), TOLERANCE.get(subject.dtype, 0.15)
    if not effect > 0:
        problems.append("steering changes nothing")
    elif not difference <= tolerance:
        problems.append(f"cached and uncached logits differ by {difference:.2g} of what steering changes")
    if _hooks(subject) != hooks or not torch.equal(_cached(subject, ids_BP, mask_BP, [], tokens, [])[0], plain_BSV):
        problems.append("something is left behind")
    return SelfTest(
        passed=not problems, problems=tuple(problems), generated=tokens, difference=difference, tolerance=tolerance
    )  # fmt: skip


# ---------------------------------------------------------------- the two ways to the same logits
def _cached(
    subject: Subject,
    ids_BP: Tensor,
    mask_BP: Tensor,
    interventions: Sequence[Intervention],
    tokens: int,
    seen: list[tuple[int, Tensor]],
    forced_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (B, tokens + 1, V) of every step and all ids (B, P + tokens): greedy, or the tokens of `forced_BT`.

    seen: gets (first column, where_BT) of every pass that is intervened on.
    """
    decoder, logits, ids_BT = Decoder(subject, mask_BP), [], ids_BP
    with steering(
        subject, interventions, mask_BT=mask_BP, on_edit=lambda _, past, where_BT: seen.append((past, where_BT.cpu()))
    ):
        step_BT = ids_BP
        for number in range(tokens + 1):  # one more than needed for the text: the last token is to be seen too
            logits.append(decoder.step(step_BT).cpu())
            if number < tokens:
                column = ids_BP.shape[1] + number
                step_BT = logits[-1].argmax(-1, keepdim=True) if forced_BT is None else forced_BT[:, column, None]
                ids_BT = torch.cat([ids_BT, step_BT], dim=1)
    return torch.stack(logits, dim=1), ids_BT


@torch.inference_mode()
def _uncached(subject: Subject, ids_BT: Tensor, mask_BP: Tensor, interventions: Sequence[Intervention]) -> Tensor:
    """Logits (B, tokens + 1, V) from the prompt's last column on, of one pass over the whole text."""
    (B, T), P = ids_BT.shape, mask_BP.shape[1]
    mask_BT = torch.cat([mask_BP, mask_BP.new_ones(B, T - P)], dim=1).to(subject.device, torch.long)
    with steering(subject, interventions, mask_BT=mask_BP):
        out = subject.model(
            input_ids=ids_BT.to(subject.device), attention_mask=mask_BT, position_ids=positions(mask_BT),
            use_cache=False,
        )  # fmt: skip
    return out.logits[:, P - 1 :].float().cpu()


# ---------------------------------------------------------------- what to expect
def _expected(mask_BP: Tensor, tokens: int, where: Positions) -> Tensor:
    """(B, P + tokens) how often each position is to be edited, worked out row by row."""
    B, P = mask_BP.shape
    out_BT = torch.zeros(B, P + tokens, dtype=torch.long)
    for b in range(B):
        real = [t for t in range(P) if mask_BP[b, t]]
        out_BT[b, real[1:]] = int(where != "generated")
        out_BT[b, P:] = int(where != "prompt")
    return out_BT


def _edits(seen: Sequence[tuple[int, Tensor]], T: int) -> Tensor:
    """(B, T) how often each position was edited."""
    out_BT = torch.zeros(len(seen[0][1]) if seen else 1, T, dtype=torch.long)
    for past, where_BT in seen:
        out_BT[:, past : past + where_BT.shape[1]] += where_BT
    return out_BT


def _random(subject: Subject, rows: Sequence[Sequence[int]], layer: int) -> Direction:
    """A random direction that edits whatever is no first token: so few tokens cannot say what a sink is."""
    scale = residual_scales(subject, rows, [layer])[layer]
    unit_D = torch.randn(subject.d_model, generator=torch.Generator().manual_seed(0))
    return Direction(
        name="random", layer=layer, unit_D=unit_D / unit_D.norm(), norm=scale.norm, sink_norm=float("inf")
    )  # fmt: skip


def _hooks(subject: Subject) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules()]


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
