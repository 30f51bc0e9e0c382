"""Do two SAEs that differ in their seed give the same labels? The section of the battery that compares them."""

from __future__ import annotations

from typing import Any

import numpy as np

from saefeat.causal import row, section
from saefeat.errors import InputError
from saefeat.evaluate.battery import Bench, value
from saefeat.evaluate.controls import random_directions
from saefeat.evaluate.outside import NOT_GIVEN
from saefeat.evaluate.pooled import kept, reading
from saefeat.label import NEUTRAL, aligned, crossing, mean_auroc, pool_texts, rank_table, texts_of, unit_rows
from saefeat.sae import SAE

NEAR = 0.7
"""Cosine of decoder directions from which features of two SAEs count as the same."""
BLOCK = 1024
"""Features of the first SAE at a time."""


def check_second(bench: Bench, second: SAE) -> None:
    """Raise InputError if `second` reads another layer or model than the atlas's SAE."""
    first = bench.atlas.sae(bench.atlas.readouts[bench.main]["sae"])
    if second.layer != first.layer or second.d_model != first.d_model:
        raise InputError("--second is an SAE of another layer or model", do=f"give one of layer {first.layer}")


def seeds(bench: Bench, second: SAE | None) -> dict[str, Any]:
    """How many features have a twin and the same best emotion, against a random dictionary in the second's place.

    Raises InputError: as `check_second`.
    """
    title = "Labels of two seeds"
    columns = {"with a twin": "percent", "same best emotion": "percent", "same family": "percent"}
    about = (
        "Features of one SAE that have a twin in the other (cosine of decoder directions at least .7), and how many of "
        "these are best at the same emotion; on the stories, by readings along the directions."
    )
    if second is None:
        return section("seeds", title, about, columns, [row(NOT_GIVEN, [NOT_GIVEN] * 3)], notes=["Give --second SAE."])
    check_second(bench, second)
    pools, emotion_N, topic_N = bench.read(bench.main)
    own_N = emotion_N != NEUTRAL
    design = crossing(emotion_N[own_N], topic_N[own_N], len(bench.emotions))
    power = np.float32(1 / bench.readout(bench.main).power)
    first_NF, second_NF = pools["sae"][own_N] ** power, _pooled(bench, second)[own_N] ** power
    W_first_FD, W_second_FD = (_directions(sae) for sae in (bench.pooler(bench.main).sae, second))
    W_random_FD = random_directions(second.d_model, second.n_features, bench.seed).T.numpy()

    def best(reading_NF: np.ndarray) -> np.ndarray:
        """(F,) the emotion that each feature tells best."""
        return mean_auroc(rank_table(reading_NF, design), design).argmax(0)

    # the random dictionary reads what the second SAE has made of the texts
    random_NF = (second_NF @ W_second_FD @ W_random_FD.T).astype(np.float32)
    first_F = best(aligned(first_NF, W_first_FD))
    family_E = np.unique([bench.atlas.families[e] for e in bench.emotions], return_inverse=True)[1]
    rows = []
    for name, W_FD, second_F, own in (
        ("two seeds", W_second_FD, best(aligned(second_NF, W_second_FD)), True),
        ("a random dictionary as the second", W_random_FD, best(random_NF), False),
    ):
        twin_F, near_F = _twins(W_first_FD, W_FD)
        counted_F = near_F if own else np.ones_like(near_F)  # of random ones the nearest: hardly any is near
        here_F, there_F = first_F[counted_F], second_F[twin_F[counted_F]]
        same = [here_F == there_F, family_E[here_F] == family_E[there_F]]
        cells = [value(near_F.mean()), *(value(part.mean()) if len(part) else None for part in same)]
        rows.append(row(name, cells, own=own, null=not own))
    return section("seeds", title, about, columns, rows)


def _twins(W_FD: np.ndarray, other_FD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F,) each: the direction of the other dictionary that is nearest, and whether it is near; by blocks."""
    unit_FD, other_FD = unit_rows(W_FD).astype(np.float32), unit_rows(other_FD).astype(np.float32)
    twins, near = [], []
    for start in range(0, len(unit_FD), BLOCK):
        cosine_fF = unit_FD[start : start + BLOCK] @ other_FD.T
        twins.append(cosine_fF.argmax(1))
        near.append(cosine_fF.max(1) >= NEAR)
    return np.concatenate(twins), np.concatenate(near)


def _pooled(bench: Bench, second: SAE) -> np.ndarray:
    """(N, F): the second SAE's features of the texts of `Bench.read`."""
    subject, config = bench.atlas.subject(), bench.readout(bench.main)
    texts = [text for corpus in bench.corpora(bench.main) for text in texts_of(corpus)]
    report = bench.report("second SAE")

    def pool() -> dict[str, np.ndarray]:
        return pool_texts(subject, texts, [config], {config.name: second}, on_progress=report).features

    return kept(bench.keep, reading(subject, second, config), texts, pool)[config.name]


def _directions(sae: SAE) -> np.ndarray:
    return sae.W_dec_FD.float().cpu().numpy()
