"""How good an SAE is on held-out tokens: explained variance, L0, dead features, and cross-entropy recovered."""

from __future__ import annotations

from typing import Any

import torch

from saefeat.errors import InputError
from saefeat.harvest import Source
from saefeat.sae.model import SAE
from saefeat.subject import Subject


def quality(sae: SAE, store: Source, subject: Subject, *, share: float, max_tokens: int) -> dict[str, Any]:
    """Figures over at most `max_tokens` tokens of the last `share` of a source's contexts, which training never saw.

    explained_variance = 1 - Σ|x - x̂|² / Σ|x - x̄|² over usable tokens (neither first nor sink). ce_*: mean next-token
    cross-entropy in nats, with usable positions of the residual stream left alone, replaced by x̂, or by zero;
    ce_recovered = (zero - sae) / (zero - clean). dead_share: features that fire on none of these tokens.
    Raises InputError if nothing was held out.
    """
    layer, first = sae.layer, max(1, len(subject.prefix_ids))
    n = 0
    squares = mse = l0 = 0.0
    total_D = torch.zeros(sae.d_model, dtype=torch.float64)
    fired_F = torch.zeros(sae.n_features, dtype=torch.int64)
    ce = {"clean": 0.0, "sae": 0.0, "zero": 0.0}
    contexts = 0
    for ids_NT, x_NTD, usable_NT in store.heldout_contexts(layer, share):
        x_ND = x_NTD[usable_NT].to(sae.b_dec_D.device).float()
        acts_NF = sae.encode(x_ND)
        n += len(x_ND)
        squares += x_ND.double().square().sum().item()
        total_D += x_ND.double().sum(0).cpu()
        mse += (x_ND - sae.decode(acts_NF)).double().square().sum().item()
        l0 += float((acts_NF > 0).sum())
        fired_F += (acts_NF > 0).sum(0).cpu()

        def replaced(x_BTD: torch.Tensor, usable_NT: torch.Tensor = usable_NT) -> torch.Tensor:
            usable_NT = usable_NT.to(x_BTD.device)
            xhat_ND = sae.decode(sae.encode(x_BTD[usable_NT].to(sae.b_dec_D.device)))
            return x_BTD.masked_scatter(usable_NT[..., None], xhat_ND.to(x_BTD))

        def zeroed(x_BTD: torch.Tensor, usable_NT: torch.Tensor = usable_NT) -> torch.Tensor:
            return x_BTD.masked_fill(usable_NT.to(x_BTD.device)[..., None], 0)

        for name, edits in (("clean", {}), ("sae", {layer: replaced}), ("zero", {layer: zeroed})):
            ce[name] += float(subject.losses(ids_NT, edits=edits)[:, first:].mean()) * len(ids_NT)
        contexts += len(ids_NT)
        if n >= max_tokens:
            break
    if n < 2:
        raise InputError("holds too few held-out tokens to measure an SAE on", where=store.where, do="harvest more")
    variance = squares - float(total_D.square().sum()) / n
    ce = {name: value / max(contexts, 1) for name, value in ce.items()}
    return {
        "tokens": n,
        "explained_variance": 1 - mse / variance,
        "l0": l0 / n,
        "dead_share": float((fired_F == 0).float().mean()),
        **{f"ce_{name}": value for name, value in ce.items()},
        "ce_recovered": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]),
    }
