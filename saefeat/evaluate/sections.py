"""The sections of the battery on the stories: the SAE, retrieval, labels, single features, detectors, geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from saefeat.causal import row, section
from saefeat.corpus import load_ratings
from saefeat.errors import InputError
from saefeat.evaluate.battery import Bench, among_first, columns_of, value
from saefeat.evaluate.detectors import HITS, DetectorRow, ceiling, detectors
from saefeat.evaluate.pooled import BASELINES, SHUFFLED, TITLES
from saefeat.evaluate.retrieval import shuffled_within_topics
from saefeat.label import (
    KINDS,
    NEUTRAL,
    aligned,
    cosines,
    nested_best,
    pair_ranks,
    places,
    predict_rating,
    scores,
    split_best,
    unit_rows,
)

READING = "SAE features, read along their directions"
OWN = (READING, "SAE features, own activation")
SIGNED = ("dense", "minilm", "static")
"""Signed bases: both signs of a column are features to choose from."""
PAIRS = (
    ("grief-stricken", "heartbroken"), ("joyful", "excited"), ("loving", "compassionate"), ("guilty", "remorseful"),
    ("afraid", "scared"), ("furious", "enraged"), ("calm", "serene"),
)  # fmt: skip
KS = (1, 2, 4, 8, 16)
QUALITY = {"explained variance": "number", "L0": "number", "dead": "percent", "CE recovered": "percent"}
FEWEST_RATED = 4
"""Emotions with a rating that are needed to predict it from the others."""


def quality(bench: Bench) -> dict[str, Any]:
    """What the SAE's training measured on held-out tokens, as far as the atlas knows."""
    rows = []
    for name, found in bench.atlas.manifest["provenance"].get("saes", {}).items():
        figures = (found.get("quality") or {}).get("figures", {})
        keys = ("explained_variance", "l0", "dead_share", "ce_recovered")
        rows.append(row(name, [figures.get(key) for key in keys], own=True))
    about = "Measured when the SAE was trained, on held-out, non-sink tokens of its own text."
    return section("sae", "The sparse autoencoder", about, QUALITY, rows)


def retrieval(bench: Bench) -> dict[str, Any]:
    """How often a story's own emotion is found on topics that neither prototypes nor SAE have seen."""
    pools, emotion_N, topic_N = bench.read(bench.main)
    test_N = np.isin(topic_N, bench.test) & (emotion_N != NEUTRAL)
    rows, count = [], len(bench.emotions)
    for name in [*bench.representations(bench.main), SHUFFLED]:
        fit = bench.fit(bench.main, name).prototypes
        place_N = places(scores(columns_of(pools, name)[test_N], fit), emotion_N[test_N])
        hits = among_first(place_N, bench.seed, count)
        rows.append(row(TITLES[name], [*hits, fit.ridge], own=name == "sae", null=name != "sae"))
    chance = " and ".join(f"{100 * k / count:.1f} %" for k in (1, 5) if k < count)
    about = (
        f"{int(test_N.sum())} stories of {', '.join(bench.test)}, prototypes from {', '.join(bench.train)}; every "
        f"story scored alone; chance {chance}. Intervals: bootstrap over stories."
    )
    columns = {"top-1": "percent", "top-5": "percent", "ridge": "number"}
    return section("retrieval", f"Retrieval of {count} emotions on unseen topics", about, columns, rows)


def short_texts(bench: Bench) -> dict[str, Any] | None:
    """The same on short texts, registers left out in turn: for the readouts that are fitted on them."""
    rows = []
    for readout in bench.atlas.text_readouts:
        told = bench.atlas.readouts[readout]
        if not told.get("also"):
            continue
        for name in [*bench.representations(readout), SHUFFLED] if told.get("below") else ["sae"]:
            fitted = bench.fit(readout, name)
            own_N = (fitted.emotion_N != NEUTRAL) & ~np.isin(fitted.topic_N, bench.stories.topics)
            # held-out scores stand for the emotions as fitted: permuted ones for the shuffled row
            place_N = places(fitted.prototypes.heldout_NE[own_N], fitted.emotion_N[own_N])
            hits = among_first(place_N, bench.seed, len(bench.emotions))
            rows.append(row(f"{TITLES[name]} ({readout})", hits, own=name == "sae", null=name != "sae"))
    if not rows:
        return None
    about = "Short texts, each scored by prototypes that never saw its register; the readout is named in brackets."
    columns = {"top-1": "percent", "top-5": "percent"}
    return section("short", "Short texts of unseen registers", about, columns, rows)


def labels(bench: Bench) -> dict[str, Any]:
    """What the atlas's labels say: kinds of features, emotions with a significant feature, if it
    is of a format that has them."""
    columns, rows = bench.atlas.labels, []
    for readout in bench.atlas.text_readouts:
        own = columns["readout"] == readout
        features, first = np.unique(columns["feature"][own], return_index=True)
        cells: list[Any] = [len(features), *[None] * len(KINDS), None]
        if "kind" in columns:
            count = Counter(columns["kind"][own][first])
            cells[1:-1] = [count.get(kind, 0) for kind in KINDS]
        if "q_value" in columns:
            cells[-1] = len({*columns["emotion"][own & (columns["q_value"] < 0.01)]})
        rows.append(row(readout, cells, own=True))
    titles = ["features", *KINDS, "emotions with q < .01"]
    about = "Of the readouts' labels, on all topics of the atlas. Kinds: docs/method.md."
    return section("labels", "What features are about", about, dict.fromkeys(titles, "number"), rows)


def single_features(bench: Bench) -> dict[str, Any]:
    """Emotions that have a feature: the best one chosen on some topics, scored on others."""
    found, emotion_N, topic_N = _story_columns(bench)
    shuffled_N, E = shuffled_within_topics(emotion_N, topic_N, bench.seed), len(bench.emotions)

    def figures(X_NF: np.ndarray, told_N: np.ndarray) -> list[Any]:
        split = split_best(X_NF, told_N, topic_N, E, bench.train, bench.test)
        nested = nested_best(X_NF, told_N, topic_N, E, seed=bench.seed)
        return [cell for best in (split, nested) for cell in (value(best.found()), _known_mean(best.auroc_E))]

    rows = []
    for title, X_NF in found.items():
        rows.append(row(title, figures(X_NF, emotion_N), own=title == READING, null=title not in OWN))
        if title == READING:
            rows.append(row(f"{title}, shuffled labels", figures(X_NF, shuffled_N), null=True))
    about = (
        f"Split: chosen on {bench.train[0]}–{bench.train[-1]}, scored on {bench.test[0]}–{bench.test[-1]}. Nested: "
        "chosen on all topics but one, scored on that one, each in turn. Found: AUROC within topics at least .90 and "
        "q < .01 (split: exact p; nested: the whole choice repeated on permuted labels)."
    )
    columns = {
        "found, split": "number",
        "mean AUROC": "auroc",
        "found, nested": "number",
        "mean AUROC, nested": "auroc",
    }
    return section("single", "Emotions with a feature of their own", about, columns, rows)


def sparse_detectors(bench: Bench) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Detectors of k features; and the hits by title and k, for a figure. Nothing but a note where there can be none
    (emotions and topics that are not crossed)."""
    about = (
        "Per emotion the best k columns, chosen and weighted on the training topics, scored on the test topics. AUROC "
        "within topics, mean over emotions; hits: how often a text's own detector is among the five highest of all."
    )
    columns = {"AUROC k 1": "auroc", "AUROC k 16": "auroc", **{f"hits k {k}": "percent" for k in KS}}
    try:
        rows, ratio = _detector_rows(bench)
    except InputError as error:
        return section("detectors", "Sparse detectors", about, columns, [], notes=[f"Not measured: {error}."]), {}
    hits = {told["name"]: told["values"][2:] for told in rows[:-2]}  # without shuffled labels and the ceiling
    figure = "detectors.png" if any(cell for cells in hits.values() for cell in cells) else None
    notes = [] if ratio is None else [f"AUROC at k 16 over the ceiling's: {ratio:.3f}."]
    return section("detectors", "Sparse detectors", about, columns, rows, notes=notes, figure=figure), hits


def _detector_rows(bench: Bench) -> tuple[list[dict[str, Any]], float | None]:
    """Rows, the last two of shuffled labels and of the ceiling; the first one's AUROC over the ceiling's."""
    found, emotion_N, topic_N = _story_columns(bench)
    test_N = np.isin(topic_N, bench.test)
    rows = []
    for title, X_NF in found.items():
        result = detectors(X_NF, emotion_N, topic_N, test_N, ks=_possible(X_NF), seed=bench.seed)
        rows.append(_detector_row(title, result.rows, len(bench.emotions)))
    own_NF, mixed_N = found[READING], shuffled_within_topics(emotion_N, topic_N, bench.seed)
    mixed = detectors(own_NF, emotion_N, topic_N, test_N, ks=_possible(own_NF), labels_N=mixed_N, seed=bench.seed)
    rows.append(_detector_row(f"{READING}, shuffled labels", mixed.rows, len(bench.emotions)))
    pools, every_N, _ = bench.read(bench.main)
    top = ceiling(pools["dense"][every_N != NEUTRAL], emotion_N, topic_N, test_N, seed=bench.seed)
    hits = value(top.top5) if len(bench.emotions) > HITS else None
    rows.append(row("ceiling: all dense columns, ridge", [value(top.auroc)] * 2 + [None] * 4 + [hits], null=True))
    own = rows[0]["values"][1]
    return rows, None if own is None else own["value"] / top.auroc


def _possible(X_NF: np.ndarray) -> list[int]:
    return [k for k in KS if k <= X_NF.shape[1]]


def _detector_row(title: str, rows: Sequence[DetectorRow], E: int) -> dict[str, Any]:
    """AUROC at the smallest and largest k, hits at every k; None for what cannot be."""
    by_k = {r.k: r for r in rows}
    auroc = [value(by_k[k].auroc, by_k[k].auroc_interval) if k in by_k else None for k in (KS[0], KS[-1])]
    hits = [value(by_k[k].top5, by_k[k].top5_interval) if k in by_k and E > HITS else None for k in KS]
    return row(title, [*auroc, *hits], own=title == READING, null=title not in OWN)


def geometry(bench: Bench) -> tuple[dict[str, Any], dict[str, Any]]:
    """Valence and arousal from prototypes, one emotion left out at a time; and what the figures are drawn from."""
    valence_E, arousal_E = load_ratings(None).of(bench.emotions)
    families = [bench.atlas.families[emotion] for emotion in bench.emotions]
    rows, drawn = [], {}
    for name in bench.representations(bench.main):
        V_EF = _prototype_rows(bench, name)
        cells = []
        for rating, rating_E in (("valence", valence_E), ("arousal", arousal_E)):
            predicted_E, own = _predicted(V_EF, rating_E, families, bench.seed)
            cells += own
            if name == "sae":
                drawn[rating] = predicted_E
        rows.append(row(TITLES[name], cells, own=name == "sae", null=name != "sae"))
    similarity_EE = cosines(_prototype_rows(bench, "sae"))
    notes = ["Ratings: ours, by a language model (corpora/README.md). r of left-out predictions, 95 % by bootstrap."]
    notes += _neighbours(similarity_EE, bench.emotions)
    about = "Ridge regression from prototypes of the training topics, one emotion left out at a time, or its family."
    columns = {
        "valence": "number",
        "valence, family out": "number",
        "arousal": "number",
        "arousal, family out": "number",
    }
    figure = "circumplex.png" if np.isfinite(drawn["valence"] + drawn["arousal"]).any() else None
    told = section("geometry", "Valence and arousal", about, columns, rows, notes=notes, figure=figure)
    return told, {**drawn, "similarity": similarity_EE, "true_valence": valence_E}


def _predicted(
    V_EF: np.ndarray, rating_E: np.ndarray, families: Sequence[str], seed: int
) -> tuple[np.ndarray, list[Any]]:
    """(E,) predictions, and the cells of r: emotions left out, families left out. None where too few are rated."""
    rated = np.flatnonzero(np.isfinite(rating_E)).tolist()
    if len(rated) < FEWEST_RATED:
        return np.full(len(rating_E), np.nan), [None, None]
    one = predict_rating(V_EF, rating_E, permutations=0, seed=seed)
    cells = [value(one.r, (one.low, one.high)), None]
    if len({families[e] for e in rated}) > 1:
        cells[1] = value(predict_rating(V_EF, rating_E, families, permutations=0, seed=seed).r)
    return one.predicted_E, cells


def _neighbours(similarity_EE: np.ndarray, emotions: Sequence[str]) -> list[str]:
    """A note on where near-synonyms rank among all pairs; none if the emotions lack them."""
    number = {emotion: index for index, emotion in enumerate(emotions)}
    known = [(a, b) for a, b in PAIRS if a in number and b in number]
    if not known:
        return []
    ranks = pair_ranks(similarity_EE, [(number[a], number[b]) for a, b in known])
    told = ", ".join(f"{a}/{b} {int(rank):,}" for (a, b), rank in zip(known, ranks, strict=True))
    return [f"Neighbours, rank among {len(emotions) * (len(emotions) - 1) // 2:,} pairs: {told}"]


# ---------------------------------------------------------------- inside
def _story_columns(bench: Bench) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Title → columns to choose features from, without flat texts; emotion_N, topic_N."""
    pools, emotion_N, topic_N = bench.read(bench.main)
    own_N, root = emotion_N != NEUTRAL, np.float32(1 / bench.readout(bench.main).power)
    pooler = bench.pooler(bench.main)
    mean_NF = pools["sae"][own_N] ** root
    found = {READING: aligned(mean_NF, pooler.sae.W_dec_FD.float().cpu().numpy()), OWN[1]: mean_NF}
    for name in BASELINES:
        if name in pools:
            X_NF = pools[name][own_N]
            found[TITLES[name]] = np.hstack([X_NF, -X_NF]) if name in SIGNED else X_NF**root
    found["random directions, read along them"] = aligned(found[TITLES["random_directions"]], pooler.random_FD)
    return found, emotion_N[own_N], topic_N[own_N]


def _known_mean(figure_E: np.ndarray) -> Any:
    known = figure_E[np.isfinite(figure_E)]
    return value(known.mean()) if len(known) else None


def _prototype_rows(bench: Bench, name: str) -> np.ndarray:
    """(E, F) prototypes of unit length, centred."""
    return unit_rows(bench.fit(bench.main, name).prototypes.W_FE.T, centred=True)
