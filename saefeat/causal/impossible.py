"""`study impossible-task`: does desperation rise as tests cannot be passed, and does turning it change cheating?

The design of the published experiment (Sofroniew et al. 2026, 'Emotion Concepts and their Function in a Large Language
Model'), on any chat model with an atlas: tasks that cannot be done honestly and matched ones that can, an agent loop
with real tests, emotions read at every attempt, and the same with an emotion's direction added at every token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saefeat.atlas import Atlas
from saefeat.causal.decoder import Memory
from saefeat.causal.directions import emotion_direction, random_direction
from saefeat.causal.episode import (
    LARGEST_BATCH,
    SYSTEM,
    UNSTEERED,
    Condition,
    Message,
    Plan,
    Reader,
    Reading,
    Writer,
    run_episodes,
)
from saefeat.causal.generate import generate
from saefeat.causal.interventions import LARGEST, Intervention, add
from saefeat.causal.records import Records
from saefeat.causal.sandbox import Sandbox
from saefeat.causal.tasks import Task, tasks_fingerprint
from saefeat.errors import InputError
from saefeat.files import directory_lock

log = logging.getLogger(__name__)
RECORDS = "records.jsonl.gz"
RANDOM = "random"
DIGITS = 2
Possible = Literal["all", "unsteered", "none"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a study does.

    conditions: each with `episodes` episodes at impossible tasks and, with possible 'all', as many at the matched
    possible ones ('unsteered': only in that condition). In every condition episode n is at task n, modulo their number.
    emotions: whose scores by token are recorded, and of which the report speaks.
    """

    conditions: tuple[Condition, ...]
    emotions: tuple[str, ...] = ("desperate", "calm")
    episodes: int = 40
    attempts: int = 4
    tokens: int = 220
    temperature: float = 0.7
    seed: int = 0
    possible: Possible = "all"
    batch: int = LARGEST_BATCH

    def __post_init__(self) -> None:
        for name in ("episodes", "attempts", "tokens", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.temperature <= 10:
            raise InputError(f"temperature is {self.temperature:g}", do="pass a number from 0 to 10")
        if not self.conditions:
            raise InputError("there are no conditions")
        names = [condition.name for condition in self.conditions]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"condition {twice[0]!r} is named twice")

    def plans(self, tasks: Sequence[Task], condition: Condition) -> list[Plan]:
        """The episodes of a condition: impossible ones at even numbers, possible ones at odd numbers."""
        plans = _plans([t for t in tasks if not t.possible], self.episodes, 0)
        if self.possible == "all" or (self.possible == "unsteered" and condition == UNSTEERED):
            plans += _plans([t for t in tasks if t.possible], self.episodes, 1)
        return plans


def _plans(tasks: Sequence[Task], count: int, parity: int) -> list[Plan]:
    return [Plan(2 * n + parity, tasks[n % len(tasks)]) for n in range(count)] if tasks else []


def default_conditions(emotions: Sequence[str], strengths: Sequence[float]) -> tuple[Condition, ...]:
    """Unsteered; each emotion turned up and down; a random direction turned up; at each strength."""
    made = [UNSTEERED]
    for strength in strengths:
        if strength <= 0:
            raise InputError(f"a strength is {strength:g}", do="pass positive ones: each is taken with both signs")
        made += [Condition(emotion=e, strength=sign * strength) for e in emotions for sign in (1, -1)]
        made.append(Condition(emotion=RANDOM, strength=strength))
    return tuple(made)


def parse_condition(text: str) -> Condition:
    """'unsteered', 'desperate=+0.1', 'random=0.1'. Raises InputError."""
    if text.strip() == UNSTEERED.name:
        return UNSTEERED
    found = re.fullmatch(r"\s*([^=]+?)\s*=\s*([+\-−]?[0-9.eE+-]+)\s*", text)
    try:
        strength = float(found[2].replace("−", "-")) if found else 0.0
    except ValueError:
        strength = 0.0
    if found is None or not 0 < abs(strength) <= LARGEST:
        raise InputError(f"{text!r} is no condition", do="write unsteered, desperate=+0.1, calm=-0.1 or random=0.1")
    return Condition(emotion=found[1], strength=strength)


def checked(conditions: Sequence[Condition], atlas: Atlas) -> tuple[Condition, ...]:
    """Conditions with emotions as the atlas spells them. Raises UnknownName."""
    named = []
    for condition in conditions:
        emotion = condition.emotion
        if emotion is not None and emotion != RANDOM:
            emotion = atlas.emotion_name(emotion)
        named.append(Condition(emotion=emotion, strength=condition.strength))
    return tuple(named)


def run_study(
    atlas: Atlas,
    tasks: Sequence[Task],
    design: Design,
    out: Path | str,
    *,
    sandbox: Sandbox | None = None,
    writer: Writer | None = None,
    reader: Reader | None = None,
    profiles: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Run what of a study is not in `out` yet, and return the records of the design's episodes.

    Records go to `out/records.jsonl.gz`, one episode after the other; a killed run goes on where it stopped (its
    unfinished episodes start again), and more episodes or conditions can be added later. writer, reader: other than the
    atlas's model, for tests. profiles False: emotions are not read. Raises InputError: programs cannot be shut in here,
    records of other settings are there, no impossible tasks, no such emotion.
    """
    if not any(not task.possible for task in tasks):
        raise InputError("there is no impossible task among these")
    sandbox = sandbox or Sandbox()
    writer = writer or model_writer(atlas, design)
    if reader is None and profiles:
        reader = model_reader(atlas, design.emotions)
    out = Path(out)
    with directory_lock(out):
        records = Records(out / RECORDS, "impossible-task", settings(atlas, tasks, design, reader is not None))
        done = {(row["condition"], row["episode"]): row for row in records.rows}
        wanted = [(c, plan) for c in design.conditions for plan in design.plans(tasks, c)]
        missing = [(c, plan) for c, plan in wanted if (c.name, plan.number) not in done]
        log.info("%d of %d episodes are there already; programs are shut in by %s", len(wanted) - len(missing),
                 len(wanted), sandbox.method)  # fmt: skip
        finished = len(wanted) - len(missing)

        def keep(row: dict[str, Any]) -> None:
            nonlocal finished
            records.append(row)
            done[row["condition"], row["episode"]] = row
            finished += 1
            if on_progress:
                on_progress(finished, len(wanted))

        for condition in design.conditions:
            plans = [plan for c, plan in missing if c == condition]
            run_episodes(
                plans, condition, writer=writer, sandbox=sandbox, attempts=design.attempts, seed=design.seed,
                on_episode=keep, reader=reader, batch=design.batch,
            )  # fmt: skip
    return [done[c.name, plan.number] for c, plan in wanted]


def settings(atlas: Atlas, tasks: Sequence[Task], design: Design, profiles: bool) -> dict[str, Any]:
    """What all records of one file have in common: everything but which conditions and how many episodes."""
    model = {key: atlas.manifest["subject"][key] for key in ("architecture", "tokenizer", "weights")}
    return {
        "model": model, "atlas": atlas.name, "layer": _layer(atlas), "tasks": tasks_fingerprint(tuple(tasks)),
        "system": SYSTEM, "emotions": list(design.emotions), "attempts": design.attempts, "tokens": design.tokens,
        "temperature": design.temperature, "seed": design.seed, "profiles": profiles,
    }  # fmt: skip


def _layer(atlas: Atlas) -> int:
    """Where directions act: the layer of the SAE that the first readout reads through."""
    return int(atlas.sae(next(iter(atlas.readouts.values()))["sae"]).layer)


# ---------------------------------------------------------------- the model
def model_writer(atlas: Atlas, design: Design) -> Writer:
    """The atlas's own model, steered."""
    made: dict[Condition, list[Intervention]] = {}
    memory = Memory()  # a conversation goes on: only what was said since is read

    def writer(conversations: Sequence[Sequence[Message]], condition: Condition, seed: int) -> list[str]:
        if condition not in made:
            made[condition] = _interventions(atlas, condition, design)
        generated = generate(
            atlas.subject(), list(conversations), interventions=made[condition], tokens=design.tokens,
            temperature=design.temperature, seed=seed, batch=design.batch, memory=memory,
        )  # fmt: skip
        return list(generated.texts)

    return writer


def _interventions(atlas: Atlas, condition: Condition, design: Design) -> list[Intervention]:
    if condition.emotion is None:
        return []
    if condition.emotion == RANDOM:
        like = emotion_direction(atlas, design.emotions[0])
        return [add(random_direction(like, design.seed), condition.strength)]
    return [add(emotion_direction(atlas, condition.emotion), condition.strength)]


def model_reader(atlas: Atlas, emotions: Sequence[str]) -> Reader:
    """The atlas's readouts on a whole conversation, model unsteered: what the replies call up, not what steered them.

    Profiles hold all emotions, scores by token those given.
    """
    names = [atlas.emotion_name(emotion) for emotion in emotions]

    def reader(messages: Sequence[Message]) -> list[Reading]:
        from saefeat.trace import trace

        read = trace(atlas, messages, tokens=True)
        readings = []
        for before, turn in zip(read.turns, read.turns[1:], strict=False):
            if turn.role != "assistant":
                continue
            by_token = {}
            if turn.tokens is not None:
                scores_TE = turn.tokens.of(names).scores_TE
                by_token = {name: [_rounded(v) for v in scores_TE[:, e]] for e, name in enumerate(names)}
            profile, start = (
                None
                if p_E is None
                else {name: round(float(v), DIGITS) for name, v in zip(read.emotions, p_E, strict=True)}
                for p_E in (turn.profile, before.reply_start)
            )
            readings.append(Reading(profile, start, by_token))
        return readings

    return reader


def _rounded(value: float) -> float | None:
    return round(float(value), DIGITS) if value == value else None
