"""Others' SAEs, as they lie on a disk or in SAELens' list of releases, with what they say of the model they read.

A directory is known by its files: SAELens' (cfg.json, sae_weights.safetensors) or sparsify's (cfg.json,
sae.safetensors; the folder's name is the hook point, and config.json above it names the model). Only an SAE that maps
the residual stream after a block onto itself is one for saefeat; anything else is refused by name.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saefeat.errors import FormatError, InputError
from saefeat.files import sha256_file
from saefeat.sae.architectures import as_native, reading_uncentred
from saefeat.sae.files import (
    LAYOUT,
    SPARSIFY_WEIGHTS,
    WEIGHTS,
    from_tensors,
    is_native,
    read_cfg,
    read_tensors,
    write_sae,
)
from saefeat.sae.model import SAE

BLOCK = re.compile(r"(?:[\w.]*\.)?(?:layers|h|blocks)[._](\d+)(?:\.output)?")
TRANSFORMER_LENS = re.compile(r"blocks\.(\d+)\.hook_resid_(post|pre)")
SOME_HOOK = re.compile(r"(?:^|\.)(?:layers|h|blocks)[._]\d+|hook_|embed|ln_|attn|mlp")
DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An SAE of somebody else's, read."""

    sae: SAE
    source: dict[str, Any]
    """Where it comes from: see `identity`."""
    layer: int
    """The 0-based block whose output it reads."""
    model: str = ""
    """The model it was trained on, as its files name it; '': they do not say."""
    centred: bool = False
    """Trained on TransformerLens' streams with the mean over dimensions taken away, if the model has layer norms."""
    dtype: str = "float32"
    """What its matrices are stored in."""

    def hub_model(self) -> str:
        """The model's name on its hub, where SAELens' files call it otherwise ('gemma-2-2b')."""
        from saefeat.sae.lens import hub_name

        return hub_name(self.model) if self.model and "/" not in self.model else self.model

    def uncentred(self) -> SAE:
        """The SAE for the stream of a model with layer norms as transformers computes it."""
        return reading_uncentred(self.sae) if self.centred else self.sae


def identity(source: str) -> dict[str, Any]:
    """What an SAE is told apart by: {"directory", "sha256" of its weights}, or {"release"} as SAELens names it."""
    path = Path(source).expanduser()
    if path.is_dir():
        return {"directory": str(path.resolve()), "sha256": sha256_file(path / weights_of(path))}
    return {"release": source}


def weights_of(path: Path) -> str:
    """The name of the weights in an SAE's directory: SAELens' or sparsify's. Raises FormatError if it is neither."""
    for name in (WEIGHTS, SPARSIFY_WEIGHTS):
        if (path / name).is_file() and (path / "cfg.json").is_file():
            return name
    inside = sorted(child.parent.relative_to(path).as_posix() for child in path.glob("*/**/cfg.json"))[:8]
    what = f"is no SAE (no cfg.json with {WEIGHTS} or {SPARSIFY_WEIGHTS})"
    raise FormatError(what, where=path, do=f"name one of {', '.join(inside)} in it" if inside else None)


def read_foreign(source: str, *, layer: int | None = None) -> Foreign:
    """Read an SAE of others: a directory of SAELens or sparsify, or RELEASE/ID of SAELens' list (fetched if need be).

    layer: the block it reads, if its files do not say. Raises FormatError for damaged files and for what cannot be
    read faithfully, InputError for what is no SAE of a block's residual stream, or cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _sparsify(path, layer) if weights_of(path) == SPARSIFY_WEIGHTS else _sae_lens(path, layer)
    if path.exists():
        raise FormatError("is a file", where=source, do="name the SAE's directory")
    if "/" not in source or source.startswith((".", "/", "~")):
        do = "name a directory of SAELens or sparsify, or RELEASE/ID of SAELens' list"
        raise InputError("no such SAE", where=source, do=do)
    from saefeat.sae.lens import load_release

    cfg, tensors = load_release(source)
    return _from_lens(cfg, tensors, source, source, layer)


def _sae_lens(path: Path, layer: int | None) -> Foreign:
    return _from_lens(read_cfg(path), read_tensors(path / WEIGHTS), path, str(path), layer)


def _from_lens(
    cfg: dict[str, Any], tensors: dict[str, Tensor], where: Path | str, source: str, layer: int | None
) -> Foreign:
    told = cfg["metadata"]
    block = _block(str(told.get("hook_name") or told.get("hf_hook_name") or ""), layer, source)
    if told.get("hook_head_index") is not None:
        raise InputError("reads a single attention head", where=source, do="use an SAE of a residual stream")
    stored, architecture = _stored(tensors, "W_enc"), cfg["architecture"]
    cfg, tensors = as_native(cfg, {name: tensor.float() for name, tensor in tensors.items()})
    if is_native(cfg):
        sae = from_tensors(tensors, cfg, Path(where))
    else:
        from saefeat.sae.lens import check_lens_cfg, load_with_sae_lens

        check_lens_cfg(cfg, where)  # of a release first: it has no directory
        if not isinstance(where, Path):
            raise FormatError("is of a kind that sae-lens alone computes", where=source, do="save it to a directory")
        sae = load_with_sae_lens(where, cfg)
    centred = bool((told.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"))
    exact = architecture == cfg["architecture"] and not centred
    return Foreign(
        sae=sae, source=identity(source), layer=block, model=str(told.get("model_name") or ""), centred=centred,
        dtype=stored if exact else "float32",
    )  # fmt: skip


def _stored(tensors: dict[str, Tensor], encoder: str) -> str:
    """The dtype that keeps both matrices as they are stored."""
    dtypes = {tensors[name].dtype for name in (encoder, "W_dec") if name in tensors}
    return DTYPES.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32"


# ---------------------------------------------------------------- sparsify
def _sparsify(path: Path, layer: int | None) -> Foreign:
    """A SparseCoder: acts = topk(relu((x - b_dec) @ encoder.weightᵀ + encoder.bias)), x̂ = acts @ W_dec + b_dec."""
    try:
        told = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
        activation, k, d_in = told.get("activation", "topk"), told["k"], told["d_in"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"cfg.json is not that of a sparsify SAE ({error})", where=path) from error
    if told.get("transcode") or told.get("skip_connection"):
        kind = "has a skip connection" if told.get("skip_connection") else "is a transcoder"
        raise FormatError(f"{kind}: no autoencoder of a residual stream", where=path, do="use an SAE of a block")
    if activation not in ("topk", "groupmax") or told.get("signed"):
        raise FormatError(f"has the activation {'signed ' * bool(told.get('signed'))}{activation!r}", where=path)
    run = path.parent if path.name.startswith("seed") and path.name[4:].isdigit() else path
    block = _block(run.name, layer, str(path))
    tensors = read_tensors(path / SPARSIFY_WEIGHTS)
    missing = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} - set(tensors)
    if missing or tensors["encoder.weight"].shape[-1:] != (d_in,):
        what = f"has no {', '.join(sorted(missing))}" if missing else f"has an encoder of other than {d_in} dimensions"
        raise FormatError(f"its {SPARSIFY_WEIGHTS} {what}", where=path)
    model = _run_config(run.parent).get("model")
    cfg = {
        "architecture": activation, "k": k, "apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": False,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": run.name, "model_name": model},
    }  # fmt: skip
    named = {
        "W_enc": tensors["encoder.weight"].float().T.contiguous(), "b_enc": tensors["encoder.bias"].float(),
        "W_dec": tensors["W_dec"].float(), "b_dec": tensors["b_dec"].float(),
    }  # fmt: skip
    return Foreign(
        sae=from_tensors(named, cfg, path), source=identity(str(path)), layer=block, model=str(model or ""),
        dtype=_stored(tensors, "encoder.weight"),
    )  # fmt: skip


def _run_config(run: Path) -> dict[str, Any]:
    """config.json of a sparsify run, {} if there is none."""
    try:
        told = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


# ---------------------------------------------------------------- where it reads
def block_of(hook: str) -> int | None:
    """The 0-based block whose output a hook point is; None if it is another place in the model, or none at all.

    'model.layers.20', 'transformer.h.20', 'layers.20' and 'blocks.20.hook_resid_post' are block 20;
    'blocks.20.hook_resid_pre', its input, is the output of block 19.
    """
    if match := TRANSFORMER_LENS.fullmatch(hook):
        before = int(match[2] == "pre")
        return int(match[1]) - before if int(match[1]) >= before else None
    match = BLOCK.fullmatch(hook)
    return int(match[1]) if match else None


def _block(hook: str, layer: int | None, where: str) -> int:
    """The block of a hook point, or the one given where the files name none. Raises InputError."""
    found = block_of(hook)
    if found is None and SOME_HOOK.search(hook):
        what = f"reads {hook}, not the residual stream after a block"
        raise InputError(what, where=where, do="use an SAE of such a place (resid_post)")
    if found is None and layer is None:
        raise InputError("does not say which block it reads", where=where, do="pass --layer N")
    if found is not None and layer not in (None, found):
        raise InputError(f"reads layer {found}, not {layer}", where=where, do="leave --layer out")
    return found if found is not None else int(layer or 0)


# ---------------------------------------------------------------- kept as one of ours
def write_foreign(foreign: Foreign, sae: SAE, directory: Path, *, metadata: dict[str, Any], header: str) -> None:
    """`sae`, made of `foreign`, as an SAE folder that every stage reads, into a directory that the caller moves.

    metadata: what cfg.json says beside what it said; header: words kept in the weights' file, which its checksum then
    covers. What saefeat does not compute itself keeps the tensors of its own file.
    """
    told = {**sae.metadata, **metadata}
    if is_native(sae.cfg | {"architecture": sae.architecture}):
        made = replace(sae, cfg={**sae.cfg, "metadata": told})
        write_sae(made, directory, dtype=foreign.dtype, header={"adopted": header})
    else:
        tensors = read_tensors(Path(foreign.source["directory"]) / WEIGHTS)
        save_file(tensors, directory / WEIGHTS, metadata={"adopted": header})
        cfg = {**sae.cfg, "metadata": {"sae_lens_version": LAYOUT, **told}}
        (directory / "cfg.json").write_text(json.dumps(cfg, indent=1) + "\n", encoding="utf-8")
    sparsity = Path(foreign.source.get("directory", "")) / "sparsity.safetensors"
    if "directory" in foreign.source and sparsity.is_file():
        shutil.copyfile(sparsity, directory / sparsity.name)
