"""The stories, or the texts of an index, whose emotion profile is nearest to that of a text, a profile, or features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas.asked import Asked, asked
from saefeat.atlas.filters import Scalar, parse_threshold, parse_where, spellings
from saefeat.atlas.index import search
from saefeat.atlas.indexed import IndexedTexts, check_weights
from saefeat.atlas.nearest import profile as unit_profile
from saefeat.atlas.opened import Opened
from saefeat.errors import InputError, UnknownName

STORY_FIELDS = ("emotion", "family", "topic")


def similar(
    atlas: Opened,
    text: str | None = None,
    *,
    profile: Mapping[str, float] | None = None,
    features: Mapping[str, float] | None = None,
    within: IndexedTexts | Path | str | None = None,
    where: Mapping[str, Scalar] | Sequence[str] = (),
    emotions: Sequence[str] = (),
    top: int | None = 5,
    readout: str = "auto",
) -> dict[str, Any]:
    """What is nearest to a text, a profile {emotion: score} (those left out score 0), or pooled features
    {"L19.12": 0.5}: exactly one of them.

    Among the stories: {"id", "readout", "stories": [{"story", "similarity", "emotion", "family", "topic", "text"}]}.
    within, an index of texts: {"id", "readout", "rows", "exact", "texts": [{"similarity", "id", "emotions", "text",
    "fields"}]}; exact: whether all rows were compared, or found with the recall in the index's manifest. similarity:
    the cosine of two profiles. where: {"lang": "en"} or ["lang=en"], fields that must be equal (of a story: emotion,
    family, topic). emotions: ["joyful>2"], scores that must be above or below (indexed texts only). With conditions
    every row is compared. top: None for all. readout 'auto': for a text by its length, or the index's own. Raises
    InputError, UnknownName, FormatError, ModelMismatch.
    """
    if top is not None and top < 1:
        raise InputError(f"top must be at least 1, not {top}")
    if within is None:
        return _stories(atlas, asked(atlas, text, profile, features, readout), parse_where(where), emotions, top)
    thresholds = [parse_threshold(condition, atlas.emotion_names) for condition in emotions]
    fields = parse_where(where)
    indexed = within if isinstance(within, IndexedTexts) else IndexedTexts(within, atlas)
    if readout not in ("auto", indexed.readout):
        atlas.check_readout(readout)
        raise InputError(f"holds profiles by the readout {indexed.readout}, not {readout}", where=indexed.directory)
    query = asked(atlas, text, profile, features, indexed.readout)
    if text is not None:
        check_weights(atlas, indexed.manifest, indexed.directory)
    numbers, products, exact = indexed.nearest(
        _unit(query), top=len(indexed) if top is None else top, where=fields, emotions=thresholds
    )
    rows = [
        {"similarity": _shown(product), **indexed.told(int(number))}
        for number, product in zip(numbers, products, strict=True)
    ]
    return {"id": query.id, "readout": query.readout, "rows": len(indexed), "exact": exact, "texts": rows}


def _stories(
    atlas: Opened, query: Asked, where: Mapping[str, Scalar], emotions: Sequence[str], top: int | None
) -> dict[str, Any]:
    if query.readout not in atlas.story_readouts:
        what = f"readout {query.readout} has read no stories to compare with"
        raise InputError(what, do="use " + " or ".join(atlas.story_readouts))
    if emotions:
        raise InputError(
            "of stories only the direction of the profile is kept, not its scores", do="pass where instead"
        )
    for key in where:
        if key not in STORY_FIELDS:
            raise UnknownName("field of a story", key, STORY_FIELDS, do="use " + ", ".join(STORY_FIELDS))
    if "emotion" in where:
        where = {**where, "emotion": atlas.emotion_name(str(where["emotion"]))}
    first = atlas.story_readouts.index(query.readout) * atlas.n_stories
    wanted = atlas.n_stories if where or top is None else top
    numbers, products = search(atlas.story_index, _unit(query), first=first, count=atlas.n_stories, top=wanted)
    rows: list[dict[str, Any]] = []
    for number, product in zip(numbers, products, strict=True):
        story = atlas.stories[number]
        place = {"emotion": story.emotion, "family": atlas.families.get(story.emotion), "topic": story.topic}
        if all(json.dumps(place[key]) in spellings(value) for key, value in where.items()):
            rows.append({"story": int(number), "similarity": _shown(product), **place, "text": story.text})
    return {"id": query.id, "readout": query.readout, "stories": rows[:top]}


def _unit(query: Asked) -> np.ndarray:
    return unit_profile(query.scores_E[None])[0]


def _shown(product: Any) -> float:
    return round(float(product), 4)
