"""Architectures of others written as the ones that `SAE` computes; each function says which equality it uses.

Tensors have SAELens' names: W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,), threshold (F,).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saefeat.sae.model import SAE

Tensors = dict[str, Tensor]
BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")
MODEL_KEYS = (
    "model_name", "hook_name", "model_class_name", "hook_head_index", "model_from_pretrained_kwargs", "prepend_bos",
    "context_size", "neuronpedia_id", "dataset_path", "sae_lens_training_version", "hf_hook_name",
)  # fmt: skip
"""What cfg.json before SAELens 6 held at the top and holds under `metadata` since."""


def as_native(cfg: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The same SAE as a jumprelu one, if it is gated or a checkpoint of a batch-top-k training; else as it is."""
    if cfg["architecture"] == "gated" and {"W_enc", "b_gate", "b_mag", "r_mag"} <= set(tensors):
        return {**cfg, "architecture": "jumprelu"}, gated_as_jumprelu(tensors)
    if cfg["architecture"] in BATCH_TOP_K and {"W_enc", "b_enc", "W_dec", "topk_threshold"} <= set(tensors):
        rescaled = bool(cfg.get("rescale_acts_by_decoder_norm", True))
        return {**cfg, "architecture": "jumprelu"}, batch_top_k_as_jumprelu(tensors, rescaled=rescaled)
    return cfg, tensors


def gated_as_jumprelu(tensors: Tensors) -> Tensors:
    """A gate is a threshold: x W + b_gate > 0 just where e^r x W + b_mag > b_mag - e^r b_gate.

    Rajamanoharan et al. 2024, Improving Dictionary Learning with Gated Sparse Autoencoders, appendix E.
    """
    gain_F = tensors["r_mag"].exp()
    return {
        "W_enc": tensors["W_enc"] * gain_F,
        "b_enc": tensors["b_mag"],
        "threshold": tensors["b_mag"] - gain_F * tensors["b_gate"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }


def batch_top_k_as_jumprelu(tensors: Tensors, *, rescaled: bool) -> Tensors:
    """What SAELens makes of a batch-top-k SAE for inference: its running threshold stands for the top k.

    rescaled: pre-activations are compared times their decoder norms, which are then folded into the encoder.
    """
    norm_F = tensors["W_dec"].norm(dim=1).clamp(min=1e-8) if rescaled else torch.ones_like(tensors["b_enc"])
    return {
        "W_enc": tensors["W_enc"] * norm_F,
        "b_enc": tensors["b_enc"] * norm_F,
        "threshold": torch.full_like(tensors["b_enc"], float(tensors["topk_threshold"])),
        "W_dec": tensors["W_dec"] / norm_F[:, None],
        "b_dec": tensors["b_dec"],
    }


def reading_uncentred(sae: SAE) -> SAE:
    """An SAE of streams whose mean over the D dimensions was taken away, as one that reads them with that mean.

    TransformerLens takes the mean from everything that a model with layer norms writes ("center_writing_weights"). It
    is x P with P = 1 - 11ᵀ/D, and (x P - b) W + c = x (P W) + (c - b W).
    """
    shift_F = sae.b_dec_D @ sae.W_enc_DF if sae.cfg.get("apply_b_dec_to_input", True) else torch.zeros_like(sae.b_enc_F)
    return replace(
        sae,
        W_enc_DF=sae.W_enc_DF - sae.W_enc_DF.mean(0),
        b_enc_F=sae.b_enc_F - shift_F,
        cfg={**sae.cfg, "apply_b_dec_to_input": False},
    )


def modern(cfg: dict[str, Any]) -> dict[str, Any]:
    """A cfg.json of SAELens before version 6 in the layout of today; any other as it is.

    Raises ValueError for what only those versions could do: a learned scaling, other activations than relu and topk.
    """
    if isinstance(cfg.get("metadata"), dict) or not {"hook_name", "hook_point"} & set(cfg):
        return cfg
    told = dict(cfg)
    for old, new in (("hook_point", "hook_name"), ("activation_fn_str", "activation_fn")):
        if old in told:
            told[new] = told.pop(old)
    activation = told.get("activation_fn", "relu")
    if activation not in ("relu", "topk"):
        raise ValueError(f"its activation is {activation!r}")
    if told.get("finetuning_scaling_factor"):
        raise ValueError("its activations are scaled by a learned factor")
    if activation == "topk":
        told |= {"architecture": "topk", "k": (told.get("activation_fn_kwargs") or {}).get("k")}
    if isinstance(told.get("normalize_activations"), bool):
        told["normalize_activations"] = "expected_average_only_in" if told["normalize_activations"] else "none"
    if "hook_z" in told["hook_name"]:
        told.setdefault("reshape_activations", "hook_z")
    told.setdefault("architecture", "standard")
    kept = {key: value for key, value in told.items() if key not in MODEL_KEYS}
    return kept | {"metadata": {key: told[key] for key in MODEL_KEYS if key in told}}
