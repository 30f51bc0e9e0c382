"""The only file that imports sae_lens: architectures that saefeat does not compute itself, and releases on a hub."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.sae.model import SAE

log = logging.getLogger(__name__)


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
    check_lens_cfg(cfg, path)
    from sae_lens import SAE as SAELens

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


def check_lens_cfg(cfg: dict[str, Any], where: Path | str) -> None:
    """Raise FormatError for a cfg.json of what is no SAE of single residual vectors, or not folded into its weights."""
    architecture, normalised = cfg["architecture"], cfg.get("normalize_activations")
    what = None
    if "transcoder" in architecture:
        what = "a transcoder, not an autoencoder"
    elif architecture == "temporal":
        what = "a temporal SAE, which reads a context and not a vector"
    elif architecture == "abstopk":
        what = "an SAE with negative activations (abstopk)"
    elif cfg.get("reshape_activations", "none") not in ("none", None):
        what = f"an SAE on activations reshaped by {cfg['reshape_activations']!r}"
    elif normalised in ("expected_average_only_in", "covariance_whitening"):
        what = f"an SAE whose normalisation {normalised!r} is not folded into its weights"
    if what:
        raise FormatError(f"is {what}", where=where, do="use an SAE of a residual stream, saved for inference")


def load_release(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(cfg.json, tensors float32) of RELEASE/ID in SAELens' list, or of ORGANISATION/REPOSITORY/FOLDER on its hub.

    Fetched over the network unless the hub's cache on this machine has it. A scaling that the list knows is folded
    into the weights. Raises UnknownName for a name that is not in the list, InputError if it cannot be fetched.
    """
    release, sae_id = split_release(name)
    from sae_lens import SAE as SAELens

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lens, _, _ = SAELens.from_pretrained_with_cfg_and_sparsity(release, sae_id)
    except Exception as error:  # of the hub, of the network, of a dozen converters
        reason = " ".join(str(error).split())[:200]
        log.debug("fetching %s: %s", name, error, exc_info=True)
        what = f"cannot be fetched by sae-lens ({type(error).__name__}: {reason})"
        raise InputError(what, where=name, do="check the network and the name, or pass a directory") from error
    tensors = {key: value.detach().float() for key, value in lens.state_dict().items()}
    return {**lens.cfg.to_dict(), "metadata": dict(lens.cfg.metadata.to_dict())}, tensors


def split_release(name: str) -> tuple[str, str]:
    """RELEASE/ID in two: the release is the longest start of the name that SAELens' list has, else a repository."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    parts = name.split("/")
    for count in range(len(parts) - 1, 0, -1):
        release, sae_id = "/".join(parts[:count]), "/".join(parts[count:])
        if release in known:
            if sae_id not in known[release].saes_map:
                some = ", ".join(list(known[release].saes_map)[:4])
                raise UnknownName(f"SAE of {release}", sae_id, known[release].saes_map, do=f"such as {some}")
            return release, sae_id
    if len(parts) < 3:
        raise UnknownName("release of SAELens' list", parts[0], known, do="name RELEASE/ID, or a directory")
    return "/".join(parts[:2]), "/".join(parts[2:])


def hub_name(model: str) -> str:
    """The hub's name of a model that TransformerLens calls otherwise ('gemma-2-2b': 'google/gemma-2-2b')."""
    try:
        from transformer_lens.loading_from_pretrained import get_official_model_name

        return str(get_official_model_name(model))
    except (ImportError, ValueError):
        return model
