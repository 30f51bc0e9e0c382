"""Makes the SAE folders beside this file with sparsify itself; see README.md for how it is run.

python tests/data/sparsify/make.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.__main__ import RunConfig

HERE = Path(__file__).parent
D, N = 32, 8


def make(run: str, hookpoint: str, cfg: SparseCoderConfig, dtype: torch.dtype = torch.float32) -> None:
    """A run's folder with its config.json, a coder of random weights, and what that coder makes of random vectors."""
    torch.manual_seed(len(run))
    coder = SparseCoder(D, cfg, dtype=dtype)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    coder.save_to_disk(HERE / run / hookpoint)
    RunConfig(sae=cfg, model="tiny-organisation/tiny-llama", dataset="none").save_json(HERE / run / "config.json")
    if cfg.transcode:
        return
    coder = coder.float()
    with torch.no_grad():
        x_ND = 2 * torch.randn(N, D)
        top = coder.encode(x_ND)
        acts_NF = torch.zeros(N, coder.num_latents).scatter_(1, top.top_indices, top.top_acts)
        xhat_ND = coder.decode(top.top_acts, top.top_indices)
    expected = {"x": x_ND, "acts": acts_NF, "xhat": xhat_ND}
    save_file({name: value.contiguous() for name, value in expected.items()}, HERE / run / "expected.safetensors")


if __name__ == "__main__":
    make("topk", "layers.1", SparseCoderConfig(num_latents=48, k=4), torch.bfloat16)
    make("groupmax", "layers.1", SparseCoderConfig(activation="groupmax", expansion_factor=1, k=4))
    make("transcoder", "layers.1.mlp", SparseCoderConfig(num_latents=8, k=2, transcode=True), torch.bfloat16)
