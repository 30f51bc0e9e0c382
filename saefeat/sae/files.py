"""SAE folders as SAELens writes them: `cfg.json`, `sae_weights.safetensors`, `sparsity.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saefeat.errors import FormatError, InputError
from saefeat.files import atomic_directory
from saefeat.sae.model import SAE

FORMAT_VERSION = 1
NATIVE = ("jumprelu", "topk", "standard")
SHAPES = {"W_enc": "DF", "b_enc": "F", "W_dec": "FD", "b_dec": "D", "threshold": "F"}


def load_sae(path: Path | str) -> SAE:
    """Read an SAE folder: jumprelu, topk and standard here, any other SAELens architecture through sae-lens.

    Raises FormatError if a file is missing, damaged, of inconsistent shapes, or written by a newer saefeat.
    """
    path = Path(path)
    cfg = read_cfg(path)
    if cfg["architecture"] not in NATIVE or cfg.get("normalize_activations", "none") != "none":
        from saefeat.sae.lens import load_with_sae_lens

        return load_with_sae_lens(path)
    try:
        tensors = {k: v.float() for k, v in load_file(path / "sae_weights.safetensors").items()}
        return from_tensors(tensors, cfg, path)
    except (OSError, SafetensorError, KeyError) as error:
        raise FormatError(f"its weights cannot be read ({error})", where=path, do="fetch or train it again") from error


def read_cfg(path: Path) -> dict[str, Any]:
    """The checked cfg.json of an SAE folder."""
    try:
        cfg = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError("no SAE here (no cfg.json)", where=path) from error
    except (OSError, ValueError) as error:
        raise FormatError(f"cfg.json cannot be read ({error})", where=path) from error
    if not isinstance(cfg, dict) or "architecture" not in cfg:
        raise FormatError("cfg.json is not that of a SAELens SAE (no architecture)", where=path)
    version = (cfg.get("metadata") or {}).get("saefeat", {}).get("format_version", 0)
    if version > FORMAT_VERSION:
        raise FormatError(f"was written in format {version}", where=path, do="upgrade saefeat")
    return cfg


def from_tensors(tensors: dict[str, torch.Tensor], cfg: dict[str, Any], path: Path) -> SAE:
    """An SAE from SAELens' tensor names, shapes checked against each other."""
    D, F = tensors["W_enc"].shape
    sizes = {"D": D, "F": F}
    for name, shape in SHAPES.items():
        if name in tensors and tuple(tensors[name].shape) != tuple(sizes[s] for s in shape):
            raise FormatError(f"{name} has shape {tuple(tensors[name].shape)}, W_enc is {D} x {F}", where=path)
    if cfg["architecture"] == "jumprelu" and "threshold" not in tensors:
        raise FormatError("a jumprelu SAE without threshold", where=path)
    return SAE(
        W_enc_DF=tensors["W_enc"], b_enc_F=tensors["b_enc"], W_dec_FD=tensors["W_dec"], b_dec_D=tensors["b_dec"],
        threshold_F=tensors.get("threshold"), k=cfg.get("k"), architecture=cfg["architecture"], cfg=cfg,
    )  # fmt: skip


def save_sae(sae: SAE, path: Path | str, *, dtype: str = "float32", log_sparsity_F: torch.Tensor | None = None) -> Path:
    """Write an SAE folder, atomically. dtype float16 halves the matrices on disk; biases and thresholds stay float32.

    log_sparsity_F: log10 of how often each feature fires.
    """
    if dtype not in ("float16", "float32"):
        raise InputError(f"dtype is {dtype!r}", do="use float16 or float32")
    matrix = getattr(torch, dtype)
    tensors = {
        "W_enc": sae.W_enc_DF.to(matrix), "b_enc": sae.b_enc_F.float(),
        "W_dec": sae.W_dec_FD.to(matrix), "b_dec": sae.b_dec_D.float(),
    }  # fmt: skip
    if sae.threshold_F is not None:
        tensors["threshold"] = sae.threshold_F.float()
    cfg = {
        **sae.cfg, "architecture": sae.architecture, "d_in": sae.d_model, "d_sae": sae.n_features,
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    with atomic_directory(path) as temporary:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary / "sae_weights.safetensors")
        if log_sparsity_F is not None:
            save_file({"sparsity": log_sparsity_F.float().cpu()}, temporary / "sparsity.safetensors")
        (temporary / "cfg.json").write_text(json.dumps(cfg, indent=1) + "\n", encoding="utf-8")
    return Path(path)
