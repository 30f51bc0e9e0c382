"""`study dose-response`: turn an emotion step by step; does what is written follow, in whose eyes, and what else moves?

Neutral openings are continued with one direction added at every token, at each of several strengths. All texts of a
prompt and a sample draw alike, so only the strength differs within such a block. Beside the emotions run, in the same
way and at the same strengths, random directions and features that fire about as often as the emotions' best ones.

Texts are made here and kept as records; readings of them are apart (`dose_read.py`), so that another reader needs no
new text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from saefeat.atlas import Atlas
from saefeat.causal.directions import emotion_direction, feature_direction, matched_feature, random_direction
from saefeat.causal.fluency import fluency
from saefeat.causal.generate import generate
from saefeat.causal.interventions import LARGEST, Direction, add
from saefeat.causal.records import Records
from saefeat.corpus import read_texts
from saefeat.errors import InputError
from saefeat.files import directory_lock, fingerprint, shipped

log = logging.getLogger(__name__)
RECORDS = "records.jsonl.gz"
STRENGTHS = (-0.5, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.5)
EMOTIONS = 24
DIGITS = 6
Kind = Literal["unsteered", "emotion", "feature", "random", "matched"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is turned. own: the emotion that it should move; None for a control. like: of a control, the emotion or
    feature that it is drawn for; seed: of the draw."""

    kind: Kind
    name: str
    own: str | None = None
    like: str | None = None
    seed: int = 0


PLAIN = Arm(kind="unsteered", name="unsteered")


class Cell(NamedTuple):
    """The texts of one arm at one strength: a text for each sample of each prompt, prompt by prompt."""

    arm: Arm
    strength: float


@dataclass(frozen=True, kw_only=True)
class DoseDesign:
    """What a study does: every arm at every strength (other than 0), on every prompt, `samples` times.

    features: name → the emotion that it should move. randoms, matched: how many controls of either kind.
    """

    prompts: tuple[str, ...]
    emotions: tuple[str, ...]
    features: tuple[tuple[str, str], ...] = ()
    strengths: tuple[float, ...] = STRENGTHS
    samples: int = 1
    tokens: int = 40
    temperature: float = 0.7
    seed: int = 0
    randoms: int = 4
    matched: int = 4

    def __post_init__(self) -> None:
        for name in ("samples", "tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.prompts:
            raise InputError("there is no prompt to continue")
        if not self.emotions and not self.features:
            raise InputError("no emotion to turn")
        if len(set(self.strengths) - {0.0}) < 2:
            raise InputError("a trend needs two strengths beside 0", do="pass --strengths -0.2,-0.1,0.1,0.2")
        if far := [s for s in self.strengths if not abs(s) <= LARGEST]:
            raise InputError(f"a strength is {far[0]:g}", do=f"pass fractions of the mean norm, within ±{LARGEST:g}")
        if self.randoms < 1:
            raise InputError("without a random direction there is no control", do="pass --randoms 3 or more")

    @property
    def steps(self) -> tuple[float, ...]:
        """The strengths in order, without 0."""
        return tuple(sorted(set(self.strengths) - {0.0}))

    def arms(self, atlas: Atlas) -> list[Arm]:
        """Emotions, features, then controls; those are drawn for emotions spread evenly over the list."""
        arms = [Arm(kind="emotion", name=emotion, own=emotion) for emotion in self.emotions]
        arms += [Arm(kind="feature", name=name, own=own) for name, own in self.features]
        like = [arm.name for arm in arms]
        first = next(iter(arms)).name
        arms += [Arm(kind="random", name=f"random {i}", like=first, seed=self.seed + i) for i in range(self.randoms)]
        taken = {name for name, _ in self.features}
        for i in range(self.matched):
            name, seed = like[i * len(like) // self.matched], self.seed + i
            feature = best_feature(atlas, name)
            if feature is None:
                continue
            drawn = matched_feature(atlas, feature_direction(atlas, feature), seed).name
            if drawn not in taken:
                taken.add(drawn)
                arms.append(Arm(kind="matched", name=drawn, like=feature, seed=seed))
        return arms

    def cells(self, atlas: Atlas) -> list[Cell]:
        """The unsteered texts first, then arm by arm from the weakest strength to the strongest."""
        steps = sorted(self.steps, key=lambda s: (abs(s), s))
        return [Cell(PLAIN, 0.0), *(Cell(arm, strength) for arm in self.arms(atlas) for strength in steps)]


def best_feature(atlas: Atlas, name: str) -> str | None:
    """A feature's own name; of an emotion the feature that tells it best, None if no feature is labelled with it."""
    if name not in atlas.emotion_names:
        return name
    rows = atlas.features(name, top=1)
    return str(rows[0]["feature"]) if rows else None


def told_emotion(atlas: Atlas, feature: str) -> tuple[str, str]:
    """(name, emotion) of a feature ('L19.12', '12'): the emotion that it tells best. Raises UnknownName, InputError."""
    sae, index = atlas.parse_feature(feature)
    own = np.flatnonzero((atlas.labels["sae"] == sae) & (atlas.labels["feature"] == index))
    if not len(own):
        raise InputError(f"{sae}.{index} is labelled with no emotion", do="`saefeat features --emotion E` lists some")
    readouts = list(atlas.readouts)
    columns = (atlas.labels["readout"], atlas.labels["rank_for_feature"])
    first = min(own.tolist(), key=lambda n: (readouts.index(str(columns[0][n])), int(columns[1][n])))
    return f"{sae}.{index}", str(atlas.labels["emotion"][first])


def read_openings(path: Path | str | None = None) -> tuple[str, ...]:
    """The openings that ship (neutral, of several kinds), or a user's file of texts. Raises InputError."""
    path = path or shipped("corpora") / "scenarios" / "openings.jsonl"
    texts = []
    for item in read_texts(path):
        if item.text is None or not item.text.strip():
            raise InputError("is no text to continue", where=f"{path}, {item.id}")
        texts.append(item.text)
    if not texts:
        raise InputError("holds no text", where=path)
    return tuple(texts)


def spread_emotions(families: Mapping[str, str], count: int = EMOTIONS, among: Iterable[str] = ()) -> list[str]:
    """`count` emotions from as many families as there are, by a rule that knows no result.

    Families take turns, the larger first; each gives its medoid, then its members by name. among: only these, as far
    as they go (those that a judge can be asked about), then the others.
    """
    members: dict[str, list[str]] = {}
    for emotion in sorted(families):
        members.setdefault(families[emotion], []).append(emotion)
    order = sorted(members, key=lambda family: (-len(members[family]), family))
    chosen: list[str] = []
    for allowed in (set(among) & set(families), set(families)):
        queues = [
            sorted((e for e in members[family] if e in allowed and e not in chosen), key=lambda e: (e != family, e))
            for family in order
        ]
        while any(queues) and len(chosen) < count:
            for queue in queues:
                if queue and len(chosen) < count:
                    chosen.append(queue.pop(0))
    return chosen


# ---------------------------------------------------------------- the texts
def run_dose(
    atlas: Atlas,
    design: DoseDesign,
    out: Path | str,
    *,
    only_first: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], float]:
    """Write what of a study's texts is not in `out` yet; return the records of the design's cells, and how many
    seconds the rest was estimated to take when the first cell was done (0 if nothing was missing).

    A record: {"kind", "name", "own", "like", "strength", "texts", "perplexity", "distinct"}. Records go to
    `out/records.jsonl.gz`, one cell after the other: a killed run goes on where it stopped, and emotions, strengths and
    controls can be added later. only_first: stop after the first missing cell, for the estimate. Raises InputError:
    records of other settings are there; no such emotion or feature; too long for the model's context.
    """
    out = Path(out)
    with directory_lock(out):
        cells = design.cells(atlas)
        records = Records(out / RECORDS, "dose-response", settings(atlas, design))
        done = {key_of(row): row for row in records.rows}
        missing = [cell for cell in cells if key(cell) not in done]
        log.info("%d of %d cells of %d texts are there already", len(cells) - len(missing), len(cells),
                 len(design.prompts) * design.samples)  # fmt: skip
        estimate = 0.0
        for number, cell in enumerate(missing):
            began = time.monotonic()
            direction = direction_of(atlas, cell.arm)
            prepared = time.monotonic()
            row = write_cell(atlas, design, cell, direction)
            records.append(row)
            done[key(cell)] = row
            if number == 0:
                estimate = (time.monotonic() - prepared) * (len(missing) - 1)
                log.info("%d cells are left: about %.0f minutes", len(missing) - 1, estimate / 60)
            log.debug("%s %+g: %.1f s", cell.arm.name, cell.strength, time.monotonic() - began)
            if on_progress:
                on_progress(len(cells) - len(missing) + number + 1, len(cells))
            if only_first:
                break
    return [done[key(cell)] for cell in cells if key(cell) in done], estimate


def write_cell(atlas: Atlas, design: DoseDesign, cell: Cell, direction: Direction | None) -> dict[str, Any]:
    """The texts of one cell, all in one batch, with their fluency under the unsteered model."""
    subject, rows = atlas.subject(), len(design.prompts) * design.samples
    made = generate(
        subject, list(design.prompts), interventions=[] if direction is None else [add(direction, cell.strength)],
        tokens=design.tokens, temperature=design.temperature, samples=design.samples, seed=design.seed,
        batch=min(rows, 64),
    )  # fmt: skip
    measured = fluency(subject, made.prompts, made.ids, tie=False)
    perplexity = measured.perplexity if measured.perplexity == measured.perplexity else None  # NaN: nothing written
    return {
        "kind": cell.arm.kind, "name": cell.arm.name, "own": cell.arm.own, "like": cell.arm.like,
        "strength": cell.strength, "texts": list(made.texts),
        "perplexity": None if perplexity is None else round(perplexity, DIGITS),
        "distinct": round(measured.distinct, DIGITS),
    }  # fmt: skip


def direction_of(atlas: Atlas, arm: Arm) -> Direction | None:
    """The direction that an arm turns, at the layer of its SAE; None: nothing is turned."""
    if arm.kind == "unsteered":
        return None
    if arm.kind == "emotion":
        return emotion_direction(atlas, arm.name)
    if arm.kind == "random":
        assert arm.like is not None
        like = emotion_direction if arm.like in atlas.emotion_names else feature_direction
        return random_direction(like(atlas, arm.like), arm.seed)
    return feature_direction(atlas, arm.name)


def key(cell: Cell) -> tuple[str, str, float]:
    return cell.arm.kind, cell.arm.name, cell.strength


def key_of(row: Mapping[str, Any]) -> tuple[str, str, float]:
    return row["kind"], row["name"], row["strength"]


def settings(atlas: Atlas, design: DoseDesign) -> dict[str, Any]:
    """What all records of one file have in common: everything but which arms and strengths."""
    model = {name: atlas.manifest["subject"][name] for name in ("architecture", "tokenizer", "weights")}
    return {
        "model": model, "atlas": atlas.name, "dtype": str(atlas.subject().dtype),
        "prompts": fingerprint(list(design.prompts)), "samples": design.samples, "tokens": design.tokens,
        "temperature": design.temperature, "seed": design.seed, "text": list(design.prompts),
    }  # fmt: skip


def texts_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of records, in order."""
    return [text for row in records for text in row["texts"]]
