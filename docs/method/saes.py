"""SAEs of one layer compared on development data, by labels and lookup: what docs/method.md tables.

    python docs/method/saes.py runs/k48 runs/k64 ... --labelled repe.jsonl --map docs/maps/six.toml ... [--keep DIR]

Texts, folds and columns as in readouts.py, means over the text; the power is 1/2. Before them how well the SAE
reconstructs, and detectors: features read along their directions, chosen on topics t01-t06, scored on t07 and t08. All
SAEs are read in the same forward passes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from readouts import Bench, powers, sampled, stacked

from saefeat.atlas import Atlas
from saefeat.config import STORY
from saefeat.corpus import load_corpus
from saefeat.evaluate import read_labelled
from saefeat.evaluate.detectors import detectors
from saefeat.evaluate.pooled import Pools, kept, reading
from saefeat.label import NEUTRAL, aligned, pool_texts
from saefeat.sae import SAE, load_sae

KS = (1, 4, 16)
TESTED = ("t07", "t08")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saes", nargs="+", type=Path)
    parser.add_argument("--atlas", help="whose subject model reads the texts")
    parser.add_argument("--labelled", action="append", default=[], type=Path)
    parser.add_argument("--map", action="append", default=[], type=Path)
    parser.add_argument("--rows", type=int, default=700)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    atlas, emotions = Atlas.open(given.atlas), load_corpus("stories").emotions
    pairs = zip(given.labelled, given.map, strict=True)
    bench = Bench([sampled(read_labelled(*pair, emotions), given.rows) for pair in pairs])
    saes = {str(path): load_sae(path) for path in given.saes}
    pools = bench.pools(lambda texts: read(atlas, saes, texts, given.keep), ("remarks", "stories"))
    made = ("explained variance", "L0", "silent", "AUROC k 1", *(f"hits k {k}" for k in KS), "story top-1", "top-5")
    bench.head("SAE", *made)
    for name, sae in saes.items():
        quality = json.loads((Path(name) / "quality.json").read_text(encoding="utf-8"))["figures"]
        first = [f"{quality['explained_variance']:.3f}", f"{quality['l0']:.1f}", f"{quality['dead_share']:.1%}"]
        stories = bench.figures(bench.read(powers(pools, name, 0.5), ("stories",)))[:2]
        felt = bench.read(powers(pools, name, 0.5), ("remarks", "stories"))
        bench.row(felt, Path(name).name, *first, *single(bench, powers(pools, name), sae), *stories)


def read(atlas: Atlas, saes: dict[str, SAE], texts: Sequence[str], keep: Path | None) -> Pools:
    """Mean activations of texts by the name of the SAE."""
    readouts = [replace(STORY, name=name, power=1.0) for name in saes]
    how = [part for one in readouts for part in reading(atlas.subject(), saes[one.name], one)]
    return kept(keep, how, texts, lambda: pool_texts(atlas.subject(), texts, readouts, saes).features)


def single(bench: Bench, x: dict[str, list[np.ndarray]], sae: SAE) -> list[str]:
    """Cells on detectors of few features."""
    emotion_N, topic_N = bench.texts(("stories",))
    told_N = emotion_N != NEUTRAL
    X_NF = aligned(stacked(x, ("stories",))[told_N], sae.W_dec_FD.float().numpy())
    emotion_N, topic_N = emotion_N[told_N], topic_N[told_N]
    found = detectors(X_NF, emotion_N, topic_N, np.isin(topic_N, TESTED), ks=KS)
    return [f"{found.rows[0].auroc:.3f}", *(f"{row.top5:.1%}" for row in found.rows)]


if __name__ == "__main__":
    main()
