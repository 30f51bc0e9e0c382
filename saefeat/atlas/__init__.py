"""The atlas: everything about one subject model's emotions and features, in one directory that answers queries."""

from saefeat.atlas.asked import parse_features, read_profile
from saefeat.atlas.atlas import Atlas
from saefeat.atlas.build import MOST_EXAMPLES, STATEMENT, build_atlas
from saefeat.atlas.indexed import IndexedTexts
from saefeat.atlas.locate import find_atlas, list_atlases
from saefeat.atlas.nearest import Prototype, choose_readout
from saefeat.atlas.pack import pack, packed_name, unpack
from saefeat.atlas.profiles import Added, add_rows, add_texts, build_lists
from saefeat.atlas.rows import Batch, Rows
from saefeat.atlas.verify import verify

__all__ = [
    "MOST_EXAMPLES",
    "STATEMENT",
    "Added",
    "Atlas",
    "Batch",
    "IndexedTexts",
    "Prototype",
    "Rows",
    "add_rows",
    "add_texts",
    "build_atlas",
    "build_lists",
    "choose_readout",
    "find_atlas",
    "list_atlases",
    "pack",
    "packed_name",
    "parse_features",
    "read_profile",
    "unpack",
    "verify",
]
