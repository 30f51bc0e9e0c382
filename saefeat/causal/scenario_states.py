"""From the user's state to the reply's: what is read where a message is written, where its reply starts, in the reply.

Shapes: N messages, E emotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saefeat.causal.proportions import clustered_mean
from saefeat.causal.scenario_items import MESSAGE, MESSAGE_REPLY, MESSAGE_START, Message, Read
from saefeat.causal.tables import cell, row, section


def states(
    emotions: Sequence[str], messages: Sequence[Message], read: Mapping[str, list[Read]], seed: int
) -> list[dict[str, Any]]:
    """How much higher expected emotions are read than in the other messages, place by place; and each message."""
    places = [place for place in (MESSAGE, MESSAGE_START, MESSAGE_REPLY) if place in read]
    known = [one for one in messages if all(any(r.item == one.id for r in read[place]) for place in places)]
    if len(known) < 2:
        return []
    scores = {p: np.array([next(r.scores_E for r in read[p] if r.item == one.id) for one in known]) for p in places}
    item_N = np.array([one.id for one in known])
    rows = []
    for title, sets in (
        ("what the writer should feel", [one.expected for one in known]),
        ("what a good reply's tone should be", [one.reply_expected for one in known]),
    ):
        values = [cell(*clustered_mean(excess(scores[place], sets), item_N, seed)) for place in places]
        rows.append(row(title, values, own=True))
    about = (
        "The score of the expected emotions in a message less the mean of the same emotions over the other messages, "
        "in the place's own units, averaged; 0 if what is read has nothing to do with what was written."
    )
    names = {MESSAGE: "user's turn", MESSAGE_START: "reply starts", MESSAGE_REPLY: "generated reply"}
    columns = {names[place]: "number" for place in places}
    first = section("states", "From the user's state to the reply's", about, columns, rows)

    def three(scores_NE: np.ndarray, i: int) -> str:
        return ", ".join(emotions[e] for e in np.argsort(-(scores_NE[i] - scores_NE.mean(0)), kind="stable")[:3])

    each = []
    for i, one in enumerate(known):
        wanted = [", ".join(emotions[e] for e in own) for own in (one.expected, one.reply_expected)]
        each.append(row(one.id, [wanted[0], *(three(scores[place], i) for place in places), wanted[1]]))
    about = "What stands out most against the other messages at each place: three emotions, beside what was expected."
    columns = {"expected": "number"} | {names[place]: "number" for place in places} | {"expected of a reply": "number"}
    made = [first, section("message-by-message", "Message by message", about, columns, each)]
    if MESSAGE_REPLY in read:
        told = [row(one.item, [" ".join(one.text.split())]) for one in read[MESSAGE_REPLY]]
        about = "What the model replied, as far as it was let."
        made.append(section("replies", "Generated replies", about, {"reply": "number"}, told))
    return made


def excess(scores_NE: np.ndarray, sets: Sequence[tuple[int, ...]]) -> np.ndarray:
    """(N,) mean score of each text's own emotions less their mean over the other texts."""
    others_NE = (scores_NE.sum(0) - scores_NE) / (len(scores_NE) - 1)
    return np.array([(scores_NE[i] - others_NE[i])[list(own)].mean() for i, own in enumerate(sets)])
