"""Residual streams of text on disk, and back in shuffled batches."""

from saefeat.harvest.pack import Context, pack
from saefeat.harvest.store import ActivationStore
from saefeat.harvest.write import harvest

__all__ = ["ActivationStore", "Context", "harvest", "pack"]
