"""Specificity: turn one emotion, read all. What steering by each emotion does to the readings of every other.

The texts are read by the same atlas whose prototypes chose the directions, so a rise of the own emotion is expected;
what the matrix tells is how much more than others it rises, and than under random directions of the same norm.

Shapes: N texts, E emotions read, S emotions steered, R random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saefeat.atlas import Atlas, choose_readout
from saefeat.causal.directions import emotion_direction, random_direction
from saefeat.causal.fluency import Fluency, fluency, regime
from saefeat.causal.generate import Generated, Prompt, generate
from saefeat.causal.interventions import Direction, Positions, add
from saefeat.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Effects:
    """shift_SE: by how many sd each emotion's score rises when one is steered, mean over texts; random_RE: the same
    under random directions; fluency and regimes by row, steered first, then random; unsteered: the texts' own."""

    steered: tuple[str, ...]
    read: tuple[str, ...]
    shift_SE: np.ndarray
    random_RE: np.ndarray
    fluency: tuple[Fluency, ...]
    regimes: tuple[str, ...]
    unsteered: Fluency
    strength: float
    readout: str


def effects(
    atlas: Atlas,
    emotions: Sequence[str],
    prompts: Sequence[Prompt],
    *,
    strength: float = 0.2,
    positions: Positions = "all",
    layer: int | None = None,
    tokens: int = 40,
    samples: int = 2,
    temperature: float = 0.7,
    seed: int = 0,
    controls: int = 3,
    readout: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Effects:
    """Steer by each of `emotions` in turn and read all emotions of the atlas in the continuations.

    All runs draw alike (see `generate`), so a shift is a mean over pairs of texts. readout: the one for texts of that
    many tokens if None. on_progress counts directions.
    """
    if not emotions:
        raise InputError("no emotion to steer by")
    subject = atlas.subject()
    readout = atlas.check_readout(readout or choose_readout(atlas.readouts, tokens))
    directions = [emotion_direction(atlas, emotion, layer=layer) for emotion in emotions]
    directions += [random_direction(directions[0], seed + number) for number in range(controls)]

    def run(direction: Direction | None) -> Generated:
        interventions = [] if direction is None else [add(direction, strength, positions)]
        return generate(
            subject, prompts, interventions=interventions, tokens=tokens, temperature=temperature, samples=samples,
            seed=seed,
        )  # fmt: skip

    plain = run(None)
    plain_NE, plain_fluency = read_scores(atlas, plain.texts, readout), fluency(subject, plain.prompts, plain.ids)
    shifts, fluencies = [], []
    for number, direction in enumerate(directions, 1):
        made = run(direction)
        shifts.append(mean_shift(read_scores(atlas, made.texts, readout), plain_NE))
        fluencies.append(fluency(subject, made.prompts, made.ids))
        if on_progress:
            on_progress(number, len(directions))
    S, E = len(emotions), len(atlas.emotion_names)
    shift_RE = np.array(shifts).reshape(-1, E)
    return Effects(
        steered=tuple(direction.name for direction in directions[:S]), read=atlas.emotion_names,
        shift_SE=shift_RE[:S], random_RE=shift_RE[S:], fluency=tuple(fluencies),
        regimes=tuple(regime(one, plain_fluency) for one in fluencies), unsteered=plain_fluency, strength=strength,
        readout=readout,
    )  # fmt: skip


def read_scores(atlas: Atlas, texts: Sequence[str], readout: str) -> np.ndarray:
    """(N, E) scores of generated texts; NaN for a text without a word."""
    scores_NE = np.full((len(texts), len(atlas.emotion_names)), np.nan)
    told = [n for n, text in enumerate(texts) if text.strip()]
    number = {emotion: e for e, emotion in enumerate(atlas.emotion_names)}
    results = atlas.nearest([texts[n] for n in told], top=None, readout=readout, features=0)
    for n, result in zip(told, results, strict=True):
        for row in result["emotions"]:
            scores_NE[n, number[row["emotion"]]] = row["score"]
    return scores_NE


def mean_shift(steered_NE: np.ndarray, plain_NE: np.ndarray) -> np.ndarray:
    """(E,) mean of steered − plain over the texts that both could be read in; NaN if there are none."""
    difference_NE = steered_NE - plain_NE
    both_N = ~np.isnan(difference_NE).any(1)
    return difference_NE[both_N].mean(0) if both_N.any() else np.full(plain_NE.shape[1], np.nan)


def family_on_top(
    shift_SE: np.ndarray, steered: Sequence[str], read: Sequence[str], families: Mapping[str, str]
) -> np.ndarray:
    """(S,) whether the emotion that rises most under each row's steering is of that row's own family."""
    top = [read[e] for e in np.nan_to_num(shift_SE, nan=-np.inf).argmax(1)]
    pairs = zip(top, steered, strict=True)
    return np.array([families.get(one, one) == families.get(own, own) for one, own in pairs], bool)


def promoted_words(atlas: Atlas, direction: Direction, *, top: int = 10) -> dict[str, list[tuple[str, float]]]:
    """The tokens that a direction makes more ('up') and less ('down') likely, with their logits (logit lens)."""
    subject = atlas.subject()
    logits_V = subject.unembed(direction.unit_D[None])[0]
    found = {}
    for key, largest in (("up", True), ("down", False)):
        values, ids = logits_V.topk(min(top, len(logits_V)), largest=largest)
        words = [subject.token_strings([int(token)])[0] for token in ids]
        found[key] = [(word, round(float(value), 4)) for word, value in zip(words, values, strict=True)]
    return found
