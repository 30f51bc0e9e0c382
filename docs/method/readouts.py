"""Ways of reading a text, compared on development data: what docs/method.md tables.

    python docs/method/readouts.py --labelled repe.jsonl --map docs/maps/six.toml ... [--rows 700] [--keep DIR]

Stories: topics t01-t08 only, each left out in turn. Short texts: macro-F1 on the labelled files (a seeded sample of
--rows of each), zero-shot; an expected emotion in the top 5 of the implicit scenarios with odd numbers; the highest
score of emotional against flat texts, topics left out. Every text is scored alone. Figures are for choosing, not for
reporting. Two tables: ways of reading by representation; then one change at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saefeat.atlas import Atlas
from saefeat.config import FELT, STORY, ReadoutConfig
from saefeat.corpus import load_corpus
from saefeat.evaluate import Labelled, class_scorer, macro_f1, read_labelled
from saefeat.evaluate.controls import RandomEncoder
from saefeat.evaluate.pooled import Pooler, Pools, kept, reading
from saefeat.files import shipped
from saefeat.label import NEUTRAL, emotions_and_topics, fit_prototypes, places, pool_texts, separated, texts_of
from saefeat.label.families import families
from saefeat.label.prototypes import calibration, dual_prototypes, folds, gram

RIDGE = 3.0
"""What leaving topics out chooses for every readout that ships; the same everywhere: rows differ in one thing."""
UNWHITENED = 1e6
"""A ridge beside which the covariance is nothing."""
DEVELOPMENT = tuple(f"t{number:02}" for number in range(1, 9))
CONTINUATIONS = (FELT.continuation, " All of this left me feeling", " Right now, the emotion I feel most is")
MEAN, LAST, TURN, REPLY = (
    "mean over the text",
    "last token of '{}'",
    "mean over a user's turn",
    "where the reply starts",
)
WAYS = {
    MEAN: replace(STORY, power=1.0),
    **{LAST.format(text): replace(FELT, power=1.0, continuation=text) for text in CONTINUATIONS},
    TURN: ReadoutConfig(name="turn", frame="chat", power=1.0),
    REPLY: ReadoutConfig(name="reply", pool="last", frame="chat", power=1.0),
}
REPRESENTATIONS = (("sae", 1.0), ("sae", 0.5), ("random_directions", 0.5), ("dense", 1.0), ("minilm", 1.0))
LAYERS = (11, 15, 23, 27)
"""Of the dense stream, beside the SAE's own."""
COMPONENTS, WEIGHTS, RIDGES = (1, 4, 16), (16, 64, 256), (0.3, 1.0, 10.0, UNWHITENED)


@dataclass(frozen=True)
class Read:
    """Scores by one way: of the corpora's texts by prototypes that never saw their topic, and of outside texts (the
    labelled files, then the scenarios)."""

    heldout_NE: np.ndarray
    emotion_N: np.ndarray
    outside: tuple[np.ndarray, ...]


class Bench:
    """The corpora and the outside texts, and a row of figures for each way of reading them."""

    def __init__(self, sets: Sequence[Labelled]) -> None:
        self.sets = sets
        self.corpora = {"remarks": load_corpus("remarks"), "stories": load_corpus("stories").on_topics(DEVELOPMENT)}
        path = shipped("corpora") / "scenarios/implicit.jsonl"
        items = [json.loads(line) for line in path.open(encoding="utf-8")]
        items = [item for item in items if int(item["id"][1:]) % 2]
        numbers = {emotion: e for e, emotion in enumerate(self.corpora["stories"].emotions)}
        self.expected = [{numbers[e] for e in item["expected"] if e in numbers} for item in items]
        self.outside = [*(list(one.texts) for one in sets), [item["text"] for item in items]]

    def pools(self, pool: Callable[[Sequence[str]], Pools], names: Sequence[str]) -> dict[str, list[Pools]]:
        """Pools of the corpora `names`, and of the outside texts under ''."""
        found = {name: [pool(texts_of(self.corpora[name]))] for name in names}
        return found | {"": [pool(texts) for texts in self.outside]}

    def texts(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """emotion_N and topic_N of the corpora `names`, in their order."""
        corpora = [self.corpora[name] for name in names]
        return emotions_and_topics(corpora)

    def read(self, x: dict[str, list[np.ndarray]], names: Sequence[str], ridge: float = RIDGE) -> Read:
        """Prototypes fitted on the corpora `names`; x: pooled texts by corpus, '' the outside ones."""
        emotion_N, topic_N = self.texts(names)
        fit = fit_prototypes(stacked(x, names), emotion_N, topic_N, ridge=ridge, n_emotions=171)
        return Read(fit.heldout_NE, emotion_N, tuple(X_NF @ fit.W_FE + fit.bias_E for X_NF in x[""]))

    def figures(self, read: Read) -> list[str]:
        """The cells of a row."""
        told_N = read.emotion_N != NEUTRAL
        own_NE, own_N = read.heldout_NE[told_N], read.emotion_N[told_N]
        place_N, top_N = places(own_NE, own_N), read.heldout_NE.max(1)
        cells = [f"{(place_N < k).mean():.1%}" for k in (1, 5)]
        cells.append(f"{separated(top_N[told_N], top_N[~told_N]):.3f}")
        *scored, scenarios_NE = read.outside
        hits = [bool(set(np.argsort(-s)[:5]) & own) for s, own in zip(scenarios_NE, self.expected, strict=True)]
        cells.append(f"{np.mean(hits):.1%}")
        for one, scores_NE in zip(self.sets, scored, strict=True):
            classed_N = one.class_N >= 0
            named_N = class_scorer(one.members, own_NE, own_N)(scores_NE[classed_N]).argmax(1)
            cells.append(f"{macro_f1(one.class_N[classed_N], named_N, len(one.classes)):.3f}")
        return cells

    def head(self, *first: str) -> None:
        head = [*first, "top-1", "top-5", "flat", "implicit", *(one.name for one in self.sets)]
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)

    def row(self, read: Read, *first: str) -> None:
        print("| " + " | ".join([*first, *self.figures(read)]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas")
    parser.add_argument("--labelled", action="append", default=[], type=Path)
    parser.add_argument("--map", action="append", default=[], type=Path)
    parser.add_argument("--rows", type=int, default=700)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    atlas, emotions = Atlas.open(given.atlas), load_corpus("stories").emotions
    pairs = zip(given.labelled, given.map, strict=True)
    bench = Bench([sampled(read_labelled(*pair, emotions), given.rows) for pair in pairs])
    ways = by_way(bench, atlas, given.keep)
    print()
    by_change(bench, atlas, given.keep, ways)


# ---------------------------------------------------------------- the first table
def by_way(bench: Bench, atlas: Atlas, keep: Path | None) -> dict[str, dict[str, list[Pools]]]:
    """Every way of reading, representation and corpus; what was pooled, by way."""
    bench.head("way", "representation", "power", "fitted on")
    pooled = {}
    for way, readout in WAYS.items():
        pool = Pooler(atlas.subject(), atlas.sae(), readout, texts_of(bench.corpora["stories"]), keep=keep)
        names = ("remarks", "stories") if way == MEAN else ("remarks",)
        pooled[way] = bench.pools(pool, names)
        for representation, power in REPRESENTATIONS:
            if representation == "minilm" and way != MEAN:
                continue  # knows no positions
            x = powers(pooled[way], representation, power)
            for fitted in [names, *([name] for name in names if len(names) > 1)]:
                bench.row(bench.read(x, fitted), way, representation, str(power), " + ".join(fitted))
    return pooled


# ---------------------------------------------------------------- the second table
def by_change(bench: Bench, atlas: Atlas, keep: Path | None, ways: dict[str, dict[str, list[Pools]]]) -> None:
    """One change at a time: to the mean over the text fitted on both corpora, then to what is fitted on remarks."""
    bench.head("what", "fitted on")
    both = ("remarks", "stories")
    x = powers(ways[MEAN], "sae", 0.5)
    base = bench.read(x, both)
    for what, read in changes(bench, x, base, both):
        bench.row(read, what, " + ".join(both))
    layers = bench.pools(lambda texts: dense_layers(atlas, texts, keep), both)
    for layer in LAYERS:
        bench.row(bench.read(powers(layers, f"mean {layer}"), both), f"dense stream, layer {layer}", " + ".join(both))
    for layer in LAYERS:
        read = bench.read(powers(layers, f"last {layer}"), both[:1])
        bench.row(read, f"dense stream, layer {layer}, {LAST.format(FELT.continuation)}", both[0])
    for representation, power in (("sae", 0.5), ("dense", 1.0)):
        reads = {way: bench.read(powers(pools, representation, power), both[:1]) for way, pools in ways.items()}
        lasts = [way for way in ways if way.startswith("last")]
        for name, chosen in {
            "three continuations": lasts,
            "mean, last token": [MEAN, lasts[0]],
            "mean, three continuations": [MEAN, *lasts],
            "mean, user's turn": [MEAN, TURN],
            "mean, user's turn, reply start": [MEAN, TURN, REPLY],
        }.items():
            bench.row(averaged([reads[way] for way in chosen]), f"{representation}, scores averaged: {name}", both[0])


def changes(
    bench: Bench, x: dict[str, list[np.ndarray]], base: Read, names: Sequence[str]
) -> Iterator[tuple[str, Read]]:
    """(name, scores) of `base` (the SAE, power ½) and of all that differs from it in one thing."""
    yield "SAE, power 0.5", base
    for ridge in RIDGES:
        yield "not whitened" if ridge == UNWHITENED else f"ridge {ridge:g}", bench.read(x, names, ridge)
    yield "standardised on flat short texts", on_flat(base)
    remarks_N = bench.texts(names[:1])[0]
    flat_NF = x["remarks"][0][remarks_N == NEUTRAL]
    for count in COMPONENTS:
        U_KF = np.linalg.svd(flat_NF - flat_NF.mean(0), full_matrices=False)[2][:count]
        without = {name: [X_NF - X_NF @ U_KF.T @ U_KF for X_NF in parts] for name, parts in x.items()}
        yield f"without {count} principal components of flat texts", bench.read(without, names)
    emotion_N, topic_N = bench.texts(names)
    told_N = emotion_N != NEUTRAL
    emotions = bench.corpora["stories"].emotions
    family = families(base.heldout_NE[told_N], emotion_N[told_N], topic_N[told_N], emotions)
    same_EE = np.array([[family[a] == family[b] for b in emotions] for a in emotions], np.float64)
    mean_EE = same_EE / same_EE.sum(0)
    yield "plus the mean of its family", mapped(base, lambda scores_NE: scores_NE + scores_NE @ mean_EE)
    for count in WEIGHTS:
        yield f"the {count} largest weights of each emotion", pruned(x, emotion_N, topic_N, names, count)


def on_flat(base: Read) -> Read:
    """Each emotion's score standardised on the flat texts, in place of other emotions' texts."""
    flat_NE = base.heldout_NE[base.emotion_N == NEUTRAL]
    return mapped(base, lambda scores_NE: (scores_NE - flat_NE.mean(0)) / flat_NE.std(0))


def pruned(
    x: dict[str, list[np.ndarray]], emotion_N: np.ndarray, topic_N: np.ndarray, names: Sequence[str], count: int
) -> Read:
    """Prototypes of which each emotion keeps the `count` weights that move its score most, calibrated as usual."""
    X_NF, fold_N = stacked(x, names), folds(topic_N)
    K_NN, F = gram(X_NF), X_NF.shape[1]

    def weights(rows: np.ndarray) -> np.ndarray:
        alpha_NE = dual_prototypes(K_NN[np.ix_(rows, rows)], emotion_N[rows], topic_N[rows], 171, F, RIDGE)[:, :171]
        W_FE = X_NF[rows].T @ alpha_NE
        moved_FE = np.abs(W_FE) * X_NF[rows].std(0)[:, None]
        return np.where(moved_FE >= -np.partition(-moved_FE, count - 1, axis=0)[count - 1], W_FE, 0.0)

    raw_NE = np.zeros((len(X_NF), 171))
    for fold in np.unique(fold_N):
        train = np.flatnonzero(fold_N != fold)
        raw_NE[fold_N == fold] = (X_NF[fold_N == fold] - X_NF[train].mean(0)) @ weights(train)
    mean_E, sd_E = calibration(raw_NE, emotion_N)
    W_FE = weights(np.arange(len(X_NF)))
    outside = tuple(((X_MF - X_NF.mean(0)) @ W_FE - mean_E) / sd_E for X_MF in x[""])
    return Read((raw_NE - mean_E) / sd_E, emotion_N, outside)


def dense_layers(atlas: Atlas, texts: Sequence[str], keep: Path | None) -> Pools:
    """The dense stream of LAYERS by 'mean L' and 'last L', one forward pass for all."""
    subject, sae = atlas.subject(), atlas.sae()
    readouts = [replace(one, name=f"{one.pool} {layer}") for one in (STORY, FELT) for layer in LAYERS]
    none = np.zeros(sae.d_model, np.float32)

    def pool() -> Pools:
        import torch

        given = torch.from_numpy(none), 1
        stand_ins = {one.name: RandomEncoder(*given, int(one.name.split()[1]), sae.sink_norm, 0) for one in readouts}
        return pool_texts(subject, texts, readouts, stand_ins, dense=True).dense

    return kept(keep, [*reading(subject, sae, FELT), "dense", LAYERS], texts, pool)


# ---------------------------------------------------------------- parts
def averaged(reads: Sequence[Read]) -> Read:
    """The mean of several ways' scores, which are calibrated alike."""
    outside = tuple(np.mean(parts, axis=0) for parts in zip(*(read.outside for read in reads), strict=True))
    return Read(np.mean([read.heldout_NE for read in reads], axis=0), reads[0].emotion_N, outside)


def mapped(read: Read, change: Callable[[np.ndarray], np.ndarray]) -> Read:
    return Read(change(read.heldout_NE), read.emotion_N, tuple(change(scores_NE) for scores_NE in read.outside))


def stacked(x: dict[str, list[np.ndarray]], names: Sequence[str]) -> np.ndarray:
    return np.concatenate([part for name in names for part in x[name]])


def powers(pools: dict[str, list[Pools]], name: str, power: float = 1.0) -> dict[str, list[np.ndarray]]:
    """One representation of pooled texts; activations to a power, streams and embeddings, which have signs, not."""
    exponent = np.float32(power)
    return {key: [p[name] if power == 1 else p[name] ** exponent for p in parts] for key, parts in pools.items()}


def sampled(one: Labelled, rows: int) -> Labelled:
    chosen = np.sort(np.random.default_rng(0).permutation(len(one.texts))[:rows])
    return replace(one, texts=tuple(one.texts[i] for i in chosen), class_N=one.class_N[chosen])


if __name__ == "__main__":
    main()
