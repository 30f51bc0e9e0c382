"""The tiny atlas, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from saefeat.atlas import Atlas
from tests.tiny_atlas import build_tiny_atlas


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/, stories/, sae/, labels/ and indexes/tiny, the atlas."""
    root = tmp_path_factory.mktemp("tiny")
    build_tiny_atlas(root)
    return root


@pytest.fixture(scope="session")
def tiny_atlas(tiny_root: Path) -> Atlas:
    """The tiny atlas, open, its model in float32."""
    return Atlas.open(tiny_root / "indexes" / "tiny", device="cpu", dtype="float32")
