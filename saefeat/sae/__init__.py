"""Sparse autoencoders: read, written, used, trained and measured. Files are SAELens', byte for byte of meaning."""

from saefeat.sae.files import load_sae, save_sae
from saefeat.sae.foreign import Foreign, block_of, identity, read_foreign, write_foreign
from saefeat.sae.model import SAE
from saefeat.sae.outlook import is_trained, step_seconds, steps_done
from saefeat.sae.quality import quality
from saefeat.sae.train import train, train_side_by_side

__all__ = [
    "SAE",
    "Foreign",
    "block_of",
    "identity",
    "is_trained",
    "load_sae",
    "quality",
    "read_foreign",
    "save_sae",
    "step_seconds",
    "steps_done",
    "train",
    "train_side_by_side",
    "write_foreign",
]
