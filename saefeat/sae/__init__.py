"""Sparse autoencoders: read, written, used, trained and measured. Files are SAELens', byte for byte of meaning."""

from saefeat.sae.files import load_sae, save_sae
from saefeat.sae.model import SAE
from saefeat.sae.quality import quality
from saefeat.sae.train import train

__all__ = ["SAE", "load_sae", "quality", "save_sae", "train"]
