"""A training step (576 -> 4,608 and 36,864, k 32, batch 2,048, exact batch top-k, AuxK) against sae-lens' SAETrainer.

    python tests/benchmarks/train_step.py [--json]

Both sides train a BatchTopK SAE on the same random residual vectors, Adam and gradient clipping included, with 64
features counted as dead, so that the auxiliary loss is at work in every step. The floor is the encoder's matmul, its
weight gradient and fused Adam, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from common import arguments, interleave, report

from saefeat.sae.step import Params, step

D, K, N, DEAD = 576, 32, 2048, 64
WIDTHS = {4608: 4, 36_864: 1}
"""Width → steps a side takes before it is the other's turn."""
Side = Callable[[], None]


def batches(seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis_RD = torch.randn(256, D, generator=generator)
    while True:
        yield torch.randn(N, 256, generator=generator).relu() @ basis_RD * 0.1


def ours(F: int, steps: int) -> Side:
    W_FD = torch.randn(F, D) * 0.1 / D**0.5
    params = Params(W_FD.clone(), torch.zeros(F), W_FD.clone(), torch.zeros(D))
    adam = torch.optim.Adam(params, lr=3e-4, fused=True)
    data = batches(0)
    dead_F = torch.arange(F) < DEAD

    def run() -> None:
        for _ in range(steps):
            result = step(params, next(data), K, dead_F=dead_F, aux_coefficient=1.0, compute=torch.bfloat16)
            for tensor, gradient in zip(params, result.gradients, strict=True):
                tensor.grad = gradient
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            adam.step()

    return run


def theirs(F: int, steps: int, *, autocast: bool) -> Side:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=K))
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=N, lr=3e-4, lr_end=3e-5, autocast=autocast,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    data = batches(0)
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=data)

    def run() -> None:
        for _ in range(steps):
            trainer.n_forward_passes_since_fired[:DEAD] = config.dead_feature_window + 1
            trainer._train_step(sae=sae, sae_in=next(data))

    return run


def floor(F: int, steps: int) -> Side:
    x_ND, W_FD = torch.randn(N, D).bfloat16(), torch.randn(F, D)
    adam = torch.optim.Adam([W_FD, torch.randn(F, D)], lr=3e-4, fused=True)
    for group in adam.param_groups:
        for tensor in group["params"]:
            tensor.grad = torch.randn_like(tensor)

    def run() -> None:
        for _ in range(steps):
            pre_NF = x_ND @ W_FD.bfloat16().T
            W_FD.grad = (pre_NF.T @ x_ND).float()
            adam.step()

    return run


if __name__ == "__main__":
    given = arguments(__doc__ or "")
    speeds: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for F, steps in WIDTHS.items():
        sides = {
            "saefeat": ours(F, steps),
            "sae-lens fp32": theirs(F, steps, autocast=False),
            "sae-lens autocast": theirs(F, steps, autocast=True),
            "floor": floor(F, steps),
        }
        rounds = given.rounds if steps > 1 else max(1, given.rounds - 2)
        speed = {name: steps * N / seconds for name, seconds in interleave(sides, rounds).items()}
        speeds |= {f"{name}, {F}": value for name, value in speed.items()}
        for ratio, other in (("", "sae-lens fp32"), ("_autocast", "sae-lens autocast"), ("", "floor")):
            named = "vs_floor" if other == "floor" else f"vs_saelens{ratio}"
            ratios[named if steps > 1 else f"{named}_{F}"] = speed["saefeat"] / speed[other]
    report("train_step", speeds, ratios, as_json=given.json)
