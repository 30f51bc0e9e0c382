"""The training loop: batches in, an SAE folder out, continued exactly after a kill.

Inputs are scaled to E|x|^2 = D; the decoder bias starts at their mean. Scale and decoder norms are folded into the
saved weights, which take raw residual vectors. The inference threshold is the moving average of the smallest kept
activation, as in sae-lens, and the file is what sae-lens writes for BatchTopK: a jumprelu SAE.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saefeat.config import TrainConfig, to_dict
from saefeat.errors import FormatError, InputError, SaefeatError
from saefeat.files import atomic_directory, atomic_path, directory_lock, fingerprint, read_json
from saefeat.harvest import ActivationStore
from saefeat.sae.files import FORMAT_VERSION, write_sae
from saefeat.sae.model import SAE
from saefeat.sae.step import Params, step
from saefeat.subject import choose_dtype

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
    """How often each feature fired in the whole run."""
    step: int


def train(
    store: ActivationStore,
    config: TrainConfig,
    out: Path | str,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train an SAE on a harvest and save it as the folder `out`; returns `out`.

    Checkpoints lie in `<out>.training/` and go when the SAE is written. A finished `out` with the same inputs is left
    as it is. Raises InputError for a layer that was not harvested, another thing in `out`, or activations that are
    not numbers; SaefeatError if the loss stops being a number.
    """
    out = Path(out)
    if config.layer is None and len(store.layers) != 1:
        raise InputError("several layers were harvested", do=f"choose one of {store.layers}")
    layer = store.check_layer(store.layers[0] if config.layer is None else config.layer)
    config = replace(config, layer=layer)
    inputs = fingerprint([to_dict(config), store.manifest["config"], store.fingerprint, store.n_contexts])
    work = out.with_name(out.name + ".training")
    if _finished(out, inputs):
        shutil.rmtree(work, ignore_errors=True)  # a kill may have come between the last two lines of a run
        return out
    with directory_lock(work):
        scale, mean_D = input_scale(store, layer, config)
        state = start(config, mean_D, store.d_model, device)
        resume(state, work, inputs)
        _run(state, store, layer, config, scale, work, inputs, on_progress)
        _finish(state, store, layer, config, scale, out, work, inputs)
    shutil.rmtree(work, ignore_errors=True)
    return out


def _finished(out: Path, inputs: str) -> bool:
    """Whether `out` is this very SAE. Raises InputError if it is anything else but an empty or missing folder."""
    if (out / "manifest.json").exists():
        if read_json(out / "manifest.json", kind="sae", version=FORMAT_VERSION).get("inputs") == inputs:
            return True
        raise InputError("holds an SAE of other settings or activations", where=out, do="choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("holds other files", where=out, do="choose another --out")
    return False


def input_scale(store: ActivationStore, layer: int, config: TrainConfig) -> tuple[float, Tensor]:
    """(s, mean of s*x): s makes the mean squared norm of s*x the width D, on tokens that training may see."""
    x_ND = store.sample(layer, SCALE_TOKENS, config.seed, heldout=config.heldout).float()
    square = x_ND.square().sum(1).mean().item()
    if not (math.isfinite(square) and square > 0):
        what = f"the activations of layer {layer} have a mean squared norm of {square}"
        raise InputError(what, where=store.directory, do="harvest again, perhaps with --dtype float32")
    scale = math.sqrt(store.d_model / square)
    return scale, scale * x_ND.mean(0)


def start(config: TrainConfig, mean_D: Tensor, d_model: int, device: torch.device | str = "cpu") -> State:
    """Random unit decoder directions scaled to norm 0.1, the encoder their transpose, biases zero and the mean."""
    generator = torch.Generator().manual_seed(config.seed)
    W_FD = torch.randn(config.features, d_model, generator=generator)
    W_FD *= DECODER_NORM / W_FD.norm(dim=1, keepdim=True)
    params = Params(*(t.to(device) for t in (W_FD.clone(), torch.zeros(config.features), W_FD, mean_D.clone())))
    adam = torch.optim.Adam(params, lr=peak_rate(config), betas=(0.9, 0.999), fused=True)
    zeros_F = torch.zeros(config.features, dtype=torch.int64, device=device)
    return State(params, adam, 0.0, zeros_F, zeros_F.clone(), 0)


def _run(
    state: State, store: ActivationStore, layer: int, config: TrainConfig, scale: float, work: Path, inputs: str,
    on_progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    steps, device = max(1, config.tokens // config.batch), state.params.b_dec_D.device
    widths, compute = nested_widths(config), choose_dtype("auto", torch.device(device))
    batches = store.batches(layer, config.batch, seed=config.seed, start=state.step, heldout=config.heldout)
    begun, first = time.monotonic(), state.step
    while state.step < steps:
        x_ND = next(batches).to(device).float() * scale
        lr = peak_rate(config) * rate(state.step, steps, config)
        dead_F = state.silent_F >= config.dead_after
        result = step(
            state.params, x_ND, config.k, widths=widths, dead_F=dead_F, aux_coefficient=config.aux_coefficient,
            compute=compute,
        )  # fmt: skip
        if not torch.isfinite(result.loss):
            where, finite = f"step {state.step}", bool(x_ND.isfinite().all())
            if not finite:
                raise InputError(f"the activations of {where} hold NaN or infinity", where=store.directory)
            raise SaefeatError(f"the loss is {result.loss.item()} at {where}; lower lr")
        descend(state, result.gradients, lr)
        if result.smallest is not None:
            share = config.threshold_lr if state.threshold else 1.0  # the first value starts the average
            state.threshold += share * (result.smallest - state.threshold)
        state.silent_F = torch.where(result.fires_F > 0, 0, state.silent_F + len(x_ND))
        state.fired_F += result.fires_F
        state.step += 1
        if state.step % LOG_EVERY == 0 or state.step == steps:
            total = (x_ND - x_ND.mean(0)).square().sum() / len(x_ND)
            line = {
                "step": state.step, "tokens": state.step * config.batch, "loss": round(float(result.loss), 4),
                "explained_variance": round(1 - float(result.mse / total), 4),
                "l0": round(float(result.fires_F.sum()) / len(x_ND), 2),
                "dead_share": round(float(dead_F.float().mean()), 4), "aux": round(float(result.aux), 4), "lr": lr,
                "tok_per_s": round((state.step - first) * config.batch / (time.monotonic() - begun)),
            }  # fmt: skip
            with (work / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            log.info("train %s", " ".join(f"{name} {value}" for name, value in line.items()))
        if state.step % config.checkpoint_every == 0:
            checkpoint(state, work, inputs)
        if on_progress is not None:
            on_progress(state.step * config.batch, steps * config.batch)


def descend(state: State, gradients: Params, lr: float) -> None:
    """One Adam step, the gradient's norm clipped to 1 as in sae-lens."""
    state.adam.param_groups[0]["lr"] = lr
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    shrink = (CLIP / (norm + 1e-6)).clamp(max=1.0)
    for tensor, gradient in zip(state.params, gradients, strict=True):
        tensor.grad = gradient.mul_(shrink)
    state.adam.step()


def peak_rate(config: TrainConfig) -> float:
    """The peak Adam rate: given, or proportional to 1/sqrt(width)."""
    return config.lr if config.lr is not None else 4e-4 / math.sqrt(config.features / 2**14)


def rate(step: int, steps: int, config: TrainConfig) -> float:
    """The share of the peak rate at a step: linear rise, flat, linear fall to zero."""
    rise, fall = config.warmup * steps, config.decay * steps
    return min(1.0, (step + 1) / max(1.0, rise), (steps - step) / max(1.0, fall))


def nested_widths(config: TrainConfig) -> tuple[int, ...]:
    """The nested dictionaries of a Matryoshka; () for a plain one."""
    if config.architecture != "matryoshka":
        return ()
    F = config.features
    return config.matryoshka_widths or tuple(sorted({max(1, F // 16), max(1, F // 4), F}))


# ---------------------------------------------------------------- the result
def folded(state: State, scale: float, cfg: dict[str, Any]) -> SAE:
    """The SAE on raw residual vectors: scale and decoder norms in the weights, decoder rows of norm 1.

    Scaled units: acts = relu((s x - b) @ W + c) * norm. Raw units are those divided by s: x̂ = acts @ unit + b / s.
    """
    W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = (p.detach().cpu() for p in state.params)
    norm_F = W_dec_FD.norm(dim=1)
    return SAE(
        W_enc_DF=(W_enc_FD * norm_F[:, None]).T.contiguous(), b_enc_F=b_enc_F * norm_F / scale,
        W_dec_FD=W_dec_FD / norm_F[:, None], b_dec_D=b_dec_D / scale,
        threshold_F=torch.full_like(b_enc_F, state.threshold / scale), architecture="jumprelu", cfg=cfg,
    )  # fmt: skip


def _finish(
    state: State, store: ActivationStore, layer: int, config: TrainConfig, scale: float, out: Path, work: Path,
    inputs: str,
) -> None:  # fmt: skip
    """Write the folder in one piece: the SAE, its metrics, its manifest."""
    sae = folded(state, scale, sae_cfg(store, layer, config))
    tokens = state.step * config.batch
    manifest = {
        "format": "sae", "format_version": FORMAT_VERSION, "inputs": inputs, "config": to_dict(config),
        "subject": store.manifest["subject"], "steps": state.step, "tokens": tokens, "scale": scale,
    }  # fmt: skip
    with atomic_directory(out) as temporary:
        log_sparsity_F = torch.log10(state.fired_F.cpu().double() / tokens + 1e-10)
        write_sae(sae, temporary, dtype="float16", log_sparsity_F=log_sparsity_F)
        (temporary / "metrics.jsonl").write_bytes((work / "metrics.jsonl").read_bytes())
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")


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
        tensors |= {name: tensor, f"{name}.m": moments["exp_avg"], f"{name}.v": moments["exp_avg_sq"]}
        tensors[f"{name}.t"] = moments["step"]
    metadata = {"step": str(state.step), "inputs": inputs}
    with atomic_path(work / "checkpoint.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)


def resume(state: State, work: Path, inputs: str) -> None:
    """Bring `state` to the last checkpoint, if there is one of the same inputs; metrics after it are cut off.

    Raises InputError if the checkpoint is another run's, FormatError if it is damaged.
    """
    path, metrics = work / "checkpoint.safetensors", work / "metrics.jsonl"
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("inputs") != inputs:
                    do = "remove it or choose another --out"
                    raise InputError("holds a run of other settings", where=work, do=do)
                _restore(state, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                state.step = int(metadata["step"])
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise FormatError(f"is no checkpoint of this saefeat ({error})", where=path, do="remove it") from error
    if metrics.exists():
        kept = [line for line in metrics.read_text("utf-8").splitlines() if _step_of(line) <= state.step]
        with atomic_path(metrics) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _restore(state: State, tensors: dict[str, Tensor]) -> None:
    device = state.silent_F.device
    for name, tensor in zip(Params._fields, state.params, strict=True):
        tensor.copy_(tensors[name])
        state.adam.state[tensor] = {
            "step": tensors[f"{name}.t"].to(device), "exp_avg": tensors[f"{name}.m"].to(device),
            "exp_avg_sq": tensors[f"{name}.v"].to(device),
        }  # fmt: skip
    state.silent_F, state.fired_F = tensors["silent"].to(device), tensors["fired"].to(device)
    state.threshold = float(tensors["threshold"])


def _step_of(line: str) -> float:
    """The step of a metrics line; infinity for one that a kill cut in the middle."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
