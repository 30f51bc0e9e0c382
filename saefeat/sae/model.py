"""Inference with a sparse autoencoder: a dozen lines of torch.

F features read a residual vector x (D wide): acts = act(x' @ W_enc + b_enc), x̂ = acts @ W_dec + b_dec, where x' is
x - b_dec if the file says so. Names and conventions are SAELens'.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class SAE:
    """A trained dictionary on one hook point; all tensors float32."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    threshold_F: Tensor | None = None
    """jumprelu: a feature is active where its pre-activation exceeds this."""
    k: int | None = None
    """topk, groupmax: how many features are active."""
    architecture: str = "jumprelu"
    cfg: dict[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """SAELens' metadata: model_name, hook_name, and saefeat's own under 'saefeat'."""
        return self.cfg.get("metadata", {})

    @property
    def hook_point(self) -> str:
        """The HF module path whose output is read, such as 'model.layers.20'."""
        return str(self.metadata.get("hook_name", ""))

    @property
    def layer(self) -> int:
        """The 0-based block: the hook point's number ('model.layers.20', 'blocks.20.hook_resid_post')."""
        return next((int(part) for part in self.hook_point.split(".") if part.isdigit()), 0)

    @property
    def name(self) -> str:
        """'L20'."""
        return f"L{self.layer}"

    @property
    def d_model(self) -> int:
        """Residual width D."""
        return self.W_enc_DF.shape[0]

    @property
    def n_features(self) -> int:
        """Dictionary width F."""
        return self.W_enc_DF.shape[1]

    @property
    def sink_norm(self) -> float | None:
        """The norm above which a token is a sink; None if the file does not say."""
        value = self.metadata.get("saefeat", {}).get("sink_norm")
        return None if value is None else float(value)

    def to(self, device: torch.device | str) -> SAE:
        """The same SAE on another device."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # of the same class

    @torch.no_grad()
    def encode(self, x_ND: Tensor) -> Tensor:
        """Activations acts_NF (float32, >= 0) of residual vectors x_ND of any float dtype."""
        x_ND = x_ND.to(self.W_enc_DF.dtype)
        if self.cfg.get("apply_b_dec_to_input", True):
            x_ND = x_ND - self.b_dec_D
        pre_NF = torch.addmm(self.b_enc_F, x_ND, self.W_enc_DF)
        if self.architecture == "jumprelu":
            assert self.threshold_F is not None
            return torch.where(pre_NF > self.threshold_F, pre_NF, 0.0).relu_()
        if self.architecture == "topk":
            assert self.k is not None
            scale_F = self.W_dec_FD.norm(dim=1) if self.cfg.get("rescale_acts_by_decoder_norm") else None
            pre_NF = pre_NF if scale_F is None else pre_NF * scale_F
            value_NK, index_NK = pre_NF.relu_().topk(self.k, dim=1)
            return torch.zeros_like(pre_NF).scatter_(1, index_NK, value_NK)
        if self.architecture == "groupmax":  # of k groups of neighbouring features, the largest of each
            assert self.k is not None
            value_NK, index_NK = pre_NF.relu_().unflatten(1, (self.k, -1)).max(dim=2)
            index_NK += torch.arange(0, self.n_features, self.n_features // self.k, device=pre_NF.device)
            return torch.zeros_like(pre_NF).scatter_(1, index_NK, value_NK)
        return pre_NF.relu_()

    @torch.no_grad()
    def decode(self, acts_NF: Tensor) -> Tensor:
        """Reconstructions x_ND of activations."""
        if self.architecture == "topk" and self.cfg.get("rescale_acts_by_decoder_norm"):
            acts_NF = acts_NF / self.W_dec_FD.norm(dim=1)
        return torch.addmm(self.b_dec_D, acts_NF, self.W_dec_FD)
