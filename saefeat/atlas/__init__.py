"""The atlas: everything about one subject model's emotions and features, in one directory that answers queries."""

from saefeat.atlas.atlas import Atlas
from saefeat.atlas.build import MOST_EXAMPLES, STATEMENT, build_atlas
from saefeat.atlas.locate import find_atlas, list_atlases
from saefeat.atlas.nearest import Prototype, choose_readout
from saefeat.atlas.pack import pack, packed_name, unpack
from saefeat.atlas.verify import verify

__all__ = [
    "MOST_EXAMPLES",
    "STATEMENT",
    "Atlas",
    "Prototype",
    "build_atlas",
    "choose_readout",
    "find_atlas",
    "list_atlases",
    "pack",
    "packed_name",
    "unpack",
    "verify",
]
