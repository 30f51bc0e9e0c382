"""Ways of reading a text, compared on development data: what docs/method.md tables.

    python docs/method/readouts.py --labelled repe.jsonl --map docs/maps/six.toml ... [--rows 700] [--keep DIR]

Stories: topics t01-t08 only, each left out in turn. Short texts: macro-F1 on the labelled files (a seeded sample of
--rows of each), zero-shot; an expected emotion in the top 5 of the implicit scenarios with odd numbers; the highest
score of emotional against flat texts, topics left out. Every text is scored alone. Figures are for choosing, not for
reporting.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from saefeat.atlas import Atlas
from saefeat.config import FELT, STORY, ReadoutConfig
from saefeat.corpus import load_corpus
from saefeat.evaluate import Labelled, class_scorer, macro_f1, read_labelled
from saefeat.evaluate.pooled import Pooler
from saefeat.files import shipped
from saefeat.label import NEUTRAL, emotions_and_topics, fit_prototypes, places, separated, texts_of

RIDGE = 3.0
"""What leaving topics out chooses for every readout that ships; the same everywhere: rows differ in one thing."""
DEVELOPMENT = tuple(f"t{number:02}" for number in range(1, 9))
WAYS = {
    "mean over the text": replace(STORY, power=1.0),
    "last token of ' In short, I feel so'": replace(FELT, power=1.0),
    "mean over a user's turn": ReadoutConfig(name="turn", frame="chat", power=1.0),
    "where the reply starts": ReadoutConfig(name="reply", pool="last", frame="chat", power=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas")
    parser.add_argument("--labelled", action="append", default=[], type=Path)
    parser.add_argument("--map", action="append", default=[], type=Path)
    parser.add_argument("--rows", type=int, default=700)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    atlas = Atlas.open(given.atlas)
    stories, remarks = load_corpus("stories").on_topics(DEVELOPMENT), load_corpus("remarks")
    sets = [
        sampled(read_labelled(*pair, stories.emotions), given.rows)
        for pair in zip(given.labelled, given.map, strict=True)
    ]
    scenarios = [json.loads(line) for line in (shipped("corpora") / "scenarios/implicit.jsonl").open(encoding="utf-8")]
    scenarios = [item for item in scenarios if int(item["id"][1:]) % 2]
    expected = [{stories.emotions.index(e) for e in item["expected"] if e in stories.emotions} for item in scenarios]
    head = ["way", "representation", "power", "fitted on", "top-1", "top-5", "flat", "implicit"]
    print("| " + " | ".join([*head, *(one.name for one in sets)]) + " |")
    print("|" + "---|" * (len(head) + len(sets)))
    for way, readout in WAYS.items():
        pooler = Pooler(atlas.subject(), atlas.sae(), readout, texts_of(stories), keep=given.keep)
        pooled = {"remarks": pooler(texts_of(remarks))}
        if readout.pool == "mean" and readout.frame == "text":
            pooled["stories"] = pooler(texts_of(stories))
        outside = [pooler(one.texts) for one in sets] + [pooler([item["text"] for item in scenarios])]
        for representation, power in (
            ("sae", 1.0),
            ("sae", 0.5),
            ("random_directions", 0.5),
            ("dense", 1.0),
            ("minilm", 1.0),
        ):
            if representation == "minilm" and way != next(iter(WAYS)):
                continue  # knows no positions
            for fitted in ([*pooled], *([[name] for name in pooled] if len(pooled) > 1 else [])):
                corpora = [{"stories": stories, "remarks": remarks}[name] for name in fitted]
                emotion_N, topic_N = emotions_and_topics(corpora)
                X_NF = np.concatenate([pooled[name][representation] for name in fitted])
                fit = fit_prototypes(signed_power(X_NF, power), emotion_N, topic_N, ridge=RIDGE, n_emotions=171)
                told_N = emotion_N != NEUTRAL
                place_N = places(fit.heldout_NE[told_N], emotion_N[told_N])
                top_N = fit.heldout_NE.max(1)
                cells = [f"{(place_N < k).mean():.1%}" for k in (1, 5)]
                cells.append(f"{separated(top_N[told_N], top_N[~told_N]):.3f}")
                scored = [signed_power(pools[representation], power) @ fit.W_FE + fit.bias_E for pools in outside]
                hits = [bool(set(np.argsort(-s)[:5]) & own) for s, own in zip(scored.pop(), expected, strict=True)]
                cells.append(f"{np.mean(hits):.1%}")
                for one, scores_NE in zip(sets, scored, strict=True):
                    own_N = one.class_N >= 0
                    scorer = class_scorer(one.members, fit.heldout_NE[told_N], emotion_N[told_N])
                    named_N = scorer(scores_NE[own_N]).argmax(1)
                    cells.append(f"{macro_f1(one.class_N[own_N], named_N, len(one.classes)):.3f}")
                first = [way, representation, str(power), " + ".join(fitted)]
                print("| " + " | ".join([*first, *cells]) + " |", flush=True)


def sampled(one: Labelled, rows: int) -> Labelled:
    chosen = np.sort(np.random.default_rng(0).permutation(len(one.texts))[:rows])
    return replace(one, texts=tuple(one.texts[i] for i in chosen), class_N=one.class_N[chosen])


def signed_power(X_NF: np.ndarray, power: float) -> np.ndarray:
    """The power of activations; streams and embeddings, which have signs, are left as they are."""
    return X_NF if power == 1.0 else X_NF ** np.float32(power)


if __name__ == "__main__":
    main()
