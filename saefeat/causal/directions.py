"""Directions to steer by: an emotion's, a feature's, a random one; and the norm in whose fractions strengths are told.

Shapes: T tokens, F features, E emotions, D residual width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saefeat.atlas import Atlas
from saefeat.causal.interventions import Direction
from saefeat.config import HarvestConfig
from saefeat.errors import InputError
from saefeat.label import pool_texts
from saefeat.subject import Subject

STRONGEST = 256
"""Features in an emotion's direction."""
A_TOPIC = 3
"""Stories a topic that stand for ordinary ones."""
STORIES, TOKENS = 12, 128
"""How much of the atlas's own stories the norms are measured on."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Norms of one layer's residual stream, first tokens and sinks left out: their mean; above what is a sink."""

    norm: float
    sink_norm: float


# ---------------------------------------------------------------- norms
def residual_scales(subject: Subject, ids: Iterable[Sequence[int]], layers: Sequence[int]) -> dict[int, Scale]:
    """The scale of each layer, measured on texts given as token ids (prefix included). Raises InputError: no tokens."""
    norms: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for row in ids:
        for layer, x_BTD in subject.residuals(torch.tensor([list(row)]), layers).items():
            norms[layer].append(x_BTD[0, 1:].float().norm(dim=-1).cpu())
    scales = {}
    for layer, parts in norms.items():
        norm_T = torch.cat(parts) if parts else torch.zeros(0)
        if not len(norm_T):
            raise InputError("norms need texts of at least two tokens")
        sink_norm = HarvestConfig().sink_multiple * float(norm_T.median())
        scales[layer] = Scale(norm=float(norm_T[norm_T <= sink_norm].mean()), sink_norm=sink_norm)
    return scales


def scale(atlas: Atlas, layer: int) -> Scale:
    """The scale of a layer, measured once on a few of the atlas's stories and kept on the atlas.

    At the layer of one of its SAEs a sink is what that SAE took for one.
    """
    known: dict[int, Scale] = vars(atlas).setdefault("residual_scales", {})
    subject = atlas.subject()
    if subject.check_layer(layer) not in known:
        step = max(1, len(atlas.stories) // STORIES)
        texts = [story.text for story in atlas.stories[::step][:STORIES]]
        ids = [[*subject.prefix_ids, *subject.tokenize(text)[:TOKENS]] for text in texts]
        measured = residual_scales(subject, ids, range(subject.n_layers))
        for entry in atlas.sae_entries.values():
            sink_norm = atlas.sae(entry["name"]).sink_norm
            if sink_norm is not None:
                measured[entry["layer"]] = Scale(norm=measured[entry["layer"]].norm, sink_norm=sink_norm)
        known.update(measured)
    return known[layer]


# ---------------------------------------------------------------- directions
def emotion_direction(
    atlas: Atlas, emotion: str, *, layer: int | None = None, k: int = STRONGEST, readout: str | None = None
) -> Direction:
    """An emotion as a direction of the residual stream: a sparse combination of decoder directions.

    The prototype says which features: the k that contribute most to the score of the emotion's own stories, beside
    other stories on the same topics. How much of each is how much more active it is in them, not the prototype's
    weight: weights are made to tell emotions apart and are turned away from whatever varies anyway, so that of the
    same length they do half as much to a text (on the default model, judged by sentence embeddings). Features come
    from the atlas's own stories, read once and kept on the atlas.

    readout: whose prototype (the first). layer: where the direction shall act, the SAE's own if None; blocks write
    into one stream, so it is the same vector. Raises UnknownName; InputError: the atlas holds no story of it.
    """
    emotion = atlas.emotion_name(emotion)
    readout = atlas.check_readout(readout or next(iter(atlas.readouts)))
    atlas.subject()  # so that the SAE is on its device
    sae = atlas.sae(atlas.readouts[readout]["sae"])
    layer = sae.layer if layer is None else layer
    scaled = scale(atlas, layer)
    kept: dict[tuple[str, str, int], Tensor] = vars(atlas).setdefault("emotion_directions", {})
    if (readout, emotion, k) not in kept:
        own = [story.text for story in atlas.stories if story.emotion == emotion]
        if not own:
            raise InputError(f"the atlas {atlas.name} holds no story of {emotion!r}", do="steer by its features")
        w_F = atlas.prototypes[readout].W_FE[:, atlas.emotion_names.index(emotion)]
        ordinary = _ordinary(atlas, readout)
        kept[readout, emotion, k] = combined(_means(atlas, own, readout), ordinary, w_F, sae.W_dec_FD, k)
    return Direction(
        name=emotion, layer=layer, unit_D=kept[readout, emotion, k], norm=scaled.norm, sink_norm=scaled.sink_norm
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Means:
    """Of a set of texts: pooled features (F,), as scores take them, and mean activations (F,)."""

    pooled_F: np.ndarray
    acts_F: np.ndarray


def combined(own: Means, ordinary: Means, w_F: np.ndarray, W_dec_FD: Tensor, k: int) -> Tensor:
    """(D,) of length 1: Σ_f (a_f(own) − a_f(ordinary)) d_f over the k features of the largest contribution
    w_f (x_f(own) − x_f(ordinary)) to the score with weights w. Raises InputError: k below 1, nothing differs."""
    if k < 1:
        raise InputError(f"a direction needs at least one feature, not {k}")
    contribution_F = w_F * (own.pooled_F - ordinary.pooled_F)
    strongest_K = np.argsort(-contribution_F, kind="stable")[:k]
    strongest_K = strongest_K[contribution_F[strongest_K] > 0]
    more_K = torch.from_numpy((own.acts_F - ordinary.acts_F)[strongest_K].astype(np.float32)).to(W_dec_FD.device)
    sum_D = more_K @ W_dec_FD[torch.from_numpy(strongest_K).to(W_dec_FD.device)].float()
    length = float(sum_D.norm())
    if not length > 0:
        raise InputError("no feature speaks for this emotion")
    return sum_D / length


def _ordinary(atlas: Atlas, readout: str) -> Means:
    """Of a few stories of all kinds on every topic; kept on the atlas."""
    kept: dict[str, Means] = vars(atlas).setdefault("ordinary_means", {})
    if readout not in kept:
        texts = []
        for topic in sorted({story.topic for story in atlas.stories}):
            own = [story.text for story in atlas.stories if story.topic == topic]
            texts += own[:: max(1, len(own) // A_TOPIC)][:A_TOPIC]
        kept[readout] = _means(atlas, texts, readout)
    return kept[readout]


def _means(atlas: Atlas, texts: Sequence[str], readout: str) -> Means:
    config, sae = atlas.readout_config(readout), atlas.sae(atlas.readouts[readout]["sae"])
    x_NF = pool_texts(atlas.subject(), texts, [config], {readout: sae}).features[readout].astype(np.float64)
    return Means(pooled_F=x_NF.mean(0), acts_F=(x_NF ** (1 / config.power)).mean(0))


def feature_direction(atlas: Atlas, name: str, *, layer: int | None = None) -> Direction:
    """A feature's decoder direction, with its activation as coefficient. layer: where it shall act, its own if None.

    Raises InputError, UnknownName.
    """
    sae_name, index = atlas.parse_feature(name)
    atlas.subject()  # so that the SAE is on its device
    sae = atlas.sae(sae_name)
    layer = sae.layer if layer is None else layer
    scaled = scale(atlas, layer)
    row_D = sae.W_dec_FD[index].float()
    return Direction(
        name=f"{sae_name}.{index}", layer=layer, unit_D=row_D / row_D.norm().clamp(min=1e-12), norm=scaled.norm,
        sink_norm=scaled.sink_norm, sae=sae, feature=index,
    )  # fmt: skip


def random_direction(like: Direction, seed: int = 0) -> Direction:
    """A direction drawn evenly from all there are, at the layer and scale of another: the control for it."""
    chance = torch.Generator().manual_seed(seed)
    drawn_D = torch.randn(len(like.unit_D), generator=chance, dtype=torch.float64)
    unit_D = (drawn_D / drawn_D.norm()).float().to(like.unit_D.device)
    return Direction(
        name=f"random {seed}", layer=like.layer, unit_D=unit_D, norm=like.norm, sink_norm=like.sink_norm
    )  # fmt: skip


def matched_feature(atlas: Atlas, like: Direction, seed: int = 0) -> Direction:
    """Another feature of the same SAE that fires about as often (drawn from the 20 nearest in density, of those the
    atlas knows the density of): the control for a feature. Raises InputError if `like` is no feature."""
    if like.sae is None or like.feature is None:
        raise InputError(f"{like.name} is not a feature")
    name = like.name.rpartition(".")[0]
    own = atlas.labels["sae"] == name
    feature_N, at = np.unique(atlas.labels["feature"][own], return_index=True)
    density_N = np.asarray(atlas.labels["density"][own][at], np.float64)
    density = density_N[feature_N == like.feature]
    others = feature_N != like.feature
    if not others.any():
        raise InputError(f"the atlas {atlas.name} knows no other feature of {name}")
    distance_N = np.abs(density_N[others] - (density[0] if len(density) else np.median(density_N)))
    nearest = feature_N[others][np.argsort(distance_N, kind="stable")[:20]]
    chosen = int(np.random.default_rng(seed).choice(nearest))
    return feature_direction(atlas, f"{name}.{chosen}", layer=like.layer)
