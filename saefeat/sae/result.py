"""From a trained state to a folder: what sae-lens writes for BatchTopK, a jumprelu SAE on raw residual vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from saefeat.config import TrainConfig, to_dict
from saefeat.files import atomic_directory
from saefeat.harvest import Source
from saefeat.sae.checkpoint import State
from saefeat.sae.files import FORMAT_VERSION, write_sae
from saefeat.sae.model import SAE


def write_result(state: State, config: TrainConfig, source: Source, out: Path, work: Path, inputs: str) -> None:
    """Write the folder in one piece: the SAE, its metrics, its manifest. config.layer is settled."""
    assert config.layer is not None
    sae = folded(state, sae_cfg(source, config.layer, config))
    tokens = state.step * config.batch
    manifest = {
        "format": "sae", "format_version": FORMAT_VERSION, "inputs": inputs, "config": to_dict(config),
        "subject": source.manifest["subject"], "steps": state.step, "tokens": tokens, "scale": state.scale,
    }  # fmt: skip
    with atomic_directory(out) as temporary:
        log_sparsity_F = torch.log10(state.fired_F.cpu().double() / tokens + 1e-10)
        write_sae(sae, temporary, dtype="float16", log_sparsity_F=log_sparsity_F)
        (temporary / "metrics.jsonl").write_bytes((work / "metrics.jsonl").read_bytes())
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")


def folded(state: State, cfg: dict[str, Any]) -> SAE:
    """The SAE on raw residual vectors: scale and decoder norms in the weights, decoder rows of norm 1.

    Scaled units: acts = relu((s x - b) @ W + c) * norm. Raw units are those divided by s: x̂ = acts @ unit + b / s.
    """
    W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = (p.detach().cpu() for p in state.params)
    norm_F, scale = W_dec_FD.norm(dim=1), state.scale
    return SAE(
        W_enc_DF=(W_enc_FD * norm_F[:, None]).T.contiguous(), b_enc_F=b_enc_F * norm_F / scale,
        W_dec_FD=W_dec_FD / norm_F[:, None], b_dec_D=b_dec_D / scale,
        threshold_F=torch.full_like(b_enc_F, state.threshold / scale), architecture="jumprelu", cfg=cfg,
    )  # fmt: skip


def sae_cfg(source: Source, layer: int, config: TrainConfig) -> dict[str, Any]:
    """SAELens' cfg.json for a jumprelu SAE, with its metadata and saefeat's own."""
    return {
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "model_name": source.manifest["subject"]["name"], "hook_name": source.hook_point(layer),
            "hook_head_index": None, "model_class_name": "AutoModelForCausalLM", "context_size": source.context,
            "prepend_bos": False, "training_architecture": config.architecture,
            "saefeat": {
                "format_version": FORMAT_VERSION, "sink_norm": source.sink_norm[layer],
                "median_norm": source.median_norm[layer], "subject": source.fingerprint, "layer": layer,
                "training": to_dict(config),
            },
        },
    }  # fmt: skip
