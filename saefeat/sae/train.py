"""The training loop: batches in, an SAE folder out, continued exactly after a kill.

Inputs are scaled to E|x|^2 = D; the decoder bias starts at their mean. Scale and decoder norms are folded into the
saved weights, which take raw residual vectors. The inference threshold is the moving average of the smallest kept
activation, as in sae-lens, and the file is what sae-lens writes for BatchTopK: a jumprelu SAE.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from saefeat.config import TrainConfig, to_dict
from saefeat.errors import InputError, SaefeatError
from saefeat.files import atomic_path, directory_lock, fingerprint, read_json, write_json
from saefeat.harvest import ActivationStore
from saefeat.sae.files import FORMAT_VERSION, save_sae
from saefeat.sae.model import SAE
from saefeat.sae.step import Params, forward

log = logging.getLogger(__name__)
LOG_EVERY = 50
SCALE_TOKENS = 32_768
DECODER_NORM = 0.1
CLIP = 1.0


@dataclass
class State:
    """Everything a killed run needs to continue as if nothing had happened."""

    params: Params
    adam: torch.optim.Adam
    threshold: float
    silent_F: Tensor
    """Tokens since each feature fired."""
    fired_F: Tensor
    """How often each feature fired since the last log lines began to count."""
    step: int


def train(
    store: ActivationStore,
    config: TrainConfig,
    out: Path | str,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train an SAE on a harvest and save it as the folder `out`; returns `out`.

    Checkpoints lie in `<out>.training/` and go when the SAE is written. A finished `out` with the same inputs is left
    as it is. Raises InputError for a layer that was not harvested, another SAE in `out`, or too few tokens;
    SaefeatError if the loss stops being a number.
    """
    out = Path(out)
    if config.layer is None and len(store.layers) != 1:
        raise InputError("several layers were harvested", do=f"choose one of {store.layers}")
    layer = store.check_layer(store.layers[0] if config.layer is None else config.layer)
    config = replace(config, layer=layer)
    inputs = fingerprint([to_dict(config), store.manifest["config"], store.fingerprint, store.n_contexts])
    work = out.with_name(out.name + ".training")
    with directory_lock(work):
        if (out / "manifest.json").exists():
            if read_json(out / "manifest.json", kind="sae", version=FORMAT_VERSION)["inputs"] == inputs:
                return out
            raise InputError("holds an SAE of other settings or activations", where=out, do="choose another --out")
        scale, mean_D = input_scale(store, layer, config.seed)
        state = start(config, mean_D, store.d_model)
        resume(state, work, inputs)
        _run(state, store, layer, config, scale, work, inputs, on_progress)
        _finish(state, store, layer, config, scale, out, inputs)
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    return out


def input_scale(store: ActivationStore, layer: int, seed: int) -> tuple[float, Tensor]:
    """(s, mean of s*x): s makes the mean squared norm of s*x the width D."""
    x_ND = store.sample(layer, SCALE_TOKENS, seed).float()
    scale = math.sqrt(store.d_model / x_ND.square().sum(1).mean().item())
    return scale, scale * x_ND.mean(0)


def start(config: TrainConfig, mean_D: Tensor, d_model: int) -> State:
    """Random unit decoder directions scaled to norm 0.1, the encoder their transpose, biases zero and the mean."""
    generator = torch.Generator().manual_seed(config.seed)
    W_dec_FD = torch.randn(config.features, d_model, generator=generator)
    W_dec_FD *= DECODER_NORM / W_dec_FD.norm(dim=1, keepdim=True)
    params = Params(W_dec_FD.T.contiguous(), torch.zeros(config.features), W_dec_FD, mean_D.clone())
    for tensor in params:
        tensor.requires_grad_(True)
    lr = config.lr if config.lr is not None else 2e-4 / math.sqrt(config.features / 2**14)
    adam = torch.optim.Adam(params, lr=lr, betas=(0.9, 0.999), fused=True)
    zeros = torch.zeros(config.features, dtype=torch.int64)
    return State(params, adam, 0.0, zeros, zeros.clone(), 0)


def _run(
    state: State, store: ActivationStore, layer: int, config: TrainConfig, scale: float, work: Path, inputs: str,
    on_progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    steps = max(1, config.tokens // config.batch)
    peak = state.adam.param_groups[0]["lr"] if state.step == 0 else peak_rate(config)
    widths = nested_widths(config)
    compute = torch.bfloat16 if store.dtype == torch.bfloat16 else torch.float32
    batches = store.batches(layer, config.batch, seed=config.seed, start=state.step, heldout=config.heldout)
    begun, seen = time.monotonic(), 0
    for x_ND in batches:
        if state.step >= steps:
            break
        x_ND = x_ND.float() * scale
        state.adam.param_groups[0]["lr"] = peak * rate(state.step, steps, config)
        dead_F = state.silent_F >= config.dead_after
        result = forward(
            state.params, x_ND, config.k, widths=widths, dead_F=dead_F, aux_coefficient=config.aux_coefficient,
            compute=compute,
        )  # fmt: skip
        if not torch.isfinite(result.loss):
            raise SaefeatError(
                f"the loss is {result.loss.item()} at step {state.step}; lower lr, or look at the activations"
            )
        state.adam.zero_grad(set_to_none=True)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(state.params, CLIP)
        state.adam.step()
        with torch.no_grad():
            smallest = float(result.smallest.detach())
            share = 1.0 if state.step == 0 else config.threshold_lr  # the first value starts the average
            state.threshold = (1 - share) * state.threshold + share * smallest
            fires_F = (result.acts_NF > 0).sum(0)
            state.silent_F = torch.where(fires_F > 0, 0, state.silent_F + len(x_ND))
            state.fired_F += fires_F
        state.step, seen = state.step + 1, seen + len(x_ND)
        if state.step % LOG_EVERY == 0 or state.step == steps:
            total = (x_ND - x_ND.mean(0)).square().sum(1).mean()
            line = {
                "step": state.step, "tokens": state.step * config.batch, "loss": round(float(result.loss.detach()), 4),
                "explained_variance": round(1 - float(result.mse / total), 4),
                "l0": round(float((result.acts_NF > 0).sum(1).float().mean()), 2),
                "dead_share": round(float(dead_F.float().mean()), 4), "aux": round(float(result.aux), 4),
                "lr": state.adam.param_groups[0]["lr"], "tok_per_s": round(seen / (time.monotonic() - begun)),
            }  # fmt: skip
            with (work / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            log.info("train %s", " ".join(f"{k} {v}" for k, v in line.items()))
        if state.step % config.checkpoint_every == 0:
            checkpoint(state, work, inputs)
        if on_progress is not None:
            on_progress(state.step * config.batch, steps * config.batch)


def peak_rate(config: TrainConfig) -> float:
    """The peak Adam rate: given, or proportional to 1/sqrt(width)."""
    return config.lr if config.lr is not None else 2e-4 / math.sqrt(config.features / 2**14)


def rate(step: int, steps: int, config: TrainConfig) -> float:
    """The share of the peak rate at a step: linear rise, flat, linear fall to zero."""
    rise, fall = config.warmup * steps, config.decay * steps
    return min(1.0, (step + 1) / max(1.0, rise), (steps - step) / max(1.0, fall))


def nested_widths(config: TrainConfig) -> tuple[int, ...]:
    """The nested dictionaries of a Matryoshka; () for a plain one."""
    if config.architecture != "matryoshka":
        return ()
    return config.matryoshka_widths or (config.features // 16, config.features // 4, config.features)


def _finish(
    state: State, store: ActivationStore, layer: int, config: TrainConfig, scale: float, out: Path, inputs: str
) -> None:
    """Fold scale and decoder norms into the weights and write the folder."""
    with torch.no_grad():
        W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = (p.detach() for p in state.params)
        norm_F = W_dec_FD.norm(dim=1)
        # scaled units: pre = ((s*x - b) @ W + c) * norm.  Raw units, activations divided by s: x̂ = acts @ unit + b / s
        sae = SAE(
            W_enc_DF=W_enc_DF * norm_F, b_enc_F=b_enc_F * norm_F / scale, W_dec_FD=W_dec_FD / norm_F[:, None],
            b_dec_D=b_dec_D / scale, threshold_F=torch.full_like(b_enc_F, state.threshold / scale),
            architecture="jumprelu", cfg=sae_cfg(store, layer, config),
        )  # fmt: skip
    tokens = max(1, state.step * config.batch)
    log_sparsity_F = torch.log10(state.fired_F.double() / tokens + 1e-10)
    write = out.with_name(out.name + ".training") / "metrics.jsonl"
    save_sae(sae, out, dtype="float16", log_sparsity_F=log_sparsity_F)
    if write.exists():
        with atomic_path(out / "metrics.jsonl") as temporary:
            temporary.write_bytes(write.read_bytes())
    manifest = {
        "format": "sae", "format_version": FORMAT_VERSION, "inputs": inputs, "config": to_dict(config),
        "subject": store.manifest["subject"], "steps": state.step, "tokens": tokens, "scale": scale,
    }  # fmt: skip
    write_json(out / "manifest.json", manifest)


def sae_cfg(store: ActivationStore, layer: int, config: TrainConfig) -> dict[str, Any]:
    """SAELens' cfg.json for a jumprelu SAE, with its metadata and saefeat's own."""
    return {
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "model_name": store.manifest["subject"]["name"], "hook_name": store.hook_point(layer),
            "hook_head_index": None, "model_class_name": "AutoModelForCausalLM", "context_size": store.context,
            "prepend_bos": False, "training_architecture": config.architecture,
            "saefeat": {
                "format_version": FORMAT_VERSION, "sink_norm": store.sink_norm[layer],
                "median_norm": store.median_norm[layer], "subject": store.fingerprint, "layer": layer,
                "training": to_dict(config),
            },
        },
    }  # fmt: skip


# ---------------------------------------------------------------- checkpoints
def checkpoint(state: State, work: Path, inputs: str) -> None:
    """Write the state atomically as one safetensors file."""
    tensors: dict[str, Tensor] = {"silent": state.silent_F, "fired": state.fired_F}
    tensors["threshold"] = torch.tensor(state.threshold, dtype=torch.float64)
    for name, tensor in zip(Params._fields, state.params, strict=True):
        moments = state.adam.state[tensor]
        tensors |= {name: tensor.detach(), f"{name}.m": moments["exp_avg"], f"{name}.v": moments["exp_avg_sq"]}
        tensors[f"{name}.t"] = moments["step"]
    metadata = {"step": str(state.step), "inputs": inputs}
    with atomic_path(work / "checkpoint.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


def resume(state: State, work: Path, inputs: str) -> None:
    """Bring `state` to the last checkpoint, if there is one of the same inputs; log lines after it are cut off."""
    path, metrics = work / "checkpoint.safetensors", work / "metrics.jsonl"
    if path.exists():
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata["inputs"] != inputs:
                raise InputError("holds a run of other settings", where=work, do="remove it or choose another --out")
            with torch.no_grad():
                for name, tensor in zip(Params._fields, state.params, strict=True):
                    tensor.copy_(file.get_tensor(name))
                    state.adam.state[tensor] = {
                        "step": file.get_tensor(f"{name}.t"), "exp_avg": file.get_tensor(f"{name}.m"),
                        "exp_avg_sq": file.get_tensor(f"{name}.v"),
                    }  # fmt: skip
            state.silent_F, state.fired_F = file.get_tensor("silent"), file.get_tensor("fired")
            state.threshold, state.step = float(file.get_tensor("threshold")), int(metadata["step"])
    if metrics.exists():
        lines = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= state.step]
        metrics.write_text("".join(line + "\n" for line in lines))
