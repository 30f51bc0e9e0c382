"""Residual streams of text: on disk and back in shuffled batches, or straight from the running model."""

from saefeat.harvest.manifest import harvested
from saefeat.harvest.pack import Context, pack
from saefeat.harvest.ranks import ALONE, Ranks, joined, place
from saefeat.harvest.source import Fed, Position, Source
from saefeat.harvest.store import POOL_BYTES, ActivationStore
from saefeat.harvest.stream import Stream
from saefeat.harvest.write import harvest

__all__ = [
    "ALONE",
    "POOL_BYTES",
    "ActivationStore",
    "Context",
    "Fed",
    "Position",
    "Ranks",
    "Source",
    "Stream",
    "harvest",
    "harvested",
    "joined",
    "pack",
    "place",
]
