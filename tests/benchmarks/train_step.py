"""A training step (576 -> 4,608, k 32, batch 2,048, exact batch top-k, AuxK) against sae-lens' SAETrainer.

    python tests/benchmarks/train_step.py [--json]

Both sides train a BatchTopK SAE on the same random residual vectors, Adam and gradient clipping included; nothing is
dead, as in a healthy run. The floor is the encoder's matmul, its weight gradient and fused Adam, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from common import arguments, interleave, report

from saefeat.sae.step import Params, step

D, F, K, N, STEPS = 576, 4608, 32, 2048, 4


def batches(seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis_RD = torch.randn(256, D, generator=generator)
    while True:
        yield torch.randn(N, 256, generator=generator).relu() @ basis_RD * 0.1


def ours() -> None:
    W_FD = torch.randn(F, D) * 0.1 / D**0.5
    params = Params(W_FD.clone(), torch.zeros(F), W_FD.clone(), torch.zeros(D))
    adam = torch.optim.Adam(params, lr=3e-4, fused=True)
    data = batches(0)
    dead_F = torch.zeros(F, dtype=torch.bool)

    def run() -> None:
        for _ in range(STEPS):
            result = step(params, next(data), K, dead_F=dead_F, aux_coefficient=1.0, compute=torch.bfloat16)
            for tensor, gradient in zip(params, result.gradients, strict=True):
                tensor.grad = gradient
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            adam.step()

    SIDES["saefeat"] = run


def theirs(name: str, autocast: bool) -> None:
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
        for _ in range(STEPS):
            trainer._train_step(sae=sae, sae_in=next(data))

    SIDES[name] = run


def floor() -> None:
    x_ND, W_DF = torch.randn(N, D).bfloat16(), torch.randn(D, F)
    adam = torch.optim.Adam([W_DF, torch.randn(F, D)], lr=3e-4, fused=True)
    for group in adam.param_groups:
        for tensor in group["params"]:
            tensor.grad = torch.randn_like(tensor)

    def run() -> None:
        for _ in range(STEPS):
            pre_NF = x_ND @ W_DF.bfloat16()
            adam.param_groups[0]["params"][0].grad = (x_ND.T @ pre_NF).float()
            adam.step()

    SIDES["floor"] = run


SIDES: dict[str, Callable[[], None]] = {}

if __name__ == "__main__":
    given = arguments(__doc__ or "")
    ours()
    theirs("sae-lens fp32", autocast=False)
    theirs("sae-lens autocast", autocast=True)
    floor()
    speed = {name: STEPS * N / seconds for name, seconds in interleave(SIDES, given.rounds).items()}
    ratios = {
        "vs_saelens": speed["saefeat"] / speed["sae-lens fp32"],
        "vs_saelens_autocast": speed["saefeat"] / speed["sae-lens autocast"],
        "vs_floor": speed["saefeat"] / speed["floor"],
    }
    report("train_step", speed, ratios, as_json=given.json)
