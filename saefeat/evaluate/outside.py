"""The sections of the battery on texts from elsewhere: files that others labelled, messages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from saefeat.causal import row, section
from saefeat.evaluate.battery import Bench, share, value
from saefeat.evaluate.labelled import (
    FLAT,
    Labelled,
    against_background,
    calibrated,
    class_scorer,
    labelled_sample,
    macro_f1,
    macro_f1_interval,
)
from saefeat.evaluate.pooled import SHUFFLED, TITLES
from saefeat.files import shipped
from saefeat.label import NEUTRAL, separated

NOT_GIVEN = "data not given"
MENDED = ("sae", "minilm")
"""Representations that --calibrate and --background are tried on."""
FIRST = 5
"""A message is understood if an expected emotion is among so many."""


# ---------------------------------------------------------------- labelled files
def labelled_files(
    bench: Bench, sets: Sequence[Labelled], *, calibrate: int | None = None, background: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Macro-F1 on files that others labelled, by representation; and by title and file, the figures of a bar chart.

    sets: of different names; background: unlabelled texts as a baseline. Raises InputError: `calibrate` is not less
    than a file's rows.
    """
    title = "Text that others labelled"
    about = (
        "Zero-shot: only the names of the file's classes are used, as lists of emotions. Each text is read as 'auto' "
        "would and scored alone. Macro-F1 over the classes; rows without emotion left out. 95 % interval over texts."
    )
    if not sets:
        return section("labelled", title, about, {"macro-F1": "number"}, [row(NOT_GIVEN, [NOT_GIVEN])]), {}
    cells: dict[str, list[Any]] = {}
    bars: dict[str, dict[str, float]] = {}
    for one in sets:
        for name in [*bench.representations(bench.main), SHUFFLED]:
            scores_NC = class_scores(bench, name, one, one.name, one.texts)
            told = _figures(bench, name, one, scores_NC, calibrate, background)
            for how, cell in told.items():
                cells.setdefault(how, []).append(cell)
            bars.setdefault(TITLES[name], {})[one.name] = told[TITLES[name]]["value"]
    null = [TITLES[SHUFFLED], *(TITLES[name] for name in bench.representations(bench.main) if name != "sae")]
    rows = []
    for how, own in cells.items():
        mean, is_null = value(np.mean([cell["value"] for cell in own])), how.startswith(tuple(null))
        rows.append(row(how, [*own, mean], own=not is_null, null=is_null))
    columns = {**{one.name: "number" for one in sets}, "mean": "number"}
    notes = [*map(_size_note, sets), *(note for one in sets for note in _flat_note(bench, one))]
    return section("labelled", title, about, columns, rows, notes=notes, figure="labelled.png"), bars


def _figures(
    bench: Bench, name: str, one: Labelled, scores_NC: np.ndarray, calibrate: int | None, background: Sequence[str]
) -> dict[str, Any]:
    """Title of a row → its cell for one file."""
    told_N, title = one.class_N != FLAT, TITLES[name]

    def cell(named_N: np.ndarray, rows: np.ndarray) -> Any:
        given = (one.class_N[rows], named_N[rows], len(one.classes))
        return value(macro_f1(*given), macro_f1_interval(*given, bench.seed))

    found = {title: cell(scores_NC.argmax(1), told_N)}
    if calibrate and name in MENDED:
        sample = labelled_sample(one.class_N, calibrate, bench.seed)
        rest = np.setdiff1d(np.flatnonzero(told_N), sample)
        found[f"{title}, calibrated on {calibrate} labelled rows"] = cell(
            calibrated(scores_NC, one.class_N, sample), rest
        )
    if background and name in MENDED:
        base_MC = class_scores(bench, name, one, "background", background)
        found[f"{title}, with --background"] = cell(against_background(scores_NC, base_MC).argmax(1), told_N)
    return found


def class_scores(bench: Bench, name: str, one: Labelled, called: str, texts: Sequence[str]) -> np.ndarray:
    """(N, C): classes standardised within the readout of each text."""
    out_NC = np.zeros((len(texts), len(one.classes)))
    scores_NE = bench.scores(name, called, texts)
    for readout, rows in bench.chosen(texts).items():
        fitted = bench.fit(readout, name)
        told_N = fitted.emotion_N != NEUTRAL
        scorer = class_scorer(one.members, fitted.prototypes.heldout_NE[told_N], fitted.emotion_N[told_N])
        out_NC[rows] = scorer(scores_NE[rows])
    return out_NC


def _size_note(one: Labelled) -> str:
    told = f"{int((one.class_N != FLAT).sum())} rows of {len(one.classes)} classes"
    note = f"{one.name}: {told}; {one.left_out} rows of other labels left out."
    empty = [name for c, name in enumerate(one.classes) if c not in one.class_N]
    return note + (f" Without a row, and so without an F1 above 0: {', '.join(empty)}." if empty else "")


def _flat_note(bench: Bench, one: Labelled) -> list[str]:
    """For a file with rows without emotion: does the highest score tell them from the others?"""
    flat_N = one.class_N == FLAT
    if not flat_N.any():
        return []
    told = []
    for name in ("sae", "dense", "minilm"):
        if name in bench.representations(bench.main):
            top_N = bench.scores(name, one.name, one.texts).max(1)
            told.append(f"{TITLES[name]} {separated(top_N[~flat_N], top_N[flat_N]):.2f}")
    return [f"{one.name}: highest score of rows with an emotion against neutral rows, AUROC: {', '.join(told)}."]


# ---------------------------------------------------------------- messages
def messages(bench: Bench) -> dict[str, Any] | None:
    """The implicit scenarios with even numbers: is an expected emotion among the five highest?

    None where the stories have too few emotions for that to mean something, or none that any scenario expects.
    """
    path = shipped("corpora") / "scenarios" / "implicit.jsonl"
    every = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    number = {emotion: index for index, emotion in enumerate(bench.emotions)}
    items = [item for item in every if number.keys() & set(item["expected"])]
    if len(bench.emotions) <= FIRST or not items:
        return None
    expected = [{number[e] for e in item["expected"] if e in number} for item in items]
    texts = [item["text"] for item in items]
    odd_N = np.array([int(item["id"].lstrip("s")) % 2 == 1 for item in items])

    def cells(found: Sequence[set[int]]) -> list[Any]:
        hit_N = np.array([bool(first & own) for first, own in zip(found, expected, strict=True)])
        return [share(hit_N[own], bench.seed) for own in (~odd_N, odd_N)]

    rows = []
    for name in [*bench.representations(bench.main), SHUFFLED]:
        scores_NE = bench.scores(name, "implicit scenarios", texts)
        found = [set(np.argsort(-scores_E)[:FIRST].tolist()) for scores_E in scores_NE]
        rows.append(row(TITLES[name], cells(found), own=name == "sae", null=name != "sae"))
    counts = Counter(e for own, odd in zip(expected, odd_N, strict=True) if odd for e in own)
    common = {e for e, _ in counts.most_common(FIRST)}
    rows.append(row("always the commonest five (of odd numbers)", cells([common] * len(items)), null=True))
    about = (
        "User messages that call up an emotion without naming it, read as 'auto' would; an expected one in the top 5."
    )
    columns = {"even (reported)": "percent", "odd (development)": "percent"}
    left_out = len(every) - len(items)
    notes = [f"{left_out} messages expect none of these emotions and are left out."] if left_out else []
    return section("messages", "Messages with an implicit emotion", about, columns, rows, notes=notes)
