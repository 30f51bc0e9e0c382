"""One training step of a BatchTopK or Matryoshka-BatchTopK autoencoder: pure functions, defined as in sae-lens.

Of a batch's N x F rectified pre-activations, each scaled by its decoder norm, the N*k largest stay (Bussmann et al.
2024). loss = mean_N sum_D (x - x̂)^2, for Matryoshka the sum over nested dictionaries (Bussmann et al. 2025), plus the
auxiliary loss in which the largest dead features reconstruct what is left over (Gao et al. 2024, A.2).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Params(NamedTuple):
    """float32 masters; decoder rows are not normalised, activations carry their norm."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor


@dataclass(frozen=True)
class Step:
    """What one forward pass says."""

    loss: Tensor
    mse: Tensor
    aux: Tensor
    acts_NF: Tensor
    """The activations that stayed, decoder norm included."""
    smallest: Tensor
    """The smallest of them: what the inference threshold averages."""


def batch_top_k(acts_NF: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Keep the `total` largest of a batch's activations; returns (acts_NF with the others zero, the smallest kept).

    Exact: the cut is the order statistic itself. Candidates above a threshold found on a sample are few, and only
    they are sorted; if the sample misled, all are. Ties at the cut are all kept (in float32 they do not happen).
    """
    flat = acts_NF.detach().flatten()
    if total >= flat.numel():
        return acts_NF, flat.min()
    stride = max(1, flat.numel() // 65_536)
    sample = flat[::stride]
    keep = min(len(sample) - 1, int(1.3 * total / stride) + 16)
    guess = sample.topk(keep + 1).values[-1]
    candidates = flat[flat > guess]
    if len(candidates) < total:
        candidates = flat
    cut = candidates.kthvalue(len(candidates) - total + 1).values
    return torch.where((acts_NF >= cut) & (acts_NF > 0), acts_NF, 0.0), cut


def forward(
    params: Params, x_ND: Tensor, k: int, *, widths: tuple[int, ...] = (), dead_F: Tensor | None = None,
    aux_coefficient: float = 0.0, compute: torch.dtype = torch.float32,
) -> Step:  # fmt: skip
    """The loss of a batch x_ND and what is needed to follow training.

    widths: nested dictionaries of Matryoshka, rising, the last one F; (): plain. dead_F: which features count as
    dead. compute: dtype of the large matmuls.
    """
    norm_F = params.W_dec_FD.norm(dim=1)
    centred_ND = x_ND - params.b_dec_D
    pre_NF = (centred_ND.to(compute) @ params.W_enc_DF.to(compute)).float() + params.b_enc_F
    scaled_NF = pre_NF * norm_F
    acts_NF, smallest = batch_top_k(scaled_NF.relu(), k * len(x_ND))
    unit_FD = params.W_dec_FD / norm_F[:, None]
    unit_low_FD = unit_FD.to(compute)
    acts_low_NF = acts_NF.to(compute)

    edges = (0, *(widths or (params.W_dec_FD.shape[0],)))
    xhat_ND = params.b_dec_D.expand_as(x_ND)
    losses = []
    for low, high in itertools.pairwise(edges):
        xhat_ND = xhat_ND + (acts_low_NF[:, low:high] @ unit_low_FD[low:high]).float()
        losses.append((x_ND - xhat_ND).square().sum(1).mean())
    mse = losses[-1]
    loss = torch.stack(losses).sum()

    aux = x_ND.new_zeros(())
    dead = 0 if dead_F is None else int(dead_F.sum())
    if dead and aux_coefficient:
        residual_ND = (x_ND - xhat_ND).detach()
        k_aux = x_ND.shape[1] // 2
        scale, k_aux = min(dead / k_aux, 1.0), min(k_aux, dead)
        value_NK, where_NK = scaled_NF[:, dead_F].topk(k_aux, dim=1, sorted=False)
        aux_NF = torch.zeros(len(x_ND), dead, device=x_ND.device).scatter(1, where_NK, value_NK)
        aux_ND = (aux_NF.to(compute) @ unit_low_FD[dead_F]).float()
        aux = aux_coefficient * scale * (aux_ND - residual_ND).square().sum(1).mean()
    return Step(loss=loss + aux, mse=mse.detach(), aux=aux.detach(), acts_NF=acts_NF.detach(), smallest=smallest)
