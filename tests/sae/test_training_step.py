"""The step equals its slow twin (dense autograd) and sae-lens' own classes, in loss and in gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.sae.step import Params, batch_top_k, entries_above, row_products, step, true_at, weighted_rows

D, F, N, K = 12, 40, 64, 5
WIDTHS = {"batchtopk": (), "matryoshka": (8, 20, F)}


def make_params(seed: int, *, bias: float = 0.3) -> Params:
    g = torch.Generator().manual_seed(seed)
    scales = (0.3, bias, 0.3, 0.3)
    return Params(
        *[torch.randn(*n, generator=g) * s for n, s in zip(((F, D), (F,), (F, D), (D,)), scales, strict=True)]
    )


def make_batch(seed: int) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the slow twin
def slow_top_k(acts_NF: torch.Tensor, total: int) -> torch.Tensor:
    """Everything but the `total` largest of a batch set to zero, by a full sort."""
    flat = torch.zeros_like(acts_NF).flatten()
    best = acts_NF.flatten().topk(min(total, acts_NF.numel()))
    return flat.scatter(0, best.indices, best.values).reshape(acts_NF.shape)


def slow_step(params: Params, x_ND, k, widths, dead_F, coefficient):
    """(loss, gradients) as the papers write them, differentiated by autograd."""
    W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = leaves = [p.clone().requires_grad_() for p in params]
    norm_F = W_dec_FD.norm(dim=1)
    pre_NF = ((x_ND - b_dec_D) @ W_enc_FD.T + b_enc_F) * norm_F
    acts_NF = slow_top_k(pre_NF.relu(), k * len(x_ND))
    unit_FD = W_dec_FD / norm_F[:, None]
    loss = torch.zeros(())
    for width in widths or (F,):
        xhat_ND = acts_NF[:, :width] @ unit_FD[:width] + b_dec_D
        loss = loss + (x_ND - xhat_ND).square().sum(1).mean()
    if dead_F.any():
        k_aux = x_ND.shape[1] // 2
        scale = min(int(dead_F.sum()) / k_aux, 1.0)
        dead_NF = torch.where(dead_F, pre_NF, -torch.inf)
        best = dead_NF.topk(min(k_aux, int(dead_F.sum())), dim=1)
        z_NF = torch.zeros_like(pre_NF).scatter(1, best.indices, best.values)
        loss = loss + coefficient * scale * (z_NF @ unit_FD - (x_ND - xhat_ND).detach()).square().sum(1).mean()
    return loss.detach(), torch.autograd.grad(loss, leaves), (acts_NF > 0).sum(0)


@given(st.integers(0, 10**6), st.sampled_from(sorted(WIDTHS)), st.integers(0, 20), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_those_of_dense_autograd(seed: int, kind: str, n_dead: int, k: int) -> None:
    params, x_ND = make_params(seed), make_batch(seed + 1)
    dead_F = torch.randperm(F, generator=torch.Generator().manual_seed(seed)) < n_dead
    loss, gradients, fires_F = slow_step(params, x_ND, k, WIDTHS[kind], dead_F, 0.5)
    ours = step(params, x_ND, k, widths=WIDTHS[kind], dead_F=dead_F, aux_coefficient=0.5)
    assert ours.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.equal(ours.fires_F, fires_F)
    for mine, other in zip(ours.gradients, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_gradients_are_the_slopes_of_the_loss() -> None:
    params, x_ND = make_params(5), make_batch(6)
    exact = step(params, x_ND, K, widths=WIDTHS["matryoshka"])
    generator, eps = torch.Generator().manual_seed(7), 1e-4
    double = Params(*[p.double() for p in params])
    for i, gradient in enumerate(exact.gradients):
        along = torch.randn(gradient.shape, generator=generator).double()
        along /= along.norm()
        moved = [double._replace(**{Params._fields[i]: double[i] + s * eps * along}) for s in (1, -1)]
        none = torch.zeros(F, dtype=torch.bool)
        up, down = (slow_step(p, x_ND.double(), K, WIDTHS["matryoshka"], none, 0.0)[0] for p in moved)
        assert float((gradient * along).sum()) == pytest.approx(float(up - down) / (2 * eps), rel=2e-2, abs=2e-2)


def lens_step(kind: str, params: Params, x_ND: torch.Tensor, dead_F: torch.Tensor, coefficient: float):
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import TrainStepInput

    common = {"d_in": D, "d_sae": F, "k": K, "aux_loss_coefficient": coefficient}
    if kind == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common))
    else:
        config = MatryoshkaBatchTopKTrainingSAEConfig(**common, matryoshka_widths=list(WIDTHS[kind]))
        sae = MatryoshkaBatchTopKTrainingSAE(config)
    with torch.no_grad():
        for name, tensor in zip(("W_enc", "b_enc", "W_dec", "b_dec"), params, strict=True):
            getattr(sae, name).copy_(tensor.T if name == "W_enc" else tensor)
    given = TrainStepInput(
        sae_in=x_ND, coefficients={}, dead_neuron_mask=dead_F, n_training_steps=0, is_logging_step=False
    )
    output = sae.training_forward_pass(given)
    output.loss.backward()
    return output.loss.item(), sae, [sae.W_enc.grad.T, sae.b_enc.grad, sae.W_dec.grad, sae.b_dec.grad]


@pytest.mark.parametrize("n_dead", [0, 3, 20])
@pytest.mark.parametrize("kind", sorted(WIDTHS))
def test_loss_gradients_and_threshold_are_those_of_sae_lens(kind: str, n_dead: int) -> None:
    params, x_ND = make_params(0), make_batch(1)
    dead_F = torch.arange(F) < n_dead
    loss, sae, gradients = lens_step(kind, params, x_ND, dead_F, coefficient=0.5)
    ours = step(params, x_ND, K, widths=WIDTHS[kind], dead_F=dead_F, aux_coefficient=0.5)
    assert ours.loss.item() == pytest.approx(loss, rel=1e-5)
    assert 0.01 * ours.smallest == pytest.approx(float(sae.topk_threshold), rel=1e-5)  # its average starts at zero
    for mine, other in zip(ours.gradients, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(WIDTHS))
def test_bfloat16_gradients_point_the_same_way(kind: str) -> None:
    params, x_ND = make_params(2), make_batch(3)
    dead_F = torch.arange(F) % 5 == 0
    full, low = (
        step(params, x_ND, K, widths=WIDTHS[kind], dead_F=dead_F, aux_coefficient=0.5, compute=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert low.loss.item() == pytest.approx(full.loss.item(), rel=0.02)
    for mine, other in zip(low.gradients, full.gradients, strict=True):
        assert torch.nn.functional.cosine_similarity(mine.flatten(), other.flatten(), dim=0) > 0.99


def test_a_batch_in_which_nothing_fires_still_teaches_the_bias() -> None:
    params = make_params(0)._replace(b_enc_F=torch.full((F,), -1e3))
    x_ND = make_batch(1)
    result = step(params, x_ND, K, widths=WIDTHS["matryoshka"])
    assert result.smallest is None
    assert int(result.fires_F.sum()) == 0
    assert torch.count_nonzero(result.gradients.W_dec_FD) == 0
    torch.testing.assert_close(result.gradients.b_dec_D, -6 * (x_ND - params.b_dec_D).mean(0))


def test_nan_reaches_the_loss() -> None:
    x_ND = make_batch(1)
    x_ND[3, 2] = torch.nan
    assert not torch.isfinite(step(make_params(0), x_ND, K).loss)


# ---------------------------------------------------------------- the parts
@given(
    st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 150), st.integers(1, 60),
    st.sampled_from([torch.float32, torch.bfloat16]), st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_batch_top_k_keeps_what_a_full_sort_keeps(
    seed: int, total: int, n: int, f: int, dtype: torch.dtype, uneven: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    pre_NF = torch.randn(n, f, generator=g)
    if uneven:  # the sampled rows are the small or the large ones
        pre_NF *= torch.logspace(-3, 3, n)[:, None].flip(0) if seed % 2 else torch.logspace(-3, 3, n)[:, None]
    pre_NF, bias_F, norm_F = pre_NF.to(dtype), torch.randn(f, generator=g), torch.rand(f, generator=g) + 0.01
    column_A, row_A, h_A, smallest = batch_top_k(pre_NF, torch.eye(f), bias_F, norm_F, total)
    scaled_NF = (pre_NF.float() + bias_F) * norm_F
    best = scaled_NF.flatten().sort(descending=True).values
    cut = max(float(best[min(total, len(best)) - 1]), 0.0)
    expected = ((scaled_NF >= cut) & (scaled_NF > 0)).T.nonzero()
    assert torch.equal(torch.stack([column_A, row_A], 1), expected)
    torch.testing.assert_close(h_A, (pre_NF.float() + bias_F)[row_A, column_A])
    assert smallest == (float(scaled_NF[row_A, column_A].min()) if len(expected) else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("floor", [0.0, 0.4, 3.0])
def test_blocks_of_features_hold_what_the_whole_product_holds(
    monkeypatch: pytest.MonkeyPatch, floor: float, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(3)
    x_ND, W_FD = torch.randn(24, 8, generator=g).to(dtype), torch.randn(50, 8, generator=g)
    bias_F, norm_F = torch.randn(50, generator=g), torch.rand(50, generator=g) + 0.1
    h_FN = ((x_ND @ W_FD.to(dtype).T).float() + bias_F).T
    monkeypatch.setattr("saefeat.sae.step.BLOCK_BYTES", 7 * 24 * x_ND.element_size())  # seven features, and one is left
    column_A, row_A, h_A = entries_above(floor, x_ND, W_FD, bias_F, norm_F)
    torch.testing.assert_close(h_A, h_FN[column_A, row_A])
    held_FN = torch.zeros_like(h_FN, dtype=torch.bool)
    held_FN[column_A, row_A] = True
    assert len(h_A) == int(held_FN.sum())
    assert not ((h_FN * norm_F[:, None] > floor) & ~held_FN).any()


@given(st.lists(st.booleans(), max_size=100))
def test_flags_are_found_eight_at_a_time(flags: list[bool]) -> None:
    assert true_at(torch.tensor(flags, dtype=torch.bool)).tolist() == [i for i, flag in enumerate(flags) if flag]


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_sums_and_products_of_rows_are_those_of_a_loop(seed: int, entries: int, n: int) -> None:
    g = torch.Generator().manual_seed(seed)
    M_RD, X_ND = torch.randn(7, D, generator=g), torch.randn(n, D, generator=g)
    row_A, weight_A = torch.randint(7, (entries,), generator=g), torch.randn(entries, generator=g)
    owner_A = torch.randint(n, (entries,), generator=g).sort().values
    y_nD, products = torch.zeros(n, D), []
    for row, weight, owner in zip(row_A, weight_A, owner_A, strict=True):
        y_nD[owner] += weight * M_RD[row]
        products.append(X_ND[owner] @ M_RD[row])
    torch.testing.assert_close(weighted_rows(M_RD, row_A, weight_A, owner_A, n), y_nD, rtol=1e-4, atol=1e-5)
    expected = torch.stack(products) if products else torch.empty(0)
    torch.testing.assert_close(row_products(X_ND, M_RD, row_A, owner_A), expected, rtol=1e-4, atol=1e-5)


def test_nested_widths_partition_the_dictionary() -> None:
    from saefeat.config import TrainConfig
    from saefeat.sae.train import nested_widths

    for features in (1, 3, 16, 4608):
        widths = nested_widths(TrainConfig(architecture="matryoshka", features=features, k=1))
        assert widths[-1] == features
        assert all(0 < a < b for a, b in itertools.pairwise(widths))
    assert nested_widths(TrainConfig()) == ()
