"""The only file that imports sae_lens: architectures that saefeat does not compute itself."""

from __future__ import annotations

from pathlib import Path

from saefeat.errors import FormatError
from saefeat.sae.model import SAE


def load_with_sae_lens(path: Path) -> SAE:
    """Read any SAELens SAE and return it as plain tensors, where a jumprelu or standard SAE can say the same.

    Raises FormatError for architectures whose encoder is not one affine map and a threshold (gated, temporal ...).
    """
    from sae_lens import SAE as LensSAE

    try:
        lens = LensSAE.load_from_disk(str(path))
    except Exception as error:
        raise FormatError(f"sae-lens cannot read it ({error})", where=path) from error
    cfg = lens.cfg.to_dict() | {"metadata": lens.cfg.metadata.to_dict()}
    if lens.cfg.normalize_activations != "none" or cfg["architecture"] not in ("jumprelu", "topk", "standard"):
        what = f"architecture {cfg['architecture']!r} with normalisation {lens.cfg.normalize_activations!r}"
        raise FormatError(f"{what} is not supported", where=path, do="use jumprelu, topk or standard")
    state = {name: value.detach().float() for name, value in lens.state_dict().items()}
    from saefeat.sae.files import from_tensors

    return from_tensors(state, cfg, path)
