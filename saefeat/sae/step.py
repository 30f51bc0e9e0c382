"""One training step of a BatchTopK or Matryoshka-BatchTopK autoencoder: pure functions, defined as in sae-lens.

Of a batch's N x F rectified pre-activations, each times its decoder norm, the N*k largest stay (Bussmann et al. 2024).
loss = mean_N sum_D (x - x̂)^2, for Matryoshka the sum over nested dictionaries (Bussmann et al. 2025), plus the
auxiliary loss in which the largest dead features reconstruct what is left over (Gao et al. 2024, A.2).

The norm only decides what stays: (h * norm) @ (W_dec / norm) is h @ W_dec. So with A kept entries (row, column, h),
A = N*k of N*F, everything after the encoder is a sum over A rows of a matrix, and so is every gradient. The gradients
are written out; only the encoder (and the auxiliary loss) multiplies dense matrices.

Of a batch that several processes share (`Ranks`), N rows in all, each step sees its own rows, keeps what the whole
batch keeps, and returns its part of the sums; `summed` adds the parts up to what one process would have found.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saefeat.harvest import ALONE, Ranks

SAMPLE_ROWS, SAMPLE = 64, 2**18
"""Rows, and about how many entries of them, that say where the cut lies."""
BLOCK_BYTES = 2**22
"""Of pre-activations that a CPU makes and looks through at a time."""
SAMPLE_MARGINS = (1.25, 2.5, math.inf)
"""How many more entries than stay are looked through: at first, and where the sample of rows misled, on and on."""
ROUNDING = 2.0**-7
DIGITS = ((20, 11), (10, 10), (0, 10))
"""(lowest bit, bits) of the three digits of a positive float32."""


class Params(NamedTuple):
    """float32 masters, the encoder transposed so that a feature is a row; decoder rows have any norm."""

    W_enc_FD: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor


class Kept(NamedTuple):
    """The A entries that stay of an N x F matrix, column by column and, within one, row by row."""

    column_A: Tensor
    row_A: Tensor
    h_A: Tensor
    """Pre-activations with bias, without decoder norm; positive."""
    smallest: float | None
    """The smallest h * norm among them: what the inference threshold averages; None if nothing is positive."""


@dataclass(frozen=True)
class Step:
    """What one batch says."""

    loss: Tensor
    """mse of all nested dictionaries + aux."""
    mse: Tensor
    """Of the whole dictionary."""
    aux: Tensor
    gradients: Params
    fires_F: Tensor
    """How many rows each feature stayed in."""
    smallest: float | None


def batch_top_k(
    x_ND: Tensor, W_FD: Tensor, bias_F: Tensor, norm_F: Tensor, total: int, ranks: Ranks = ALONE
) -> Kept:  # fmt: skip
    """The `total` largest positive entries of (x W^T + bias) * norm over the whole batch; ties at the cut all stay.

    The product is taken in the dtype of x. The batch is that of all processes, and what is returned, but for
    `smallest`, are the entries of this one.

    Exact without a sort of N x F numbers: a sample of rows says about where the cut lies, entries above a lower floor
    are few, and the order statistic is taken among those. If they are fewer than `total`, the floor drops, at last to
    zero. The product itself is never held as a whole: what is above the floor is picked from blocks of features that
    fit a processor's cache.
    """
    (N, _), F = x_ND.shape, len(W_FD)
    sampled_SD = x_ND[:: max(1, N // SAMPLE_ROWS)]
    every = slice(None, None, max(1, len(sampled_SD) * F // SAMPLE))
    sample = ((sampled_SD @ W_FD[every].to(x_ND.dtype).T).float() + bias_F[every]) * norm_F[every]
    for margin in SAMPLE_MARGINS:
        floor = 0.0
        if (rank := margin * total * sample.numel() / (N * F * ranks.size) + 16) < sample.numel():
            floor = max(mean(largest(sample.flatten(), int(rank)), x_ND.device, ranks), 0.0)
        column_A, row_A, h_A = entries_above(floor, x_ND, W_FD, bias_F, norm_F)
        scaled_A = h_A * norm_F[column_A]
        count = (scaled_A > floor).sum()
        ranks.add([count])
        above = int(count)
        if above >= total or not floor:
            break
    cut = kth_largest(scaled_A, total, floor, ranks) if above >= total else floor
    stays_A = (scaled_A >= cut) & (scaled_A > 0)
    at_A = stays_A.nonzero().squeeze(1)
    least = ranks.least(float(scaled_A[at_A].min()) if len(at_A) else math.inf)
    return Kept(column_A[at_A], row_A[at_A], h_A[at_A], least if math.isfinite(least) else None)


def entries_above(
    floor: float, x_ND: Tensor, W_FD: Tensor, bias_F: Tensor, norm_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(column_A, row_A, h_A) of the entries of h = x W^T + bias with h * norm > floor, and of some within rounding."""
    N, F = len(x_ND), len(W_FD)
    size = max(1, BLOCK_BYTES // (N * x_ND.element_size())) if x_ND.device.type == "cpu" else F
    # (pre + bias) * norm > floor, as a compare in the dtype of pre; the slack covers the rounding of that dtype
    bound_F = floor / norm_F - bias_F - ROUNDING * (floor / norm_F + bias_F.abs())
    bound_F1 = bound_F.to(x_ND.dtype)[:, None]
    as_integers = x_ND.dtype == torch.bfloat16 and bool((bound_F1 > 0).all())  # ordered alike, and compared faster
    columns, rows, values = [], [], []
    for low in range(0, F, size):
        pre_GN = W_FD[low : low + size].to(x_ND.dtype) @ x_ND.T
        if as_integers:
            above_GN = pre_GN.view(torch.int16) >= bound_F1[low : low + size].view(torch.int16)
        else:
            above_GN = pre_GN >= bound_F1[low : low + size]
        at_A = true_at(above_GN.view(-1))
        column_A = at_A // N
        rows.append(at_A - column_A * N)
        columns.append(column_A + low)
        values.append(pre_GN.view(-1)[at_A].float())
    column_A = torch.cat(columns)
    return column_A, torch.cat(rows), torch.cat(values) + bias_F[column_A]


def true_at(flag_A: Tensor) -> Tensor:
    """Where a long and mostly false vector is true; int64, rising. On a CPU eight flags are looked at together."""
    if flag_A.device.type != "cpu" or len(flag_A) % 8:
        return flag_A.nonzero().squeeze(1)
    word_W = flag_A.view(torch.int64).nonzero().squeeze(1)
    hit_A2 = flag_A.view(-1, 8)[word_W].nonzero()
    return word_W[hit_A2[:, 0]] * 8 + hit_A2[:, 1]


def mean(value: float, device: torch.device, ranks: Ranks) -> float:
    """The mean of the processes' values."""
    if ranks.size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    ranks.add([total])
    return float(total) / ranks.size


def kth_largest(values_A: Tensor, k: int, floor: float, ranks: Ranks) -> float:
    """The k-th largest of all processes' float32 values; at least k of them lie above `floor`, which is at least 0.

    Positive floats sort as their bits do. So three histograms, of the highest 11 bits and, among the values that share
    them with the one sought, of the next 10 and the last 10, summed over the processes, spell it out: 28 kB are sent.
    """
    if ranks.size == 1:
        return largest(values_A, k)
    bits_A, found = values_A[values_A > floor].view(torch.int32), 0
    for lowest, width in DIGITS:
        digit_A = (bits_A >> lowest) & (2**width - 1)
        counts = torch.bincount(digit_A, minlength=2**width)
        ranks.add([counts])
        at_least = counts.flip(0).cumsum(0).flip(0)  # how many have this digit or a larger one
        digit = int((at_least >= k).sum()) - 1
        k -= int(at_least[digit] - counts[digit])
        found |= digit << lowest
        bits_A = bits_A[digit_A == digit]
    return float(torch.tensor(found, dtype=torch.int32).view(torch.float32))


def largest(values_A: Tensor, k: int) -> float:
    """The k-th largest of float32 values."""
    if values_A.device.type == "cpu":
        return float(np.partition(values_A.numpy(), len(values_A) - k)[len(values_A) - k])
    return float(values_A.kthvalue(len(values_A) - k + 1).values)


def weighted_rows(M_RD: Tensor, row_A: Tensor, weight_A: Tensor, owner_A: Tensor, n: int) -> Tensor:
    """y_nD with y[o] = sum of weight * M[row] over the entries whose owner is o; owners ascend."""
    offsets_n = torch.searchsorted(owner_A, torch.arange(n, device=owner_A.device))
    return torch.nn.functional.embedding_bag(row_A, M_RD, offsets_n, mode="sum", per_sample_weights=weight_A)


def row_products(X_ND: Tensor, M_RD: Tensor, row_A: Tensor, owner_A: Tensor) -> Tensor:
    """<X[owner], M[row]> for each entry; owners ascend. (It is the gradient of `weighted_rows` in the weights.)"""
    if not len(row_A):
        return X_ND.new_empty(0)
    with torch.enable_grad():
        weight_A = torch.zeros(len(row_A), device=X_ND.device, requires_grad=True)
        y_nD = weighted_rows(M_RD, row_A, weight_A, owner_A, len(X_ND))
        return torch.autograd.grad(y_nD, weight_A, X_ND)[0]


@torch.no_grad()
def step(
    params: Params, x_ND: Tensor, k: int, *, widths: tuple[int, ...] = (), dead_F: Tensor | None = None,
    aux_coefficient: float = 0.0, compute: torch.dtype = torch.float32, ranks: Ranks = ALONE,
) -> Step:  # fmt: skip
    """Loss and gradients of a batch x_ND (float32), or of this process's rows of it, of which each has as many.

    widths: nested dictionaries of Matryoshka, rising, the last one F; (): plain. dead_F: which features count as
    dead. compute: dtype of the dense matmuls.
    """
    W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = params
    (N, _), F = x_ND.shape, len(b_enc_F)
    N_all = N * ranks.size
    norm_F = W_dec_FD.norm(dim=1)
    centred_ND = x_ND - b_dec_D
    low_ND = centred_ND.to(compute)
    column_A, row_A, h_A, smallest = batch_top_k(low_ND, W_enc_FD, b_enc_F, norm_F, k * N_all, ranks)

    # reconstructions of the nested dictionaries, and each one's gradient dloss/dx̂ = -2 (x - x̂) / N
    xhat_ND, loss, slopes = b_dec_D, x_ND.new_zeros(()), []
    edges = (0, *(widths or (F,)))
    ends = torch.searchsorted(column_A, torch.tensor(edges, device=column_A.device)).tolist()
    for first, last in itertools.pairwise(ends):
        a = row_A[first:last].argsort(stable=True) + first
        xhat_ND = xhat_ND + weighted_rows(W_dec_FD, column_A[a], h_A[a], row_A[a], N)
        residual_ND = x_ND - xhat_ND
        mse = residual_ND.square().sum() / N_all
        loss = loss + mse
        slopes.append(residual_ND * (-2 / N_all))

    # a feature is part of its own dictionary and all larger ones: it sees the sum of their gradients
    gW_dec_FD = torch.empty_like(W_dec_FD)
    dh_A = torch.empty_like(h_A)
    slope_ND = torch.zeros_like(x_ND)
    gb_dec_D = torch.zeros_like(b_dec_D)
    for i in reversed(range(len(slopes))):
        slope_ND = slope_ND + slopes[i]
        gb_dec_D += slopes[i].sum(0)
        low, high, a = edges[i], edges[i + 1], slice(ends[i], ends[i + 1])
        gW_dec_FD[low:high] = weighted_rows(slope_ND, row_A[a], h_A[a], column_A[a] - low, high - low)
        dh_A[a] = row_products(W_dec_FD[low:high], slope_ND, row_A[a], column_A[a] - low)
    gW_enc_FD = weighted_rows(centred_ND, row_A, dh_A, column_A, F)
    gb_enc_F = torch.zeros_like(b_enc_F).index_add_(0, column_A, dh_A)

    aux = x_ND.new_zeros(())
    dead_X = torch.empty(0) if dead_F is None else dead_F.nonzero().squeeze(1)
    if len(dead_X) and aux_coefficient:
        # the dead features largest in each row reconstruct the residual, which itself gets no gradient
        k_aux = min(x_ND.shape[1] // 2, len(dead_X))
        weight = aux_coefficient * min(len(dead_X) / (x_ND.shape[1] // 2), 1.0)
        W_low_XD = W_dec_FD[dead_X].to(compute)
        h_NX = (low_ND @ W_enc_FD[dead_X].to(compute).T).float() + b_enc_F[dead_X]
        where_NK = (h_NX * norm_F[dead_X]).topk(k_aux, dim=1, sorted=False).indices
        stays_NX = torch.zeros_like(h_NX, dtype=torch.bool).scatter_(1, where_NK, True)
        z_NX = h_NX * stays_NX
        miss_ND = (z_NX.to(compute) @ W_low_XD).float() - residual_ND
        aux = weight * miss_ND.square().sum() / N_all
        slope_ND = (miss_ND * (2 * weight / N_all)).to(compute)
        dz_NX = (slope_ND @ W_low_XD.T).float() * stays_NX
        gW_dec_FD[dead_X] += (z_NX.to(compute).T @ slope_ND).float()
        gW_enc_FD[dead_X] += (dz_NX.to(compute).T @ low_ND).float()
        gb_enc_F[dead_X] += dz_NX.sum(0)

    gb_dec_D -= gb_enc_F @ W_enc_FD  # through the centring of the input
    gradients = Params(gW_enc_FD, gb_enc_F, gW_dec_FD, gb_dec_D)
    return Step(loss + aux, mse, aux, gradients, torch.bincount(column_A, minlength=F), smallest)


def summed(result: Step, ranks: Ranks) -> Step:
    """What the processes' steps are together: loss, gradients and counts added up, in place."""
    ranks.add([*result.gradients, result.loss, result.mse, result.aux, result.fires_F])
    return result
