"""Dialogues to one vector a turn: what a readout of turns, or of what stands between them, sees of each.

A dialogue is one forward pass under the model's own chat template, so that every turn is read in the light of those
before it. Shapes: T tokens, F features, N turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from saefeat.config import ReadoutConfig
from saefeat.corpus import DialogueCorpus
from saefeat.errors import InputError
from saefeat.label.pools import Encoder, Progress
from saefeat.label.prototypes import NEUTRAL
from saefeat.subject import Subject, Turn, render_chat

BATCH_TOKENS = 4096
Pooled = tuple[np.ndarray, np.ndarray]
"""X_NF of every turn of a dialogue corpus; density_F."""


def pool_dialogues(
    subject: Subject,
    corpus: DialogueCorpus,
    readouts: Sequence[ReadoutConfig],
    saes: Mapping[str, Encoder],
    *,
    on_progress: Progress = None,
) -> dict[str, Pooled]:
    """Readout name → (X_NF, density_F), a row for each of `corpus.turns`; saes: readout name → its SAE.

    mean: over a turn's content. opening: over what the template writes from there to the next content; zeros for a
    turn after which nobody speaks. The conversation's first token and sinks are left out. on_progress counts tokens.
    Raises InputError: no chat template, a dialogue longer than the model's context.
    """
    rendered: list[tuple[int, list[int], list[Turn]]] = []
    first = 0
    for number, one in enumerate((*corpus.dialogues, *corpus.neutral), 1):
        asks = one.messages[-1]["role"] == "user"
        ids, turns = render_chat(subject, one.messages, add_generation_prompt=asks)
        if len(ids) > subject.context:
            what = f"takes {len(ids)} tokens, {subject.name} reads {subject.context}"
            raise InputError(what, where=f"dialogue {number}", do="cut it")
        rendered.append((first, ids, turns))
        first += len(turns)
    layers = sorted({subject.check_layer(saes[r.name].layer) for r in readouts})
    X = {r.name: np.zeros((first, saes[r.name].n_features), np.float32) for r in readouts}
    active = {r.name: np.zeros(saes[r.name].n_features) for r in readouts}
    counts = dict.fromkeys(X, 0)
    done, total = 0, sum(len(ids) for _, ids, _ in rendered)
    rendered.sort(key=lambda one: -len(one[1]))
    while rendered:
        batch = rendered[: max(1, BATCH_TOKENS // len(rendered[0][1]))]
        rendered = rendered[len(batch) :]
        ids_BT = torch.zeros(len(batch), len(batch[0][1]), dtype=torch.long)
        for b, (_, ids, _) in enumerate(batch):
            ids_BT[b, : len(ids)] = torch.tensor(ids)
        x = subject.residuals(ids_BT, layers)
        for readout in readouts:
            name, sae = readout.name, saes[readout.name]
            for b, (row, ids, turns) in enumerate(batch):
                x_TD = x[sae.layer][b, : len(ids)].float()
                acts_TF = sae.encode(x_TD).float().cpu().numpy()
                usable_T = np.ones(len(ids), bool)
                if sae.sink_norm is not None:
                    usable_T = (x_TD.norm(dim=-1) <= sae.sink_norm).cpu().numpy()
                usable_T[0] = False
                for i, (start, stop) in enumerate(_spans(readout, turns, len(ids))):
                    own_TF = acts_TF[start:stop][usable_T[start:stop]]
                    if len(own_TF):
                        X[name][row + i] = np.maximum(own_TF.mean(0), 0) ** np.float32(readout.power)
                    active[name] += (own_TF > 0).sum(0)
                    counts[name] += len(own_TF)
        done += sum(len(ids) for _, ids, _ in batch)
        if on_progress:
            on_progress(done, total)
    return {name: (X[name], (active[name] / max(counts[name], 1)).astype(np.float32)) for name in X}


def _spans(readout: ReadoutConfig, turns: Sequence[Turn], n_tokens: int) -> list[tuple[int, int]]:
    """The positions of each turn that a readout pools."""
    if readout.pool == "mean":
        return [(turn.content_start, turn.content_stop) for turn in turns]
    ends = [turn.content_start for turn in turns[1:]]
    ends.append(turns[-1].content_stop if turns[-1].role == "assistant" else n_tokens)
    return [(turn.content_stop, end) for turn, end in zip(turns, ends, strict=True)]


def spoken_by(corpus: DialogueCorpus) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `corpus.turns` the speaker's emotion, the other's (by number, NEUTRAL of flat ones), and the topic."""
    number = {emotion: i for i, emotion in enumerate(corpus.emotions)}
    speaker_N = np.array([NEUTRAL if t.speaker is None else number[t.speaker] for t in corpus.turns])
    other_N = np.array([NEUTRAL if t.other is None else number[t.other] for t in corpus.turns])
    return speaker_N, other_N, np.array([turn.topic for turn in corpus.turns])
