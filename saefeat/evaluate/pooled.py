"""Texts as every representation sees them: the SAE's features, the nulls in their place, and baselines.

All share a readout's positions and, but for the sentence embeddings, one forward pass. What was pooled is kept in a
directory, so that a killed evaluation continues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saefeat.config import ReadoutConfig
from saefeat.errors import FormatError
from saefeat.evaluate.controls import (
    RandomEncoder,
    has_sentence_embeddings,
    random_directions,
    sentence_embeddings,
    static_embeddings,
)
from saefeat.files import atomic_path, fingerprint
from saefeat.label import Encoder, Progress, pool_texts
from saefeat.sae import SAE
from saefeat.subject import Subject

Pools = dict[str, np.ndarray]
"""Representation → (N, width) float32."""
SAMPLE = 64
"""Texts on which the stream's mean and the SAE's L0 are measured for the random encoders."""
SHUFFLED = "shuffled"
"""Not pooled: the SAE's features with the emotions permuted within topics."""
NAMES = ("sae", "random_directions", "random_encoder", "static", "dense", "minilm")
TITLES = {
    "sae": "SAE features",
    "dense": "dense stream, same layer",
    "random_directions": "random directions, ReLU, as many",
    "random_encoder": "random encoder of equal L0",
    "static": "static token embeddings",
    "minilm": "MiniLM-L6 sentence embeddings",
    SHUFFLED: "SAE features, shuffled labels",
}
BASELINES = tuple(name for name in NAMES if name != "sae")


class Pooler:
    """Pools texts for one SAE and one way of reading; `sample` are texts to set the random encoders up with."""

    def __init__(
        self,
        subject: Subject,
        sae: SAE,
        readout: ReadoutConfig,
        sample: Sequence[str],
        *,
        embeddings: bool = True,
        seed: int = 0,
        keep: Path | None = None,
    ) -> None:
        self.subject, self.sae, self.readout, self.sample = subject, sae, readout, list(sample)
        self.embeddings, self.seed, self.keep = embeddings and has_sentence_embeddings(), seed, keep

    def __call__(self, texts: Sequence[str], on_progress: Progress = None) -> Pools:
        """The texts by the names of NAMES, without MiniLM if it is not installed. Raises FormatError: a kept file is
        damaged."""
        how = [*reading(self.subject, self.sae, self.readout), self.embeddings, self.seed, self.sample]
        return kept(self.keep, how, texts, lambda: self._pool(texts, on_progress))

    def _pool(self, texts: Sequence[str], on_progress: Progress) -> Pools:
        readouts = [replace(self.readout, name=name) for name in self.encoders]
        pools = pool_texts(self.subject, texts, readouts, self.encoders, dense=True, on_progress=on_progress)
        found = {**pools.features, "dense": pools.dense["sae"], "static": static_embeddings(self.subject, texts)}
        return found | ({"minilm": sentence_embeddings(texts)} if self.embeddings else {})

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """The SAE; random directions, and a random encoder as sparse as the SAE, both centred on the stream's mean."""
        texts, name = self.sample[:: max(1, len(self.sample) // SAMPLE)][:SAMPLE], self.readout.name
        pools = pool_texts(self.subject, texts, [self.readout], {name: self.sae}, dense=True)
        mean_D = torch.from_numpy(pools.dense[name].mean(0)).to(self.subject.device)
        k = max(1, round(float(pools.density[name].sum())))
        given = (mean_D, self.sae.n_features, self.sae.layer, self.sae.sink_norm)
        return {
            "sae": self.sae,
            "random_directions": RandomEncoder(*given, seed=self.seed),
            "random_encoder": RandomEncoder(*given, seed=self.seed + 1, k=k),
        }

    @property
    def random_FD(self) -> np.ndarray:
        """The directions of `random_directions`, as rows."""
        return random_directions(self.sae.d_model, self.sae.n_features, self.seed).T.numpy()


# ---------------------------------------------------------------- kept on disk
def reading(subject: Subject, sae: SAE, readout: ReadoutConfig) -> list[Any]:
    """All that the features of a text depend on."""
    weights = [float(sae.W_enc_DF.double().abs().sum()), float(sae.W_dec_FD.double().abs().sum())]
    how = [readout.pool, readout.power, readout.continuation, readout.frame, sae.name]
    return [subject.fingerprint.to_dict(), str(subject.dtype), weights, how]


def kept(directory: Path | None, how: Sequence[Any], texts: Sequence[str], make: Callable[[], Pools]) -> Pools:
    """Texts pooled in the way `how`: from a file of `directory` if it is there, else made and written there.

    Raises FormatError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path = None if directory is None else directory / f"{fingerprint([list(how), list(texts)])}.safetensors"
    if path is not None and path.exists():
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise FormatError(f"is damaged ({error})", where=path, do="delete it, and it is pooled again") from error
        if not found or any(len(X_NF) != len(texts) for X_NF in found.values()):
            raise FormatError("holds other texts", where=path, do="delete it, and it is pooled again")
        return found
    found = {name: np.ascontiguousarray(X_NF, np.float32) for name, X_NF in make().items()}
    if path is not None:
        with atomic_path(path) as temporary:
            save_file(found, temporary)
    return found
