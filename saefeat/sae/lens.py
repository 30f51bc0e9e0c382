"""The only file that imports sae_lens: architectures that saefeat does not compute itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saefeat.errors import FormatError
from saefeat.sae.model import SAE


@dataclass
class LensSAE(SAE):
    """An SAE that sae-lens computes (gated, normalised inputs, ...); what is asked of it is that of any other."""

    lens: Any = None

    def to(self, device: torch.device | str) -> SAE:
        moved = super().to(device)
        self.lens.to(device)
        return moved

    @torch.no_grad()
    def encode(self, x_ND: Tensor) -> Tensor:
        acts_NF = self.lens.encode(x_ND.to(self.lens.dtype))
        return (acts_NF.to_dense() if acts_NF.is_sparse else acts_NF).float()

    @torch.no_grad()
    def decode(self, acts_NF: Tensor) -> Tensor:
        return self.lens.decode(acts_NF.to(self.lens.dtype)).float()


def load_with_sae_lens(path: Path, cfg: dict[str, Any]) -> SAE:
    """Read an SAE folder of any architecture that sae-lens knows and that maps a residual stream onto itself.

    Raises FormatError for what sae-lens cannot read, transcoders, SAEs on reshaped heads, and normalisations whose
    statistics are not in the file.
    """
    from sae_lens import SAE as SAELens

    what = None
    if "transcoder" in cfg["architecture"]:
        what = "a transcoder, not an autoencoder"
    elif cfg.get("reshape_activations", "none") not in ("none", None):
        what = f"an SAE on activations reshaped by {cfg['reshape_activations']!r}"
    elif cfg.get("normalize_activations") in ("expected_average_only_in", "covariance_whitening"):
        what = f"an SAE whose normalisation {cfg['normalize_activations']!r} is not folded into its weights"
    if what:
        raise FormatError(f"is {what}", where=path, do="use an SAE of a residual stream")
    try:
        lens = SAELens.load_from_disk(str(path)).float().eval().requires_grad_(False)
        W_dec_FD = lens.W_dec.detach()
        F, D = W_dec_FD.shape
        with torch.no_grad():
            made = tuple(lens.encode(torch.zeros(1, D)).shape)
    except Exception as error:
        raise FormatError(f"sae-lens cannot read it ({type(error).__name__}: {error})", where=path) from error
    if made != (1, F):
        raise FormatError(f"makes {made} activations of one vector, {F} were expected", where=path)
    encoder, bias = getattr(lens, "W_enc", None), getattr(lens, "b_enc", None)
    return LensSAE(
        W_enc_DF=torch.zeros(D, F) if encoder is None else encoder.detach(),
        b_enc_F=torch.zeros(F) if bias is None else bias.detach(),
        W_dec_FD=W_dec_FD, b_dec_D=lens.b_dec.detach(), architecture=cfg["architecture"], cfg=cfg, lens=lens,
    )  # fmt: skip
