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
from saefeat.sae.architectures import as_native, modern
from saefeat.sae.model import SAE

FORMAT_VERSION = 1
LAYOUT = "6.0.0"
"""The SAELens release whose layout of cfg.json this is: it drops the metadata of a file that does not name one."""
NATIVE = ("jumprelu", "topk", "standard", "groupmax")
"""What `SAE` computes. groupmax is sparsify's: of these, the one that SAELens cannot read back."""
WEIGHTS, SPARSIFY_WEIGHTS = "sae_weights.safetensors", "sae.safetensors"
SHAPES = {"W_enc": "DF", "b_enc": "F", "W_dec": "FD", "b_dec": "D", "threshold": "F"}


def load_sae(path: Path | str) -> SAE:
    """Read an SAE folder: jumprelu, topk, groupmax and standard as they are, gated and batch-top-k ones as the jumprelu
    SAEs that they equal, any other SAELens architecture through sae-lens.

    Raises FormatError if a file is missing, damaged, of inconsistent shapes, or written by a newer saefeat.
    """
    path = Path(path)
    if (path / SPARSIFY_WEIGHTS).exists() and not (path / WEIGHTS).exists():
        raise FormatError("is an SAE of sparsify", where=path, do=f"run: saefeat build --sae {path}")
    cfg = read_cfg(path)
    cfg, tensors = as_native(cfg, {name: value.float() for name, value in read_tensors(path / WEIGHTS).items()})
    if is_native(cfg):
        return from_tensors(tensors, cfg, path)
    from saefeat.sae.lens import load_with_sae_lens

    return load_with_sae_lens(path, cfg)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file's tensors as they are stored. Raises FormatError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        do = "fetch or train it again"
        raise FormatError(f"its weights cannot be read ({error})", where=path.parent, do=do) from error


def is_native(cfg: dict[str, Any]) -> bool:
    """Whether `SAE` itself computes what this cfg.json describes."""
    plain = all(cfg.get(name, "none") in ("none", None) for name in ("normalize_activations", "reshape_activations"))
    return cfg["architecture"] in NATIVE and plain


def read_cfg(path: Path) -> dict[str, Any]:
    """The checked cfg.json of an SAE folder."""
    try:
        cfg = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FormatError("no SAE here (no cfg.json)", where=path) from error
    except (OSError, ValueError) as error:
        raise FormatError(f"cfg.json cannot be read ({error})", where=path) from error
    try:
        cfg = modern(cfg) if isinstance(cfg, dict) else cfg
    except ValueError as error:
        raise FormatError(f"is an SAE of SAELens before version 6, and {error}", where=path) from error
    if not isinstance(cfg, dict) or not isinstance(cfg.get("architecture"), str):
        raise FormatError("cfg.json is not that of a SAELens SAE (no architecture)", where=path)
    if not isinstance(cfg.get("metadata"), dict):
        cfg["metadata"] = {}  # files of other tools may have none
    own = cfg["metadata"].get("saefeat", {})
    version = own.get("format_version", 0) if isinstance(own, dict) else None
    if not isinstance(version, int):
        raise FormatError("cfg.json has saefeat metadata that are not its own", where=path)
    if version > FORMAT_VERSION:
        do = "upgrade saefeat"
        raise FormatError(
            f"was written in format {version}, this saefeat reads up to {FORMAT_VERSION}", where=path, do=do
        )
    return cfg


def from_tensors(tensors: dict[str, torch.Tensor], cfg: dict[str, Any], path: Path) -> SAE:
    """An SAE from SAELens' tensor names, shapes checked against each other."""
    needed = ["W_enc", "b_enc", "W_dec", "b_dec"] + ["threshold"] * (cfg["architecture"] == "jumprelu")
    missing = [name for name in needed if name not in tensors]
    if missing or tensors["W_enc"].ndim != 2:
        what = f"has no {', '.join(missing)}" if missing else "has a W_enc that is not a matrix"
        raise FormatError(f"its sae_weights.safetensors {what}", where=path)
    D, F = tensors["W_enc"].shape
    sizes = {"D": D, "F": F}
    for name, shape in SHAPES.items():
        if name in tensors and tuple(tensors[name].shape) != tuple(sizes[s] for s in shape):
            raise FormatError(f"{name} has shape {tuple(tensors[name].shape)}, W_enc is {D} x {F}", where=path)
        if name in tensors and not tensors[name].isfinite().all():
            raise FormatError(f"{name} holds NaN or infinity", where=path, do="fetch or train it again")
    k, architecture = cfg.get("k"), cfg["architecture"]
    if architecture in ("topk", "groupmax") and not (isinstance(k, int) and 0 < k <= F):
        raise FormatError(f"a {architecture} SAE of {F} features with k {k!r}", where=path)
    if architecture == "groupmax" and F % int(cfg["k"]):
        raise FormatError(f"{F} features do not make {k} groups of one size", where=path)
    return SAE(
        W_enc_DF=tensors["W_enc"], b_enc_F=tensors["b_enc"], W_dec_FD=tensors["W_dec"], b_dec_D=tensors["b_dec"],
        threshold_F=tensors.get("threshold"), k=k, architecture=architecture, cfg=cfg,
    )  # fmt: skip


def save_sae(sae: SAE, path: Path | str, *, dtype: str = "float32", log_sparsity_F: torch.Tensor | None = None) -> Path:
    """Write an SAE folder, atomically. dtype float16 halves the matrices on disk; biases and thresholds stay float32.

    log_sparsity_F: log10 of how often each feature fires. An SAE in `path` is replaced. Raises InputError if `path`
    holds anything else.
    """
    path = Path(path)
    if path.exists() and not (path / "cfg.json").exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError("holds other files than an SAE", where=path, do="choose another path")
    with atomic_directory(path) as temporary:
        write_sae(sae, temporary, dtype=dtype, log_sparsity_F=log_sparsity_F)
    return path


def write_sae(
    sae: SAE,
    directory: Path,
    *,
    dtype: str,
    log_sparsity_F: torch.Tensor | None = None,
    header: dict[str, str] | None = None,
) -> None:
    """The files of an SAE, into a directory that the caller moves into place. header: words kept with the weights."""
    if dtype not in ("float16", "bfloat16", "float32"):
        raise InputError(f"dtype is {dtype!r}", do="use float16, bfloat16 or float32")
    if sae.architecture not in NATIVE:
        raise InputError(f"an SAE of architecture {sae.architecture!r} cannot be written", do="copy its folder")
    matrix = getattr(torch, dtype)
    tensors = {
        "W_enc": sae.W_enc_DF.to(matrix), "b_enc": sae.b_enc_F.float(),
        "W_dec": sae.W_dec_FD.to(matrix), "b_dec": sae.b_dec_D.float(),
    }  # fmt: skip
    if sae.threshold_F is not None:
        tensors["threshold"] = sae.threshold_F.float()
    cfg = {
        **sae.cfg, "architecture": sae.architecture, "d_in": sae.d_model, "d_sae": sae.n_features,
        "dtype": "float32", "device": "cpu", "metadata": {"sae_lens_version": LAYOUT, **sae.metadata},
    }  # fmt: skip
    if sae.k is not None:
        cfg["k"] = sae.k
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, directory / WEIGHTS, metadata=header)
    if log_sparsity_F is not None:
        save_file({"sparsity": log_sparsity_F.float().cpu()}, directory / "sparsity.safetensors")
    (directory / "cfg.json").write_text(json.dumps(cfg, indent=1) + "\n", encoding="utf-8")
