"""One stage of a build as a plan sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a build. Sizes are those of the whole stage; seconds are what is left of it."""

    name: str
    done: float
    """0 to 1."""
    tokens: int
    """Tokens read by the model, or visited by training."""
    disk_bytes: int
    """What it leaves on the disk."""
    scratch_bytes: int = 0
    """What it needs beside that while it runs."""
    memory_bytes: int
    """The most memory it holds, estimated."""
    seconds: float
    basis: str
    """What the numbers rest on."""


def sae_bytes(features: int, d_model: int, itemsize: int = 2) -> int:
    """Bytes of an SAE's folder: two matrices; biases, thresholds and sparsity in float32; the manifests."""
    return 2 * features * d_model * itemsize + 4 * (3 * features + d_model) + 3000
