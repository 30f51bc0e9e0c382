"""What has to hold on a CUDA device, and how fast it is there: one command for whoever has one.

    python docs/gpu/smoke.py [--device cuda] [--tokens 262144] [--json] > docs/gpu/last.txt

Checks: the residual stream and one training step on the device are those of the CPU, steering acts where it says.
Speed: harvest against the bare truncated forward; the training step at several widths against our own dense twin and
against a plain rendering of the neighbours' step (a sorted top-k over the flattened batch, dense decode, autograd),
with the share of the device's matmul speed, measured beside it. Exit 1 if a check fails, 2 without such a device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from saefeat.causal import selftest
from saefeat.config import HarvestConfig
from saefeat.files import shipped
from saefeat.harvest import harvest
from saefeat.sae.step import Params, step
from saefeat.subject import load_subject

MODEL, LAYER, D, K = "smollm2-135m-instruct", 19, 576, 32
WIDTHS, BATCH = (4_608, 36_864), 8_192
TOLERANCE = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=262_144, help="Tokens harvested.")
    parser.add_argument("--batch", type=int, default=BATCH, help="Tokens a training step takes.")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was checked or measured", file=sys.stderr)
        sys.exit(2)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found: dict[str, object] = {"device": name, "torch": torch.__version__}
    checks = {
        "residuals_differ": residuals_differ(device),
        "step_differs": step_differs(device),
        "steering_differs": float("nan") if (difference := steering(device)) is None else difference,
    }
    found |= {"checks": checks, "harvest": harvest_speed(device, given.tokens)}
    found |= {f"train_{F}": train_speed(device, F, given.batch) for F in given.widths}
    failed = [check for check, value in checks.items() if not value < TOLERANCE and check != "steering_differs"]
    failed += ["steering_differs"] if difference is None else []
    print(json.dumps(found | {"failed": failed}, indent=None if given.json else 1))
    sys.exit(1 if failed else 0)


# ---------------------------------------------------------------- checks
def residuals_differ(device: torch.device) -> float:
    """Largest difference of the float32 residual stream from the CPU's, as a share of its norm."""
    streams = []
    for where in ("cpu", str(device)):
        subject = load_subject(MODEL, device=where, dtype="float32")
        ids_BT = torch.tensor([subject.tokenize("The letter came on a Monday, and nobody opened it.")])
        streams.append(subject.residuals(ids_BT, [LAYER])[LAYER].float().cpu())
    return float((streams[0] - streams[1]).norm() / streams[0].norm())


def step_differs(device: torch.device) -> float:
    """Largest difference of a float32 step's gradients from the CPU's, as a share of their norm."""
    params, x_ND, dead_F = problem(4_608, 512)
    steps = []
    for where in (torch.device("cpu"), device):
        own = Params(*[p.to(where) for p in params])
        steps.append(step(own, x_ND.to(where), K, dead_F=dead_F.to(where), aux_coefficient=1.0))
    return max(
        float((a - b.cpu()).norm() / a.norm()) for a, b in zip(steps[0].gradients, steps[1].gradients, strict=True)
    )


def steering(device: torch.device) -> float | None:
    """Difference of cached from uncached logits, as a share of what steering changes; None if the self-test fails."""
    done = selftest(load_subject(MODEL, device=str(device)))
    for what in done.problems:
        print(f"steering: {what}", file=sys.stderr)
    return done.difference if done.passed else None


# ---------------------------------------------------------------- speed
def harvest_speed(device: torch.device, tokens: int) -> dict[str, float]:
    """Tokens a second of a harvest to disk and of the bare forward on the same tokens."""
    subject = load_subject(MODEL, device=str(device))
    place, contexts = Path(tempfile.mkdtemp()), 64
    stories = tuple(map(str, sorted((shipped("corpora") / "stories").glob("t*.jsonl"))))
    config = HarvestConfig(text=stories, layers=(LAYER,), tokens=tokens, batch_contexts=contexts)
    ids_BT = torch.randint(1, 4_000, (contexts, config.context), device=subject.device)
    try:
        harvest(subject, HarvestConfig(text=stories, layers=(LAYER,), tokens=8_192), place / "warm")
        begun = time.perf_counter()
        harvest(subject, config, place / "out")
        ours = tokens / (time.perf_counter() - begun)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    bare = ids_BT.numel() / seconds_of(lambda: subject.residuals(ids_BT, [LAYER]), device)
    return {"harvest_tok_s": ours, "bare_tok_s": bare, "vs_bare": ours / bare}


def train_speed(device: torch.device, F: int, batch: int) -> dict[str, float]:
    """Tokens a second of the step and of what it is compared with, at one width; Adam included everywhere."""
    params, x_ND, dead_F = problem(F, batch)
    params, x_ND, dead_F = Params(*[p.to(device) for p in params]), x_ND.to(device), dead_F.to(device)
    adam = torch.optim.Adam(params, lr=3e-4, fused=True)

    def ours() -> None:
        done = step(params, x_ND, K, dead_F=dead_F, aux_coefficient=1.0, compute=torch.bfloat16)
        for tensor, gradient in zip(params, done.gradients, strict=True):
            tensor.grad = gradient
        adam.step()

    seconds = seconds_of(ours, device)
    sides = {}
    for name, top_k in (("neighbours", flat_top_k), ("dense_twin", threshold_top_k)):
        own = [torch.nn.Parameter(p.clone()) for p in params]
        optimiser = torch.optim.Adam(own, lr=3e-4, fused=True)
        sides[name] = seconds_of(lambda o=own, a=optimiser, t=top_k: dense_step(o, x_ND, a, t), device)  # type: ignore[misc]
    W_DF = params[0].T.bfloat16()
    low_ND = x_ND.bfloat16()
    matmul = seconds_of(lambda: low_ND @ W_DF, device)
    return {
        "tok_s": batch / seconds,
        **{f"{name}_tok_s": batch / value for name, value in sides.items()},
        **{f"vs_{name}": value / seconds for name, value in sides.items()},
        "matmul_tflop_s": 2e-12 * batch * D * F / matmul,
        "encoder_share_of_step": matmul / seconds,
    }


def dense_step(
    params: list[torch.nn.Parameter], x_ND: Tensor, adam: torch.optim.Adam, top_k: Callable[[Tensor, int], Tensor]
) -> None:
    """BatchTopK as it is usually written: every activation, its decode and its gradients in dense matrices."""
    W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = params
    with torch.autocast(x_ND.device.type, torch.bfloat16):
        acts_NF = top_k((((x_ND - b_dec_D) @ W_enc_FD.T) + b_enc_F).relu() * W_dec_FD.norm(dim=1), K * len(x_ND))
        xhat_ND = acts_NF @ (W_dec_FD / W_dec_FD.norm(dim=1, keepdim=True)) + b_dec_D
        loss = (x_ND - xhat_ND).square().sum(1).mean()
    loss.backward()
    adam.step()
    adam.zero_grad()


def flat_top_k(acts_NF: Tensor, total: int) -> Tensor:
    best = acts_NF.flatten().topk(total, sorted=False)
    kept = torch.zeros_like(acts_NF).flatten().scatter(0, best.indices, best.values)
    return kept.view_as(acts_NF)


def threshold_top_k(acts_NF: Tensor, total: int) -> Tensor:
    """The same with the cut guessed from a sample of rows: what a dense step can be at its best, if not exact."""
    sample = acts_NF[:: max(1, len(acts_NF) // 64)].flatten().float()
    cut = sample.topk(max(1, total * len(sample) // acts_NF.numel()), sorted=False).values.min()
    return acts_NF * (acts_NF >= cut)


def problem(F: int, N: int) -> tuple[Params, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    W_FD = torch.randn(F, D, generator=g) * 0.1 / D**0.5
    x_ND = torch.randn(N, 256, generator=g).relu() @ torch.randn(256, D, generator=g) * 0.1
    return Params(W_FD, torch.zeros(F), W_FD.clone(), torch.zeros(D)), x_ND, torch.arange(F) < 64


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Median seconds of a call, two calls to warm up."""
    times = []
    for _ in range(rounds + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return sorted(times[2:])[rounds // 2]


if __name__ == "__main__":
    main()
