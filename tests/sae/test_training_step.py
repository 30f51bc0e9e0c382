"""The step equals its slow twin and sae-lens' own classes, in loss and in gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.sae.step import Params, batch_top_k, forward

D, F, N, K = 12, 40, 64, 5


def make_params(seed: int) -> Params:
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(*shape, generator=g) * 0.3 for shape in ((D, F), (F,), (F, D), (D,))]
    return Params(*[t.requires_grad_() for t in made])


@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 30), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_batch_top_k_keeps_what_a_full_sort_keeps(seed: int, total: int, n: int, f: int) -> None:
    acts_NF = torch.randn(n, f, generator=torch.Generator().manual_seed(seed)).relu()
    kept_NF, _ = batch_top_k(acts_NF, total)
    best = acts_NF.flatten().sort(descending=True).values[:total]
    assert torch.equal(kept_NF[kept_NF > 0].sort(descending=True).values, best[best > 0])


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
        config = MatryoshkaBatchTopKTrainingSAEConfig(**common, matryoshka_widths=[8, 20, F])
        sae = MatryoshkaBatchTopKTrainingSAE(config)
    with torch.no_grad():
        for name, tensor in zip(("W_enc", "b_enc", "W_dec", "b_dec"), params, strict=True):
            getattr(sae, name).copy_(tensor)
    given = TrainStepInput(
        sae_in=x_ND, coefficients={}, dead_neuron_mask=dead_F, n_training_steps=0, is_logging_step=False
    )
    output = sae.training_forward_pass(given)
    output.loss.backward()
    return output, [getattr(sae, name).grad for name in ("W_enc", "b_enc", "W_dec", "b_dec")]


@pytest.mark.parametrize("n_dead", [0, 3, 20])
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_loss_and_gradients_are_those_of_sae_lens(kind: str, n_dead: int) -> None:
    params, x_ND = make_params(0), torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    dead_F = torch.arange(F) < n_dead
    theirs, gradients = lens_step(kind, params, x_ND, dead_F, coefficient=0.5)
    widths = () if kind == "batchtopk" else (8, 20, F)
    ours = forward(params, x_ND, K, widths=widths, dead_F=dead_F, aux_coefficient=0.5)
    ours.loss.backward()
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    for mine, other in zip(params, gradients, strict=True):
        assert torch.allclose(mine.grad, other, rtol=1e-4, atol=1e-5)
