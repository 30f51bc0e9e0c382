"""Where a causal language model keeps its parts, found by structure and not by a list of model names.

Every decoder in transformers has one `ModuleList` of like blocks, a final norm beside it, and an unembedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from saefeat.errors import InputError


class Parts(NamedTuple):
    """The parts of a causal language model."""

    path: str
    """Module path of the list of blocks: 'model.layers', 'transformer.h', 'gpt_neox.layers', …"""
    blocks: nn.ModuleList
    final_norm: nn.Module | None
    unembedding: nn.Module


def find_parts(model: Any) -> Parts:
    """Find the block list, the final norm and the unembedding of a HF causal language model.

    The blocks are the `ModuleList` of `num_hidden_layers` modules of one class that contain an attention; the
    final norm is the last norm among the list's siblings. Raises InputError if there is not exactly one such list.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    found = [(path, module) for path, module in model.named_modules() if _is_block_list(module, n_layers)]
    found = [(path, blocks) for path, blocks in found if "vision" not in path and "encoder" not in path]
    unembedding = model.get_output_embeddings()
    if len(found) != 1 or unembedding is None:
        kind = type(model).__name__
        raise InputError(f"cannot find the blocks of a {kind}", do="use a decoder-only causal language model")
    path, blocks = found[0]
    siblings = model.get_submodule(path.rpartition(".")[0]).children()
    norms = [module for module in siblings if "norm" in type(module).__name__.lower()]
    return Parts(path, blocks, norms[-1] if norms else None, unembedding)


def _is_block_list(module: nn.Module, n_layers: int) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) != n_layers:
        return False
    names = [name.lower() for name, _ in module[0].named_children()]
    return len({type(block) for block in module}) == 1 and any("attn" in n or "attention" in n for n in names)


def norm_gain(norm: nn.Module | None, d_model: int) -> torch.Tensor:
    """The per-dimension gain (D,) float32 of a final norm.

    An RMS norm of the all-ones vector, whose RMS is 1, is its gain whatever the convention (`w` or `1 + w`);
    a layer norm would centre that vector away, so its weight is read.
    """
    if norm is None:
        return torch.ones(d_model)
    weight = getattr(norm, "weight", None)
    if isinstance(norm, nn.LayerNorm) or weight is None:
        return torch.ones(d_model) if weight is None else weight.detach().float()
    with torch.inference_mode():
        ones_D = torch.ones(d_model, device=weight.device, dtype=weight.dtype)
        return norm(ones_D).float()
